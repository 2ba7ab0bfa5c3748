"""evidence_qa on its bundled questions, with the likelihoods of SmolLM2-135M-Instruct.

    python benchmarks/evidence_qa.py                    # 50 questions, 48 paragraphs
    python benchmarks/evidence_qa.py --questions 10 --no-answers

Retrieval: of all paragraphs, which rank has the one that answers the question?

* *likelihood*: by the program's gain, log p(question | paragraph) - log p(question), per token of the question. Of one
  question the plain log-likelihood and its mean per token rank alike, which is checked here.
* *BM25*: by shared words, rare ones counting more. *random*: what chance gives.

Whether a gain can be compared between questions, which a plain likelihood cannot, is the question of the second table:
of all pairs of question and paragraph, how often has one that belongs together a higher score than one that does not
(the area under the ROC curve).

Answers: the program with one step, a reply from each of ``--num-paragraphs`` paragraphs at temperature 0, and a vote.
An answer is right if it contains one of the accepted texts; repeating the paragraph's words is enough, so this measures
whether the right paragraph was read, and not much else. The conditions:

* *filter*: the paragraphs ranked by likelihood; *BM25 filter*: by shared words.
* *no filter*: the first paragraphs, in an order shuffled for each question.
* *right paragraph*: that alone; what the model makes of perfect retrieval.

Likelihoods are asked for paragraph by paragraph, so that each is read once, and nothing is asked for twice: with
``--record FILE`` also not by the next run, which goes on where this one was stopped. Intervals are 95 %:
Wilson's for shares, else by bootstrap over the questions, in pairs for differences.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from llmprog import arun
from llmprog.backends import Backend, open_backend
from llmprog.backends.replay import Recorder, RecordingBackend, ReplayBackend
from llmprog.bench.measures import Estimate, difference_of, mean_of
from llmprog.bench.shared_calls import SharedCalls
from llmprog.programs.evidence_qa import (
    CitedAnswer,
    GoldQuestion,
    Paragraph,
    Task,
    bundled_paragraphs,
    bundled_questions,
    evidence_qa,
)
from llmprog.programs.evidence_qa.ranking import question_prompt
from llmprog.programs.tools import BM25Index
from llmprog.types import Prompt

RANKS = (1, 3, 5)
_ENDING = "(?:s|es|ed|ing|ning)?"


class SmolLM2:
    """The model twice: as it goes on with a text, for likelihoods, and in conversations, for answers."""

    def __init__(self, threads: int, record: Path) -> None:
        self._recorder = Recorder(record)
        known = ReplayBackend(record)
        self._opened = [open_backend(f"local:smollm2?threads={threads}&chat_template={chat}") for chat in ("off", "on")]
        self._text, self._chat = [
            SharedCalls(RecordingBackend(backend, self._recorder), known=known) for backend in self._opened
        ]

    @property
    def text(self) -> Backend:
        """For likelihoods of plain text."""
        return self._text.view()

    def by_node(self) -> dict[str, Backend]:
        """For a run of the program, which is answered what was answered before."""
        return {"reason": self._chat.view(), "default": self._text.view()}

    async def aclose(self) -> None:
        for backend in self._opened:
            await backend.aclose()
        self._recorder.close()


async def likelihoods(
    backend: Backend, questions: Sequence[GoldQuestion], paragraphs: Sequence[Paragraph], console: Console
) -> dict[str, list[list[float]]]:
    """Scores by measure, question and paragraph."""
    texts = [f" {question.question}" for question in questions]
    begun = time.perf_counter()
    columns = []
    with console.status("likelihoods") as status:
        for number, paragraph in enumerate((None, *paragraphs)):
            status.update(f"likelihoods: paragraph {number} of {len(paragraphs)}")
            columns.append(await backend.score(Prompt.from_text(question_prompt(paragraph)), texts))
    console.print(f"{len(texts)} questions given {len(paragraphs)} paragraphs: {time.perf_counter() - begun:.0f} s")
    without, *given = columns
    pairs = [
        [(column[q], without[q], max(1, len(without[q].logprobs))) for column in given] for q in range(len(questions))
    ]
    return {
        "log-likelihood": [[score.total for score, _, _ in row] for row in pairs],
        "mean per token": [[score.total / n for score, _, n in row] for row in pairs],
        "gain per token": [[(score.total - alone.total) / n for score, alone, n in row] for row in pairs],
    }


def rank_of(scores: Sequence[float], place: int) -> int:
    """The rank of one among scores, from 1; those that are equal and come first count before it."""
    return 1 + sum(s > scores[place] or (s == scores[place] and i < place) for i, s in enumerate(scores))


def ranks_of(table: Sequence[Sequence[float]], right: Sequence[int]) -> list[int]:
    """Of each question, the rank of the right paragraph."""
    return [rank_of(row, place) for row, place in zip(table, right, strict=True)]


def area(table: Sequence[Sequence[float]], right: Sequence[int]) -> float:
    """How often a pair that belongs together scores higher than one that does not; ties count half."""
    together = [row[place] for row, place in zip(table, right, strict=True)]
    apart = [s for row, place in zip(table, right, strict=True) for i, s in enumerate(row) if i != place]
    wins = sum((a > b) + 0.5 * (a == b) for a in together for b in apart)
    return wins / (len(together) * len(apart))


def share(values: Sequence[float]) -> str:
    """A mean and its interval."""
    return _shown(mean_of(values, seed=1))


def _shown(found: Estimate) -> str:
    return f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})"


def show_retrieval(ranks: dict[str, list[int]], num_paragraphs: int, console: Console) -> None:
    """The table of ranks."""
    table = Table(title=f"Rank of the right paragraph, of {num_paragraphs}")
    for heading in ("", "mean 1/rank", *(f"among the first {k}" for k in RANKS), "median rank"):
        table.add_column(heading)
    for name, found in ranks.items():
        shares = [share([float(rank <= k) for rank in found]) for k in RANKS]
        table.add_row(name, share([1 / rank for rank in found]), *shares, str(sorted(found)[len(found) // 2]))
    console.print(table)


def is_right(answer: object, question: GoldQuestion) -> bool:
    """Whether an answer contains one of the accepted texts, as whole words up to a plural or a verb's ending."""
    text = answer.text.casefold() if isinstance(answer, CitedAnswer) else ""
    return any(re.search(rf"\b{re.escape(accepted)}{_ENDING}\b", text) for accepted in question.answers)


