"""Files of recordings: torn, damaged, full disks, many writers; secrets in them, and the ids that open them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from recordings import Able, ask, content_of, record, replayed
from structlog.testing import capture_logs

from llmprog.backends import ScriptedBackend
from llmprog.backends.replay import (
    Recorder,
    RecordingBackend,
    ReplayBackend,
    describe_options,
    list_backends,
    open_backend,
)
from llmprog.errors import BackendError, OptionError, ReplayMissError
from llmprog.redaction import register_secret
from llmprog.types import (
    Completion,
    Logprobs,
    Prompt,
    Request,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.jsonl"


def test_a_torn_last_line_is_left_out_with_a_warning(path: Path) -> None:
    record(path, ScriptedBackend(lambda prompt, sample: "x"), ask("a"), ask("b"))
    whole = path.read_bytes()
    for end in range(len(whole) - 1, whole.rindex(b'{"kind"'), -23):
        path.write_bytes(whole[:end])
        with capture_logs() as logs:
            assert replayed(path, ask("a"))[0][0].text == "x"
        assert [entry["line"] for entry in logs] == ([] if end == len(whole) - 1 else [4])


ENDLESS = """
import asyncio, sys
from llmprog.backends import ScriptedBackend
from llmprog.backends.replay import Recorder, RecordingBackend
from llmprog.types import Prompt, Request

async def main():
    backend = RecordingBackend(ScriptedBackend(lambda prompt, sample: prompt * 50), Recorder(sys.argv[1]))
    i = 0
    while True:
        await backend.generate(Request(prompt=Prompt.from_text(f"question {i}")))
        i += 1
        if i == 20:
            print("begun", flush=True)

