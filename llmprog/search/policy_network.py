"""The networks of learned policies, in torch: what to decide, and what may still be expected.

N: situations. F: features. A: actions. H: ``hidden_size``. Everything is float64: the networks are tiny, and what they
learn is then the same to the last digit that matters wherever it is learned.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

# Going on where that is possible, going back by one step where it is not, and giving up hardly ever: a policy that
# begins by giving up in every seventh round would see no round from which it could learn.
_FIRST_LOGITS = (2.0, 1.0, 0.0, -4.0)  # go on, back by one, back by more, give up


class PolicyNetwork(nn.Module):
    """A probability for each action: one hidden layer with tanh, and a softmax over what is possible.

    Args:
        num_features: F.
        max_back: The A = ``max_back + 2`` actions are those of ``policy_features``.
        hidden_size: H.
        generator: Draws the first weights; ``None`` leaves them for others to set.
    """

    def __init__(
        self, num_features: int, max_back: int, hidden_size: int, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.hidden = nn.Linear(num_features, hidden_size, dtype=torch.float64)
        self.out = nn.Linear(hidden_size, max_back + 2, dtype=torch.float64)
        if generator is not None:
            go_on, one_step, more, give_up = _FIRST_LOGITS
            first = torch.tensor([go_on, one_step, *[more] * (max_back - 1), give_up], dtype=torch.float64)
            _initialise(self.hidden, self.out, first, generator)

    def forward(self, features: Tensor, allowed: Tensor) -> Tensor:
        """Log-probabilities [N, A], minus infinity for what is not ``allowed`` [N, A], given ``features`` [N, F]."""
        logits: Tensor = self.out(torch.tanh(self.hidden(features)))
        return logits.masked_fill(~allowed, -math.inf).log_softmax(dim=-1)


class ValueNetwork(nn.Module):
    """The return that may be expected in a situation: a baseline that is learned.

    Args:
        num_features: F.
        hidden_size: H.
        generator: Draws the first weights.
    """

    def __init__(self, num_features: int, hidden_size: int, generator: torch.Generator) -> None:
        super().__init__()
        self.hidden = nn.Linear(num_features, hidden_size, dtype=torch.float64)
        self.out = nn.Linear(hidden_size, 1, dtype=torch.float64)
        _initialise(self.hidden, self.out, torch.zeros(1, dtype=torch.float64), generator)

    def forward(self, features: Tensor) -> Tensor:
        """Returns expected [N], given ``features`` [N, F]."""
        values: Tensor = self.out(torch.tanh(self.hidden(features))).squeeze(-1)
        return values


def _initialise(hidden: nn.Linear, out: nn.Linear, biases: Tensor, generator: torch.Generator) -> None:
    """The last layer says nothing yet but its ``biases``; the first draws from its own generator, not from torch's."""
    with torch.no_grad():
        bound = 1 / math.sqrt(hidden.in_features)
        hidden.weight.uniform_(-bound, bound, generator=generator)
        hidden.bias.uniform_(-bound, bound, generator=generator)
        out.weight.zero_()
        out.bias.copy_(biases)
