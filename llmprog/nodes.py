"""Generators and checkers: the nodes an LLM program declares.

A node with a ``prompt`` is *declarative*: the model call is data and the decorated function is a
pure parser of its completions, testable without a model. A plain function of the state is a rule or
a move generator. An ``async`` function of ``(state, model)`` makes any calls it likes through
``model``. Calling a node calls the decorated function.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, TypeAlias, overload

from llmprog.errors import DeclarationError
from llmprog.templates import Hint
from llmprog.types import Completion, Logprobs, Prompt, SamplingParams, Template

PromptSource: TypeAlias = str | Callable[..., str | Prompt | Template]
Takes: TypeAlias = Literal["nothing", "completion", "completions", "model"]
CheckerKind: TypeAlias = Literal["state", "vote", "pairwise"]
Capability: TypeAlias = Literal["n", "logprobs", "score", "infill", "seed"]

_COMPLETION_NAMES = ("completion", "completions")
_SAMPLING_NAMES = ("temperature", "max_tokens", "top_p", "top_k", "min_p", "stop", "logprobs", "guided")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a checker says of a state.

    Attributes:
        valid: ``False`` prunes the thought.
        score: Added to the thought's score.
        reason: Why, for people and for prompts that react to it.
    """

    valid: bool = True
    score: float = 0.0
    reason: str = ""


