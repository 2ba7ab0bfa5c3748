"""Self-refinement: feedback until it accepts, every version kept, the last one as the answer where none is accepted."""

from __future__ import annotations

import json

import pytest

from llmprog import run
from llmprog.backends import ScriptedBackend
from llmprog.errors import InputError, OptionError
from llmprog.exports.formats import export
from llmprog.programs.self_refine import self_refine
from llmprog.runs.store import MemoryStore


def writer(prompt: str, sample: int) -> str:
    """Drafts of three qualities; the third version of a draft is accepted, a draft that is good at once is too."""
    if "Say what ought" in prompt:
        text = prompt.partition("Written:\n")[2].partition("\n")[0]
        return "Nothing.\nVerdict: good" if text.endswith(("v3", "perfect")) else f"{text} is dull.\nVerdict: revise"
    if "Write it anew" in prompt:
        return f"v{prompt.count('Version ') + 1}"
    return ["v1", "perfect", "v1 again"][sample % 3]


def test_it_writes_anew_until_the_feedback_accepts() -> None:
    backend = ScriptedBackend(writer)
    result = self_refine(system="Be brief.").run("Write about rain.", backend=backend, seed=1)
    assert (result.answer, result.solved) == ("v3", True)
    assert result.usage.calls == 6  # a draft, three times feedback, two revisions
    first, *_, last = backend.requests
    assert [message.content for message in first.prompt.messages] == ["Be brief.", "Write about rain."]
    assert "Written:\nv3" in last.prompt.text


def test_a_revision_is_shown_every_version_and_what_was_said_of_it() -> None:
    backend = ScriptedBackend(writer)
    self_refine().run("Write about rain.", backend=backend, seed=1)
    asked = [request.prompt.text for request in backend.requests if "Write it anew" in request.prompt.text]
    assert "Version 1:\nv1\n\nSaid of it:\nv1 is dull." in asked[1]
    assert "Version 2:\nv2\n\nSaid of it:\nv2 is dull." in asked[1]


def test_a_good_draft_costs_two_calls() -> None:
    result = self_refine().run("Write.", backend=ScriptedBackend(lambda p, i: "Verdict: good"), seed=1)
    assert (result.solved, result.usage.calls) == (True, 2)


@pytest.mark.parametrize("feedback", ["Verdict: revise", "It is good.", ""])
def test_feedback_without_a_verdict_accepts_nothing(feedback: str) -> None:
    def model(prompt: str, sample: int) -> str:
        return feedback if "Say what ought" in prompt else "text"

    result = self_refine(max_rounds=2).run("Write.", backend=ScriptedBackend(model), seed=1)
    assert (result.answer, result.solved, result.usage.calls) == ("text", False, 5)
    assert "no version was accepted" in result.explanation


def test_an_empty_draft_is_no_answer() -> None:
    result = self_refine().run("Write.", backend=ScriptedBackend(lambda p, i: "<think>hm</think>"), seed=1)
    assert (result.answer, result.solved, result.usage.calls) == (None, False, 1)


def test_a_budget_leaves_the_last_version() -> None:
    answers = [
        self_refine().run("Write.", backend=ScriptedBackend(writer), seed=1, budget=f"calls={calls}").answer
        for calls in range(1, 6)
    ]
    assert answers == ["v1", "v1", "v2", "v2", "v3"]


def test_of_several_drafts_the_first_that_is_accepted_wins() -> None:
    result = self_refine(num_samples=3).run("Write.", backend=ScriptedBackend(writer), seed=1)
    assert (result.answer, result.usage.calls) == ("perfect", 6)


def test_nodes_may_have_backends_of_their_own() -> None:
    critic = ScriptedBackend(lambda prompt, sample: "Verdict: good")
    backend = {"feedback": critic, "default": ScriptedBackend(writer)}
    assert self_refine().run("Write.", backend=backend, seed=1).answer == "v1"
    assert len(critic.requests) == 1


def test_the_way_to_an_accepted_text_becomes_training_data() -> None:
    store = MemoryStore()
    run(self_refine(num_samples=3), "Write.", backend=ScriptedBackend(writer), seed=1, store=store)
    opened = store.open(store.list()[0].id)

    def lines(form: str) -> list[dict]:
        return [json.loads(piece) for piece in export(opened, form)]

    assert [line["messages"][-1]["content"] for line in lines("sft")] == ["perfect", "Nothing.\nVerdict: good"]
    pairs = lines("preferences")
    assert {(pair["chosen"][0]["content"], pair["rejected"][0]["content"]) for pair in pairs} == {
        ("perfect", "v1"),
        ("perfect", "v1 again"),
    }
    assert [line["rewards"] for line in lines("grpo")] == [[0, 1, 0]]


def test_bad_input_is_refused() -> None:
    with pytest.raises(InputError, match="self_refine: a task of 0 characters"):
        self_refine().run(" ", backend=ScriptedBackend({}))
    with pytest.raises(OptionError, match="max_rounds"):
        self_refine(max_rounds=0)
