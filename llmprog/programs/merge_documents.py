"""Several documents merged into one: Graph of Thoughts' fourth task, judged by a model or by shared words.

Besta et al. 2023 (arXiv 2308.09687), section 5.4, where the documents are non-disclosure agreements. A merged document
is the better the more of the sources it retains and the less it says twice: a model grades both from 0 to 10, several
times, and the harmonic mean of the mean grades is the score.

Deviations: parts whose score is not raised by an improvement are improved no further; and the same two things can be
measured exactly on word trigrams instead.
"""

from __future__ import annotations

import random
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from llmprog.errors import InputError
from llmprog.nodes import Checker, Generator, Model, Verdict, checker, generator
from llmprog.program import Program
from llmprog.programs.catalog import for_method, one_of
from llmprog.programs.divide_and_merge import Part, answered, joined, parts_of, until_one_is_left
from llmprog.search import (
    Aggregate,
    BeamSearch,
    BestOfN,
    Controller,
    Decide,
    Generate,
    GraphOfThoughts,
    KeepBest,
    Operation,
    OperationGraph,
    Refine,
)

Method = Literal["io", "cot", "tot", "got", "got_pairs"]
Judge = Literal["model", "overlap"]

HIGHEST_GRADE = 10.0
NUM_EXAMPLES = 9
_KEPT_DRAFTS = 3  # as in the paper
_MAX_TEXT = 100_000
_MAX_LEVELS = 64
_GRADE = r"\D{0,40}?(\d{1,2}(?:\.\d{1,3})?)"
_REDUNDANCY = re.compile(rf"redundan\w*{_GRADE}", re.IGNORECASE)
_RETAINED = re.compile(rf"retain\w*{_GRADE}", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Documents(Part):
    """Documents, and what they were merged into.

    Attributes:
        documents: The sources.
        answer: The merged document; ``None`` before there is one.
    """

    documents: tuple[str, ...]
    answer: str | None = None

    def __str__(self) -> str:
        return (self.answer or self.written or "\n---\n".join(self.documents)) + self.which()


# ------------------------------------------------------------------------------------------------ measures


def harmonic_mean(first: float, second: float) -> float:
    """2ab / (a + b), and 0 where both are 0: high only where both are."""
    return 2 * first * second / (first + second) if first + second else 0.0


def overlap(documents: Sequence[str], merged: str) -> tuple[float, float]:
    """How little a merged document repeats and how much of its sources it retains, each from 0 to 10, on trigrams.

    The first is the share of its runs of three words that it does not repeat; the second the share of its sources'
    different runs of three words that it has as well. Exact, where a model's grades are not; but other words for the
    same thing count as lost.
    """
    runs = _trigrams(merged)
    wanted = {run for document in documents for run in _trigrams(document)}
    if not runs or not wanted:
        return 0.0, 0.0
    return HIGHEST_GRADE * len(set(runs)) / len(runs), HIGHEST_GRADE * len(wanted & set(runs)) / len(wanted)


def _trigrams(text: str) -> list[tuple[str, ...]]:
    words = re.findall(r"\w+", text.casefold())
    return [tuple(words[i : i + 3]) for i in range(len(words) - 2)]


def grades(completions: Sequence[str]) -> tuple[float, float] | None:
    """The mean grades for redundancy (10: none) and for what is retained (10: all); ``None`` if one was never given.

    A grade above 10 is none.
    """
    found: list[float] = []
    for pattern in (_REDUNDANCY, _RETAINED):
        given = [float(match[1]) for text in completions for match in [pattern.search(text)] if match]
        given = [grade for grade in given if grade <= HIGHEST_GRADE]
        if not given:
            return None
        found.append(statistics.fmean(given))
    return found[0], found[1]


# --------------------------------------------------------------------------------------------------- input

_CLAUSES = (
    "The tenant keeps the stairs clean and sweeps them every Friday.",
    "Bicycles are kept in the cellar and not in the hall.",
    "Between ten at night and six in the morning no music is played.",
    "The rent is due on the third day of every month.",
    "Dogs and cats are welcome as long as nobody complains about them.",
    "The landlord may enter the rooms after giving two days' notice.",
    "Whoever leaves returns all keys, copies included.",
    "Repairs that cost less than fifty crowns are paid for by the tenant.",
    "The garden is shared by all, and so is the work in it.",
    "Smoking is allowed on the balcony only.",
    "A guest who stays longer than three weeks is made known to the landlord.",
    "The deposit is paid back within sixty days after the rooms were handed over.",
    "Walls may be painted in light colours and must be white again at the end.",
    "Rubbish is sorted into paper, glass and the rest.",
    "The washing room is used in turns, by the list on its door.",
)


def random_documents(num_documents: int, rng: random.Random) -> tuple[str, ...]:
    """House rules that say partly the same: each document has a good half of the clauses, in an order of its own."""
    clauses = rng.sample(_CLAUSES, 8)
    return tuple(" ".join(rng.sample(clauses, 5)) for _ in range(num_documents))


def parse_documents(text: str) -> tuple[str, ...]:
    """Documents separated by lines of dashes; ``1`` to ``9`` are examples of three documents each.

    Raises:
        InputError: There are less than two documents, or they are too long.
    """
    stripped = str(text).strip()
    if re.fullmatch(r"\d", stripped) and 1 <= int(stripped) <= NUM_EXAMPLES:
        return random_documents(3, random.Random(f"house rules {stripped}"))
    documents = tuple(part.strip() for part in re.split(r"(?m)^-{3,}[ \t]*$", stripped) if part.strip())
    if len(documents) < 2 or len(stripped) > _MAX_TEXT:
        raise InputError(
            f"merge_documents: {len(documents)} documents of {len(stripped)} characters; give at least 2, with a line "
            f"--- between them, of {_MAX_TEXT} characters at most, or the number of an example, 1 to {NUM_EXAMPLES}"
        )
    return documents


# -------------------------------------------------------------------------------------------------- nodes

_TASK = (
    "Merge the documents below into one. Keep everything that any of them says, and say nothing twice. "
    "Write the merged document and nothing else."
)


def _listed(documents: Sequence[str], what: str = "Document") -> str:
    return "\n\n".join(f"{what} {i}:\n{document}" for i, document in enumerate(documents, 1))


def _ask(state: Documents) -> str:
    if state.answer is None:
        return f"{_TASK}\n\n{_listed(state.documents)}\n\nMerged document:"
    return (
        "The merged document below should keep everything that any of the documents says, and say nothing twice. Add "
        "what is missing, take out what is said twice. Write the improved document and nothing else.\n\n"
        f"{_listed(state.documents)}\n\nMerged document:\n{state.answer}\n\nImproved document:"
    )


def _ask_for_reasons(state: Documents) -> str:
    return (
        f"{_TASK} Before it, list in short what each document says that the ones before do not, and then a line "
        f"'Merged document:'.\n\n{_listed(state.documents)}\n"
    )


def _ask_to_merge(states: tuple[Documents, ...]) -> str:
    if len({state.parts for state in states}) == 1:
        drafts = _listed([state.answer or "" for state in states], "Draft")
        return (
            "Below are documents, and drafts of a document that merges them. Make one of the drafts: keep everything "
            "that any of them says, and say nothing twice. Write the merged document and nothing else.\n\n"
            f"{_listed(states[0].documents)}\n\n{drafts}\n\nMerged document:"
        )
    return f"{_TASK}\n\n{_listed([text for state in states for text in texts_of(state)])}\n\nMerged document:"


def texts_of(state: Documents) -> tuple[str, ...]:
    """What a state adds to a merge: its merged document, where it has one."""
    return state.documents if state.answer is None else (state.answer,)


def read_document(reply: str) -> str | None:
    """What follows the last ``Merged document:`` of a reply, else all of it; ``None`` where nothing is left."""
    text = re.split(r"(?im)^\W{0,3}(?:merged|improved) document\W{0,3}:\W{0,3}", reply)[-1].strip()
    return text[:_MAX_TEXT] or None


def _merged(state: Documents, completion: str) -> Documents:
    return answered(state, completion, read_document(completion), "document")


write = generator(prompt=_ask, name="write")(_merged)
compare_and_write = generator(prompt=_ask_for_reasons, name="compare_and_write")(_merged)


@generator(prompt=_ask_to_merge, aggregates=True)
def merge(states: tuple[Documents, ...], completion: str) -> Documents:
    """Drafts of the same documents, or merged parts of them, as one."""
    if len({state.parts for state in states}) == 1:
        return _merged(states[0], completion)
    return _merged(joined(states, "documents"), completion)


@generator
def split(state: Documents) -> Iterator[Documents]:
    """One part for each document."""
    for i, document in enumerate(state.documents):
        yield Documents(parts=(i,), num_parts=len(state.documents), documents=(document,))


_JUDGE = (
    "Documents were merged into one. Grade the merged document twice, each from 0 to 10.\n"
    "Redundancy: 10 if it says nothing twice, 0 if half of it or more is said twice.\n"
    "Retained: 10 if it keeps all that the documents say, 0 if it keeps nothing.\n\n"
    "{listed}\n\nMerged document:\n{answer}\n\n"
    "Reply with two lines, 'Redundancy: ' and 'Retained: ', each with a number.\n"
)


def _ask_judge(state: Documents) -> str:
    return _JUDGE.format(listed=_listed(state.documents), answer=state.answer)


@checker
def is_written(state: Documents) -> Verdict:
    """Refuses replies that hold no document."""
    return Verdict(valid=not state.fault, reason=state.fault)


def grade_by_model(num_evaluations: int, temperature: float) -> Checker:
    """A checker whose score is the harmonic mean of a model's mean grades; 0 where it gave none."""

    @checker(name="grade", temperature=temperature, max_tokens=200)
    async def grade(state: Documents, model: Model) -> Verdict:
        if state.answer is None:  # a source alone is not graded
            return Verdict()
        replies = await model.generate(_ask_judge(state), n=num_evaluations)
        found = grades([reply.text for reply in replies])
        return Verdict(reason="no grades were given") if found is None else _worth(found)

    return grade


@checker(name="overlap")
def measure(state: Documents) -> Verdict:
    """The harmonic mean of the measures on trigrams; 0 for what is not merged yet."""
    if state.answer is None:
        return Verdict()
    return _worth(overlap(state.documents, state.answer))


def _worth(measured: tuple[float, float]) -> Verdict:
    redundancy, retained = measured
    score = harmonic_mean(redundancy, retained)
    return Verdict(score=score, reason=f"redundancy {redundancy:.1f}, retained {retained:.1f}")


# ------------------------------------------------------------------------------------------------ the program


def operations(method: Method, num_samples: int, max_tries: int) -> OperationGraph:
    """What ``got`` and ``got_pairs`` do.

    Args:
        method: One of the two.
        num_samples: Documents written each time.
        max_tries: Improvements at most, while they raise the score; 0 does without.
    """
    plan: dict[str, Operation]
    if method == "got":
        plan = {
            "write": Generate(generator="write", num_samples=num_samples),
            "best": KeepBest(num_kept=_KEPT_DRAFTS),
            "merge": Aggregate(generator="merge", num_samples=num_samples),
            "best of all": KeepBest(after=("best", "merge")),
        }
    else:
        pairs = Aggregate(generator="merge", size=2, num_samples=num_samples)
        level = OperationGraph({"pairs": pairs, "best": KeepBest(per=parts_of)})
        plan = {
            "split": Generate(generator="split"),
            "merge": Decide(choose=until_one_is_left, plans={"level": level}, max_rounds=_MAX_LEVELS),
        }
    if max_tries:
        plan["improve"] = Refine(generator="write", max_tries=max_tries, threshold=HIGHEST_GRADE, while_better=True)
    return OperationGraph(plan)


def merge_documents(
    *,
    method: Method = "got",
    judge: Judge = "model",
    num_samples: int | None = None,
    num_evaluations: int | None = None,
    max_depth: int | None = None,
    max_tries: int | None = None,
    temperature: float = 0.7,
    max_tokens: int = 1024,
) -> Program:
    """Merge documents into one that keeps everything and says nothing twice.

    Args:
        method: ``io`` (at once), ``cot`` (comparing first), ``tot`` (many, the best improved, level by level), ``got``
            (the best of many drafts are merged and improved) or ``got_pairs`` (documents are merged two by two).
        judge: What a merged document is worth: ``model`` (grades for redundancy and for what is retained) or
            ``overlap`` (the same two, measured on word trigrams).
        num_samples: Documents written each time (default: io and cot 1, the others 5).
        num_evaluations: Grades asked for each document (judge=model; default 3).
        max_depth: Levels: the first merges, the others improve (tot; default 3).
        max_tries: Improvements at most, while they raise the score; 0 does without (got, got_pairs; default 3).
        temperature: Of everything that is drawn.
        max_tokens: Longest document, in the model's tokens.
    """
    one_of("method", method, Method)
    one_of("judge", judge, Judge)
    defaults: Mapping[str, int] = {"io": 1, "cot": 1, "tot": 5, "got": 5, "got_pairs": 5}
    samples = defaults[method] if num_samples is None else num_samples
    evaluations = for_method("num_evaluations", num_evaluations, judge, {"model": 3}, chooser="judge")
    depth = for_method("max_depth", max_depth, method, {"tot": 3})
    tries = for_method("max_tries", max_tries, method, {"got": 3, "got_pairs": 3})
    judging: Checker = measure
    if evaluations is not None:
        judging = grade_by_model(evaluations, temperature)

    asking: list[Generator] = [compare_and_write if method == "cot" else write]
    controller: Controller = BestOfN(num_samples=samples)
    if depth is not None:
        asking = [write.with_options(n=samples)]
        controller = BeamSearch(beam_width=1, max_depth=depth)
    elif tries is not None:
        asking = [write, merge]
        controller = GraphOfThoughts(operations=operations(method, samples, tries))
    asking = [node.with_options(temperature=temperature, max_tokens=max_tokens) for node in asking]
    return Program(
        name="merge_documents",
        start=_first_state,
        generators=[split, *asking] if method == "got_pairs" else asking,
        checkers=[is_written, judging],
        controller=controller,
        answer=_answer,
        explain=_explain,
    )


def _first_state(text: str) -> Documents:
    return Documents(documents=parse_documents(text))


def _answer(state: Documents) -> str | None:
    return None if state.answer is None else str(state)


def _explain(state: Documents) -> str:
    return "no reply held a document that was not cut off; raise max_tokens or num_samples, or use a larger model"
