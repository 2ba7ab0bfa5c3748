import logging
import os
import sqlite3
import subprocess
import sys
import textwrap
from dataclasses import replace

import pytest

from llmprog.errors import OptionError
from llmprog.redaction import register_secret
from llmprog.runs.cache import CallCache
from llmprog.types import Blank, Choices, Completion, Logprobs, Prompt, Request, SamplingParams, Template, Usage

BACKEND = "https://host/v1#model"
ASKED = Request(prompt=Prompt.from_text("2 + 2 ="), params=SamplingParams(seed=5), num_samples=3)


def completions(*texts, **options):
    return [Completion(text=text, usage=Usage(1, 10, 5, 0.01), **options) for text in texts]


def texts(found):
    return {sample: completion.text for sample, completion in found.items()}


class Clock:
    now = 1e9

    def __call__(self):
        return self.now


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache" / "calls.sqlite"


@pytest.fixture
def filled(path):
    with CallCache(path) as cache:
        cache.put(BACKEND, False, ASKED, completions("4", "5", "four"))
    return path


def found(path, request=ASKED, backend=BACKEND, honours_seed=False):
    with CallCache(path) as cache:
        return cache.get(backend, honours_seed, request)


def test_a_later_run_finds_each_sample_under_its_own_index(filled):
    assert texts(found(filled)) == {0: "4", 1: "5", 2: "four"}
    assert texts(found(filled, replace(ASKED, num_samples=1, first_sample=2))) == {2: "four"}
    assert texts(found(filled, replace(ASKED, num_samples=9, first_sample=1))) == {1: "5", 2: "four"}


def test_a_hit_costs_nothing_and_says_that_it_is_one(filled):
    total = sum((completion.usage for completion in found(filled).values()), Usage())
    assert total == Usage(cache_hits=3)


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 0.1},
        {"max_tokens": 7},
        {"top_p": 0.5},
        {"top_k": 3},
        {"min_p": 0.1},
        {"stop": ("\n",)},
        {"logprobs": True},
        {"guided": Choices(("4", "5"))},
    ],
)
def test_what_is_asked_otherwise_is_another_question(filled, params):
    assert found(filled, replace(ASKED, params=replace(ASKED.params, **params))) == {}


def test_another_backend_or_prompt_is_another_question(filled):
    assert found(filled, backend="https://host/v1#other") == {}
    assert found(filled, replace(ASKED, prompt=Prompt.from_text("2 + 3 ="))) == {}
    assert found(filled, replace(ASKED, prompt=Prompt.from_text("2 + 2 =", system="Answer."))) == {}
    assert found(filled, replace(ASKED, prompt=Template(ASKED.prompt, (Blank(3),)))) == {}


def test_the_seed_counts_only_where_the_backend_honours_seeds(path):
    other_seed = replace(ASKED, params=replace(ASKED.params, seed=6))
    with CallCache(path) as cache:
        cache.put(BACKEND, False, ASKED, completions("any seed"))
        cache.put(BACKEND, True, ASKED, completions("seed 5"))
    assert texts(found(path, other_seed)) == {0: "any seed"}
    assert texts(found(path, ASKED, honours_seed=True)) == {0: "seed 5"}
    assert found(path, other_seed, honours_seed=True) == {}


def test_only_completions_that_came_to_a_regular_end_are_kept(path):
    with CallCache(path) as cache:
        kept = [
            *completions("whole"),
            *completions("cut at max_tokens", finish_reason="length"),
            *completions("filtered", finish_reason="content_filter"),
            *completions("broken", finish_reason="error"),
            *completions("maybe", violation="not one of the choices"),
        ]
        cache.put(BACKEND, False, replace(ASKED, num_samples=5, first_sample=4), kept)
    assert texts(found(path, replace(ASKED, num_samples=20))) == {4: "whole", 5: "cut at max_tokens"}


def test_a_completion_comes_back_as_it_was(path):
    given = Completion(
        text="odd \ud800 \0 \u202e text" + "x" * 5000,
        finish_reason="length",
        reasoning="hm",
        logprobs=Logprobs(tokens=("a", "b"), logprobs=(-0.5, float("-inf")), is_bound=True),
        usage=Usage(1, 10, 5, None),
        model="model-1",
    )
    with CallCache(path) as cache:
        cache.put(BACKEND, False, ASKED, [given])
    assert found(path) == {0: replace(given, usage=Usage(cache_hits=1))}


def test_within_a_run_equal_questions_are_draws_of_their_own(path):
    with CallCache(path) as cache:
        first = cache.for_run("run-1")
        first.put(BACKEND, False, ASKED, completions("4"))
        cache.put(BACKEND, False, replace(ASKED, first_sample=1), completions("5"))
    with CallCache(path) as cache:
        assert texts(cache.get(BACKEND, False, ASKED)) == {0: "4", 1: "5"}
        assert texts(cache.for_run("run-1").get(BACKEND, False, ASKED)) == {1: "5"}  # resumed: it is the same run


