"""Runs and calls as spans and log lines: who is whose parent, what is in them, and what is not."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import structlog
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from structlog.testing import capture_logs

from llmprog import Program, arun, checker, generator, run
from llmprog.backends import ScriptedBackend
from llmprog.combinators import Sequence
from llmprog.errors import BackendError
from llmprog.log import Log, bound
from llmprog.redaction import register_secret
from llmprog.runs.store import MemoryStore
from llmprog.search import BestOfN, BreadthFirstSearch, SelfConsistency
from llmprog.tracing import note_retry
from llmprog.types import Completion, Usage

CAPTURE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"


@pytest.fixture
def exporter():
    """Where spans are collected: a tracer provider is set up, as a program with tracing does."""
    made = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(made))
    trace.set_tracer_provider(provider)
    yield made
    provider.shutdown()


@pytest.fixture
def spans(exporter):
    return exporter.get_finished_spans


@generator(prompt="after {state}", temperature=0.5, max_tokens=7, n=2)
def grow(state: str, completion: str) -> list[str]:
    return [state + completion]


@checker(prompt="rate {state}")
def worth(state: str, completion: str) -> float:
    return 1.0


def tree(depth=2):
    return Program(generators=[grow], checkers=[worth], controller=BreadthFirstSearch(max_depth=depth), name="tree")


def letters(prompt, sample):
    return Completion(text="ab"[sample % 2], usage=Usage(1, 3, 1, 0.5), model="letters-1")


class Model(ScriptedBackend):
    def __init__(self, script=letters, backend_id="openai:letters", **options):
        super().__init__(script, **options)
        self.id = backend_id


def of(found, name):
    return [span for span in found if span.name.startswith(name)]


# ------------------------------------------------------------------------------------------------ spans


def test_a_run_is_a_span_and_each_call_one_below_it(spans):
    result = run(tree(), "r", backend=Model(), seed=7)
    found = spans()
    (whole,) = of(found, "invoke_workflow tree")
    calls = of(found, "chat letters")
    assert len(calls) == len(found) - 1 == 3 + 6  # three expansions, six judgements
    assert all(call.parent.span_id == whole.context.span_id for call in calls)
    assert whole.parent is None
    assert whole.attributes["llmprog.stopped"] == result.stopped
    assert whole.attributes["llmprog.usage.calls"] == result.usage.calls
    assert whole.attributes["llmprog.usage.usd"] == result.usage.usd
    assert (whole.attributes["llmprog.seed"], whole.attributes["gen_ai.workflow.name"]) == (7, "tree")
    assert whole.status.status_code is StatusCode.UNSET


def test_a_call_has_the_attributes_of_the_convention(spans):
    run(tree(1), "r", backend=Model(), seed=7, store=MemoryStore())
    (call,) = [span for span in of(spans(), "chat") if span.attributes["llmprog.node"] == "grow"]
    assert call.kind is SpanKind.CLIENT
    attributes = dict(call.attributes)
    assert attributes.pop("gen_ai.request.seed") > 0
    assert attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "letters",
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.max_tokens": 7,
        "gen_ai.request.top_p": 1.0,
        "gen_ai.request.choice.count": 2,
        "gen_ai.response.model": "letters-1",
        "gen_ai.response.finish_reasons": ("stop", "stop"),
        "gen_ai.usage.input_tokens": 6,
        "gen_ai.usage.output_tokens": 2,
        "llmprog.usage.usd": 1.0,
        "llmprog.node": "grow",
        "llmprog.first_sample": 0,
        "llmprog.call": 1,
    }


@pytest.mark.parametrize(
    ("backend", "place"),
    [
        ("local:puzzles?decoder=hybrid", ("local", "puzzles", None, None, SpanKind.INTERNAL)),
        ("gemini:gemini-2.5-flash?max_attempts=2", ("gcp.gemini", "gemini-2.5-flash", None, None, SpanKind.CLIENT)),
        ("http://127.0.0.1:8000/v1#org/model?n=1", ("openai", "org/model", "127.0.0.1", 8000, SpanKind.CLIENT)),
        ("https://example.org/v1#m", ("openai", "m", "example.org", None, SpanKind.CLIENT)),
        ("mine", ("mine", "mine", None, None, SpanKind.CLIENT)),
    ],
)
def test_provider_model_and_server_are_read_from_the_backends_id(spans, backend, place):
    run(Program(generators=[grow], controller=BestOfN(num_samples=1)), "r", backend=Model(backend_id=backend), seed=1)
    (call,) = of(spans(), "chat")
    names = ("gen_ai.provider.name", "gen_ai.request.model", "server.address", "server.port")
    assert (*(call.attributes.get(name) for name in names), call.kind) == place


def test_prompts_and_completions_are_left_out_unless_they_are_asked_for(exporter, spans, monkeypatch):
    register_secret("sk-of-the-trace")
    backend = Model(lambda prompt, sample: Completion(text="sk-of-the-trace!", reasoning="hm"))
    program = Program(generators=[grow.with_options(n=1)], controller=BestOfN(num_samples=1))
    run(program, "the state", backend=backend, seed=1)
    assert "the state" not in "".join(span.to_json() for span in spans())
    exporter.clear()
    monkeypatch.setenv(CAPTURE, "true")
    run(program, "the state", backend=backend, seed=1)
    (call,) = of(spans(), "chat")
    assert json.loads(call.attributes["gen_ai.input.messages"]) == [
        {"role": "user", "parts": [{"type": "text", "content": "after the state"}]}
    ]
    (message,) = json.loads(call.attributes["gen_ai.output.messages"])
    assert [part["type"] for part in message["parts"]] == ["reasoning", "text"]
    assert message["parts"][1]["content"] == "[redacted]!"


def test_a_failed_call_fails_its_span_and_the_runs(spans):
    class Failing(Model):
        async def generate(self, request):
            note_retry(BackendError("too busy", backend=self.id), 0.25)
            raise BackendError("it is down: sk-of-the-error \ud800", backend=self.id)

    register_secret("sk-of-the-error")
    program = Program(name="one", generators=[grow], controller=BestOfN(num_samples=2))
    with pytest.raises(BackendError):
        run(program, "r", backend=Failing(n=True), seed=1)
    whole, *calls = sorted(spans(), key=lambda span: span.name, reverse=True)
    for span in (whole, calls[0]):
        assert span.status.status_code is StatusCode.ERROR
        assert "[redacted]" in span.status.description
        assert span.attributes["error.type"] == "BackendError"
        assert [event.name for event in span.events][-1] == "exception"
        assert "sk-of-the-error" not in span.to_json()
    retry = calls[0].events[0]
    assert (retry.name, retry.attributes["llmprog.attempt.duration_s"]) == ("llmprog.retry", 0.25)


def test_what_is_cancelled_is_no_failure(spans):
    async def cut_short():
        is_asked = asyncio.Event()

        class Waiting(Model):
            async def generate(self, request):
                is_asked.set()
                return await super().generate(request)

        task = asyncio.ensure_future(arun(tree(), "r", backend=Waiting(latency_s=60), seed=1))
        await is_asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cut_short())
    assert len(spans()) == 2
    assert all(span.attributes["llmprog.cancelled"] for span in spans())
    assert all(span.status.status_code is StatusCode.UNSET for span in spans())


def test_concurrent_runs_have_their_own_calls_below_the_callers_span(spans):
    async def several():
        with trace.get_tracer("mine").start_as_current_span("mine"):
            await asyncio.gather(*(arun(tree(), f"r{i}", backend=Model(latency_s=0.001), seed=i) for i in range(4)))

    asyncio.run(several())
    (mine,) = of(spans(), "mine")
    runs = of(spans(), "invoke_workflow")
    assert {run.parent.span_id for run in runs} == {mine.context.span_id}
    calls = of(spans(), "chat")
    for whole in runs:
        assert sum(call.parent.span_id == whole.context.span_id for call in calls) == 9


def test_the_sync_facade_keeps_the_callers_span(spans):
    with trace.get_tracer("mine").start_as_current_span("mine"):
        run(tree(1), "r", backend=Model(), seed=1)
        inner = trace.get_current_span()
    (mine,) = of(spans(), "mine")
    assert inner.get_span_context().span_id == mine.context.span_id
    (whole,) = of(spans(), "invoke_workflow")
    assert whole.parent.span_id == mine.context.span_id


def test_programs_within_a_program_are_spans_within_its_span(spans):
    program = Sequence(tree(1), Program(name="last", generators=[grow], controller=SelfConsistency(num_samples=2)))
    run(program, "r", backend=Model(), seed=1)
    (whole,) = of(spans(), "invoke_workflow sequence")
    parts = [*of(spans(), "invoke_workflow tree"), *of(spans(), "invoke_workflow last")]
    assert [part.parent.span_id for part in parts] == [whole.context.span_id] * 2
    assert {part.attributes["llmprog.path"] for part in parts} == {"/tree", "/last"}


def test_recalled_calls_were_not_sent_and_have_no_spans(exporter, spans):
    store = MemoryStore()
    first = run(tree(), "r", backend=Model(), seed=1, store=store)
    exporter.clear()
    run(tree(), "r", backend=Model(), store=store, resume=first.run_id)
    assert [span.name for span in spans()] == ["invoke_workflow tree"]
    assert spans()[0].attributes["llmprog.run"] == first.run_id


class BusyOnce(BaseHTTPRequestHandler):
    """Answers 429 to the first request, and a completion to the others."""

    num_requests = 0

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        BusyOnce.num_requests += 1
        is_first = BusyOnce.num_requests == 1
        choice = {"index": 0, "message": {"role": "assistant", "content": "a"}, "finish_reason": "stop"}
        body = json.dumps({"error": {"message": "busy"}} if is_first else {"choices": [choice]}).encode()
        self.send_response(429 if is_first else 200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.send_header("retry-after", "0")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Nothing: the log of a test is its assertions."""


