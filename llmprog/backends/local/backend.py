"""Models that run in this process, as backends: ``local:puzzles?decoder=hybrid&alpha0=0.5``.

Importing this module does not import torch; opening a model does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from llmprog.backends.base import Capabilities, Edit, refuse_unsupported
from llmprog.backends.local.models import NO_SMOLLM2, SMOLLM2_PACKAGE, path_of, puzzles_weights
from llmprog.backends.local.options import DecoderName, LocalOptions, describe_options
from llmprog.backends.local.puzzles.language import PuzzleTokenizer, needs_further_modes
from llmprog.backends.local.text.infilling import INFILLING_DECODERS, encode_parts, num_blank_tokens, stitch
from llmprog.backends.local.text.language import EncodedPrompt, Language
from llmprog.backends.local.text.replies import Replies
from llmprog.backends.local.text.streaming import StreamedCompletion, TokenTexts
from llmprog.backends.registry import BackendInfo
from llmprog.errors import CapabilityError, InputError, MissingExtraError, OptionError
from llmprog.types import Completion, Delta, Logprobs, Prompt, Request, SamplingParams, Template, Usage

if TYPE_CHECKING:
    from llmprog.backends.local.decoders.base import Row, Written
    from llmprog.backends.local.decoders.drafters import Drafter
    from llmprog.backends.local.engine import Engine
    from llmprog.backends.local.networks.transformer import Transformer
    from llmprog.backends.local.statistics import LocalStatistics

__all__ = ["LocalBackend", "LocalOptions", "describe_options", "list_backends", "open_backend"]


def open_backend(name: str, options: Mapping[str, str]) -> LocalBackend:
    """The local model called ``name``.

    Args:
        name: ``puzzles``, the embedded model; ``smollm2``, a small model of text that is installed as a package; or the
            path of a Hugging Face directory or a GGUF file.
        options: Texts as in an id's query string; see ``describe_options``.

    Raises:
        OptionError: An option is unknown, or a value is not allowed.
        MissingExtraError: torch is not installed.
        ModelFileError: The weights are missing or malformed.
    """
    parsed = LocalOptions.parse(f"local:{name}", options)
    query = "&".join(f"{key}={value}" for key, value in options.items())
    return LocalBackend.open(parsed, backend_id=f"local:{name}" + (f"?{query}" if query else ""), model=name)


def list_backends() -> Sequence[BackendInfo]:
    """The local models, and what is missing to run them."""
    missing = "" if _has_torch() else str(MissingExtraError("the local engine", "torch", "local"))
    return [
        BackendInfo(
            id="local:puzzles",
            summary="the embedded puzzle model: Game of 24, arithmetic, 4x4 Sudoku; no key, no GPU",
            missing=missing,
            probe="Input: 4 9 10 13\nPossible next steps:",
        ),
        BackendInfo(
            id="local:smollm2",
            summary="SmolLM2-135M-Instruct, a small model of English",
            missing=missing or ("" if find_spec(SMOLLM2_PACKAGE) else NO_SMOLLM2),
        ),
        BackendInfo(id="local:PATH", summary="a model of text: a Hugging Face directory or a GGUF file"),
    ]


class LocalBackend:
    """A transformer and one of its decoders behind the ``Backend`` protocol.

    With a seed, sample i of a prompt is a function of (seed, prompt, i) alone: not of what else is decoded at the
    time. Float rounding is the one exception: it depends on the shape of the batch, and decides between two tokens
    where their perturbed logits agree to about six digits (float32).

    Temperature 0 takes the most likely token everywhere. The hybrid decoder still draws the order in which it writes,
    so its samples differ unless ``alpha0`` is 0.
    """

    def __init__(
        self,
        model: Transformer,
        language: Language,
        options: LocalOptions | None = None,
        *,
        backend_id: str = "local:puzzles",
        decoders: Sequence[DecoderName] = get_args(DecoderName),
        shift_logits: bool = False,
        make_drafter: Callable[[], Drafter] | None = None,
    ) -> None:
        """A backend on a loaded model; ``options.device`` and ``options.dtype`` are where the model already is.

        Args:
            model: The network.
            language: Its tokenizer.
            options: How it is run.
            backend_id: Id named in errors.
            decoders: Those that fit its weights, the default first.
            shift_logits: Whether its output at i predicts token i + 1 even where it writes by diffusion.
            make_drafter: What guesses ahead, for ``options.draft``.
        """
        from llmprog.backends.local.decoders.making import make_decoder
        from llmprog.backends.local.engine import Engine

        self._id = backend_id
        self._options = (options or LocalOptions()).for_model(decoders, backend_id)
        self._language = language
        self._vocabulary = language.vocabulary
        self._token_texts = TokenTexts(language)
        self._max_positions = model.config.max_positions
        self._decoder = make_decoder(model, self._vocabulary, self._options, shift_logits, make_drafter)
        self._engine: Engine = Engine(
            self._decoder,
            backend=backend_id,
            max_batch_rows=self._options.max_batch_rows,
            threads=self._options.threads,
        )

    @property
    def statistics(self) -> LocalStatistics:
        """What has been computed so far, and what of it was known."""
        from llmprog.backends.local.statistics import statistics_of

        return statistics_of(self._engine.counts, self._decoder)

    @classmethod
    def open(
        cls,
        options: LocalOptions | None = None,
        *,
        backend_id: str = "local:puzzles",
        model: str = "puzzles",
        weights: Path | None = None,
    ) -> LocalBackend:
        """The model called ``model``; with ``weights``, a puzzle model from another file.

        Raises:
            MissingExtraError: torch or safetensors is not installed.
            ModelFileError: The weights are missing or malformed.
            OptionError: ``device=cuda`` without a CUDA device, or an option that the model would ignore.
        """
        options = options or LocalOptions()
        if not _has_torch():
            raise MissingExtraError("the local engine", "torch", "local")
        try:
            import torch

            from llmprog.backends.local.draft_option import drafter_of
            from llmprog.backends.local.networks.preparing import prepare
            from llmprog.backends.local.networks.weights import load_weights
        except ImportError as error:
            raise MissingExtraError("the local engine", error.name or "torch", "local") from error
        has_cuda = torch.cuda.is_available()
        if options.device == "cuda" and not has_cuda:
            raise OptionError("option device='cuda': torch finds no CUDA device; use device=cpu or device=auto")
        device = "cuda" if has_cuda and options.device != "cpu" else "cpu"
        dtype = getattr(torch, _dtype_of(options, device, is_text=model != "puzzles"))
        if model == "puzzles":
            options.refuse_for_puzzles()
            path = weights or puzzles_weights(further=needs_further_modes(options))
            loaded = load_weights(path, backend=backend_id, device=device, dtype=dtype)
            loaded = prepare(loaded, options)
            puzzles = PuzzleTokenizer.of(loaded.config.vocab_size)
            make_drafter = drafter_of(options, loaded, puzzles, partial(path_of, backend=backend_id), backend_id)
            return cls(loaded, puzzles, options, backend_id=backend_id, make_drafter=make_drafter)
        options.refuse_for_text()
        try:
            from llmprog.backends.local.checkpoints.loading import load_text_model
        except ImportError as error:
            raise MissingExtraError("the local engine", error.name or "tokenizers", "local") from error
        text = load_text_model(
            path_of(model, backend_id), backend=backend_id, device=device, dtype=dtype, decoder=options.decoder
        )
        make_drafter = drafter_of(options, text.model, text.language, partial(path_of, backend=backend_id), backend_id)
        network = prepare(text.model, options)
        return cls(
            network,
            text.language,
            options,
            backend_id=backend_id,
            decoders=text.decoders,
            shift_logits=text.shift_logits,
            make_drafter=make_drafter,
        )

    @property
    def id(self) -> str:
        """The id this backend was opened with."""
        return self._id

    @property
    def capabilities(self) -> Capabilities:
        """What the chosen decoder can do."""
        return Capabilities(
            n=True,
            logprobs=self._options.decoder == "autoregressive",
            score=self._options.decoder != "uniform_diffusion",
            infill=self._options.decoder in INFILLING_DECODERS,
            edit=self._options.decoder in INFILLING_DECODERS,
            seed=True,
            context_length=self._max_positions,
            stream="append" if self._options.decoder == "autoregressive" else "replace",
            plain_text=not isinstance(self._language, PuzzleTokenizer),
        )

    async def generate(self, request: Request) -> Sequence[Completion]:
        """``request.num_samples`` completions, in sample order; a prompt's prefix is not repeated in their text.

        A reply is at most as long as the longest one natural to its task, or ``max_tokens`` where that is less;
        diffusion decoders write a canvas of that length. A ``Template`` is filled in.

        Raises:
            InputError: The model does not understand the prompt, or it is too long.
            CapabilityError: A template for a decoder that cannot fill one in.
        """
        return await self._generate(request, None)

    async def stream(self, request: Request, on_delta: Callable[[Delta], None]) -> Sequence[Completion]:
        """``generate``, with every piece handed to ``on_delta`` as it is written.

        The autoregressive decoder's pieces follow each other. Diffusion's replace all that went before: the canvas as
        it reads then, ``streaming.MASK_SIGN`` for a token that is not written yet, and in ``Delta.canvas`` token by
        token. The first of them is the canvas before the first step; so it is for a ``Template``, too.

        Raises:
            InputError: See ``generate``.
            CapabilityError: See ``generate``.
        """
        return await self._generate(request, on_delta)

    async def _generate(self, request: Request, on_delta: Callable[[Delta], None] | None) -> Sequence[Completion]:
        if isinstance(request.prompt, Template):
            return await self._fill(request, request.prompt, on_delta)
        params = request.params
        refuse_unsupported(self, params)
        encoded, prefix = self._encode(request.prompt)
        head = encoded.tokens
        mask_id = self._vocabulary.mask_id
        given: tuple[int, ...] = ()
        if self._options.decoder == "autoregressive":
            head += prefix
        else:
            given = prefix
        length = min(params.max_tokens, max(1, encoded.canvas_length - len(prefix)))
        self._check_length(len(head) + len(given) + length)
        canvas = (*given, *[mask_id] * length)
        replies = Replies(self._language, prefix, is_in_canvas=bool(given), stop=params.stop)
        rows = self._rows(
            request, head, canvas, encoded, is_watched=on_delta is not None, make_stop_check=replies.stop_check
        )
        keeps_tokens = self._decoder.keeps_tokens
        results, told = await self._decode(rows, on_delta, replies.text, len(given), keeps_tokens=keeps_tokens)
        completions = [
            replies.completion(result, len(head) + len(given) if i == 0 else 0) for i, result in enumerate(results)
        ]
        for piece, result, completion in zip(told, results, completions, strict=False):
            piece.finish(completion.text, result.seen)
        return completions

    async def _decode(
        self,
        rows: Sequence[Row],
        on_delta: Callable[[Delta], None] | None,
        read: Callable[[Sequence[int]], str],
        num_given: int,
        *,
        keeps_tokens: bool,
    ) -> tuple[list[Written], list[StreamedCompletion]]:
        """What became of one call's rows, and who tells ``on_delta`` of each, if it is given, until that is read."""
        if on_delta is None:
            return await self._engine.decode(rows), []
        told = [
            StreamedCompletion(
                sample,
                read,
                self._token_texts,
                on_delta,
                mask_id=self._vocabulary.mask_id,
                end_ids=self._vocabulary.end_ids,
                stop=row.params.stop,
                appends=self.capabilities.stream == "append",
                keeps_tokens=keeps_tokens,
                num_given=num_given,
            )
            for sample, row in enumerate(rows)
        ]
        for piece, row in zip(told, rows, strict=True):
            piece.begin(row.canvas)
        return await self._engine.decode(rows, lambda place, reads, seen: told[place].update(reads, seen)), told

    async def infill(self, template: Template, params: SamplingParams, num_samples: int = 1) -> Sequence[Completion]:
        """``num_samples`` texts with every blank filled; given text stays as it is, character for character.

        A space is added where a filled token would otherwise run into given text.

        Raises:
            CapabilityError: The decoder writes from left to right only, or ``params`` ask for log-probabilities or
                guided output.
            InputError: The model does not understand the prompt or the given text, or it is too long.
            OptionError: Stop texts, or fewer ``max_tokens`` than blank tokens.
        """
        return await self._fill(Request(prompt=template, params=params, num_samples=num_samples), template, None)

    async def score(self, prompt: Prompt, continuations: Sequence[str]) -> Sequence[Logprobs]:
        """The log-probability of each continuation, in the order given.

        Autoregressive and hybrid: exact, from left to right, of a reply that begins with the continuation. Masked and
        block diffusion: a Monte-Carlo estimate of a lower bound, for a reply that is the continuation as a whole.

        Raises:
            CapabilityError: The decoder is uniform diffusion.
            InputError: The model does not understand the prompt or a continuation, or it is too long.
        """
        from llmprog.backends.local.decoders.base import Continuation
        from llmprog.backends.local.decoders.uniform_diffusion import no_likelihood

        if not self.capabilities.score:
            raise no_likelihood(self._id)
        encoded, prefix = self._encode(prompt)
        head = (*encoded.tokens, *prefix)
        texts = [tuple(self._language.encode_text(text)) for text in continuations]
        for tokens in texts:
            self._check_length(len(head) + len(tokens) + 1)
        # Nothing to predict in an empty continuation: its log-probability is 0.
        asked = [Continuation(head, tokens, encoded.block_length) for tokens in texts if tokens]
        scores = iter(await self._engine.score(asked))
        return [
            Logprobs(
                tokens=self._words(tokens),
                logprobs=tuple(next(scores)) if tokens else (),
                is_bound=self._decoder.score_is_bound,
            )
            for tokens in texts
        ]

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
        """See ``EditingBackend``. Uniform diffusion starts from the draft, and takes no number of tokens or rounds.

        Raises:
            CapabilityError: The decoder writes from left to right only, or ``params`` ask for log-probabilities or
                guided output.
            InputError: The model does not understand the prompt or the draft, or they are too long.
            OptionError: A number is not allowed, or has no effect; stop texts; fewer ``max_tokens`` than tokens that a
                round writes anew.
        """
        from llmprog.backends.local.editing import EditOptions, Reviser

        params = params or SamplingParams(temperature=0.0, max_tokens=self._max_positions)
        self._refuse_filling(params)
        options = EditOptions(num_tokens=num_tokens, share=share, max_rounds=max_rounds)
        encoded, prefix = self._encode(prompt)
        tokens = tuple(self._language.encode_text(draft))
        self._check_length(len(encoded.tokens) + len(prefix) + len(tokens) + 1)
        decoder = self._options.decoder or "masked_diffusion"
        num_anew = len(tokens) if decoder == "uniform_diffusion" else options.count(len(tokens))
        if num_anew > params.max_tokens:
            raise OptionError(
                f"SamplingParams(max_tokens={params.max_tokens}): {num_anew} tokens of the draft are written anew in a "
                "round; allow as many, or edit fewer with num_tokens or share"
            )

        def make_row(canvas: tuple[int, ...], number: int) -> Row:
            request = Request(prompt=prompt, params=params, first_sample=number)
            return self._rows(request, encoded.tokens, canvas, encoded, may_end=False)[0]

        read = Replies(self._language, prefix).text
        reviser = Reviser(self._engine, self._vocabulary, decoder, make_row=make_row, read=read)
        return await reviser.edit(prefix, tokens, draft, options)

    def most_usd(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Nothing: it runs on the user's own machine."""
        return 0.0

    async def aclose(self) -> None:
        """End the worker thread; calling it twice is harmless."""
        await self._engine.aclose()

    async def _fill(
        self, request: Request, template: Template, on_delta: Callable[[Delta], None] | None
    ) -> Sequence[Completion]:
        params = request.params
        self._refuse_filling(params)
        encoded, prefix = self._encode(template.prompt)
        # Before the blanks are written out: they may claim to hold more tokens than fit any memory.
        self._check_length(len(encoded.tokens) + len(prefix) + num_blank_tokens(template) + 1)
        parts = encode_parts(template, params, self._language)
        head = encoded.tokens
        canvas = (*prefix, *(token for part in parts for token in part), self._vocabulary.eos_id)
        self._check_length(len(head) + len(canvas))
        rows = self._rows(request, head, canvas, encoded, may_end=False, is_watched=on_delta is not None)
        read = Replies(self._language, prefix).text
        # How given text is joined to what is filled in is known at the end: until then nothing is settled.
        results, told = await self._decode(rows, on_delta, read, len(prefix), keeps_tokens=False)
        num_prompt = len(head) + len(canvas) - 1 - num_blank_tokens(template)
        completions = [
            Completion(
                text=stitch(template, parts, result.tokens[len(prefix) :], self._language),
                usage=Usage(calls=1, prompt_tokens=num_prompt if i == 0 else 0, completion_tokens=result.num_generated),
            )
            for i, result in enumerate(results)
        ]
        for piece, result, completion in zip(told, results, completions, strict=False):
            piece.finish(completion.text, result.seen)
        return completions

    def _refuse_filling(self, params: SamplingParams) -> None:
        """Refuse what does not go with text that is given in part."""
        if self._options.decoder not in INFILLING_DECODERS:
            raise CapabilityError(
                f"decoder={self._options.decoder!r} writes from left to right and cannot fill in blanks or edit; "
                f"use decoder={' or decoder='.join(INFILLING_DECODERS)}",
                backend=self._id,
            )
        refuse_unsupported(self, params)
        if params.stop:
            raise OptionError(
                f"SamplingParams(stop={params.stop!r}) has no effect when blanks of fixed length are filled"
            )

    def _encode(self, prompt: Prompt) -> tuple[EncodedPrompt, tuple[int, ...]]:
        """The prompt's messages and its prefix as tokens, at least one of them."""
        encoded, prefix = self._language.encode(prompt, self._options), self._language.encode_text(prompt.prefix)
        if not encoded.tokens and not prefix:
            # Where nothing comes before a text, it follows the end of another.
            length = max(1, encoded.canvas_length - 1)
            encoded = replace(encoded, tokens=(self._vocabulary.eos_id,), canvas_length=length)
        return encoded, tuple(prefix)

    def _check_length(self, length: int) -> None:
        if length > self._max_positions:
            raise InputError(
                f"prompt and reply take {length} tokens, {self._id} has room for {self._max_positions}; shorten them"
            )

    def _rows(
        self,
        request: Request,
        head: tuple[int, ...],
        canvas: tuple[int, ...],
        encoded: EncodedPrompt,
        *,
        may_end: bool = True,
        is_watched: bool = False,
        make_stop_check: Callable[[], Callable[[Sequence[int]], bool] | None] = lambda: None,
    ) -> list[Row]:
        from llmprog.backends.local.decoders.base import Row
        from llmprog.backends.local.sampling import stream_key

        digest = hashlib.sha256(repr(request.prompt).encode("utf-8", "surrogatepass")).digest()
        return [
            Row(
                prompt=head,
                canvas=canvas,
                key=stream_key(request.params.seed, digest, sample),
                block_length=encoded.block_length,
                params=request.params,
                may_end=may_end,
                is_watched=is_watched and self.capabilities.stream == "replace",
                has_stopped=make_stop_check(),
            )
            for sample in range(request.first_sample, request.first_sample + request.num_samples)
        ]

    def _words(self, tokens: Sequence[int]) -> tuple[str, ...]:
        return tuple(map(self._language.word, tokens))


def _dtype_of(options: LocalOptions, device: str, *, is_text: bool) -> str:
    """The name of the type that weights are computed in."""
    if options.dtype != "auto":
        return options.dtype
    return "bfloat16" if options.weights is not None or (is_text and device == "cuda") else "float32"


def _has_torch() -> bool:
    return find_spec("torch") is not None
