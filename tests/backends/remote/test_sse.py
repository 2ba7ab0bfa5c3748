"""Event streams, cut anywhere.

``LLMPROG_SSE_SPLITS=1000000 pytest --timeout=0 tests/backends/remote/test_sse.py`` tries as many random splits.
"""

import json
import os
import random
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmprog.backends.remote.sse import ServerSentEvent, SSEParser

NUM_SPLITS = int(os.environ.get("LLMPROG_SSE_SPLITS", "2000"))


def parse(*chunks, flush=True, **options):
    parser = SSEParser(**options)
    events = [event for chunk in chunks for event in parser.feed(chunk)]
    return events + parser.flush() if flush else events


def data_of(*chunks, **options):
    return [event.data for event in parse(*chunks, **options)]


def bytes_one_by_one(stream):
    return [stream[i : i + 1] for i in range(len(stream))]


def openai_stream():
    texts = ["The", " answer", " is\u2028", "2\u00854", " \U0001f600", ".", "é\u2029"]
    frames = [{"choices": [{"index": 0, "delta": {"content": text}}]} for text in texts]
    lines = [f"data: {json.dumps(frame, ensure_ascii=False)}\n\n" for frame in frames]
    return "".join([": ping\n\n", *lines, "data: [DONE]\n\n"]).encode()


def anthropic_stream():
    frames = [
        {"type": "message_start", "message": {"id": "msg_1", "content": []}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "grün \r\n \\n"}},
        {"type": "message_stop"},
    ]
    lines = [f"event: {frame['type']}\r\ndata: {json.dumps(frame, ensure_ascii=False)}\r\n\r\n" for frame in frames]
    return "\ufeff".encode() + "".join(["event: ping\r\ndata: {}\r\n\r\n", *lines]).encode()


def mixed_stream():
    return (
        b"\xef\xbb\xbfid: 7\rretry:10\rdata:one\rdata: two\r\rdata:  \xe2\x82three\n\r\n: comment\r\r\n"
        b'event:edit\r\ndata\n\ndata: \xff\xfe\r\n\r\nunknown: x\ndata: {"a":\r\ndata: 1}\r\r'
        b"\ndata: unterminated \xf0\x9f"
    )


STREAMS = {"openai": openai_stream(), "anthropic": anthropic_stream(), "mixed": mixed_stream()}


def test_fields_comments_and_types():
    stream = (
        b": hello\n\nid: 1\nretry: 5\nevent: delta\ndata: a\ndata:b\ndata:  c\n\ndata\n\nevent: ping\n\ndata: x\n\n"
    )
    assert parse(stream) == [
        ServerSentEvent("delta", "a\nb\n c"),
        ServerSentEvent("message", ""),
        ServerSentEvent("message", "x"),  # the type of an event without data does not carry over
    ]


@pytest.mark.fault("sse", "CR, LF and CRLF, byte by byte", "the same events")
@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_every_line_end_whole_and_byte_by_byte(end):
    stream = end.join([b"data: 1", b"data: 2", b"", b"event: e", b"data: 3", b"", b""])
    expected = [ServerSentEvent("message", "1\n2"), ServerSentEvent("e", "3")]
    assert parse(stream, flush=False) == expected
    assert parse(*bytes_one_by_one(stream), flush=False) == expected


def test_an_event_is_there_the_moment_its_blank_line_is():
    parser = SSEParser()
    assert parser.feed(b"data: 1\r\n") == []
    assert parser.feed(b"\r") == [ServerSentEvent("message", "1")]
    assert parser.feed(b"\ndata: 2\n\n") == [ServerSentEvent("message", "2")]


@pytest.mark.fault("sse", "U+2028, U+2029, U+0085 in text", "text, no line ends")
def test_line_separators_of_unicode_are_text():
    assert data_of("data: a\u2028b\u2029c\u0085d\x0b\x0c\x1ce\n\n".encode()) == ["a\u2028b\u2029c\u0085d\x0b\x0c\x1ce"]


