"""OpenAI text completions: ``POST /completions``, for models without chat roles and for likelihoods of given texts.

Likelihoods come in three forms: servers that *echo* the prompt with its log-probabilities, vLLM, which reports
``prompt_logprobs`` beside the reply, of chat completions too, and our own server, which is asked for those of *texts*.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmprog.backends.remote.guided import guided_fields
from llmprog.backends.remote.profiles import Profile, merged
from llmprog.backends.remote.protocols.common import (
    BoundProtocol,
    as_object,
    check_call,
    complete_body,
    content_text,
    count,
    finish_reason,
    in_sample_order,
    joined_logprobs,
    lacking,
    listed_logprobs,
    listed_logprobs_or_none,
    logprob_pair,
    member,
    not_the_protocol,
    objects,
    provider_error,
    reasoning_text,
    shown,
    text_or_none,
)
from llmprog.backends.remote.protocols.openai_chat import (
    ChatReader,
    chat_logprobs,
    chat_messages,
    chat_usage,
    sampling_fields,
)
from llmprog.backends.remote.protocols.reasoning import split_reasoning
from llmprog.backends.remote.wire import Choice, HttpRequest, ModelCall, Reply, ReplyReader
from llmprog.errors import CapabilityError, OptionError
from llmprog.types import Logprobs, Prompt


class OpenAICompletions(BoundProtocol):
    """Calls and replies of text completions; the conversation is sent as one plain text."""

    def request(self, call: ModelCall) -> HttpRequest:
        profile, params = self._profile, call.params
        check_call(call, profile, backend=self._backend, is_plain_text=True)
        body: dict[str, Any] = {"model": call.model, "prompt": call.prompt.text, **sampling_fields(call, profile)}
        if params.logprobs:
            body["logprobs"] = 1
        if params.guided is not None:
            body = merged(body, guided_fields(params.guided, profile, backend=self._backend))
        if call.stream:
            body |= {"stream": True, **profile.stream_options}
        return HttpRequest(
            path="/completions", body=complete_body(body, profile), headers=profile.headers, stream=call.stream
        )

    def parse(self, body: Any) -> Reply:
        return parse_completions(body, backend=self._backend)

    def reader(self) -> ReplyReader:
        return ChatReader(self._backend, is_plain_text=True)


def parse_completions(body: Any, *, backend: str) -> Reply:
    """The reply in the body of a text completion, or of a completion with messages.

    Raises:
        BackendError: The body is an error object, or not what the protocol sends.
    """
    answer = as_object(body, "body", backend=backend)
    if error := provider_error(answer, backend=backend):
        raise error
    if not isinstance(answer.get("choices"), list):
        raise not_the_protocol("no list of choices", answer, backend=backend)
    return Reply(
        choices=tuple(_choice(c, backend) for c in in_sample_order(objects(answer["choices"]))),
        tokens=chat_usage(answer.get("usage")),
        model=text_or_none(answer.get("model")),
        id=text_or_none(answer.get("id")),
    )


def _choice(choice: Mapping[str, Any], backend: str) -> Choice:
    if error := provider_error(choice, backend=backend):
        raise error
    content = choice.get("text")
    text, thought = split_reasoning(
        content_text(member(choice, "message").get("content") if content is None else content)
    )
    return Choice(
        text=text,
        finish_reason=finish_reason(choice.get("finish_reason"), backend=backend) or "stop",
        reasoning=reasoning_text(choice) or thought,
        logprobs=joined_logprobs(chat_logprobs(choice) or listed_logprobs(choice)),
    )


class Scorer:
    """Calls and answers for the likelihood of a given text.

    Args:
        backend: Id of the backend, for errors.
        profile: How the endpoint shows likelihoods.
        bos: What the model's texts begin with, where the server does not put it there itself.

    Raises:
        CapabilityError: It shows none; the message names what does.
        OptionError: Texts are sent as messages, which the server begins itself.
    """

    def __init__(self, backend: str, profile: Profile, bos: str = "") -> None:
        if profile.score == "none":
            raise lacking("likelihoods of given texts (score)", "score", profile, backend=backend)
        if bos and profile.score != "echo" and profile.protocol != "openai_completions":
            raise OptionError(f"option bos={bos!r} of {backend}: its chat template begins texts; leave it out")
        self._backend = backend
        self._profile = profile
        self._bos = bos

    def request(self, model: str, prompt: Prompt, continuation: str) -> HttpRequest:
        """The request for the likelihood of ``continuation``, which must not be empty, after ``prompt``.

        One token is generated and thrown away: not every server takes 0 for "none", some take it for "no limit".
        """
        body: dict[str, Any] = {"model": model, "temperature": 0.0, "max_tokens": 1}
        if self._profile.score == "texts":
            messages = chat_messages(prompt)
            body = {"model": model, "messages": messages, "prefix": prompt.prefix, "continuations": [continuation]}
            path = "/score"
        elif self._profile.score == "echo":
            body |= {"prompt": self._bos + prompt.text + continuation, "echo": True, "logprobs": 1}
            path = "/completions"
        elif self._profile.protocol == "openai_completions":
            body |= {"prompt": self._bos + prompt.text + continuation, "prompt_logprobs": 0}
            path = "/completions"
        else:
            given = {"role": "assistant", "content": prompt.prefix + continuation}
            body |= {
                "messages": [*chat_messages(prompt), given],
                "add_generation_prompt": False,
                "continue_final_message": True,
                "prompt_logprobs": 0,
            }
            path = "/chat/completions"
        return HttpRequest(path=path, body=complete_body(body, self._profile), headers=self._profile.headers)

    def parse(self, body: Any, continuation: str) -> Logprobs:
        """The log-probabilities of the tokens of ``continuation``.

        A token that begins with white space of the prompt counts in full, as its text cannot be had without it.

        Raises:
            CapabilityError: The server did not show likelihoods, or its tokens do not end where the prompt does.
            BackendError: The body is an error object, or not what the protocol sends.
        """
        answer = as_object(body, "body", backend=self._backend)
        if error := provider_error(answer, backend=self._backend):
            raise error
        if self._profile.score == "texts":
            return self._said(answer)
        choice = next(iter(objects(answer.get("choices"))), {})
        if self._profile.score == "echo":
            pairs = listed_logprobs_or_none(choice)
            written = count(member(answer, "usage").get("completion_tokens"))
            pairs = pairs[: len(pairs) - (1 if written is None else written)]
        else:
            listed = answer.get("prompt_logprobs")
            pairs = _prompt_logprobs(choice.get("prompt_logprobs") if listed is None else listed)
        return self._tail(pairs, continuation)

    def _said(self, answer: Mapping[str, Any]) -> Logprobs:
        """The one score in an answer of our own server."""
        for score in objects(answer.get("data")):
            tokens, logprobs = score.get("tokens"), score.get("logprobs")
            if isinstance(tokens, list) and isinstance(logprobs, list):
                pairs = [logprob_pair(*pair) for pair in zip(tokens, logprobs, strict=False)]
                found = [pair for pair in pairs if pair is not None]
                if len(found) == max(len(tokens), len(logprobs)):
                    return Logprobs(
                        tokens=tuple(token for token, _ in found),
                        logprobs=tuple(logprob for _, logprob in found),
                        is_bound=score.get("is_bound") is True,
                    )
        raise not_the_protocol("no score", answer, backend=self._backend)

    def _tail(self, pairs: Sequence[tuple[str, float | None]], continuation: str) -> Logprobs:
        """The last tokens, as many as spell the continuation."""
        start, length = len(pairs), 0
        while start and length < len(continuation):
            start -= 1
            length += len(pairs[start][0])
        tail = pairs[start:]
        spelt = "".join(token for token, _ in tail)
        if not spelt.endswith(continuation):
            raise CapabilityError(
                f"the server did not show likelihoods of the text it was given ({shown(continuation)}; its last tokens "
                f"spell {shown(spelt)}); check that it serves profile {self._profile.name!r}; llama-cpp-python needs "
                "--logits_all true, and ?bos=TEXT where the model's tokenizer begins texts with nothing",
                backend=self._backend,
            )
        before = spelt[: len(spelt) - len(continuation)]
        values = [logprob for _, logprob in tail if logprob is not None]
        if before.strip() or len(values) != len(tail):
            reason = f"a token holds {shown(before)} of the prompt too" if before.strip() else "a token has none"
            raise CapabilityError(
                f"no likelihood for {shown(continuation)} on its own: {reason}; score a text that begins with a space "
                "or a new line, after a prompt that is not empty",
                backend=self._backend,
            )
        tokens = [token for token, _ in tail]
        tokens[0] = tokens[0][len(before) :]
        return Logprobs(tokens=tuple(tokens), logprobs=tuple(values))


def _prompt_logprobs(listed: object) -> list[tuple[str, float | None]]:
    """vLLM's ``prompt_logprobs``: per token a mapping by token id; the prompt's own token comes first in it."""
    pairs: list[tuple[str, float | None]] = []
    for entry in listed if isinstance(listed, list) else ():
        own = next(iter(entry.values()), None) if isinstance(entry, dict) else None
        token = own.get("decoded_token") if isinstance(own, dict) else None
        pair = logprob_pair(token, own.get("logprob")) if isinstance(own, dict) else None
        pairs.append((token if isinstance(token, str) else "", pair[1] if pair else None))
    return pairs
