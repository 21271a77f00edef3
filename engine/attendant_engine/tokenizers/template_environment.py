"""Jinja's immutable sandbox with the additions that transformers documents for chat templates.

What its operators and ranges may build is bounded here; processor time and the size of all are bounded by the process that
renders (``template_child``). Source of the conventions: Hugging Face's "Templates for chat models".
"""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, nodes
from jinja2.exceptions import SecurityError, TemplateAssertionError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_OUTPUT_BYTES = 1 << 20
"""Of one rendering in UTF-8, far above any context; what is longer is a template gone wrong."""


class RefusedByTemplate(Exception):
    """The template itself called ``raise_exception``."""


class TemplateFault(Exception):
    """The template recurses without end or needs too much memory."""


class TemplateEnvironment(ImmutableSandboxedEnvironment):
    """The sandbox, with operators that could build something enormous in one step held back."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Refuse a product, power or formatting whose result would be out of proportion."""
        if operator == "**" and not (abs(left) <= 10**6 and abs(right) <= 64):
            raise SecurityError("a power is too large")
        if operator == "*":
            for sequence, count in ((left, right), (right, left)):
                if isinstance(sequence, str | list | tuple) and isinstance(count, int) and len(sequence) * count > MAX_OUTPUT_BYTES:
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


def make_environment() -> TemplateEnvironment:
    """Return the environment that chat templates are written for."""
    environment = TemplateEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, GenerationBlock])
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    # Its length is the template's to choose, and no chat needs filler text.
    del environment.globals["lipsum"]
    environment.filters["tojson"] = _tojson
    return environment


def check_source(environment: TemplateEnvironment, source: str) -> None:
    """Raise ``TemplateError`` where ``source`` is no template; runs nothing of it, not even its constants."""
    tree = environment.parse(source)
    for kind, node_type, known in (("filter", nodes.Filter, environment.filters), ("test", nodes.Test, environment.tests)):
        for node in tree.find_all(node_type):
            if node.name not in known:
                raise TemplateAssertionError(f"no {kind} named {node.name!r}", node.lineno)


def render(template: Template, variables: Mapping[str, Any]) -> bytes:
    """Return what the template writes, in UTF-8.

    Raises ``RefusedByTemplate`` and ``TemplateFault``, and ``TemplateError`` whatever else goes wrong.
    """
    parts: list[bytes] = []
    num_bytes = 0
    try:
        for part in template.generate(variables):
            data = part.encode("utf-8", "surrogatepass")
            parts.append(data)
            num_bytes += len(data)
            if num_bytes > MAX_OUTPUT_BYTES:
                raise SecurityError(f"the prompt is longer than {MAX_OUTPUT_BYTES} bytes")
    except RecursionError:
        raise TemplateFault("recurses without end") from None
    except MemoryError:
        raise TemplateFault("needs too much memory") from None
    except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
        raise TemplateError(str(error)) from None
    return b"".join(parts)


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
