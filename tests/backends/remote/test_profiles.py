"""Profiles as data."""

from typing import get_args

import pytest

from llmprog.backends.remote.options import Server
from llmprog.backends.remote.profiles import built_in_profiles, get_profile, load_profiles, merged
from llmprog.errors import OptionError

NAMED = "openai openai-responses anthropic gemini deepseek mercury openrouter generic vllm sglang llamacpp ollama"
GOOD = 'summary = "x"\nprotocol = "openai_chat"\n'


@pytest.fixture
def load(tmp_path):
    def write(text):
        path = tmp_path / "own.toml"
        path.write_text(text)
        return load_profiles(path)

    return write


def test_the_built_in_profiles():
    assert set(NAMED.split()) <= set(built_in_profiles())
    for name, profile in built_in_profiles().items():
        assert profile.name == name
        assert profile.max_n >= 1
        assert profile.base_url.startswith("https://") or not profile.base_url
        assert not profile.base_url.endswith("/")
        assert profile.honours_n <= (profile.protocol not in {"anthropic_messages", "openai_responses"})


def test_every_profile_without_an_address_of_its_own_can_be_chosen_for_one():
    assert set(get_args(Server)) == {name for name, profile in built_in_profiles().items() if not profile.base_url}


def test_hosted_providers_name_the_variable_of_their_key():
    assert all(profile.key_env for profile in built_in_profiles().values() if profile.base_url)


def test_an_own_profile(load):
    profile = load("[mine]\n" + GOOD + 'max_stop = 2\nfirst_byte_s = 3\nguided = { json = "response_format" }')["mine"]
    assert (profile.name, profile.max_stop, profile.first_byte_s) == ("mine", 2, 3.0)
    assert profile.guided == {"json": "response_format"}
    with pytest.raises(TypeError):
        profile.guided["regex"] = "sglang"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[mine", ["cannot be read"]),
        ("mine = 3", ["[mine]", "3"]),
        ('[mine]\nprotocol = "openai_chat"', ["'summary'", "missing"]),
        ("[mine]\n" + GOOD + "max_tokns = 3", ["'max_tokns'", "max_tokens_field"]),
        ('[mine]\nsummary = "x"\nprotocol = "soap"', ["'soap'", "openai_chat"]),
        ("[mine]\n" + GOOD + "honours_n = 1", ["honours_n", "true or false"]),
        ("[mine]\n" + GOOD + "max_n = -1", ["max_n = -1", "whole number"]),
        ("[mine]\n" + GOOD + "first_byte_s = nan", ["first_byte_s", "seconds"]),
        ("[mine]\n" + GOOD + 'key_env = "KEY"', ["key_env", "list of texts"]),
        ("[mine]\n" + GOOD + "base_url = 3", ["base_url = 3", "a text"]),
        ("[mine]\n" + GOOD + "headers = { a = 1 }", ["headers", "table of texts"]),
        ("[mine]\n" + GOOD + 'guided = { xml = "regex" }', ["'xml'", "json"]),
        ("[mine]\n" + GOOD + 'guided = { json = "prayer" }', ["'prayer'", "structured_outputs"]),
        ("[mine]\n" + GOOD + 'infill = "fim"', ["fim_path"]),
        ("[mine]\n" + GOOD + 'infill = "edit"\nfim_path = "/f"', ["edit_path"]),
        ("[mine]\n" + GOOD + 'reasoning = "reasoning_effort"', ["reasoning_efforts"]),
    ],
)
def test_a_fault_is_one_clear_error(load, text, words):
    with pytest.raises(OptionError) as caught:
        load(text)
    assert all(word in str(caught.value) for word in words)


def test_a_missing_file(tmp_path):
    with pytest.raises(OptionError, match="cannot be read"):
        load_profiles(tmp_path / "none.toml")


def test_an_unknown_profile():
    with pytest.raises(OptionError, match="vllm"):
        get_profile("vlm")


def test_reasoning_effort():
    assert get_profile("mercury").with_reasoning("instant").extra_body == {"reasoning_effort": "instant"}
    assert get_profile("openrouter").with_reasoning("low").extra_body == {"reasoning": {"effort": "low"}}
    thinking = get_profile("gemini").with_reasoning("low").extra_body["generationConfig"]
    assert thinking == {"thinkingConfig": {"thinkingLevel": "low"}}
    with pytest.raises(OptionError, match="instant, low"):
        get_profile("mercury").with_reasoning("max")
    with pytest.raises(OptionError, match="cannot set"):
        get_profile("vllm").with_reasoning("low")


def test_merged_leaves_both_sides_as_they_are():
    base, extra = {"a": {"b": 1}, "c": 2}, {"a": {"d": 3}, "c": {"e": 4}}
    assert merged(base, extra) == {"a": {"b": 1, "d": 3}, "c": {"e": 4}}
    assert base == {"a": {"b": 1}, "c": 2}
