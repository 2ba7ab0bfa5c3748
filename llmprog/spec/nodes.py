"""What generators and checkers of program files have in common: what they ask, and how it is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from llmprog.errors import LLMProgError, OptionError
from llmprog.spec.outside import Outside
from llmprog.spec.parsers import FunctionName
from llmprog.spec.prompts import About, PromptForm, check_templates
from llmprog.spec.reading import Flag, Number, Part, Scope, Text, Texts, Whole
from llmprog.spec.states import FieldType
from llmprog.types import Choices, Guided, JsonSchema, Regex, SamplingParams

NO_FIELDS: Mapping[str, FieldType] = {}


class GuidedForm(Part):
    """What the completion has to be; one of three."""

    json_text: dict[str, Any] | None = Field(None, alias="json", description="A JSON schema.")
    regex: Text | None = None
    choices: Annotated[Texts | None, Field(min_length=1)] = None

    @classmethod
    def check(cls, data: Mapping[str, Any], scope: Scope) -> None:
        if len(data) != 1:
            scope.report("give one of json, regex and choices")

    @property
    def guided(self) -> Guided:
        """It as a value of ``SamplingParams``."""
        if self.json_text is not None:
            return JsonSchema.of(self.json_text)
        return Regex(self.regex) if self.regex is not None else Choices(self.choices or ())


def _as_texts(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


class SamplingForm(Part):
    """How completions are drawn; what is not given is the library's default."""

    temperature: Number | None = None
    max_tokens: Whole | None = None
    top_p: Number | None = None
    top_k: Whole | None = None
    min_p: Number | None = None
    stop: Annotated[Texts | None, BeforeValidator(_as_texts, json_schema_input_type=str | list[str])] = None
    logprobs: Flag | None = None
    guided: GuidedForm | None = None

    @property
    def options(self) -> dict[str, Any]:
        """What was given, as the options of a node."""
        given = {name: value for name in type(self).model_fields if (value := getattr(self, name)) is not None}
        return given | ({} if self.guided is None else {"guided": self.guided.guided})


class NodeForm(Part):
    """What generators and checkers have in common."""

    name: Annotated[Text, Field(min_length=1)]
    prompt: PromptForm | None = None
    num_samples: Whole = Field(1, ge=1, description="Completions drawn for each call.")
    sampling: SamplingForm = SamplingForm()
    function: Text | None = Field(None, description="A Python function, in the place of what is made of completions.")

    @classmethod
    def check_node(cls, data: Mapping[str, Any], about: About, scope: Scope) -> None:
        """Report what is wrong with what generators and checkers have in common."""
        check_templates(data.get("prompt"), about, scope)
        if "function" in data:
            FunctionName.check({"function": data["function"]}, scope)

    def check_made(self, scope: Scope) -> None:
        if self.prompt is None and self.function is None and (self.num_samples != 1 or self.sampling != SamplingForm()):
            scope.report("nothing is asked without a prompt, so num_samples and sampling have no effect")
        try:
            SamplingParams(**self.sampling.options)
        except OptionError as error:
            scope.report(str(error), "sampling")
            return
        if self._is_complete(scope):
            try:
                self.declare(scope.outside)
            except LLMProgError as error:
                scope.report(str(error))

    def _is_complete(self, scope: Scope) -> bool:
        """Whether all that declaring it needs is there; what is not has been reported."""
        names = [self.function, None if self.prompt is None else self.prompt.function]
        try:
            for name in names:
                if name is not None:
                    scope.outside.find(name)
        except OptionError:
            return False
        return True

    def about(self) -> About:
        """What its prompt is about."""
        raise NotImplementedError

    def declare(self, outside: Outside, kinds: Mapping[str, FieldType] = NO_FIELDS) -> Any:
        """The node, for states whose fields have these types.

        Raises:
            LLMProgError: It is declared wrongly.
        """
        raise NotImplementedError

    def options(self, outside: Outside) -> dict[str, Any]:
        """What the decorators of the library take."""
        prompt = None if self.prompt is None else self.prompt.source(self.about(), outside)
        return {"name": self.name, "prompt": prompt, "n": self.num_samples, **self.sampling.options}
