"""How a few-shot prompt is written: instruction, worked examples, and the query up to where the model takes over.

A template has ``{input}`` and ``{output}`` once each, in that order, and may have ``{reasoning}`` between them; ``{{``
and ``}}`` write braces. Values are put in as they are and never read as templates themselves.
"""

import string
from collections.abc import Sequence
from dataclasses import dataclass

from attendant_server.errors import ServingError
from attendant_server.gateway.requests import FewShotExample, FewShotRequest
from attendant_server.violations import show_value

DEFAULT_TEMPLATE = "Input: {input}\nOutput: {output}\n\n"
DEFAULT_REASONING_TEMPLATE = "Input: {input}\nReasoning: {reasoning}\nOutput: {output}\n\n"
CONTENT_FREE_QUERY = "N/A"
"""What contextual calibration asks about (Zhao et al. 2021)."""

_FIELDS = ("input", "reasoning", "output")


@dataclass(frozen=True, slots=True, kw_only=True)
class FewShotPrompt:
    """The parts of a prompt: the shared ``prefix``, and the template cut at its fields.

    ``before_reasoning`` is None for a template without reasoning; then ``before_output`` follows the input directly.
    """

    prefix: str
    before_input: str
    before_reasoning: str | None
    before_output: str
    after_output: str

    @property
    def separator(self) -> str:
        """What ends an answer: the text after an output, or else that before the next input. "" when the template has neither."""
        return self.after_output or self.before_input

    @property
    def asks_reasoning(self) -> bool:
        """True when the model is to think before it answers."""
        return self.before_reasoning is not None

    def query(self, text: str) -> str:
        """Return the prompt for a query, up to the reasoning if there is one, else up to the output."""
        after_input = self.before_output if self.before_reasoning is None else self.before_reasoning
        return f"{self.prefix}{self.before_input}{text}{after_input}"

    def answer(self, text: str, reasoning: str) -> str:
        """Return the prompt for a query whose reasoning is there, up to the output."""
        return f"{self.query(text)}{reasoning}{self.before_output}" if self.asks_reasoning else self.query(text)


def build_prompt(request: FewShotRequest) -> FewShotPrompt:
    """Write the part that all queries share. Raises ``ServingError`` for a template or example that does not fit."""
    with_reasoning = any(example.reasoning is not None for example in request.examples)
    template = request.template
    if template is None:
        template = DEFAULT_REASONING_TEMPLATE if with_reasoning else DEFAULT_TEMPLATE
    before_input, before_reasoning, before_output, after_output = _cut(template)
    _check_examples(request.examples, has_reasoning=before_reasoning is not None)
    parts = [f"{request.instruction}\n\n"] if request.instruction else []
    for example in request.examples:
        parts += [before_input, example.input]
        if before_reasoning is not None:
            parts += [before_reasoning, example.reasoning or ""]
        parts += [before_output, example.output, after_output]
    return FewShotPrompt(
        prefix="".join(parts),
        before_input=before_input,
        before_reasoning=before_reasoning,
        before_output=before_output,
        after_output=after_output,
    )


def _cut(template: str) -> tuple[str, str | None, str, str]:
    """Return the text before the input, before the reasoning (None without one), before the output and after it."""
    texts = [""]
    names: list[str] = []
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError:
        raise _bad_template("has a brace without its partner; write {{ or }} for a brace") from None
    for literal, name, form, conversion in parsed:
        texts[-1] += literal
        if name is None:
            continue
        if name not in _FIELDS or form or conversion:
            raise _bad_template(
                f"has the field {show_value('{' + name + '}')}; only {{input}}, {{output}} and {{reasoning}} are known, as they are"
            )
        if name in names:
            raise _bad_template(f"has {{{name}}} twice; once is enough")
        names.append(name)
        texts.append("")
    if names == ["input", "output"]:
        return texts[0], None, texts[1], texts[2]
    if names == ["input", "reasoning", "output"]:
        return texts[0], texts[1], texts[2], texts[3]
    missing = [name for name in ("input", "output") if name not in names]
    if missing:
        raise _bad_template(f"lacks {{{missing[0]}}}")
    raise _bad_template("has its fields in another order than {input}, {reasoning}, {output}")


def _check_examples(examples: Sequence[FewShotExample], *, has_reasoning: bool) -> None:
    for idx, example in enumerate(examples):
        if has_reasoning and example.reasoning is None:
            raise ServingError(
                "invalid_value",
                f"'examples[{idx}]' has no reasoning, which the template asks for; give every example one",
                param=f"examples[{idx}].reasoning",
            )
        if not has_reasoning and example.reasoning is not None:
            raise ServingError(
                "invalid_value", f"'examples[{idx}]' has reasoning, but the template has no {{reasoning}} to put it in", param="template"
            )


def _bad_template(what: str) -> ServingError:
    return ServingError("invalid_value", f"'template' {what}; for example {show_value(DEFAULT_TEMPLATE)}", param="template")
