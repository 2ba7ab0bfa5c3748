"""rule_extraction: replies are checked exactly, repaired a few times, and contradictions found."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmprog.backends import ScriptedBackend
from llmprog.errors import InputError, OptionError
from llmprog.programs.rule_extraction import Rule, contradictions_in, read_reply, rule_extraction

LEAD = "Dogs must be on a lead in the park."


def entry(source=LEAD, **changes):
    made = {
        "who": "dogs",
        "modality": "must",
        "action": "be on a lead",
        "conditions": ["in the park"],
        "source": source,
    }
    return made | changes


def reply_of(*entries):
    return json.dumps({"rules": list(entries)})


def test_a_right_reply():
    rules, faults = read_reply(f"Sure:\n```json\n{reply_of(entry())}\n```", LEAD)
    assert faults == ()
    assert rules == (Rule("dogs", "must", "be on a lead", ("in the park",), LEAD),)
    assert str(rules[0]) == "dogs must be on a lead if in the park"
    assert read_reply(reply_of(), LEAD) == ((), ())
    assert read_reply(f"{{so}} it is {reply_of(entry())}", LEAD)[0] == rules


@pytest.mark.parametrize(
    ("reply", "fault"),
    [
        ("no rules here", "there is no JSON object"),
        ('{"rules": [', "it is no JSON"),
        ('{"rules": [{"who": "dogs"}, "modality": "must"]}', "it is no JSON"),  # not the faults of the object within
        ("{}", "'rules' is a required property"),
        (reply_of(entry(modality="should")), "'should' is not one of"),
        (reply_of(entry(conditions="always")), "is not of type 'array'"),
        (reply_of({**entry(), "who": ""}), "rules/0/who"),
        (reply_of(entry(who=" ")), "a text in it is blank"),
        (reply_of(entry(extra=1)), "'extra' was unexpected"),
        (
            reply_of(entry(source="Dogs must be leashed.")),
            "it is not the sentence, word for word: 'Dogs must be leashed.'",
        ),
        (reply_of(entry(), entry(source="Dogs must")), "rules/1/source"),
    ],
)
def test_what_is_wrong_with_a_reply(reply, fault):
    rules, faults = read_reply(reply, LEAD)
    assert rules == ()
    assert any(fault in found for found in faults)


@given(st.text() | st.text(st.sampled_from('{}[]":,a')))
def test_any_reply_is_read_or_has_faults(reply):
    rules, faults = read_reply(reply, LEAD)
    assert not (rules and faults)


def rule(modality, action="swim", who="guests", *conditions):
    return Rule(who, modality, action, tuple(conditions), "x")


@pytest.mark.parametrize(
    ("first", "second", "contradict"),
    [
        (rule("must"), rule("must not"), True),
        (rule("may"), rule("must not"), True),
        (rule("must"), rule("may"), False),
        (rule("must not"), rule("must not"), False),
        (rule("must", "Swim."), rule("must not", "swim", "The guests"), True),
        (rule("must"), rule("must not", "dive"), False),
        (rule("must"), rule("must not", "swim", "staff"), False),
        (rule("may"), rule("must not", "swim", "guests", "at night"), True),
        (rule("may", "swim", "guests", "by day"), rule("must not", "swim", "guests", "at night"), False),
        (rule("may", "swim", "guests", "a", "b"), rule("must not", "swim", "guests", "b"), True),
    ],
)
def test_contradictions(first, second, contradict):
    assert bool(contradictions_in([first, second])) == contradict
    assert len(contradictions_in([second, first])) == contradict


def scripted(**replies):
    """Replies by a word of the sentence: the first, and after each of them that is handed back the next."""

    def reply(text, sample):
        asked = text.rpartition("\n\nSentence: ")[2]
        sentence = asked.splitlines()[0]
        (found,) = [replies[word] for word in replies if word in sentence]
        handed_back = next((i for i, wrong in enumerate(found) if f"\n{wrong}\n\nThis is wrong" in asked), -1)
        return found[min(handed_back + 1, len(found) - 1)]

    return ScriptedBackend(reply)


def test_every_sentence_is_read_and_contradictions_are_reported():
    never = "Dogs must not be on a lead."
    backend = scripted(
        park=[reply_of(entry())],
        never=[reply_of()],
        **{"must not": [reply_of(entry(never, modality="must not", conditions=[]))]},
    )
    result = rule_extraction().run(f"{LEAD} It never rains.\n{never}", backend=backend, seed=1)
    assert result.solved
    assert [str(rule) for rule in result.answer.rules] == [
        "dogs must be on a lead if in the park", "dogs must not be on a lead",
    ]  # fmt: skip
    assert len(result.answer.contradictions) == 1
    assert "contradiction: 'dogs must be" in str(result.answer)
    assert result.answer.to_json()["contradictions"] == [[0, 1]]
    assert json.loads(json.dumps(result.answer.to_json()))["rules"][0]["source"] == LEAD


def test_a_wrong_reply_is_handed_back_with_its_faults():
    backend = scripted(park=["Dogs!", reply_of(entry(modality="shall")), reply_of(entry())])
    result = rule_extraction().run(LEAD, backend=backend, seed=1)
    assert result.solved
    prompts = [request.prompt.text for request in backend.requests]
    assert len(prompts) == 3
    assert "Dogs!\n\nThis is wrong:\n- there is no JSON object" in prompts[1]
    assert "'shall' is not one of" in prompts[2]


def test_what_could_not_be_repaired_is_named_and_the_rest_kept():
    backend = scripted(park=[reply_of(entry())], Cats=["Cats?"])
    result = rule_extraction(max_tries=2).run(f"Cats may roam. {LEAD}", backend=backend, seed=1)
    assert not result.solved
    assert len(backend.requests) == 3
    assert "no valid reply for 1 of 2 sentences, the first 'Cats may roam.'" in result.explanation
    assert [rule.who for rule in result.answer.rules] == ["dogs"]
    assert result.answer.unread == (("Cats may roam.", "there is no JSON object"),)


def test_it_stops_at_its_budget():
    backend = scripted(park=["?"])
    result = rule_extraction(max_tries=9).run(LEAD, backend=backend, seed=1, budget="calls=2")
    assert (result.stopped, len(backend.requests)) == ("budget", 2)


@pytest.mark.parametrize("text", ["", " \n", "x" * 5000])
def test_bad_input(text):
    with pytest.raises(InputError, match="rule_extraction"):
        rule_extraction().run(text, backend=scripted(x=["?"]), seed=1)
    with pytest.raises(OptionError, match="max_tries=0"):
        rule_extraction(max_tries=0)
