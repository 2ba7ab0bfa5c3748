"""evidence_qa: paragraphs are ranked by the likelihood of the question, reasoned from, voted on and cited."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from llmprog import compile_program
from llmprog.backends import ScriptedBackend
from llmprog.backends.replay import ReplayBackend
from llmprog.errors import InputError, OptionError
from llmprog.jobs.executor import canonical_form
from llmprog.jobs.result import is_correct
from llmprog.programs.evidence_qa import (
    CitedAnswer,
    Paragraph,
    Task,
    bundled_paragraphs,
    bundled_questions,
    evidence_qa,
    parse_task,
    read_paragraphs,
)
from llmprog.programs.evidence_qa.program import without_sources
from llmprog.runs.store import open_store
from llmprog.types import Logprobs

PARAGRAPHS = ["Cats purr.", "Dogs bark at cats.", "Dogs bark at night."]
QUESTION = json.dumps({"question": "When do dogs bark?", "paragraphs": PARAGRAPHS})


def shared_words(a, b):
    return len(set(a.lower().strip("?.").split()) & set(b.lower().replace(".", "").replace("?", "").split()))


class Likely(ScriptedBackend):
    """A text is likelier after one that has words in common with it."""

    def __init__(self, script):
        super().__init__(script)
        self.capabilities = replace(self.capabilities, score=True)
        self.scored = []

    async def score(self, prompt, continuations):
        self.scored.append((prompt.text, *continuations))
        values = [(shared_words(text, prompt.text) - 10.0) for text in continuations]
        return [Logprobs(tokens=("a", "b"), logprobs=(value, 0.0)) for value in values]


def says(text, sample):
    if "Text: Dogs bark at night." in text:
        return "Answer: at night"
    return "Answer: never" if "cats" in text else "I cannot say."


def test_every_bundled_question_has_a_paragraph_that_answers_it():
    texts = {paragraph.id: paragraph.text.lower() for paragraph in bundled_paragraphs()}
    assert len(texts) == len(bundled_paragraphs()) >= 40
    assert len({question.question for question in bundled_questions()}) >= 40
    for question in bundled_questions():
        assert any(answer in texts[question.paragraph] for answer in question.answers), question


def test_the_paragraph_that_makes_the_question_likeliest_comes_first():
    backend = Likely(says)
    result = evidence_qa(num_paragraphs=2, num_steps=1).run(QUESTION, backend=backend, seed=1)
    ranking = result.graph.states[1].ranking
    assert [entry.paragraph.id for entry in ranking] == ["2", "3"]  # equal ones in the order given
    assert ranking[0].gain == pytest.approx(1.0)  # two words more, per token, of which there are two
    ranked = [scored for scored in backend.scored if scored[1] == " When do dogs bark?"]
    assert len(ranked) == len(PARAGRAPHS) + 1


def test_an_answer_cites_the_paragraphs_it_was_reasoned_from():
    result = evidence_qa(num_paragraphs=1).run(
        json.dumps({"question": "When do dogs bark?", "paragraphs": [{"id": "night", "text": PARAGRAPHS[2]}]}),
        backend=Likely(lambda text, sample: "Answer: at night" if "Known so far" in text else "They bark when dark."),
        seed=1,
    )
    assert result.solved
    assert str(result.answer) == "at night [night]"
    assert [str(step) for step in result.thought.state.steps] == [
        "They bark when dark. [night]",
        "Answer: at night [night]",
    ]


def test_chains_that_agree_win_and_ties_go_to_what_is_better_supported():
    votes = {"a.": "left", "b.": "right", "c.": "Right!"}
    given = json.dumps({"question": "Which side?", "paragraphs": list(votes)})

    def reply(text, sample):
        return "Answer: " + next(answer for paragraph, answer in votes.items() if f"Text: {paragraph}" in text)

    program = evidence_qa(num_steps=1, filter=False)
    votes["c."] = "right"
    result = program.run(given, backend=Likely(reply), seed=1)
    assert (result.answer.text, result.votes.num_valid) == ("right", 3)
    assert [(answer.text, n) for answer, n in result.votes.histogram] == [("right", 2), ("left", 1)]
    votes |= {"a.": "x", "b.": "Text", "c.": "y"}  # "Text:" stands in the prompt with a paragraph only
    tied = evidence_qa(num_steps=1, filter=False, num_paragraphs=2).run(given, backend=Likely(reply), seed=1)
    scores = {thought.state.answer: thought.score for thought in tied.graph if thought.state.answer}
    assert tied.answer.text == max(scores, key=scores.get)


def test_a_single_chain_is_not_judged():
    backend = Likely(says)
    result = evidence_qa(filter=False, num_paragraphs=1, num_steps=2).run(QUESTION, backend=backend, seed=1)
    assert result.usage.calls == len(backend.requests) == 2
    assert backend.scored == []


def test_without_the_filter_the_first_paragraphs_are_taken():
    backend = Likely(says)
    result = evidence_qa(filter=False, num_paragraphs=2, num_steps=1).run(QUESTION, backend=backend, seed=1)
    assert [entry.paragraph.id for entry in result.graph.states[1].ranking] == ["1", "2"]
    assert not [scored for scored in backend.scored if scored[1] == " When do dogs bark?"]


def test_a_backend_without_likelihoods_is_asked_to_rate_with_a_warning(caplog):
    def reply(text, sample):
        if text.startswith("Text:") and "How much does the text help" in text:
            return "It fits.\n9" if "night" in text else "no idea"
        return "8" if "How well does" in text else says(text, sample)

    with caplog.at_level(logging.WARNING):
        result = evidence_qa(num_paragraphs=2, num_steps=1).run(QUESTION, backend=ScriptedBackend(reply), seed=1)
    assert "gives no likelihoods" in caplog.text
    assert str(result.answer) == "at night [3]"
    assert result.thought.score == 0.8


def test_a_form_that_was_not_filled_is_no_answer():
    backend = Likely(lambda text, sample: "Answer: <the answer>" if "Cats purr" in text else "at night")
    result = evidence_qa(filter=False, num_paragraphs=2, num_steps=1).run(QUESTION, backend=backend, seed=1)
    assert (str(result.answer), result.votes.num_samples) == ("at night [2]", 1)


def test_on_a_recorded_model():
    """SmolLM2's real likelihoods and replies, as the page of the program shows them."""
    recording = Path(__file__).parents[2] / "docs/recordings/evidence_qa.jsonl"
    program = evidence_qa(num_steps=1, max_tokens=40)
    result = program.run("How do bats find their prey at night?", backend=ReplayBackend(recording), seed=1)
    best, second, _ = result.graph.states[1].ranking
    assert best.paragraph.id == "animal-bat"
    assert best.gain > second.gain + 0.5
    assert "echolocation" in result.answer.text
    assert result.answer.cited == ("animal-bat",)
    assert result.usage.calls == len(bundled_paragraphs()) + 1 + 3 + 2 * 2