@pytest.mark.fault("sse", "byte order mark", "dropped at the beginning only")
def test_a_byte_order_mark_counts_at_the_beginning_only():
    bom = "\ufeff".encode()
    assert data_of(bom + b"data: 1\n\n") == ["1"]
    assert data_of(*bytes_one_by_one(bom + b"data: 1\n\n")) == ["1"]
    assert data_of(b"data: 1\n\n" + bom + b"data: 2\n\n") == ["1"]
    assert data_of(b"data: " + bom + b"1\n\n") == ["\ufeff1"]
    assert data_of(bom[:2]) == []


@pytest.mark.fault("sse", "undecodable bytes", "U+FFFD")
def test_undecodable_bytes_are_replaced():
    assert data_of(b"data: a\xffb\xe2\x82\ndata: \x80\n\n") == ["a\ufffdb\ufffd\n\ufffd"]


@pytest.mark.fault("sse", "no blank line at the end", "the last event counts")
def test_an_unterminated_last_event_counts_at_the_end():
    assert data_of(b"data: 1\n\ndata: 2\n") == ["1", "2"]
    assert data_of(b"data: 1\n\ndata: [DO", b"NE]") == ["1", "[DONE]"]
    assert data_of(b"data: 1\n\nevent: x\n: y") == ["1"]


@pytest.mark.fault("sse", "an event without end", "refused at its size limit")
@pytest.mark.parametrize("line", [b"data: ", b": ", b"event: ", b"nonsense"])
def test_an_event_without_end_is_refused(line):
    with pytest.raises(ValueError, match="more than 1000 bytes"):
        parse(line, *[b"x" * 100] * 20, max_event_bytes=1000)
    with pytest.raises(ValueError, match="more than 1000 bytes"):
        parse(b"data: xxxxx\n" * 500, max_event_bytes=1000)
    assert len(parse(b"data: xxxxx\n\n" * 500, max_event_bytes=1000)) == 500


@pytest.mark.parametrize("name", STREAMS)
def test_an_event_split_at_every_byte(name):
    stream = STREAMS[name]
    whole = parse(stream)
    assert whole
    assert parse(*bytes_one_by_one(stream)) == whole
    for at in range(len(stream) + 1):
        assert parse(stream[:at], stream[at:]) == whole, at


@pytest.mark.fault("sse", "random splits of recorded streams", "identical events")
def test_random_splits_parse_identically():
    seed = random.randrange(2**32)
    rng = random.Random(seed)
    streams = [(stream, parse(stream)) for stream in STREAMS.values()]
    for _ in range(NUM_SPLITS):
        stream, whole = rng.choice(streams)
        cuts = sorted(rng.randrange(len(stream) + 1) for _ in range(rng.choice((1, 2, 3, 8, 40))))
        chunks = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
        assert parse(*chunks) == whole, (seed, cuts)


def reference(stream):
    """The specification, line by line, on the whole text."""
    text = stream.decode("utf-8", "replace").removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    events, kind, data = [], "", []
    for line in [*text.split("\n"), ""]:  # an end counts as a blank line
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            events += [ServerSentEvent(kind or "message", "\n".join(data))] if data else []
            kind, data = "", []
        elif name == "data":
            data.append(value)
        elif name == "event":
            kind = value
    return events


PIECES = [b"data", b":", b" ", b"\n", b"\r", b"\r\n", b"\n\n", b"event", b"id: 1", b"\xef\xbb\xbf", b"\xe2"]


@given(st.lists(st.sampled_from(PIECES) | st.binary(max_size=4), max_size=40))
@example([b"\xef", b"\xbb", b"\xbf", b"data:", b"\r", b"", b"\n", b"\n"])
def test_any_bytes_in_any_pieces_are_what_the_specification_says(chunks):
    assert parse(*chunks) == reference(b"".join(chunks))


def seconds(chunks):
    start = time.process_time()
    parse(*chunks)
    return time.process_time() - start


def test_the_time_is_linear_in_the_bytes():
    events = b'data: {"choices":[{"index":0,"delta":{"content":"word"}}]}\n\n'
    long_line = [b"data: ", *[b"x"] * 50_000, b"\n\n"]
    for small, large in (
        ([events * 1_700], [events * 34_000]),  # 100 KB and 2 MB in one chunk
        (long_line[:5_000], long_line),  # one line, byte by byte
    ):
        base = min(seconds(small) for _ in range(2))
        assert min(seconds(large) for _ in range(3)) < 60 * base + 0.1  # the square would be 400 and 100 times
