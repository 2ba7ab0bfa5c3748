"""The line of thought of puzzle programs: rules by default, a learned policy where a file of one is given."""

from __future__ import annotations

import pytest
import torch

from llmprog.backends import ScriptedBackend
from llmprog.errors import OptionError
from llmprog.programs.sudoku import sudoku
from llmprog.programs.three_sat import three_sat
from llmprog.search import PolicyController, RollbackRules, TreeOfThoughtController
from llmprog.search.policy_features import feature_names
from llmprog.search.policy_file import PolicyDescription, write_policy
from llmprog.search.policy_network import PolicyNetwork


@pytest.fixture
def gives_up(tmp_path):
    """A file of a policy that goes on where it can, and else gives up."""
    network = PolicyNetwork(len(feature_names(2)), 2, 3, torch.Generator().manual_seed(0))
    with torch.no_grad():
        network.out.bias.copy_(torch.tensor([200.0, 0.0, 0.0, 100.0]))
    path = tmp_path / "policy.safetensors"
    about = PolicyDescription(max_back=2, hidden_size=3, program="sudoku", program_hash="", training={})
    write_policy(path, network, about, {})
    return str(path)


@pytest.mark.parametrize("make", [sudoku, three_sat])
def test_the_rules_decide_by_default(make):
    controller = make().controller
    assert type(controller) is TreeOfThoughtController
    assert controller.policy == RollbackRules(max_visits=5)
    assert make(max_visits=2).controller.policy == RollbackRules(max_visits=2)


@pytest.mark.parametrize(
    ("make", "puzzle", "right", "wrong"),
    [
        (sudoku, "1 2 3 / 2 3 1 / 3 . .", "1 2 3\n2 3 1\n3 1 2", "1 2 3\n2 3 1\n3 2 1"),
        (three_sat, "1 2\n-1 2", "1 2", "1 -2"),
    ],
)
def test_a_policy_decides_where_a_file_is_given(make, puzzle, right, wrong, gives_up):
    program = make(policy=gives_up)
    assert isinstance(program.controller, PolicyController)
    assert program.controller.max_rounds == make().controller.max_rounds
    assert program.run(puzzle, backend=ScriptedBackend(lambda prompt, sample: right)).solved
    given_up = program.run(puzzle, backend=ScriptedBackend(lambda prompt, sample: wrong))
    assert (given_up.solved, given_up.stopped, given_up.usage.calls) == (False, "policy", 1)


@pytest.mark.parametrize("make", [sudoku, three_sat])
def test_a_parameter_that_would_be_ignored_is_refused(make, gives_up):
    with pytest.raises(OptionError, match=r"max_visits=3 has no effect with policy='.*'; it is one of the rules"):
        make(policy=gives_up, max_visits=3)
    with pytest.raises(OptionError, match=r"policy='.*' has no effect with method=one_shot; it belongs to method=tot"):
        make(method="one_shot", policy=gives_up)
    with pytest.raises(OptionError, match="policy 'nowhere': it cannot be read"):
        make(policy="nowhere")
