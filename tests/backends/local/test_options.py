from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from typing import Any, get_args

import pytest

from llmprog.backends.local.options import DecoderName, LocalOptions, describe_options
from llmprog.errors import OptionError


def test_texts_become_typed_options() -> None:
    texts = {"decoder": "masked_diffusion", "threshold": "0.8", "fallback": "leftmost", "max_batch_rows": "7"}
    assert LocalOptions.parse("local:puzzles", texts) == LocalOptions(
        decoder="masked_diffusion", threshold=0.8, fallback="leftmost", max_batch_rows=7
    )


def test_an_unknown_option_lists_the_known_ones() -> None:
    said = r"unknown option of local:puzzles 'decodr' \(did you mean 'decoder'\?\); known: alpha0, .*decoder.*unmask"
    with pytest.raises(OptionError, match=said):
        LocalOptions.parse("local:puzzles", {"decodr": "x"})


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"decoder": "ar"}, "decoder='ar'; allowed is autoregressive | masked_diffusion | block_diffusion | hybrid"),
        ({"device": "tpu"}, "allowed is auto | cpu | cuda"),
        ({"dtype": "float64"}, "allowed is auto | float32 | bfloat16 | float16"),
        ({"threads": "0"}, "threads=0; allowed is a whole number >= 1"),
        ({"threads": "two"}, "threads='two'; allowed is a whole number >= 1"),
        ({"lines": "9"}, "a whole number in 1..8"),
        ({"decoder": "hybrid", "alpha0": "1.5"}, "alpha0=1.5; allowed is a number in [0, 1]"),
        ({"decoder": "hybrid", "alpha0": "nan"}, "alpha0=nan; allowed is a number in [0, 1]"),
        ({"decoder": "masked_diffusion", "guidance_scale": "inf"}, "a finite number >= 0"),
        ({"alpha0": "0.5"}, "alpha0=0.5 has no effect with decoder='autoregressive'"),
        ({"steps": "4"}, "choose decoder=masked_diffusion or decoder=block_diffusion or decoder=hybrid"),
        ({"decoder": "hybrid", "unmask": "quota"}, "unmask='quota' has no effect with decoder='hybrid'"),
        ({"decoder": "masked_diffusion", "steps": "4"}, "steps=4 has no effect with unmask='threshold'"),
        ({"decoder": "masked_diffusion", "unmask": "quota", "threshold": ".5"}, "no effect with unmask='quota'"),
        ({"decoder": "masked_diffusion", "unmask": "random", "factor": ".5"}, "or choose unmask=factor"),
        ({"decoder": "masked_diffusion", "unmask": "factor", "steps": "5"}, "choose unmask=quota or unmask=random or"),
        ({"decoder": "masked_diffusion", "unmask": "factor", "factor": "0"}, "a finite number > 0"),
        ({"decoder": "masked_diffusion", "unmask": "margin", "entropy_bound": "1"}, "choose unmask=entropy"),
        (
            {"decoder": "masked_diffusion", "unmask": "entropy", "entropy_bound": "1", "steps": "5"},
            "steps=5 has no effect with entropy_bound=1.0; leave it out, or choose no entropy_bound",
        ),
        ({"decoder": "masked_diffusion", "credit_weight": "1"}, "no effect with unmask='threshold'"),
        ({"decoder": "masked_diffusion", "low_threshold": "1"}, "choose unmask=hierarchical"),
        ({"decoder": "masked_diffusion", "remask": "cap"}, "no effect with unmask='threshold'"),
        ({"decoder": "masked_diffusion", "remask": "often"}, "allowed is cap | rescale | conf | switch | loop"),
        (
            {"decoder": "masked_diffusion", "remask_eta": ".5"},
            "no effect with no remask; leave it out, or choose",
        ),
        ({"decoder": "masked_diffusion", "refresh_every": "3"}, "or choose cache=prefix or cache=dual"),
        ({"decoder": "block_diffusion", "cache": "dual"}, "no effect with decoder='block_diffusion'"),
        ({"decoder": "block_diffusion", "steps": "3"}, "no effect with unmask='threshold'"),
        (
            {"decoder": "masked_diffusion", "cache": "dual", "guidance_scale": "1"},
            "guidance_scale=1.0 with cache='dual': what the model says without the prompt is not cached",
        ),
        ({"decoder": "masked_diffusion", "edit_steps": "3"}, "or choose an edit_threshold"),
        ({"decoder": "hybrid", "alpha0": "0", "steps": "4"}, "steps=4 has no effect with alpha0=0"),
        ({"steps": "4", "decoder": "mdlm", "sampler": "first_hitting"}, "steps=4 has no effect with sampler='first_hi"),
        ({"decoder": "uniform_diffusion", "t_min": "0.9"}, "t_min=0.9; allowed is a number up to t_max=0.8"),
        ({"decoder": "uniform_diffusion", "t_max": "0"}, "t_max=0.0; allowed is a finite number > 0"),
        ({"decoder": "mdlm", "predictor": "euler"}, "predictor='euler' has no effect with decoder='mdlm'"),
        ({"decoder": "mdlm", "variant": "a"}, "choose decoder=hybrid"),
        ({"decoder": "uniform_diffusion", "score_samples": "3"}, "or decoder=mdlm or decoder=score_entropy"),
        ({"decoder": "masked_diffusion", "unmask": "random", "fallback": "leftmost"}, "choose unmask=threshold"),
    ],
)
def test_bad_and_ineffective_options_are_refused(texts: dict[str, str], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        LocalOptions.parse("local:puzzles", texts).for_model(get_args(DecoderName), "local:puzzles")
    assert message in str(caught.value)


def test_a_model_brings_its_own_decoder_unless_another_that_fits_is_asked_for() -> None:
    fitting = ("masked_diffusion", "hybrid")
    assert LocalOptions().for_model(fitting, "local:x").decoder == "masked_diffusion"
    assert LocalOptions(decoder="hybrid", alpha0=0.5).for_model(fitting, "local:x").decoder == "hybrid"
    with pytest.raises(OptionError, match="use decoder=masked_diffusion or decoder=hybrid"):
        LocalOptions(decoder="autoregressive").for_model(fitting, "local:x?a=b")


def test_editing_while_writing_is_refused_for_a_model_that_was_not_trained_to() -> None:
    options = LocalOptions(decoder="masked_diffusion", edit_threshold=0.9)
    with pytest.raises(OptionError, match=r"edit_threshold=0\.9 with local:puzzles: it was not trained to predict"):
        options.refuse_for_puzzles()
    options.refuse_for_text()


def test_values_of_a_wrong_type_are_refused() -> None:
    with pytest.raises(OptionError, match="threads='2'; allowed is a whole number"):
        LocalOptions(threads="2")
    with pytest.raises(OptionError, match="threads=True; allowed is a whole number"):
        LocalOptions(threads=True)


@pytest.mark.parametrize(
    "options",
    [
        {"threads": 10**9},
        {"max_batch_rows": 10**30},
        {"decoder": "autoregressive", "kv_memory": 10**30},
        {"decoder": "autoregressive", "prefix_memory": 10**30},
        {"decoder": "mdlm", "steps": 10**30},
        {"decoder": "mdlm", "score_seed": -(10**30)},
        {"decoder": "masked_diffusion", "guidance_scale": 10**400},
        {"decoder": "uniform_diffusion", "t_max": 10**400},
    ],
    ids=lambda options: [*options][-1],
)
def test_numbers_that_no_machine_holds_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=f"option {[*options][-1]}=.*; allowed is a"):
        LocalOptions(**options)


def test_every_option_is_described() -> None:
    described = describe_options()
    assert set(described) == {option.name for option in fields(LocalOptions)}
    assert all(text and "\n" not in text for text in described.values())


def test_options_and_backend_import_without_torch() -> None:
    program = """
import sys
sys.modules["torch"] = None
from llmprog.backends.local import backend
print(len(backend.describe_options()) > 5, backend.list_backends()[0].id)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "True local:puzzles\n"
