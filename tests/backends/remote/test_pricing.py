"""What calls cost."""

import datetime

import pytest

from llmprog.backends.remote.pricing import Price, Prices
from llmprog.backends.remote.profiles import built_in_profiles
from llmprog.backends.remote.wire import TokenCounts
from llmprog.errors import OptionError

MILLION = TokenCounts(prompt=1_000_000, completion=1_000_000)


@pytest.fixture
def load(tmp_path):
    def write(text):
        path = tmp_path / "prices.toml"
        path.write_text(text)
        return Prices.load(path)

    return write


def test_input_and_output_have_their_own_prices():
    assert Prices.load().usd("openai", "gpt-5-mini", MILLION) == pytest.approx(2.25)


def test_cached_tokens_are_cheaper():
    tokens = TokenCounts(prompt=1_000_000, completion=0, cached=400_000)
    assert Prices.load().usd("openai", "gpt-5-mini", tokens) == pytest.approx(0.6 * 0.25 + 0.4 * 0.025)
    assert Price(input=1.0, output=2.0).usd(tokens) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("provider", "model", "name"),
    [
        ("openai", "gpt-5-mini-2025-08-07", "gpt-5-mini"),
        ("openai", "gpt-4o-2024-05-13", "gpt-4o-2024-05-13"),
        ("openai", "gpt-4o-2024-11-20", "gpt-4o"),
        ("openai-responses", "gpt-5", "gpt-5"),
        ("anthropic", "claude-sonnet-4-5-20250929", "claude-sonnet-4-5"),
        ("anthropic", "claude-sonnet-4-20250514", "claude-sonnet-4"),
        ("anthropic", "claude-3-5-haiku-latest", "claude-3-5-haiku"),
        ("gemini", "models/gemini-2.0-flash-001", "gemini-2.0-flash"),
    ],
)
def test_a_dated_model_has_the_price_of_its_name(provider, model, name):
    prices = Prices.load()
    assert prices.find(provider, model) == prices.models[provider][name]


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "gpt-5-pro"),
        ("openai", "gpt-5-mini-extra"),
        ("openai", "gpt-5-2025-08-07-fine"),
        ("openai", ""),
        ("nobody", "gpt-5"),
        ("vllm", "gpt-5"),
    ],
)
def test_an_unknown_price_is_unknown(provider, model):
    assert Prices.load().usd(provider, model, MILLION) is None


@pytest.mark.parametrize("tokens", [TokenCounts(), TokenCounts(prompt=1), TokenCounts(completion=1)])
def test_an_unknown_count_is_an_unknown_cost(tokens):
    assert Prices.load().usd("openai", "gpt-5", tokens) is None


def test_a_prompt_longer_than_the_price_is_for():
    prices = Prices.load()
    assert prices.usd("gemini", "gemini-2.5-pro", TokenCounts(prompt=200_000, completion=0)) == pytest.approx(0.25)
    assert prices.usd("gemini", "gemini-2.5-pro", TokenCounts(prompt=200_001, completion=0)) is None


def test_the_built_in_table():
    prices = Prices.load()
    datetime.date.fromisoformat(prices.date)
    assert set(prices.models) <= set(built_in_profiles())
    for listed in prices.models.values():
        for price in listed.values():
            assert 0 < price.input <= price.output
            assert price.cached_input is None or price.cached_input < price.input


def test_an_own_file_lies_over_the_built_in_one(load):
    vllm, openai = '"qwen3" = { input = 0, output = 0 }', '"gpt-5" = { input = 1, output = 2 }'
    prices = load(f'date = "2031-02-03"\n[vllm]\n{vllm}\n[openai]\n{openai}')
    assert prices.date == "2031-02-03"
    assert prices.usd("vllm", "qwen3", MILLION) == 0
    assert prices.usd("openai", "gpt-5", MILLION) == 3
    assert prices.usd("openai", "gpt-5-mini", MILLION) == pytest.approx(2.25)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[openai", "cannot be read"),
        ("[openai]", "date"),
        ('date = "today"', "'today'"),
        ('date = "2031-02-03"\nopenai = 3', "expected a table"),
        ('date = "2031-02-03"\n[a]\nsame_as = "b"', "same_as"),
        ('date = "2031-02-03"\n[a]\n"m" = { input = 1 }', "output = USD"),
        ('date = "2031-02-03"\n[a]\n"m" = { input = 1, output = 1, tax = 1 }', "'tax'"),
        ('date = "2031-02-03"\n[a]\n"m" = { input = -1, output = 1 }', "input = -1"),
        ('date = "2031-02-03"\n[a]\n"m" = { input = nan, output = 1 }', "input = nan"),
    ],
)
def test_a_fault_is_one_clear_error(load, text, words):
    with pytest.raises(OptionError) as caught:
        load(text)
    assert words in str(caught.value)
