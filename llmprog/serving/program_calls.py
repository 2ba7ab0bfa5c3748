"""Programs as models: the last message is the input, the answer is the reply."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from llmprog.events import CallSettled, Event, ThoughtExpanded
from llmprog.joined import CUT_SHORT
from llmprog.runner import arun
from llmprog.running.result import Result
from llmprog.runs.ledger import Ledger
from llmprog.runs.store import RunStore
from llmprog.serving.answers import Answer, ChatForm, Form, TextForm
from llmprog.serving.asking import check_stream_options
from llmprog.serving.bodies import ChatBody, ReplyBody, TextBody
from llmprog.serving.catalog import ServedProgram
from llmprog.serving.exchange import Plan, StreamPlan, Tell
from llmprog.serving.faults import RequestError, budget_spent
from llmprog.serving.sampling import asks_for, messages_of, refuse_penalties
from llmprog.tasks import gather_or_cancel
from llmprog.templates import format_value
from llmprog.types import Completion, Usage, sample_seed

_OWN = (
    *("temperature", "top_p", "top_k", "min_p", "max_tokens", "max_completion_tokens", "stop", "logprobs"),
    *("top_logprobs", "response_format", "structured_outputs", "suffix", "echo", "best_of"),
    *("continue_final_message", "add_generation_prompt"),
)
"""Fields that have no meaning for a program, which decides by itself how it asks its model."""


@dataclass(slots=True)
class _Progress:
    """Counts what runs have done so far."""

    num_calls: int = 0
    num_thoughts: int = 0

    def __call__(self, event: Event) -> None:
        if isinstance(event, CallSettled):
            self.num_calls += event.usage.calls
        elif isinstance(event, ThoughtExpanded):
            self.num_thoughts += sum(event.is_new)

    def line(self) -> str:
        return f"{self.num_calls} calls, {self.num_thoughts} thoughts"


def program_plan(
    body: ChatBody | TextBody, served: ServedProgram, ledger: Ledger | None, store: RunStore | None
) -> Plan[Answer] | StreamPlan:
    """The run, or ``n`` of them, that a request to a program asks for.

    Args:
        body: The request.
        served: The program and its backend.
        ledger: The server's budget.
        store: Where runs are kept; ``None`` keeps none.

    Raises:
        RequestError: The request has no input, or sets what a program sets itself.
    """
    _refuse(body, served.name)
    given = _input_of(body)
    progress = _Progress()

    async def work(_: Tell | None = None) -> Answer:
        return _answer(
            await gather_or_cancel(
                arun(
                    served.program,
                    given,
                    backend=served.backend,
                    seed=sample_seed(body.seed, sample),
                    budget=ledger,
                    store=store,
                    on_event=progress,
                )
                for sample in range(body.num_samples)
            )
        )

    form: Form = ChatForm(body.model) if isinstance(body, ChatBody) else TextForm(body.model)
    if not body.stream:
        return Plan(work=work, whole=form.whole)
    return StreamPlan(work=work, form=form, include_usage=body.include_usage, progress=progress.line)


def _refuse(body: ReplyBody, name: str) -> None:
    for field in _OWN:
        if asks_for(body, field):
            raise RequestError(
                f"{field} has no effect on {name}, which decides how it asks its model; leave it out (the server's "
                f"operator sets parameters of a program: --program 'NAME={name.partition(':')[2]}?KEY=VALUE')",
                param=field,
                code="unsupported",
            )
    refuse_penalties(body)
    check_stream_options(body)
    if body.include_canvas:
        raise RequestError(
            f"stream_options.include_canvas has no effect on {name}; leave it out",
            param="stream_options.include_canvas",
        )


def _input_of(body: ChatBody | TextBody) -> str:
    """The input: the last message of a user, or the prompt."""
    if isinstance(body, TextBody):
        if len(body.prompts) != 1:
            raise RequestError(f"prompt: {len(body.prompts)} texts; a program is run on one", param="prompt")
        return body.prompts[0]
    last = messages_of(body.messages)[-1]
    if last.role != "user":
        raise RequestError(
            f"messages: the last is the {last.role}'s; a program is run on the last message, the user's",
            param="messages",
        )
    return last.content


def _answer(results: list[Result]) -> Answer:
    usage = sum((result.usage for result in results), Usage())
    spent = next((result.shortfall for result in results if result.stopped == "budget"), None)
    if spent is not None and not usage.calls:  # nothing was begun, so there is no best so far to show either
        raise budget_spent(spent)
    completions = [
        Completion(
            text=_said(result), finish_reason="length" if result.stopped in CUT_SHORT else "stop", usage=result.usage
        )
        for result in results
    ]
    notes = {"runs": [_notes(result) for result in results], "usage": asdict(usage)}
    return Answer(completions=completions, usage=usage, notes=notes)


def _notes(result: Result) -> Mapping[str, Any]:
    return {
        "solved": result.solved,
        "stopped": result.stopped,
        "explanation": result.explanation,
        "seed": result.seed,
        "run": result.run_id,
        "thoughts": len(result.graph),
        "wall_s": round(result.wall_s, 3),
    }


def _said(result: Result) -> str:
    """The answer as ``llmprog run --quiet`` prints it, with its line breaks; or that there is none, and why."""
    if result.solved:
        return format_value(result.answer)
    reason = result.explanation or "no solution found"
    if result.shortfall is not None:
        reason = f"the budget is spent ({result.shortfall})"
    best = "" if result.answer is None else f" (best so far: {format_value(result.answer)})"
    return f"Not solved: {reason}{best}"