@pytest.fixture
def server_that_is_busy_once():
    server = ThreadingHTTPServer(("127.0.0.1", 0), BusyOnce)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


def test_attempts_of_a_remote_call_are_events_of_its_span(spans, server_that_is_busy_once):
    program = Program(generators=[grow.with_options(n=1)], controller=BestOfN(num_samples=1))
    run(program, "r", backend=f"{server_that_is_busy_once}#letters", seed=1)
    (call,) = of(spans(), "chat")
    assert [event.name for event in call.events] == ["llmprog.retry"]
    assert call.events[0].attributes["error.type"] == "RateLimitError"
    assert call.attributes["server.address"] == "127.0.0.1"


def test_without_a_tracer_provider_opentelemetry_is_not_even_imported():
    code = (
        "import sys\n"
        "from llmprog import Program, generator, run\n"
        "from llmprog.backends import ScriptedBackend\n"
        "from llmprog.search import BestOfN\n"
        "say = generator(prompt='{state}')(lambda state, completion: [completion])\n"
        "run(Program(generators=[say], controller=BestOfN(num_samples=1)), 'x', backend=ScriptedBackend({'x': 'y'}))\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# ------------------------------------------------------------------------------------------------ log lines


@pytest.fixture
def configured():
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG))


def test_a_run_and_its_calls_are_logged_with_their_ids(configured):
    with capture_logs() as lines:
        result = run(tree(1), "r", backend=Model(), seed=1, store=MemoryStore())
    assert all(line["run"] == result.run_id for line in lines)
    assert lines[0]["event"] == "run started"
    assert lines[-1]["event"] == "run finished"
    assert (lines[-1]["stopped"], lines[-1]["calls"]) == (result.stopped, result.usage.calls)
    calls = [line for line in lines if line["event"] == "call settled"]
    assert [line["call"] for line in calls] == [1, 2, 3]
    assert {line["log_level"] for line in calls} == {"debug"}
    assert {line["node"] for line in calls} == {"grow", "worth"}
    (added,) = [line for line in lines if line["event"] == "thoughts added"]
    assert (added["parents"], added["thoughts"]) == ([0], [1, 2])
    assert [line["thought"] for line in lines if line["event"] == "thought judged"] == [1, 2]


