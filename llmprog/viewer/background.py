"""A viewer in a thread of this process: for notebooks, and for tests of what it shows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

from llmprog.runs.store import RunStore
from llmprog.viewer.server import Viewer, ViewOptions
from llmprog.web.in_thread import in_thread
from llmprog.web.sockets import listen

_FREE_PORT = ViewOptions()


@contextmanager
def viewing(store: RunStore, options: ViewOptions = _FREE_PORT) -> Iterator[str]:
    """The address at which one logs in to a viewer that runs while the block does.

    Args:
        store: The runs; whoever opened it closes it.
        options: How it is run; by default on a free port of this machine.

    Raises:
        OptionError: It cannot listen there.
    """
    with closing(listen(options.host, options.port)) as listening:
        viewer = Viewer(store, options, listening)
        with in_thread("llmprog-view", viewer.serve):
            yield viewer.url
