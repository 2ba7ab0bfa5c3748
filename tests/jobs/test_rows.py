from __future__ import annotations

import csv
import gzip
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmprog.errors import InputError
from llmprog.jobs.rows import MAX_ROW_BYTES, Row, count_rows, read_rows, rows_of


def written(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_json_lines_are_rows_in_order_and_blank_lines_are_none(tmp_path):
    path = written(tmp_path, "data.jsonl", '\ufeff{"q": "one", "n": [1, 2]}\n\n  \n{"q": "zwei ü"}\r\n{"q": "last"}')
    found = list(read_rows(path))
    assert [(row.index, row.line, row.values) for row in found] == [
        (0, 1, {"q": "one", "n": [1, 2]}),
        (1, 4, {"q": "zwei ü"}),
        (2, 5, {"q": "last"}),
    ]
    assert count_rows(path) == 3


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"q": ', "not JSON: Expecting value at character 7"),
        (b'["q"]', "a JSON list; each line must be an object"),
        (b"7", "a JSON int"),
        (b'{"q": "\xff"}', "not UTF-8: invalid start byte at byte 7"),
        (b'{"q": NaN}', "NaN is no number of JSON"),
        (b'{"q": {"a": 1, "a": 2}}', "the key 'a' is there twice"),
        (b'{"q": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "recursion"),
        (b'{"q": ' + b"9" * 5000 + b"}", "digits"),
    ],
)
@pytest.mark.fault("hostile", "a data line that is no row", "reported with its line number; the rows around it stay")
def test_a_bad_line_is_a_row_with_a_fault_and_ends_nothing(tmp_path, line, reason):
    path = written(tmp_path, "data.jsonl", b'{"q": 1}\n' + line + b'\n{"q": 3}\n')
    first, bad, last = read_rows(path)
    assert (first.values, last.values, last.index, last.line) == ({"q": 1}, {"q": 3}, 2, 3)
    assert bad.values == {}
    assert bad.fault.startswith("data.jsonl, line 2: ")
    assert reason in bad.fault


@pytest.mark.parametrize("name", ["data.jsonl", "data.csv"])
def test_a_line_that_is_too_long_is_read_past(tmp_path, name):
    header = b"q\n" if name == "data.csv" else b""
    line = b"1\n" if header else b'{"q": 1}\n'
    path = written(tmp_path, name, header + line + b'"' + b"x" * MAX_ROW_BYTES + b'"\n' + line)
    first, bad, last = read_rows(path)
    assert "longer than 10,000,000 bytes" in bad.fault
    assert (first.index, bad.index, last.index) == (0, 1, 2)
    assert str(last.values["q"]) == "1"


def test_csv_has_a_header_quotes_and_records_of_several_lines(tmp_path):
    path = written(tmp_path, "data.csv", '\ufeffquestion,answer\r\n"How many\r\n""legs""?",4\r\n\r\nplain,\r\n')
    found = list(read_rows(path))
    assert [row.values for row in found] == [
        {"question": 'How many\r\n"legs"?', "answer": "4"},
        {"question": "plain", "answer": ""},
    ]
    assert [row.line for row in found] == [2, 5]
    assert count_rows(path) == 2


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (b"one", "1 fields, but the header has 2"),
        (b"one,two,three", "3 fields, but the header has 2"),
        (b'"one"x,two', "',' expected after '\"'"),
        (b"\xff,two", "not UTF-8"),
    ],
)
def test_a_bad_csv_record_is_a_row_with_a_fault(tmp_path, record, reason):
    path = written(tmp_path, "data.csv", b"a,b\n1,2\n" + record + b"\n3,4\n")
    first, bad, last = read_rows(path)
    assert (first.values, last.values) == ({"a": "1", "b": "2"}, {"a": "3", "b": "4"})
    assert bad.fault == f"data.csv, line 3: {reason}"


def test_a_quote_that_is_never_closed_is_a_fault(tmp_path):
    path = written(tmp_path, "data.csv", 'a,b\n1,2\n"open,2\n3,4\n')
    first, bad = read_rows(path)
    assert first.fault is None
    assert "line 3: unexpected end of data" in bad.fault


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "it is empty"),
        ("a,a\n1,2\n", "'a' is there twice"),
        ("a,\n1,2\n", "one has no name"),
        ('"a\n', "unexpected"),
    ],
)
def test_a_csv_file_without_a_header_is_refused(tmp_path, content, reason):
    with pytest.raises(InputError, match=reason):
        list(read_rows(written(tmp_path, "data.csv", content)))


@pytest.mark.parametrize(("name", "reason"), [("data.txt", "of no known format"), ("missing.csv", "cannot be opened")])
def test_a_file_that_cannot_be_read_says_so(tmp_path, name, reason):
    (tmp_path / "data.txt").touch()
    with pytest.raises(InputError, match=reason):
        list(read_rows(tmp_path / name))


def test_compressed_files_are_read_and_a_cut_one_says_where_it_ends(tmp_path):
    lines = "".join(json.dumps({"q": f"{n} {n * 7919 % 1009}"}) + "\n" for n in range(5000))
    whole = written(tmp_path, "data.jsonl.gz", gzip.compress(lines.encode()))
    assert [row.values["q"].split()[0] for row in read_rows(whole)] == [str(n) for n in range(5000)]
    assert count_rows(whole) == 5000
    cut = written(tmp_path, "cut.jsonl.gz", whole.read_bytes()[:-2000])
    with pytest.raises(InputError, match="cannot be read to its end"):
        list(read_rows(cut))


@given(st.lists(st.lists(st.text(st.characters(codec="utf-8")), min_size=2, max_size=2)))
def test_what_the_csv_module_writes_is_read_as_it_was(tmp_path_factory, records):
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerows([["a", "b"], *records])
    path = written(tmp_path_factory.mktemp("rows"), "data.csv", text.getvalue())
    found = list(read_rows(path))
    assert [row.fault for row in found] == [None] * len(records)
    assert [list(row.values.values()) for row in found] == records


@given(st.binary(max_size=300))
def test_no_bytes_make_reading_raise(tmp_path_factory, content):
    path = written(tmp_path_factory.mktemp("rows"), "data.jsonl", content)
    for place, row in enumerate(read_rows(path)):
        assert row.index == place
        assert row.values == {} or row.fault is None


async def test_python_rows_are_mappings_texts_or_rows_and_anything_else_is_a_fault():
    async def source():
        for item in ({"q": 1}, "a text", 7, {1: 2}):
            yield item

    found = [row async for row in rows_of(source())]
    assert [row.values for row in found] == [{"q": 1}, {"input": "a text"}, {}, {}]
    assert [row.fault is None for row in found] == [True, True, False, False]
    given_rows = [Row(index=3, line=9, values={"q": 1})]
    assert [row async for row in rows_of(given_rows)] == given_rows


async def test_rows_are_taken_one_by_one():
    taken = []

    def source():
        for n in range(10**9):
            taken.append(n)
            yield {"n": n}

    found = rows_of(source())
    assert (await anext(found)).values == {"n": 0}
    assert taken == [0]