def test_failed_calls_are_logged_too(configured):
    with capture_logs() as lines, pytest.raises(BackendError):
        run(tree(1), "r", backend=Model({}), seed=1, store=MemoryStore())
    events = [line["event"] for line in lines]
    assert events == ["run started", "call failed", "run ended early"], lines
    assert lines[1]["call"] == 1
    assert "no reply is scripted" in lines[1]["error"]


def test_at_info_only_runs_are_logged_and_rows_are_not():
    from llmprog import map as map_rows

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.INFO))
    with capture_logs() as lines:
        run(tree(1), "r", backend=Model(), seed=1)
        map_rows(tree(1), ["r", "s"], backend=Model(), seed=1)
    assert [line["event"] for line in lines if "path" not in line][:2] == ["run started", "run finished"]
    assert not [line for line in lines if line["event"].startswith("call")]


def test_ids_are_those_of_the_task_that_writes(configured):
    log = Log("llmprog.test")
    turns = [asyncio.Event() for _ in range(3)]

    async def work(number):
        with bound(call=number):
            await turns[number].wait()
            log.info("at work")
            turns[number - 1].set()

    async def several():
        turns[2].set()
        with bound(run="r1"):
            await asyncio.gather(*(work(number) for number in range(3)))
        log.info("after")

    with capture_logs() as lines:
        asyncio.run(several())
    assert [(line.get("run"), line.get("call")) for line in lines] == [("r1", 2), ("r1", 1), ("r1", 0), (None, None)]


def test_what_a_logger_lets_through_is_known_beforehand(caplog):
    log = Log("llmprog.test")
    with caplog.at_level(logging.INFO, logger="llmprog.test"):
        assert log.is_enabled(logging.INFO)
        assert not log.is_enabled(logging.DEBUG)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    assert not log.is_enabled(logging.INFO)
    structlog.configure(wrapper_class=structlog.BoundLogger)  # one that cannot say
    assert log.is_enabled(logging.DEBUG)
