"""The checkpoint's own chat template, in Jinja's immutable sandbox with the additions that transformers documents.

A template is a program that came with the weights, so it is bounded: processor time, size of its output, and of what its
operators and ranges build. Source of the conventions: Hugging Face's "Templates for chat models".
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn, cast

from jinja2 import Template, TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from attendant_engine.errors import CheckpointError, InvalidRequestError, RequestFaultError
from attendant_engine.json_fields import Fields, read_optional_fields
from attendant_engine.tokenizers.time_limit import TimeLimit, TimeLimitExceeded

MAX_RENDER_S = 1.0
"""Processor seconds of one rendering; real ones take well under a hundredth."""

MAX_OUTPUT_CHARS = 8_000_000
"""Far above any context; what is longer is a template gone wrong."""


class RefusedByTemplate(Exception):
    """The template itself called ``raise_exception``."""


class TemplateEnvironment(ImmutableSandboxedEnvironment):
    """The sandbox, with operators that could build something enormous in one step held back."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Refuse a product, power or formatting whose result would be out of proportion."""
        if operator == "**" and not (abs(left) <= 10**6 and abs(right) <= 64):
            raise SecurityError("a power is too large")
        if operator == "*":
            for sequence, count in ((left, right), (right, left)):
                if isinstance(sequence, str | list | tuple) and isinstance(count, int) and len(sequence) * count > MAX_OUTPUT_CHARS:
                    raise SecurityError("a repeated text is too long")
        if operator == "%" and isinstance(left, str):
            raise SecurityError("formatting by % is not allowed")
        return super().call_binop(context, operator, left, right)


class GenerationBlock(Extension):
    """``{% generation %}`` marks what the assistant said, for training; here it is just its content."""

    tags = frozenset({"generation"})  # type: ignore[assignment]  # Jinja only looks names up in it.

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        """Return the block's body."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@dataclass(frozen=True, slots=True)
class ChatTemplates:
    """The compiled templates of a checkpoint by name, and the source of the default one."""

    by_name: Mapping[str, Template]
    source: str | None

    @property
    def is_present(self) -> bool:
        """Tell whether there is any."""
        return bool(self.by_name)

    def render(
        self, messages: Sequence[Mapping[str, Any]], *, tools: Sequence[Mapping[str, Any]] | None, variables: Mapping[str, Any]
    ) -> str:
        """Render the default template, or the one for tools where there is one and tools are given."""
        name = "tool_use" if tools and "tool_use" in self.by_name else "default"
        template = self.by_name.get(name) or next(iter(self.by_name.values()))
        try:
            with TimeLimit(MAX_RENDER_S):
                return _collect(template, {**variables, "messages": messages, "tools": tools, "documents": None})
        except TimeLimitExceeded:
            raise RequestFaultError(
                f"The model's chat template ran for more than {MAX_RENDER_S:g} s on these messages and was stopped.", param="messages"
            ) from None
        except RefusedByTemplate as error:
            raise InvalidRequestError(f"The model's chat template refuses these messages: {error}", param="messages") from None
        except RecursionError:
            raise RequestFaultError("The model's chat template recurses without end on these messages.", param="messages") from None
        except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
            raise InvalidRequestError(f"The model's chat template cannot render these messages: {error}", param="messages") from None


def load_chat_templates(directory: Path, settings: Fields) -> ChatTemplates:
    """Compile the templates of ``chat_template.jinja``, ``chat_template.json`` or ``tokenizer_config.json``.

    Raises ``CheckpointError`` for one that is not a template.
    """
    sources = _sources(directory, settings)
    environment = _environment()
    try:
        by_name = {name: environment.from_string(source) for name, source in sources.items()}
    except TemplateError as error:
        raise CheckpointError(f"The chat template is not valid: {error}.") from None
    return ChatTemplates(by_name, sources.get("default"))


def _collect(template: Template, variables: Mapping[str, Any]) -> str:
    parts: list[str] = []
    num_chars = 0
    for part in template.generate(variables):
        parts.append(part)
        num_chars += len(part)
        if num_chars > MAX_OUTPUT_CHARS:
            raise SecurityError(f"the prompt is longer than {MAX_OUTPUT_CHARS} characters")
    return "".join(parts)


def _sources(directory: Path, settings: Fields) -> dict[str, str]:
    path = directory / "chat_template.jinja"
    if path.is_file():
        try:
            return {"default": path.read_text(encoding="utf-8")}
        except (OSError, ValueError):
            raise CheckpointError("chat_template.jinja is not text in UTF-8.") from None
    in_file = read_optional_fields(directory, "chat_template.json")
    fields = settings if in_file is None else in_file
    written = fields.get("chat_template")
    if written is None or isinstance(written, str):
        return {} if written is None else {"default": written}
    named = [Fields(fields.file_name, cast(dict[str, object], entry)) for entry in written] if isinstance(written, list) else []
    if not named:
        raise fields.error("chat_template must be a string or a list of named templates")
    return {entry.text("name"): entry.text("template") for entry in named}


def _environment() -> TemplateEnvironment:
    environment = TemplateEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, GenerationBlock])
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    # Its length is the template's to choose, and no chat needs filler text.
    del environment.globals["lipsum"]
    environment.filters["tojson"] = _tojson
    return environment


def _raise_exception(message: str) -> NoReturn:
    raise RefusedByTemplate(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Write JSON as it is; Jinja's own filter escapes for HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=None if indent is None else min(indent, 16), separators=separators, sort_keys=sort_keys
    )
