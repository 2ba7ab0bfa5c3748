"""The merge_documents program: its measures worked by hand, how grades are read, and the two graphs of merges."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmprog import Program
from llmprog.backends import ScriptedBackend
from llmprog.errors import InputError, OptionError
from llmprog.programs.merge_documents import (
    grades,
    harmonic_mean,
    merge_documents,
    overlap,
    parse_documents,
    random_documents,
    read_document,
)

TWO = "The door is red.\n---\nThe door is red. The roof is green."
BEST = "The door is red. The roof is green."


def test_the_harmonic_mean_is_high_only_where_both_are():
    assert harmonic_mean(10, 10) == 10
    assert harmonic_mean(10, 0) == harmonic_mean(0, 0) == 0
    assert harmonic_mean(6, 3) == 4


def test_overlap_counts_runs_of_three_words():
    # The sources have: the door is, door is red, is red the, red the roof, the roof is, roof is green.
    sources = ["The door is red. The roof is green.", "The door is red."]
    assert overlap(sources, "The door is red. The roof is green!") == (10, 10)
    # Three runs of six: the door is, door is red and, in it twice, the door is once more.
    assert overlap(sources, "The door is red") == (10, 10 * 2 / 6)
    redundancy, retained = overlap(["a b c"], "a b c a b c")  # a b c, b c a, c a b, a b c
    assert (redundancy, retained) == (7.5, 10)
    assert overlap(sources, "Red") == (0, 0)


@given(st.lists(st.text(alphabet="ab c.", max_size=30), min_size=1, max_size=3), st.text(alphabet="ab c.", max_size=40))
def test_measures_are_from_0_to_10(documents, merged):
    assert all(0 <= value <= 10 for value in overlap(documents, merged))


@pytest.mark.parametrize(
    ("completions", "found"),
    [
        (["Redundancy: 7\nRetained: 8"], (7, 8)),
        (["redundancy is 6/10; it retained 9.5 of it", "Redundancy: 8\nRetained: 10"], (7, 9.75)),
        (["<Redundancy>5</Redundancy><Retained>4</Retained>", "I like it."], (5, 4)),
        (["Redundancy: 70\nRetained: 8"], None),
        (["7 and 8"], None),
        ([], None),
    ],
)
def test_grades_are_read_and_averaged(completions, found):
    assert grades(completions) == found


def test_what_follows_its_heading_is_the_document():
    assert read_document("First: red.\n**Merged document:**\nAll is red.") == "All is red."
    assert read_document("  All is red. ") == "All is red."
    assert read_document("Merged document:\n") is None


def test_documents_are_separated_by_dashes_and_examples_have_numbers():
    assert parse_documents(TWO) == ("The door is red.", "The door is red. The roof is green.")
    assert len(parse_documents("3")) == 3
    assert parse_documents("3") == parse_documents("3") != parse_documents("4")
    with pytest.raises(InputError, match="merge_documents: 1 documents of 3 characters; give at least 2"):
        parse_documents("red")


def test_random_documents_share_some_of_what_they_say():
    documents = random_documents(3, random.Random(1))
    assert documents == random_documents(3, random.Random(1))
    _, retained = overlap(documents, documents[0])
    assert 0 < retained < 10


# ------------------------------------------------------------------------------------------------ methods


def requests_of(program: Program, replies, given=TWO):
    backend = ScriptedBackend(replies)
    result = program.run(given, backend=backend, seed=1)
    return result, [request.prompt.text for request in backend.requests]


def test_a_model_grades_and_the_best_by_the_harmonic_mean_is_kept():
    def reply(prompt, sample):
        if prompt.startswith("Documents were merged"):
            good = "Merged document:\nB" in prompt
            return f"Redundancy: {9 if good else 10}\nRetained: {9 if good else 2}"
        return "AB"[sample % 2]

    result, asked = requests_of(merge_documents(method="io", num_samples=2), reply)
    assert (result.answer, result.thought.score) == ("B", 9.0)
    assert sum(prompt.startswith("Documents were merged") for prompt in asked) == 2
    assert result.usage.calls == 2 + 2 * 3
    (_, verdict) = result.thought.verdicts[-1]
    assert verdict.reason == "redundancy 9.0, retained 9.0"


@pytest.mark.parametrize("method", ["io", "cot", "tot", "got", "got_pairs"])
def test_every_method_merges(method):
    result, asked = requests_of(merge_documents(method=method, judge="overlap"), lambda prompt, sample: BEST)
    assert (result.answer, result.thought.score) == (BEST, 10.0)
    assert ("list in short" in asked[0]) == (method == "cot")


def test_got_merges_the_three_best_drafts_into_one_that_descends_from_all():
    def reply(prompt, sample):
        if "Draft 1" in prompt:
            return BEST
        return ["The door.", "The door is red.", "The door is red. The roof.", "Green roofs there are."][sample]

    result, asked = requests_of(merge_documents(judge="overlap", num_samples=4), reply)
    assert result.answer == BEST
    assert [p.state.answer for p in result.thought.parents] == ["The door is red. The roof.", "The door is red.",
                                                                "The door."]  # fmt: skip
    assert len(asked) == 2  # nothing is left to improve


def test_pairs_of_documents_are_merged_until_one_is_left():
    given = "A b c.\n---\nD e f.\n---\nG h i."

    def reply(prompt, sample):
        documents = prompt.rpartition("\n\nMerged document:")[0].split("\n\nDocument ")[1:]
        return " ".join(document.partition("\n")[2] for document in documents)

    result, asked = requests_of(merge_documents(method="got_pairs", judge="overlap", max_tries=0), reply, given)
    assert result.answer == "A b c. D e f. G h i."
    assert len(asked) == 2
    assert result.thought.state.parts == (0, 1, 2)


def test_sources_alone_are_not_graded():
    def reply(prompt, sample):
        return "Redundancy: 10\nRetained: 10" if prompt.startswith("Documents were") else BEST

    _, asked = requests_of(merge_documents(method="got_pairs", num_samples=1), reply)
    assert [prompt.partition(" ")[0] for prompt in asked] == ["Merge", "Documents"]


def test_improving_ends_where_it_improves_no_more():
    drafts = iter(["The door is red.", "The roof is green.", "not asked for"])
    result, asked = requests_of(
        merge_documents(method="got", judge="overlap", num_samples=1),
        lambda prompt, sample: next(drafts) if prompt.startswith("The merged") else "The door is",
    )
    assert result.answer == "The door is red."
    assert sum(prompt.startswith("The merged") for prompt in asked) == 2


def test_no_document_is_a_plain_failure():
    result, _ = requests_of(merge_documents(method="io", judge="overlap"), lambda prompt, sample: "  ")
    assert (result.solved, result.answer) == (False, None)
    assert result.explanation.startswith("no reply held a document that was not cut off")


def test_parameters_that_have_no_effect_are_refused():
    with pytest.raises(OptionError, match="num_evaluations=5 has no effect with judge=overlap"):
        merge_documents(judge="overlap", num_evaluations=5)
    with pytest.raises(OptionError, match="max_tries=1 has no effect with method=io"):
        merge_documents(method="io", max_tries=1)
