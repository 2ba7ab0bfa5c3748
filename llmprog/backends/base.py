"""What a backend is: the protocol every model, local or remote, is called through."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from llmprog.errors import CapabilityError
from llmprog.types import (
    Completion,
    Delta,
    Logprobs,
    Prompt,
    Request,
    SamplingParams,
    Template,
    Usage,
    guided_kind,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a backend can do beyond ``generate``.

    Attributes:
        n: Draws several samples of one prompt in one call.
        logprobs: Reports token log-probabilities of its completions.
        score: Gives likelihoods of given continuations.
        infill: Fills blanks anywhere in a text.
        seed: The same request and seed give the same completions.
        context_length: Longest prompt plus completion in tokens; ``None`` where unknown.
        stream: How the pieces of a completion come: each adds to the text so far (``append``) or takes its place
            (``replace``, diffusion models); ``none`` where a completion comes whole. What streams is a
            ``StreamingBackend``.
        guided: The kinds of guided output that can be asked for: ``json``, ``regex``, ``choices``.
        plain_text: Goes on with a text as it stands: a prompt without messages, whose ``prefix`` is the text. Models of
            conversations do not.
        edit: Rewrites the doubtful parts of a text; what does is an ``EditingBackend``.
    """

    n: bool = False
    logprobs: bool = False
    score: bool = False
    infill: bool = False
    seed: bool = False
    context_length: int | None = None
    stream: Literal["none", "append", "replace"] = "none"
    guided: frozenset[str] = frozenset()
    plain_text: bool = False
    edit: bool = False


@dataclass(frozen=True, slots=True)
class EditedSpan:
    """A run of tokens that an edit replaced.

    Attributes:
        start: Where ``new`` begins in the edited text, in characters.
        old: What stood there in the draft.
        new: What stands there now.
    """

    start: int
    old: str
    new: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """A draft after its doubtful tokens were written anew.

    Attributes:
        text: The edited text; the draft itself where nothing was replaced.
        spans: What was replaced, from left to right.
        rounds: How often tokens were written anew, the last time without gain included.
        usage: What it cost.
    """

    text: str
    spans: tuple[EditedSpan, ...]
    rounds: int
    usage: Usage


@runtime_checkable
class Backend(Protocol):
    """A model that can be called.

    Implementations are safe to call from many tasks at once on one event loop. A cancelled call
    leaves nothing behind. Failures are ``BackendError``; what a backend cannot do is a
    ``CapabilityError`` that names what can.
    """

    @property
    def id(self) -> str:
        """The id this backend was opened with, for messages and records; it holds no secret."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """What this backend can do."""
        ...

    async def generate(self, request: Request) -> Sequence[Completion]:
        """``request.num_samples`` completions, in sample order.

        Args:
            request: Prompt, sampling parameters, and which samples are wanted: ``first_sample`` on.

        Raises:
            CapabilityError: The backend cannot do what was asked, such as guided output.
            BackendError: The call failed; ``retryable`` says whether the same call may succeed later.
        """
        ...

    async def score(self, prompt: Prompt, continuations: Sequence[str]) -> Sequence[Logprobs]:
        """The log-probability of each continuation given the prompt, in the order given.

        Args:
            prompt: What comes before.
            continuations: Texts that may follow it.

        Raises:
            CapabilityError: The backend gives no likelihoods.
            BackendError: The call failed.
        """
        ...

    async def infill(self, template: Template, params: SamplingParams, num_samples: int = 1) -> Sequence[Completion]:
        """``num_samples`` completions whose ``text`` is the template's text with every blank filled.

        Args:
            template: Given text, and blanks of so many tokens each.
            params: How blanks are sampled.
            num_samples: Completions, 1 or more.

        Raises:
            CapabilityError: The backend fills no blanks.
            BackendError: The call failed.
        """
        ...

    async def aclose(self) -> None:
        """Release what the backend holds; calling it twice is harmless."""
        ...


@runtime_checkable
class StreamingBackend(Backend, Protocol):
    """A backend that can show its completions while they are written."""

    async def stream(self, request: Request, on_delta: Callable[[Delta], None]) -> Sequence[Completion]:
        """``generate``, with every piece handed to ``on_delta`` as it comes.

        A call that has to be made again begins with a piece that replaces everything: an empty one. A prompt that is a
        ``Template`` is asked for of backends only that fill blanks and whose pieces replace each other.
        """
        ...


@runtime_checkable
class EditingBackend(Backend, Protocol):
    """A backend that can rewrite the doubtful parts of a text."""

    async def edit(
        self,
        prompt: Prompt,
        draft: str,
        params: SamplingParams | None = None,
        *,
        num_tokens: int | None = None,
        share: float | None = None,
        max_rounds: int | None = None,
    ) -> Edit:
        """``draft``, a reply to ``prompt``, with its least likely tokens written anew.

        Args:
            prompt: Kept as it is, its prefix included.
            draft: The reply; the edited one has as many tokens.
            params: How tokens are drawn; ``None`` is the likeliest.
            num_tokens: How many tokens are written anew in a round.
            share: The same as a share of the draft, in (0, 1]; without either it is a fifth.
            max_rounds: Most rounds, at least 1, by default 4; it ends with the first that makes the text no likelier.
        """
        ...


def refuse_unsupported(backend: Backend, params: SamplingParams) -> None:
    """Refuse log-probabilities or guided output that ``backend`` cannot give, before anything is paid for.

    Raises:
        CapabilityError: It cannot; the message says what can.
    """
    can = backend.capabilities
    if params.logprobs and not can.logprobs:
        raise CapabilityError(
            "it reports no log-probabilities (logprobs=True); local models with decoder=autoregressive do, and "
            "endpoints of vLLM, SGLang, llama.cpp and OpenAI's chat completions",
            backend=backend.id,
        )
    if params.guided is not None and guided_kind(params.guided) not in can.guided:
        raise CapabilityError(
            f"it cannot be held to {params.guided!r:.200}; it can to {', '.join(sorted(can.guided)) or 'no form'}",
            backend=backend.id,
        )