asyncio.run(main())
"""


def test_a_killed_recorder_leaves_a_recording(path: Path) -> None:
    for _ in range(2):  # the second goes on with what the first left
        process = subprocess.Popen([sys.executable, "-c", ENDLESS, str(path)], stdout=subprocess.PIPE, cwd=ROOT)
        with process:
            assert process.stdout is not None
            process.stdout.readline()
            process.kill()
        with capture_logs() as logs:
            (found,) = replayed(path, *[Request(prompt=Prompt.from_text("question 7"))])
        assert found[0].text == "question 7" * 50
        assert len(logs) <= 2


def test_a_recording_is_continued_after_a_torn_line(path: Path) -> None:
    record(path, ScriptedBackend(lambda prompt, sample: "x"), ask("a"), ask("b"))
    path.write_bytes(path.read_bytes()[:-40])
    record(path, ScriptedBackend(lambda prompt, sample: "y"), ask("b"))
    with capture_logs() as logs:
        assert [c[0].text for c in replayed(path, ask("a"), ask("b"))] == ["x", "y"]
    assert len(logs) == 1


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"hello\n", "is no recording: it begins with b'hello'"),
        (b"[]\n", "is no recording"),
        (b"[" * 100_000, "is no recording"),
        (b'{"format": "llmprog-recording", "version": 2}\n', "version 2; this llmprog reads version 1"),
    ],
)
def test_another_file_is_neither_read_nor_written_to(path: Path, content: bytes, complaint: str) -> None:
    path.write_bytes(content)
    for use in (Recorder, ReplayBackend):
        with pytest.raises(OptionError) as caught:
            use(path)
        assert complaint in str(caught.value)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "line",
    [
        '{"kind": "sing"}',
        '{"kind": "generate"}',
        '{"backend": "x"}',
        "[1]",
        '{"kind": "generate", "request": {"messages": 3, "prefix": ""}, "completions": []}',
    ],
)
def test_a_line_that_records_no_call_is_named(path: Path, line: str) -> None:
    record(path, ScriptedBackend({}))
    with path.open("a") as file:
        file.write(f"\n{line}\n")
    with pytest.raises(OptionError, match=r"line 4: no record of a call"):
        ReplayBackend(path)


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"no recording at .*--record"):
        ReplayBackend(tmp_path / "absent.jsonl")
    with pytest.raises(OptionError, match="no recording at"):
        ReplayBackend("a\0b")
    with pytest.raises(OptionError, match="cannot record to"):
        Recorder(tmp_path / "absent" / "run.jsonl")
    with pytest.raises(OptionError, match="cannot record to"):
        Recorder(tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
async def test_a_full_disk_is_said(path: Path) -> None:
    with pytest.raises(OptionError, match="cannot record to '/dev/full': No space left"):
        Recorder("/dev/full")
    recorder = Recorder(path)
    backend = RecordingBackend(ScriptedBackend(lambda prompt, sample: "x"), recorder)
    recorder.close()
    recorder.close()
    with pytest.raises(BackendError, match=r"could not be recorded.*closed"):
        await backend.generate(ask())


async def test_concurrent_calls_write_whole_lines(path: Path) -> None:
    with Recorder(path) as one, Recorder(path) as two:
        backends = [
            RecordingBackend(ScriptedBackend(lambda p, i: "x" * 9000, shuffle=i), r) for i, r in enumerate((one, two))
        ]
        await asyncio.gather(*(backends[i % 2].generate(ask(f"{i}")) for i in range(100)))
    replay = ReplayBackend(path)
    found = await asyncio.gather(*(replay.generate(ask(f"{i}")) for i in range(100)))
    assert all(c[0].text == "x" * 9000 for c in found)


async def test_cancelled_and_failed_calls_are_not_recorded(path: Path) -> None:
    with Recorder(path) as recorder:
        backend = RecordingBackend(ScriptedBackend({"b": "x"}, latency_s=5), recorder)
        task = asyncio.create_task(backend.generate(ask("b")))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        with pytest.raises(BackendError, match="no reply is scripted"):
            await RecordingBackend(ScriptedBackend({}), recorder).generate(ask("c"))
    assert "kind" not in content_of(path)


async def test_secrets_are_blacked_out_and_their_requests_are_still_found(path: Path) -> None:
    secret = 'sk-canary-91f3"quoted"'
    register_secret(secret)
    spelled = Logprobs(tokens=("a", "sk-canary", '-91f3"quoted"', "b"), logprobs=(-1.0, -1.0, -1.0, -1.0))

    def reply(prompt: str, sample: int) -> Completion:
        return Completion(text=f"key {secret}", reasoning=secret, logprobs=spelled, model=secret, violation=secret)

    asked = ask(f"My key is {secret}", stop=(secret,))
    with Recorder(path) as recorder:
        backend = RecordingBackend(Able(reply), recorder)
        await backend.generate(asked)
        scores = await backend.score(asked.prompt, [secret, "x"])
    written = content_of(path)
    assert "canary" not in written
    assert "91f3" not in written
    replay = ReplayBackend(path)
    for text in (secret, "[redacted]"):  # the latter where the prompt was made of a replayed completion
        (completion,) = await replay.generate(ask(f"My key is {text}", stop=(text,)))
        assert completion.text == "key [redacted]"
        assert completion.logprobs is not None
        assert completion.logprobs.tokens == ("a[redacted]b", "", "", "")
    assert [s.logprobs for s in await replay.score(asked.prompt, ["x", secret])] == [
        s.logprobs for s in reversed(scores)
    ]
    with pytest.raises(ReplayMissError) as caught:
        await replay.generate(ask(f"My Key is {secret}"))
    assert "canary" not in str(caught.value)


def test_ids_open_recordings(tmp_path: Path) -> None:
    path = tmp_path / "a folder" / "my run.jsonl"
    path.parent.mkdir()
    record(path, ScriptedBackend({}))
    assert open_backend(str(path), {}).id == f"replay:{path}"
    with pytest.raises(OptionError, match=r"unknown option of replay.*'speed'; known: none"):
        open_backend(str(path), {"speed": "2"})
    assert describe_options() == {}
    assert [info.id for info in list_backends()] == ["replay:FILE"]