def test_those_not_used_for_longest_go_when_it_grows_too_large(path):
    clock = Clock()

    def question(i):
        return Request(prompt=Prompt.from_text(f"question {i}"))

    for i in range(40):
        clock.now += 10_000
        with CallCache(path, max_bytes=30_000, clock=clock) as cache:
            cache.put(BACKEND, False, question(i), completions(os.urandom(400).hex()))
            assert i == 0 or cache.get(BACKEND, False, question(0))  # in use all the time
    kept = [i for i in range(40) if found(path, question(i))]
    assert kept[0] == 0
    assert kept[1:] == list(range(kept[1], 40))
    assert 20 <= len(kept) <= 36


def test_a_completion_larger_than_the_cache_is_not_kept(path):
    with CallCache(path, max_bytes=1000) as cache:
        cache.put(BACKEND, False, ASKED, completions("small", os.urandom(2000).hex()))
    assert texts(found(path)) == {0: "small"}


def test_no_secret_is_written(path):
    register_secret("sk-made-up-123456")
    with CallCache(path) as cache:
        asked = Request(prompt=Prompt.from_text("my key is sk-made-up-123456"))
        cache.put("https://sk-made-up-123456@host", False, asked, completions("it is sk-made-up-123456"))
    assert b"sk-made-up" not in path.read_bytes()


def writer_process(path, name):
    code = f"""
        from pathlib import Path
        from llmprog.runs.cache import CallCache
        from llmprog.types import Completion, Prompt, Request
        with CallCache(Path({str(path)!r})) as cache:
            for i in range(200):
                request = Request(prompt=Prompt.from_text(f"{name} {{i}}"))
                cache.put("b", False, request, [Completion(text="yes")])
                cache.get("b", False, request)
            assert cache.is_on
    """
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)])


def test_several_processes_share_it(path):
    processes = [writer_process(path, name) for name in ("a", "b")]
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    with CallCache(path) as cache:
        for name in ("a", "b"):
            for i in range(200):
                assert cache.get("b", False, Request(prompt=Prompt.from_text(f"{name} {i}")))


def spoil_with_text(path):
    path.write_text("this is no database " * 500)


def spoil_in_the_middle(path):
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(100)
        file.write(os.urandom(size - 100))


def spoil_with_another_application(path):
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE mine (x)")
    connection.close()


def spoil_with_a_newer_version(path):
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()


def spoil_with_a_trigger(path):
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TRIGGER t AFTER INSERT ON answer BEGIN DELETE FROM answer; END")
    connection.close()


def spoil_an_answer(path):
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE answer SET completion = '[{\"text\": 3}]'")
    connection.close()


def replace_by_a_directory(path):
    path.unlink()
    path.mkdir()


@pytest.mark.fault(
    "process", "a cache that is damaged, foreign or newer", "the run goes on without it and says so once"
)
@pytest.mark.parametrize(
    "spoil",
    [
        spoil_with_text,
        spoil_in_the_middle,
        spoil_with_another_application,
        spoil_with_a_newer_version,
        spoil_with_a_trigger,
        spoil_an_answer,
        replace_by_a_directory,
    ],
)
def test_a_broken_cache_is_off_and_says_so_once(filled, spoil, caplog):
    spoil(filled)
    before = filled.read_bytes() if filled.is_file() else None
    with caplog.at_level(logging.WARNING, "llmprog.runs"), CallCache(filled) as cache:
        for _ in range(3):
            assert cache.get(BACKEND, False, ASKED) == {}
            cache.put(BACKEND, False, ASKED, completions("6"))
        assert not cache.is_on
    assert [record.message.partition(" path=")[0] for record in caplog.records] == [
        "the cache is off for the rest of this run, which goes on without it"
    ]
    assert before is None or filled.read_bytes() == before


@pytest.mark.fault("process", "a cache locked by another process", "the run goes on without it after a second")
def test_a_locked_cache_is_off(filled, caplog):
    other = sqlite3.connect(filled)
    other.execute("BEGIN EXCLUSIVE")
    try:
        with caplog.at_level(logging.WARNING, "llmprog.runs"), CallCache(filled) as cache:
            assert cache.get(BACKEND, False, ASKED) == {}
            assert not cache.is_on
    finally:
        other.close()
    assert "locked" in caplog.text


def test_a_place_that_cannot_be_written_is_no_cache(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING, "llmprog.runs"), CallCache(tmp_path / "file" / "calls.sqlite") as cache:
        assert cache.get(BACKEND, False, ASKED) == {}
        cache.put(BACKEND, False, ASKED, completions("6"))
    assert "the cache is off" in caplog.text


def test_a_forked_process_leaves_it_alone(filled):
    with CallCache(filled) as cache:
        assert cache.get(BACKEND, False, ASKED)
        child = os.fork()
        if child == 0:
            os._exit(0 if cache.get(BACKEND, False, ASKED) == {} else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert cache.get(BACKEND, False, ASKED)


def test_what_comes_after_closing_is_ignored(filled):
    cache = CallCache(filled)
    cache.close()
    cache.close()
    cache.put(BACKEND, False, ASKED, completions("6"))
    assert cache.get(BACKEND, False, ASKED) == {}


@pytest.mark.parametrize("max_bytes", [0, -1, 1.5, True])
def test_a_size_that_is_none_is_refused(path, max_bytes):
    with pytest.raises(OptionError, match="allowed is a whole number of bytes"):
        CallCache(path, max_bytes=max_bytes)
