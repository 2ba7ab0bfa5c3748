"""Filling blanks over HTTP: fill-in-the-middle for one blank, Mercury's edit endpoint or our own server for several.

Fill-in-the-middle sends what stands before and after the blank as ``prompt`` and ``suffix``. The edit endpoint takes a
text and returns it edited; nothing holds it to the given parts, so the result is checked against them. Our own server
takes the template as it is.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from llmprog.backends.remote.profiles import Profile
from llmprog.backends.remote.protocols.common import check_call, complete_body, lacking, shown
from llmprog.backends.remote.protocols.openai_chat import chat_messages, sampling_fields
from llmprog.backends.remote.protocols.openai_completions import parse_completions
from llmprog.backends.remote.wire import HttpRequest, ModelCall, Reply
from llmprog.errors import BadResponseError, CapabilityError
from llmprog.types import Blank, Prompt, SamplingParams, Template

_GAP = "____"  # how a blank is shown in a text to edit
_EDIT_FORM = """\
<|recently_viewed_code_snippets|>

<|/recently_viewed_code_snippets|>

<|current_file_content|>
current_file_path: text.txt
{context}
<|code_to_edit|>
{text}
<|/code_to_edit|>
<|/current_file_content|>

<|edit_diff_history|>

<|/edit_diff_history|>"""


class Infiller:
    """Calls and answers for filling blanks.

    Args:
        backend: Id of the backend, for errors.
        profile: Which endpoints there are.

    Raises:
        CapabilityError: There are none; the message names what has them.
    """

    def __init__(self, backend: str, profile: Profile) -> None:
        if profile.infill == "none":
            raise lacking("a template with blanks (infill)", "infill", profile, backend=backend)
        self._backend = backend
        self._profile = profile

    def request(self, model: str, template: Template, params: SamplingParams) -> HttpRequest:
        """The request that fills the blanks of ``template``.

        Raises:
            CapabilityError: There are more blanks than the endpoint fills, or a parameter it cannot express.
        """
        profile = self._profile
        for name, wanted in (("guided", params.guided is not None), ("logprobs", params.logprobs)):
            if wanted:
                raise CapabilityError(
                    f"{name}={getattr(params, name)!r}: not to be had for filled blanks; leave it out, or ask for it "
                    "in a call without blanks",
                    backend=self._backend,
                )
        gaps, given = _split(template)
        if len(gaps) > 1 and profile.infill == "fim":
            raise CapabilityError(
                f"profile {profile.name!r} fills one blank at a time and the template has {len(gaps)}; fill them in "
                "several calls, or use mercury: or a local diffusion model",
                backend=self._backend,
            )
        context = template.prompt
        call = ModelCall(
            model=profile.infill_model or model,
            prompt=Prompt(context.messages),
            params=replace(params, max_tokens=sum(gap.num_tokens for gap in gaps)),
        )
        check_call(call, profile, backend=self._backend, is_plain_text=True)
        body: dict[str, Any] = {"model": call.model, **sampling_fields(call, profile)}
        if profile.infill == "template":
            path = profile.fim_path
            del body[profile.max_tokens_field]  # its blanks say how long they are
            parts = [part if isinstance(part, str) else {"blank": part.num_tokens} for part in template.parts]
            body |= {"messages": chat_messages(context), "prefix": context.prefix, "parts": parts}
        elif len(gaps) == 1:
            path = profile.fim_path
            body |= {"prompt": _preamble(context) + given[0], "suffix": given[1]}
        else:
            path = profile.edit_path
            text = _GAP.join(given)
            body |= {"messages": [{"role": "user", "content": _EDIT_FORM.format(context=context.text, text=text)}]}
            # It writes the given parts again: room for a token per character is room enough.
            body[profile.max_tokens_field] = call.params.max_tokens + len(text)
        return HttpRequest(path=path, body=complete_body(body, profile), headers=profile.headers)

    def parse(self, body: Any, template: Template) -> Reply:
        """The reply; each choice's text is the template's text with every blank filled.

        Raises:
            BadResponseError: Given text came back changed, or a blank was left.
            BackendError: The body is an error object, or not what the protocol sends.
        """
        reply = parse_completions(body, backend=self._backend)
        if self._profile.infill == "template":
            return reply
        gaps, given = _split(template)
        if len(gaps) == 1:
            return replace(reply, choices=tuple(replace(c, text=given[0] + c.text + given[1]) for c in reply.choices))
        return replace(reply, choices=tuple(replace(c, text=self._edited(c.text, given)) for c in reply.choices))

    def _edited(self, answer: str, given: list[str]) -> str:
        text = _unfenced(answer)
        if text != answer and given[-1].endswith("\n"):
            text += "\n"  # which the fence took the place of
        if _holds(text, given):
            return text
        raise BadResponseError(
            f"the edited text changed what was given, or left a blank: {shown(text)}; ask for fewer blanks in one "
            "template, or use a local diffusion model, which keeps given text by construction",
            backend=self._backend,
            possibly_billed=True,
        )


def _split(template: Template) -> tuple[list[Blank], list[str]]:
    """The blanks, adjoining ones made one, and the given texts around them: one more than there are blanks."""
    gaps: list[Blank] = []
    given = [""]
    for part in template.parts:
        if isinstance(part, str):
            given[-1] += part
        elif gaps and not given[-1]:
            gaps[-1] = Blank(gaps[-1].num_tokens + part.num_tokens)
        else:
            gaps.append(part)
            given.append("")
    return gaps, given


def _preamble(prompt: Prompt) -> str:
    """The prompt as the text before the template: on lines of its own, unless a prefix already begins the reply."""
    return prompt.text if prompt.prefix or not prompt.text else prompt.text + "\n"


def _unfenced(text: str) -> str:
    """An edited text without the code fence and the markers it may come in."""
    body = text
    if body.lstrip().startswith("```"):
        body = body.lstrip().partition("\n")[2].rstrip()
        body = body.removesuffix("```").removesuffix("\n")
    body = body.removeprefix("<|code_to_edit|>").removeprefix("\n") if body.startswith("<|code_to_edit|>") else body
    return body.removesuffix("<|/code_to_edit|>").removesuffix("\n") if body.endswith("<|/code_to_edit|>") else body


def _holds(text: str, given: list[str]) -> bool:
    """Whether ``text`` is the given texts in order with something other than a gap between each two."""
    first, *middle, last = given
    if not text.startswith(first) or not text.endswith(last) or len(text) < len(first) + len(last):
        return False
    rest = text[len(first) : len(text) - len(last)]
    for part in middle:
        place = rest.find(part, 1)  # the earliest place leaves the most for the parts to come
        if place < 0 or rest[:place] == _GAP:
            return False
        rest = rest[place + len(part) :]
    return rest not in {"", _GAP}
