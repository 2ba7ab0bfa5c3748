"""Which paragraphs a question is likely to be about: the likelihood of the question, given the paragraph.

Schlag et al. 2023 (arXiv 2305.05364), the filter of their evidence-supported question answering. The score of a
paragraph is its *gain*: how much likelier it makes the question, per token of the question, in nats,

    (log p(question | paragraph) - log p(question)) / number of tokens.

Of one question all paragraphs are ranked alike by the plain likelihood, its mean per token, and the gain: length and
unconditional likelihood belong to the question. The gain is used because it can be compared between questions, and
because its sign says something: below 0 the question is likelier without the paragraph.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmprog.log import Log
from llmprog.nodes import Model
from llmprog.parsers import rating
from llmprog.programs.evidence_qa.paragraphs import Paragraph, Task
from llmprog.tasks import gather_or_cancel

_WITH = "{text}\n\nA question that this text answers:"
_WITHOUT = "A question:"
_JUDGE = (
    "Text: {text}\n\nQuestion: {question}\n\nHow much does the text help to answer the question? Reply with a number "
    "from 0 (not at all) to 10 (it holds the answer), alone on the last line.\n"
)

log = Log("llmprog.programs.evidence_qa")


@dataclass(frozen=True, slots=True)
class Ranked:
    """A paragraph, and how much it helps: nats per token of the question, or a judge's 0 to 10."""

    paragraph: Paragraph
    gain: float

    def __str__(self) -> str:
        return f"{self.paragraph.id} {self.gain:+.2f}"


async def rank_paragraphs(task: Task, model: Model, *, max_tokens: int = 200) -> list[Ranked]:
    """The paragraphs of a task, the most helpful first, equal ones in the order given.

    A backend without likelihoods is asked to rate each paragraph, and a warning is logged: that takes a capable model,
    and many paragraphs tie.

    Args:
        task: What is asked, and the paragraphs.
        model: A node's handle.
        max_tokens: Longest reply of a judge.
    """
    if model.can("score"):
        gains = await _gains(task, model)
    else:
        log.warning("the backend gives no likelihoods; it is asked to rate every paragraph", question=task.question)
        gains = await _ratings(task, model, max_tokens)
    ranked = [Ranked(paragraph, gain) for paragraph, gain in zip(task.paragraphs, gains, strict=True)]
    return sorted(ranked, key=lambda entry: -entry.gain)


def question_prompt(paragraph: Paragraph | None) -> str:
    """The text whose continuation by a space and a question is scored; without a paragraph, of any question."""
    return _WITHOUT if paragraph is None else _WITH.format(text=paragraph.text)


async def _gains(task: Task, model: Model) -> list[float]:
    given = [question_prompt(paragraph) for paragraph in (None, *task.paragraphs)]
    scores = await gather_or_cancel(model.score(prompt, [f" {task.question}"]) for prompt in given)
    without, *with_text = [sum(score.logprobs) / max(1, len(score.logprobs)) for (score,) in scores]
    return [mean - without for mean in with_text]


async def _ratings(task: Task, model: Model, max_tokens: int) -> list[float]:
    asked = (_JUDGE.format(text=paragraph.text, question=task.question) for paragraph in task.paragraphs)
    replies = await gather_or_cancel(model.generate(prompt, temperature=0.0, max_tokens=max_tokens) for prompt in asked)
    return [rating(completion.text, lowest=0, highest=10) or 0.0 for (completion,) in replies]
