"""What all protocols promise, whatever an endpoint sends."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmprog.backends.remote.profiles import built_in_profiles, get_profile
from llmprog.backends.remote.protocols import open_infiller, open_protocol, open_scorer
from llmprog.backends.remote.sse import ServerSentEvent
from llmprog.errors import CapabilityError, LLMProgError
from llmprog.types import Blank, Prompt, Template

KEYS = st.sampled_from(
    [
        "choices",
        "message",
        "delta",
        "content",
        "text",
        "index",
        "finish_reason",
        "usage",
        "error",
        "logprobs",
        "tokens",
        "prompt_tokens",
        "output",
        "type",
        "status",
        "response",
        "candidates",
        "parts",
        "code",
        "reasoning_details",
        "usageMetadata",
        "promptFeedback",
        "stop_reason",
        "content_block",
        "item",
        "summary",
        "token_logprobs",
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8) | KEYS, inner, max_size=5),
    max_leaves=20,
)


@given(
    JSON | st.fixed_dictionaries({}, optional={"choices": JSON, "output": JSON, "candidates": JSON, "content": JSON}),
    st.sampled_from(["openai", "mercury", "openai-responses", "anthropic", "gemini", "completions"]),
)
def test_no_json_raises_anything_undeclared(value, profile):
    protocol = open_protocol(get_profile(profile), "test:model")
    with contextlib.suppress(LLMProgError):
        protocol.parse(value)
    reader = protocol.reader()
    for _ in range(2):
        with contextlib.suppress(LLMProgError):
            reader.feed(ServerSentEvent("message", json.dumps(value)))
    with contextlib.suppress(LLMProgError):
        reader.finish()


@given(JSON | st.fixed_dictionaries({}, optional={"choices": JSON, "prompt_logprobs": JSON}))
def test_no_json_raises_anything_undeclared_when_scoring_or_infilling(value):
    template = Template(Prompt.from_text("x"), ("a", Blank(1), "b", Blank(1)))
    for profile in ("vllm", "sglang"):
        with contextlib.suppress(LLMProgError):
            open_scorer(get_profile(profile), "test:model").parse(value, "a")
    with contextlib.suppress(LLMProgError):
        open_infiller(get_profile("mercury"), "test:model").parse(value, template)


@pytest.mark.parametrize(("opening", "attribute"), [(open_scorer, "score"), (open_infiller, "infill")])
def test_what_a_profile_lacks_names_the_profiles_that_have_it(opening, attribute):
    with pytest.raises(CapabilityError) as caught:
        opening(get_profile("anthropic"), "test:model")
    able = [name for name, profile in built_in_profiles().items() if getattr(profile, attribute) != "none"]
    assert able
    assert all(name in str(caught.value) for name in able)