async def answers(
    model: SmolLM2,
    tasks: Sequence[Task],
    questions: Sequence[GoldQuestion],
    settings: dict[str, object],
    show: int,
    console: Console,
) -> list[bool]:
    """Which questions were answered rightly."""
    found = []
    with console.status("answers") as status:
        for number, (task, question) in enumerate(zip(tasks, questions, strict=True), 1):
            status.update(f"answers: {number} of {len(tasks)}")
            result = await arun(evidence_qa(**settings), task, backend=model.by_node(), seed=1)
            found.append(is_right(result.answer, question))
            if number <= show:
                verdict = "right" if found[-1] else "wrong"
                console.print(f"  {verdict}: {question.question} {result.answer}", markup=False)
    return found


async def main(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        model = SmolLM2(options.threads, options.record or Path(folder) / "answers.jsonl")
        try:
            await measure(model, options, Console())
        finally:
            await model.aclose()


async def measure(model: SmolLM2, options: argparse.Namespace, console: Console) -> None:
    """All tables."""
    questions, paragraphs = bundled_questions()[: options.questions], bundled_paragraphs()
    places = {paragraph.id: place for place, paragraph in enumerate(paragraphs)}
    right = [places[question.paragraph] for question in questions]

    tables = await likelihoods(model.text, questions, paragraphs, console)
    ranks = {name: ranks_of(table, right) for name, table in tables.items()}
    if len({tuple(found) for found in ranks.values()}) > 1:
        raise SystemExit("the three measures do not rank alike, as they should")
    index = BM25Index([paragraph.text for paragraph in paragraphs])
    by_words = [index.scores(question.question) for question in questions]
    rng = random.Random(1)
    by_chance = [[rng.random() for _ in paragraphs] for _ in questions]
    show_retrieval(
        {
            "likelihood": ranks["gain per token"],
            "BM25": ranks_of(by_words, right),
            "random": ranks_of(by_chance, right),
        },
        len(paragraphs),
        console,
    )
    pooled = Table(title="Pairs that belong together against pairs that do not, over all questions")
    pooled.add_column("score")
    pooled.add_column("area under the ROC curve")
    for name, table in (tables | {"BM25": by_words}).items():
        pooled.add_row(name, f"{area(table, right):.3f}")
    console.print(pooled)
    if not options.no_answers:
        await compare_answers(model, questions, paragraphs, by_words, right, options, console)


async def compare_answers(
    model: SmolLM2,
    questions: Sequence[GoldQuestion],
    paragraphs: Sequence[Paragraph],
    by_words: Sequence[Sequence[float]],
    right: Sequence[int],
    options: argparse.Namespace,
    console: Console,
) -> None:
    """The table of answers, condition by condition."""
    shuffled = []
    for number, question in enumerate(questions):
        order = list(paragraphs)
        random.Random(number).shuffle(order)
        shuffled.append(Task(question.question, tuple(order)))
    ordered = [
        Task(question.question, tuple(paragraphs[i] for i in sorted(range(len(row)), key=lambda i, row=row: -row[i])))
        for question, row in zip(questions, by_words, strict=True)
    ]
    alone = [Task(question.question, (paragraphs[place],)) for question, place in zip(questions, right, strict=True)]
    everywhere = {"num_steps": 1, "num_paragraphs": options.num_paragraphs, "temperature": 0.0, "max_tokens": 24}
    conditions = {
        "filter": (shuffled, True),
        "no filter": (shuffled, False),
        "right paragraph": (alone, False),
        "BM25 filter": (ordered, False),
    }
    table = Table(title=f"Answers; paragraphs read: {options.num_paragraphs}")
    for heading in ("", "right", "more than without a filter"):
        table.add_column(heading)
    found: dict[str, list[float]] = {}
    for name, (tasks, has_filter) in conditions.items():
        begun = time.perf_counter()
        settings = {**everywhere, "filter": has_filter}
        found[name] = [float(r) for r in await answers(model, tasks, questions, settings, options.show, console)]
        console.print(f"{name}: {share(found[name])} in {time.perf_counter() - begun:.0f} s")
    for name, values in found.items():
        gap = "" if name == "no filter" else _shown(difference_of(values, found["no filter"], seed=1))
        table.add_row(name, share(values), gap)
    console.print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="evidence_qa with SmolLM2's likelihoods")
    parser.add_argument("--questions", type=int, default=len(bundled_questions()), help="how many of the questions")
    parser.add_argument("--num-paragraphs", type=int, default=3, help="paragraphs that are read for an answer")
    parser.add_argument("--no-answers", action="store_true", help="retrieval alone")
    parser.add_argument("--show", type=int, default=3, help="answers shown of each condition")
    parser.add_argument("--record", type=Path, help="where what the model answers is kept for the next run")
    parser.add_argument("--threads", type=int, default=1, help="of the model")
    asyncio.run(main(parser.parse_args()))
