"""Files of learned policies: safetensors that say what they are, refused where they do not fit.

Besides the policy's own tensors (``policy.*``) a file may hold those that its training goes on with.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from llmprog.errors import OptionError
from llmprog.search.policy_features import feature_names, num_actions
from llmprog.search.policy_network import PolicyNetwork

_KEY = "llmprog.policy"
_VERSION = 1
_PREFIX = "policy."
_LARGEST_BACK = 64
_LARGEST_HIDDEN = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyDescription:
    """What a file says of its policy.

    Attributes:
        max_back: Steps back at most.
        hidden_size: Of its network.
        program: The program that it was trained on.
        program_hash: That program's hash.
        training: How it was trained.
    """

    max_back: int
    hidden_size: int
    program: str
    program_hash: str
    training: Mapping[str, Any]


def write_policy(
    path: Path, network: PolicyNetwork, description: PolicyDescription, training: Mapping[str, Tensor]
) -> None:
    """Write a policy, and the tensors its training goes on with; the file appears whole or not at all."""
    about = asdict(description) | {
        "version": _VERSION,
        "features": feature_names(description.max_back),
        "actions": _action_names(description.max_back),
    }
    tensors = {_PREFIX + name: tensor for name, tensor in network.state_dict().items()} | dict(training)
    partial = path.with_name(path.name + ".partial")
    try:
        save_file(
            {name: tensor.detach().contiguous() for name, tensor in tensors.items()},
            partial,
            metadata={_KEY: json.dumps(about, sort_keys=True)},
        )
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        raise OptionError(f"policy {str(path)!r} cannot be written: {error}; give a place that can be") from error


def read_policy(path: Path) -> tuple[PolicyNetwork, PolicyDescription, dict[str, Tensor]]:
    """The policy in a file, what is said of it, and the other tensors there.

    Raises:
        OptionError: There is no such file, it holds no policy, or one that this version cannot use.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = (file.metadata() or {}).get(_KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
    except (OSError, SafetensorError) as error:
        raise _unusable(path, f"it cannot be read as safetensors ({error})") from error
    if about is None:
        raise _unusable(path, "it holds no policy")
    description = _description(path, about)
    num_features = len(feature_names(description.max_back))
    network = PolicyNetwork(num_features, description.max_back, description.hidden_size)
    for name, wanted in network.state_dict().items():
        found = tensors.pop(_PREFIX + name, None)
        if found is None or found.shape != wanted.shape or found.dtype != wanted.dtype:
            what = "missing" if found is None else f"{found.dtype} {list(found.shape)}"
            raise _unusable(path, f"its {name} is {what}, not {wanted.dtype} {list(wanted.shape)}")
        if not bool(torch.isfinite(found).all()):
            raise _unusable(path, f"its {name} is not finite")
        wanted.copy_(found)
    return network.requires_grad_(False), description, tensors


def digest_of(network: PolicyNetwork) -> str:
    """Hex digest by which two policies are told apart."""
    content = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        content.update(f"{name}{list(tensor.shape)}".encode())
        content.update(tensor.detach().contiguous().numpy().tobytes())
    return content.hexdigest()[:16]


def _description(path: Path, text: str) -> PolicyDescription:
    try:
        about = json.loads(text)
        version = about["version"]
        if version != _VERSION:
            raise _unusable(path, f"it has version {version!r} of the format, and this llmprog knows {_VERSION}")
        description = PolicyDescription(
            max_back=about["max_back"],
            hidden_size=about["hidden_size"],
            program=about["program"],
            program_hash=about["program_hash"],
            training=dict(about["training"]),
        )
        features, actions = about["features"], about["actions"]
    except (ValueError, KeyError, TypeError) as error:
        raise _unusable(path, f"what it says of itself cannot be read ({error!r})") from error
    for name, largest in (("max_back", _LARGEST_BACK), ("hidden_size", _LARGEST_HIDDEN)):
        value = getattr(description, name)
        if type(value) is not int or not 1 <= value <= largest:
            raise _unusable(path, f"its {name} is {value!r}, not 1 to {largest}")
    if features != list(feature_names(description.max_back)):
        raise _unusable(path, "it was trained on other features than this llmprog computes")
    if actions != _action_names(description.max_back):
        raise _unusable(path, f"its actions are {actions!r:.200}, not {_action_names(description.max_back)}")
    return description


def _action_names(max_back: int) -> list[str]:
    names = ["continue", *(f"back {back}" for back in range(1, max_back + 1)), "stop"]
    return names[: num_actions(max_back)]


def _unusable(path: Path, why: str) -> OptionError:
    return OptionError(f"policy {str(path)!r}: {why}; give a file made by `llmprog train-policy`")
