"""Combinators: programs joined into a dataflow, which is a program again.

The parts are run by the one mechanism that runs every program: their calls are paid from the budget of the whole and
kept in its journal, under paths such as ``/write/3``; their seeds come from the seed of the whole and their place in
it. A run that is resumed, stopped or out of budget behaves as that of a single search does: what has settled is not
asked for again, what is under way is taken in, and what there is comes back.

Where a part is not solved, the program that needs its answer is not solved either (``stopped="unsolved"``, with an
``explanation`` that names the part); ``Map`` and ``Vote`` can do without some. An answer of ``None`` counts as none.
"""

from llmprog.combinators.apply import Apply
from llmprog.combinators.branch import Branch
from llmprog.combinators.loop import Loop
from llmprog.combinators.map import Map
from llmprog.combinators.parallel import Parallel
from llmprog.combinators.reduce import Reduce
from llmprog.combinators.sequence import Sequence
from llmprog.combinators.vote import Vote

__all__ = ["Apply", "Branch", "Loop", "Map", "Parallel", "Reduce", "Sequence", "Vote"]