class Model(Protocol):
    """The handle an ``async`` node makes its calls through; each call is scheduled and counted.

    Attributes:
        hint: What the controller has to say to a generator; empty under controllers that give no hints.
    """

    hint: Hint

    def can(self, capability: Capability) -> bool:
        """Whether the node's backend has a capability, for nodes that know another way where it has not."""
        ...

    async def generate(self, prompt: str | Prompt, *, n: int = 1, **sampling: Any) -> list[Completion]:
        """``n`` completions of ``prompt``.

        Args:
            prompt: A text, or several messages.
            n: Completions, 1 or more.
            **sampling: Fields of ``SamplingParams``, such as ``temperature``; the node's own where left out.

        Raises:
            BackendError: The call failed.
            BudgetExceededError: The budget does not allow it.
        """
        ...

    async def score(self, prompt: str | Prompt, continuations: Sequence[str]) -> list[Logprobs]:
        """The log-probability (natural log) of each continuation given the prompt, in the order given.

        Args:
            prompt: What comes before.
            continuations: Texts that may follow it.

        Raises:
            CapabilityError: The backend gives no likelihoods; ``can("score")`` tells before.
        """
        ...

    async def infill(self, template: Template, *, n: int = 1, **sampling: Any) -> list[Completion]:
        """``n`` completions whose text is the template's text with its blanks filled.

        Args:
            template: Given text, and blanks of so many tokens each.
            n: Completions, 1 or more.
            **sampling: As for ``generate``.

        Raises:
            CapabilityError: The backend fills no blanks; ``can("infill")`` tells before.
        """
        ...

    async def run(self, program: Any, input: Any) -> Any:  # noqa: A002 - as in Program.run
        """The ``Result`` of a program, as part of this run: on the node's backend, with its journal and budget."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A declared node: a function, and the model call it parses if it has a prompt.

    Attributes:
        name: Unique within a program.
        function: The decorated function.
        prompt: Template text over the state's fields, or a function of the state.
        n: Completions drawn per call.
        params: How they are drawn.
        takes: What the function takes beside the state.
        wants_text: Whether completions are handed over as ``str`` (else as ``Completion``).
    """

    name: str
    function: Callable[..., Any]
    prompt: PromptSource | None = None
    n: int = 1
    params: SamplingParams = field(default_factory=SamplingParams)
    takes: Takes = "nothing"
    wants_text: bool = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the decorated function itself, without a model."""
        return self.function(*args, **kwargs)

    @property
    def calls_model(self) -> bool:
        """Whether running this node may call a model."""
        return self.takes != "nothing"

    def with_options(
        self, *, prompt: PromptSource | None = None, n: int | None = None, name: str | None = None, **sampling: Any
    ) -> Any:
        """A copy with another prompt, number of samples, name or sampling parameters.

        Raises:
            DeclarationError: ``sampling`` names an unknown parameter, ``n`` is below 1, or a node whose function
                parses no completion is given a prompt.
        """
        if prompt is not None and self.prompt is None:
            raise DeclarationError(f"node {self.name!r}: its function takes no completion, so it takes no prompt=")
        params = _sampling(self.name, sampling, base=self.params)
        changed = replace(self, params=params, n=_checked_n(self.name, self.n if n is None else n))
        if prompt is not None:
            changed = replace(changed, prompt=prompt)
        return replace(changed, name=name) if name is not None else changed

    def parse_each(self, subject: Sequence[Any], completions: Sequence[Completion]) -> list[tuple[int, Any]]:
        """Apply the parser; pairs of sample index and what the function returned for it.

        A function that takes ``completions`` is called once, and its result has index 0. Completions that violate the
        guided output asked for are left out: a parser can rely on the form it asked for.
        """
        usable = [(i, c.text if self.wants_text else c) for i, c in enumerate(completions) if c.violation is None]
        if self.takes == "completions":
            return [(0, self.function(*subject, [given for _, given in usable]))]
        return [(i, self.function(*subject, given)) for i, given in usable]


@dataclass(frozen=True, slots=True, kw_only=True)
class Generator(Node):
    """A node that makes new states from a state.

    Attributes:
        aggregates: It takes a tuple of states and makes one from many (graph of thoughts).
    """

    aggregates: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Checker(Node):
    """A node that judges states.

    Attributes:
        kind: ``state`` judges one; ``vote`` chooses among several; ``pairwise`` compares two.
    """

    kind: CheckerKind = "state"


GeneratorFunction: TypeAlias = Callable[..., Iterable[Any] | Any | Awaitable[Iterable[Any]] | AsyncIterable[Any]]


@overload
def generator(function: GeneratorFunction, /) -> Generator: ...
@overload
def generator(
    *,
    prompt: PromptSource | None = None,
    n: int = 1,
    name: str | None = None,
    aggregates: bool = False,
    **sampling: Any,
) -> Callable[[GeneratorFunction], Generator]: ...
def generator(
    function: GeneratorFunction | None = None,
    /,
    *,
    prompt: PromptSource | None = None,
    n: int = 1,
    name: str | None = None,
    aggregates: bool = False,
    **sampling: Any,
) -> Generator | Callable[[GeneratorFunction], Generator]:
    """Declare a generator: from one state, the states it leads to.

    The function is one of

    * ``(state) -> states``: plain Python moves;
    * ``(state, completion) -> states`` with ``prompt``: parses one completion (``str``, or
      ``Completion`` if annotated so); called once per sample. ``completions`` gets all at once;
    * ``async (state, model) -> states`` or an async generator: calls the model itself.

    ``states`` is an iterable of states; ``None`` means none.

    Args:
        prompt: Template text whose ``{fields}`` are the state's, or ``(state) -> str | Prompt | Template``.
        n: Independent samples per expansion.
        name: Name in the program graph; the function's name by default.
        aggregates: The first argument is a tuple of states; the result descends from all of them.
        **sampling: ``temperature``, ``max_tokens``, ``top_p``, ``top_k``, ``min_p``, ``stop``, ``logprobs``,
            ``guided``.

    Raises:
        DeclarationError: The function's parameters do not fit one of the forms above.
    """

    def declare(function: GeneratorFunction) -> Generator:
        node_name = name or _name_of(function)
        takes, wants_text = _form(node_name, function, prompt, num_subjects=1)
        return Generator(
            name=node_name,
            function=function,
            prompt=prompt,
            n=_checked_n(node_name, n),
            params=_sampling(node_name, sampling),
            takes=takes,
            wants_text=wants_text,
            aggregates=aggregates,
        )

    return declare(function) if function is not None else declare


CheckerFunction: TypeAlias = Callable[..., Any]


@overload
def checker(function: CheckerFunction, /) -> Checker: ...
@overload
def checker(
    *,
    prompt: PromptSource | None = None,
    n: int = 1,
    name: str | None = None,
    kind: CheckerKind = "state",
    **sampling: Any,
) -> Callable[[CheckerFunction], Checker]: ...
def checker(
    function: CheckerFunction | None = None,
    /,
    *,
    prompt: PromptSource | None = None,
    n: int = 1,
    name: str | None = None,
    kind: CheckerKind = "state",
    **sampling: Any,
) -> Checker | Callable[[CheckerFunction], Checker]:
    """Declare a checker: what a state is worth.

    ``kind="state"`` (default): ``(state)`` is a rule; ``(state, completions)`` with a prompt lets a model
    judge (``completion`` is called per sample and the verdicts are averaged); ``async (state, model)``
    calls the model itself. It returns ``bool`` (``False`` prunes), a number (the score) or a ``Verdict``.

    ``kind="vote"``: the first argument is a tuple of states, the prompt's fields are ``{candidates}`` and
    ``{num_candidates}``; each completion is parsed to the index chosen (``None`` abstains) and a
    state's score is its number of votes.

    ``kind="pairwise"``: two states, fields ``{first}`` and ``{second}``; the result in [0, 1] is the
    degree to which the first is better; every pair is judged in both orders, and a state's score is
    the sum of its results.

    Args:
        prompt: Template text or a function of the state(s).
        n: Samples per judgement.
        name: Name in the program graph; the function's name by default.
        kind: What is judged.
        **sampling: As for ``generator``.

    Raises:
        DeclarationError: The function's parameters do not fit its kind.
    """

    def declare(function: CheckerFunction) -> Checker:
        node_name = name or _name_of(function)
        if kind not in ("state", "vote", "pairwise"):
            raise DeclarationError(f"checker {node_name!r}: kind={kind!r}; allowed: state, vote, pairwise")
        takes, wants_text = _form(node_name, function, prompt, num_subjects=2 if kind == "pairwise" else 1)
        return Checker(
            name=node_name,
            function=function,
            prompt=prompt,
            n=_checked_n(node_name, n),
            params=_sampling(node_name, sampling),
            takes=takes,
            wants_text=wants_text,
            kind=kind,
        )

    return declare(function) if function is not None else declare


def _name_of(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", type(function).__name__)


def _checked_n(name: str, n: int) -> int:
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise DeclarationError(f"node {name!r}: n={n!r}; allowed is a whole number of samples >= 1")
    return n


def _sampling(name: str, given: Mapping[str, Any], base: SamplingParams | None = None) -> SamplingParams:
    for key in given:
        if key not in _SAMPLING_NAMES:
            raise DeclarationError(
                f"node {name!r}: unknown option {key!r}; known sampling options: {', '.join(_SAMPLING_NAMES)}"
            )
    values = dict(given)
    if isinstance(values.get("stop"), str):
        values["stop"] = (values["stop"],)
    return replace(base or SamplingParams(), **values)


def _form(
    name: str, function: Callable[..., Any], prompt: PromptSource | None, num_subjects: int
) -> tuple[Takes, bool]:
    """What ``function`` takes beside its state(s), and whether it wants completions as text."""
    if not callable(function):
        raise DeclarationError(f"node {name!r}: {function!r} is not a function")
    parameters = [
        p
        for p in inspect.signature(function).parameters.values()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    required = [p for p in parameters if p.default is p.empty]
    every = inspect.signature(function).parameters.values()
    needs_keyword = any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in every)
    extra = parameters[num_subjects:]
    is_async = inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
    states = "state" if num_subjects == 1 else "first, second"
    shapes = f"({states}), ({states}, completion), ({states}, completions) with a prompt, or async ({states}, model)"
    if len(parameters) < num_subjects or len(required) > num_subjects + 1 or needs_keyword:
        found = ", ".join(p.name for p in every)
        raise DeclarationError(f"node {name!r}: its function takes ({found}); allowed: {shapes}")
    if is_async:
        if prompt is not None:
            raise DeclarationError(f"node {name!r}: an async node calls the model itself, so it takes no prompt=")
        if not extra:
            raise DeclarationError(f"node {name!r}: an async node takes ({states}, model)")
        return "model", True
    if prompt is None:
        if extra and extra[0].default is extra[0].empty:
            raise DeclarationError(
                f"node {name!r}: its function takes {extra[0].name!r} but the node has no prompt=; "
                f"give a prompt, or take ({states}) alone"
            )
        return "nothing", True
    if not extra or extra[0].name not in _COMPLETION_NAMES:
        raise DeclarationError(
            f"node {name!r}: with a prompt the parameter after {states} is named 'completion' (one call per sample) "
            f"or 'completions' (all samples at once), found {extra[0].name if extra else 'none'!r}"
        )
    takes: Takes = "completion" if extra[0].name == "completion" else "completions"
    return takes, "Completion" not in str(extra[0].annotation)
