from __future__ import annotations

import json
import os
import resource
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmprog.errors import OptionError, StoreError
from llmprog.jobs.output import Output, encode_line, refuse_used
from llmprog.jobs.result import RowError, RowResult
from llmprog.redaction import register_secret


def result(index, *, answer="42", error=None, is_recalled=False):
    return RowResult(
        index=index,
        row={"q": index},
        answer=answer,
        solved=error is None,
        stopped="num_samples",
        error=None if error is None else RowError("BackendError", error),
        seed=index,
        is_recalled=is_recalled,
    )


def opened(path, run="run-1", *, in_order=False, **options):
    output = Output(path, in_order=in_order)
    output.open(run, **options)
    return output


def lines(path):
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def indices(path):
    return [line["index"] for line in lines(path)]


def test_each_row_is_one_line_that_names_its_run(tmp_path):
    path = tmp_path / "out.jsonl"
    output = opened(path)
    output.write(result(1))
    assert lines(path)[0]["index"] == 1  # there as soon as it is written
    output.write(result(0, error="down"))
    output.close(2)
    first, second = lines(path)
    assert first["row"] == {"q": 1}
    assert (first["answer"], first["error"], first["run"]) == ("42", None, "run-1")
    assert second["error"] == {"type": "BackendError", "message": "down"}


def test_what_is_there_is_not_written_again_and_failed_rows_are_dropped(tmp_path):
    path = tmp_path / "out.jsonl"
    output = opened(path)
    for index, error in ((0, None), (3, "down"), (2, None)):
        output.write(result(index, error=error))
    output.close()
    path.chmod(0o640)
    output = opened(path)
    assert [index in output for index in range(5)] == [True, False, True, False, False]
    for index in range(5):
        output.write(result(index, is_recalled=index in (0, 1, 2)))
    output.close(5)
    assert indices(path) == [0, 2, 1, 3, 4]
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kept", [0, 1])
@pytest.mark.fault("process", "killed while a row is written", "the torn line is cut off, and the row written again")
def test_a_torn_last_line_is_cut(tmp_path, kept):
    path = tmp_path / "out.jsonl"
    whole = encode_line(result(0).to_json() | {"run": "run-1"})
    path.write_bytes(whole * kept + whole[:-30])
    output = opened(path)
    assert (0 in output) == bool(kept)
    output.write(result(1))
    output.close(2)
    assert indices(path) == [0, 1][1 - kept :]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"my notes\n", "something else"),
        (b"my notes", "something else"),
        (b'{"answer": 1}\n', "something else"),
        (b"[" * 100_000 + b"\n", "something else"),
        (encode_line(result(0).to_json() | {"run": "other"}), "rows of another run, other"),
    ],
)
def test_a_file_that_holds_something_else_is_refused_and_stays(tmp_path, content, reason):
    path = tmp_path / "out.jsonl"
    path.write_bytes(content)
    with pytest.raises(OptionError, match=f"holds {reason}; give another --out, or --overwrite"):
        opened(path)
    with pytest.raises(OptionError, match="holds something already"):
        refuse_used(path)
    assert path.read_bytes() == content
    output = opened(path, overwrite=True)
    output.write(result(0))
    output.close(1)
    assert indices(path) == [0]


def test_rows_of_a_run_that_this_one_stands_in_for_are_replaced(tmp_path):
    path = tmp_path / "out.jsonl"
    path.write_bytes(encode_line(result(0).to_json() | {"run": "run-0"}))
    output = opened(path, is_replaced=lambda run: run == "run-0")
    assert 0 not in output
    output.write(result(0, answer="43", is_recalled=True))
    output.close(1)
    assert [(line["answer"], line["run"]) for line in lines(path)] == [("43", "run-1")]


def test_a_row_that_changed_has_its_last_line_only_and_rows_that_are_gone_have_none(tmp_path):
    path = tmp_path / "out.jsonl"
    output = opened(path)
    for index in range(4):
        output.write(result(index))
    output.close(4)
    output = opened(path)
    output.write(result(1, answer="new"))
    output.close(3)
    assert [(line["index"], line["answer"]) for line in lines(path)] == [(0, "42"), (2, "42"), (1, "new")]


def test_lines_that_were_superseded_when_a_session_was_killed_go_at_the_next(tmp_path):
    path = tmp_path / "out.jsonl"
    output = opened(path)
    for index, answer in ((0, "old"), (1, "42"), (0, "new")):
        output.write(result(index, answer=answer))
    output = opened(path)  # the first was never closed
    assert [(line["index"], line["answer"]) for line in lines(path)] == [(1, "42"), (0, "new")]


def test_in_order_a_file_that_is_carried_on_is_written_anew(tmp_path):
    path = tmp_path / "out.jsonl"
    output = opened(path, in_order=True)
    output.write(result(0))
    output.close()
    output = opened(path, in_order=True)
    assert 0 not in output
    for index in range(3):
        output.write(result(index, is_recalled=index == 0))
    output.close(3)
    assert indices(path) == [0, 1, 2]


@pytest.mark.fault("users", "the output file is deleted while the job runs", "said at the end, with what to do")
def test_a_file_that_was_deleted_meanwhile_is_told(tmp_path):
    path = tmp_path / "out.jsonl"
    output = opened(path)
    output.write(result(0))
    path.unlink()
    with pytest.raises(StoreError, match="was deleted while the job ran; the same command writes it anew"):
        output.close(1)


def test_where_nothing_can_be_written_it_is_said_at_once(tmp_path):
    with pytest.raises(OptionError, match="cannot be written: Is a directory"):
        opened(tmp_path)
    with pytest.raises(OptionError, match="cannot be written: No such file or directory"):
        opened(tmp_path / "missing" / "out.jsonl")


@pytest.mark.fault("process", "no room for the output file", "said with what to do; the line is written whole later")
def test_no_room_is_told_and_what_was_torn_is_cut_later(tmp_path):
    path = tmp_path / "out.jsonl"
    output = opened(path)
    output.write(result(0))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 100, limits[1]))
    try:
        with pytest.raises(StoreError, match="File too large; once it can be, the same command writes what is missing"):
            output.write(result(1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not path.read_bytes().endswith(b"\n")
    output = opened(path)
    output.write(result(1))
    output.close(2)
    assert indices(path) == [0, 1]


def test_a_pipe_is_written_to_and_never_read():
    reading, writing = os.pipe()
    with open(reading, "rb") as pipe:  # noqa: PTH123 - a descriptor, no path
        output = opened(f"/dev/fd/{writing}")
        output.write(result(0))
        output.close(1)
        os.close(writing)
        assert json.loads(pipe.read())["index"] == 0


@given(st.text(st.characters(codec=None), max_size=50))
def test_any_text_is_one_line_of_json(text):
    line = encode_line({"answer": text})
    assert line.count(b"\n") == 1
    assert json.loads(line) == {"answer": text}


def test_a_secret_is_not_written():
    register_secret("sk-of-the-output-file")
    assert b"sk-of-the-output-file" not in encode_line({"row": {"q": "my key is sk-of-the-output-file"}})


@given(st.permutations(range(40)), st.integers(0, 40))
def test_whatever_was_written_before_a_kill_each_row_is_there_once_in_the_end(tmp_path_factory, order, written):
    path = tmp_path_factory.mktemp("output") / "out.jsonl"
    output = opened(path)
    for index in order[:written]:
        output.write(result(index))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 9 // 10])
    output = opened(path)
    for index in range(40):
        output.write(result(index, is_recalled=True))
    output.close(40)
    assert sorted(indices(path)) == list(range(40))