def test_a_model_that_says_nothing_leaves_the_question_open():
    result = evidence_qa().run(QUESTION, backend=Likely(lambda text, sample: " \n"), seed=1)
    assert (result.solved, result.answer) == (False, None)
    assert "no chain came to an answer" in result.explanation


def test_likelihoods_are_paid_once_when_a_run_is_resumed(tmp_path):
    program = evidence_qa(num_steps=1)
    limited = program.run(QUESTION, backend=Likely(says), seed=1, store=tmp_path, budget="calls=5")
    assert limited.stopped == "budget"
    backend = Likely(says)
    again = program.run(QUESTION, backend=backend, store=tmp_path, resume=limited.run_id)
    assert again.solved
    assert not [scored for scored in backend.scored if scored[1] == " When do dogs bark?"]
    assert open_store(tmp_path).open(limited.run_id).counts().calls["settled"] == again.usage.calls


def test_answers_are_compared_without_their_sources():
    assert without_sources(CitedAnswer("Paris", ("a", "b"))) == without_sources("paris [c]") == "paris"
    assert without_sources(None) is None
    program = compile_program(evidence_qa())  # jobs, which know the right answers, compare in the same form
    assert is_correct(CitedAnswer("Paris", ("a",)), "paris", canonical_form(program))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.jsonl", '{"id": "a", "text": "One."}\n\n{"text": "Two."}\n'),
        ("p.json", '[{"id": "a", "text": "One."}, "Two."]'),
    ],
)
def test_files_of_paragraphs(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert read_paragraphs(tmp_path / name) == (Paragraph("a", "One."), Paragraph("2", "Two."))


def test_paragraphs_of_a_text_are_apart_by_blank_lines(tmp_path):
    (tmp_path / "p.txt").write_text("One\nline.\n\n \nTwo.\n")
    assert read_paragraphs(tmp_path / "p.txt") == (Paragraph("1", "One line."), Paragraph("2", "Two."))
    program = evidence_qa(paragraphs=str(tmp_path / "p.txt"), num_steps=1, filter=False)
    result = program.run("Which?", backend=Likely(lambda text, sample: "Answer: one"), seed=1)
    assert result.answer.text == "one"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "allowed is a list"),
        ("{}\n", "allowed is a text"),
        ('"a"\n{"id": "1", "text": "b"}', "is taken"),
        ("{", "paragraphs="),
    ],
)
def test_files_that_hold_no_paragraphs(tmp_path, text, words):
    (tmp_path / "p.jsonl").write_text(text)
    with pytest.raises(OptionError, match=words):
        evidence_qa(paragraphs=str(tmp_path / "p.jsonl"))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(OptionError, match="No such file"):
        read_paragraphs(tmp_path / "none.txt")


@pytest.mark.parametrize(
    "given", ["", "  ", 3, {"paragraphs": ["a"]}, "{not json", {"question": "q", "paragraphs": []}]
)
def test_inputs_that_are_no_question(given):
    with pytest.raises(InputError):
        parse_task(given, bundled_paragraphs())


def test_a_question_alone_is_asked_of_the_known_paragraphs():
    assert parse_task(" What\nis it? ", bundled_paragraphs()) == Task("What is it?", bundled_paragraphs())


@pytest.mark.parametrize("setting", [{"num_paragraphs": 0}, {"num_steps": 0}, {"num_samples": 0}, {"beam_width": 0}])
def test_settings_out_of_range(setting):
    with pytest.raises(OptionError, match=next(iter(setting))):
        evidence_qa(**setting)
