"""Programs as models: the last message is the input, the answer is the reply."""

from __future__ import annotations

import httpx
import openai
import pytest

from llmprog.errors import OptionError
from llmprog.programs.arithmetic import arithmetic
from llmprog.programs.game24 import game24
from llmprog.runs.budget import Budget
from llmprog.runs.store import open_store
from llmprog.serving.background import serving
from llmprog.serving.catalog import Catalog, backends_of, programs_of
from llmprog.serving.server import ServerOptions


def ask(client, text="4 9 10 13", model="program:game24", **options):
    return client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}], **options)


def test_the_reply_is_the_answer_and_says_how_it_was_found(client):
    reply = ask(client, seed=1)
    result = game24().run("4 9 10 13", backend="local:puzzles?threads=1", seed=1)
    assert reply.choices[0].message.content == result.answer
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage.completion_tokens == result.usage.completion_tokens
    (notes,) = reply.llmprog["runs"]
    assert (notes["solved"], notes["stopped"], notes["seed"], notes["run"]) == (True, "goal", 1, None)
    assert reply.llmprog["usage"]["calls"] == result.usage.calls


def test_a_search_without_a_solution_says_so_in_an_ordinary_reply(client):
    reply = ask(client, "1 1 1 1", seed=1)
    assert reply.choices[0].message.content.startswith("Not solved: 1 1 1 1 to 24 has no solution")
    assert reply.choices[0].finish_reason == "stop"
    assert reply.llmprog["runs"][0]["solved"] is False


def test_text_completions_take_it_as_the_prompt(client):
    reply = client.completions.create(model="program:game24", prompt="4 9 10 13", seed=1)
    assert reply.choices[0].text == ask(client, seed=1).choices[0].message.content


def test_only_the_last_message_is_read(client):
    before = [{"role": "system", "content": "Be nice."}, {"role": "user", "content": "1 1 1 1"}]
    messages = [*before, {"role": "assistant", "content": "Not solved"}, {"role": "user", "content": "4 9 10 13"}]
    reply = client.chat.completions.create(model="program:game24", messages=messages, seed=1)
    assert reply.llmprog["runs"][0]["solved"]
    with pytest.raises(openai.BadRequestError, match="the last is the assistant's"):
        client.chat.completions.create(model="program:game24", messages=messages[:3])


def test_another_backend_is_named_behind_it(client):
    reply = ask(client, model="program:game24@diffusion", seed=1)
    assert reply.model == "program:game24@diffusion"
    with pytest.raises(openai.NotFoundError):
        ask(client, model="program:game24@nowhere")


def test_samples_are_runs_of_their_own(client):
    reply = ask(client, "(17 + 25) * 3 - 40", model="program:arithmetic", n=2, seed=7)
    seeds = [notes["seed"] for notes in reply.llmprog["runs"]]
    assert [choice.message.content for choice in reply.choices] == ["86", "86"]
    assert seeds[0] == 7
    assert len(set(seeds)) == 2


def test_a_stream_keeps_the_connection_alive_and_ends_with_the_answer(http):
    body = {"model": "program:game24", "messages": [{"role": "user", "content": "3 3 8 8"}], "stream": True, "seed": 1}
    with http.stream("POST", "/chat/completions", json=body) as response:
        lines = list(response.iter_lines())
    assert response.headers["content-type"].startswith("text/event-stream")
    assert lines[-2:] == ["data: [DONE]", ""]
    comments = [line for line in lines if line.startswith(":")]
    assert all(line.endswith(" thoughts") for line in comments)


@pytest.mark.parametrize(
    "option", ["temperature", "max_tokens", "top_p", "logprobs", "stop", "response_format", "max_completion_tokens"]
)
def test_what_a_program_sets_itself_is_refused(client, option):
    values = {"logprobs": True, "stop": ["x"], "response_format": {"type": "json_object"}}
    with pytest.raises(openai.BadRequestError, match=f"{option} has no effect on program:game24") as refused:
        ask(client, **{option: values.get(option, 1)})
    assert refused.value.param == option


def test_zero_asks_for_something_too(client):
    with pytest.raises(openai.BadRequestError, match="temperature has no effect on program:game24"):
        ask(client, temperature=0)


def test_an_input_it_cannot_use_is_the_clients_fault(client):
    with pytest.raises(openai.BadRequestError, match="'ten' is not a whole number"):
        ask(client, "4 9 ten 13")


def test_parameters_are_the_operators(tmp_path):
    programs = programs_of(["game24?num_samples=4", "quick=game24?method=io&target=10"])
    assert list(programs) == ["game24?num_samples=4", "quick"]
    with pytest.raises(OptionError, match="unknown parameter of program 'game24' 'speed'"):
        programs_of(["game24?speed=11"])
    with pytest.raises(OptionError, match="served already"):
        programs_of(["a=game24", "a=arithmetic"])
    with pytest.raises(OptionError, match="unknown program"):
        programs_of(["nothing"])


def test_without_a_choice_every_registered_program_is_served_and_with_one_no_other(http):
    ids = [model["id"] for model in http.get("/models").json()["data"]]
    assert ids[:2] == ["puzzles", "diffusion"]
    assert {"program:game24", "program:sudoku", "program:tools"} <= set(ids)
    one = http.get("/models/program:game24").json()
    assert (one["id"], one["llmprog"]) == ("program:game24", {"kind": "program", "backend": "puzzles"})
    chosen = Catalog(backends_of(["p=local:puzzles?threads=1"]), {"sums": arithmetic()})
    assert chosen.names() == ["p", "program:sums"]


def test_runs_are_kept_where_that_is_asked_for_and_the_budget_holds_over_all(tmp_path):
    store = open_store(tmp_path / "runs")
    options = ServerOptions(port=0, budget=Budget(calls=30))
    with (
        serving(["local:puzzles?threads=1"], {"game24": game24()}, options=options, store=store) as base,
        openai.OpenAI(base_url=base, api_key="none", max_retries=0) as client,
    ):
        cut = ask(client, seed=1)
        assert cut.choices[0].finish_reason == "length"
        assert "the budget is spent (calls: 30 of 30 spent" in cut.choices[0].message.content
        for model in ("program:game24", "local:puzzles?threads=1"):
            with pytest.raises(openai.RateLimitError, match="budget is spent") as spent:
                ask(client, "Input: 4 9 10 13\nPossible next steps:" if model[0] == "l" else "4 9 10 13", model=model)
            assert spent.value.code == "insufficient_quota"
            assert "retry-after" not in spent.value.response.headers
    (notes,) = cut.llmprog["runs"]
    assert notes["run"] in [run.id for run in store.list()]
    store.close()


def test_money_takes_a_backend_with_a_known_price():
    dollars = ServerOptions(port=0, budget=Budget(usd=1))
    with (
        pytest.raises(OptionError, match="price of backend"),
        serving(["http://127.0.0.1:9/v1#nobody"], {}, options=dollars),
    ):
        pass
    with serving(["local:puzzles?threads=1"], {}, options=dollars) as base:
        assert httpx.get(f"{base}/models", timeout=60).status_code == 200
