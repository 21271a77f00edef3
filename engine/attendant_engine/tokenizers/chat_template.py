"""The checkpoint's own chat templates: where they stand, which one is used, and what it is given.

A template is a program that came with the weights: it is checked here and runs in a process of its own
(``template_process``), bounded in processor time, memory and what it writes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from jinja2 import TemplateError

from attendant_engine.errors import CheckpointError
from attendant_engine.json_fields import Fields, read_optional_fields
from attendant_engine.tokenizers.template_environment import check_source, make_environment
from attendant_engine.tokenizers.template_process import TemplateProcesses


class ChatTemplates:
    """The templates of a checkpoint by name. Holds no process until ``warm_up`` or the first rendering."""

    def __init__(self, sources: Mapping[str, str]) -> None:
        self._sources = dict(sources)
        self._processes = TemplateProcesses(self._sources)

    @property
    def is_present(self) -> bool:
        """Tell whether there is any."""
        return bool(self._sources)

    @property
    def source(self) -> str | None:
        """The default template as written."""
        return self._sources.get("default")

    def warm_up(self) -> None:
        """Start what renders, so that the first rendering need not."""
        if self.is_present:
            self._processes.warm_up()

    def render(
        self, messages: Sequence[Mapping[str, Any]], *, tools: Sequence[Mapping[str, Any]] | None, variables: Mapping[str, Any]
    ) -> str:
        """Render the default template, or the one for tools where there is one and tools are given. See ``TemplateProcesses``."""
        name = "tool_use" if tools and "tool_use" in self._sources else "default"
        if name not in self._sources:
            name = next(iter(self._sources))
        return self._processes.render(name, {**variables, "messages": list(messages), "tools": tools, "documents": None})


def load_chat_templates(directory: Path, settings: Fields) -> ChatTemplates:
    """Read the templates of ``chat_template.jinja``, ``chat_template.json`` or ``tokenizer_config.json``.

    Raises ``CheckpointError`` for one that is not a template.
    """
    sources = _sources(directory, settings)
    environment = make_environment()
    try:
        for source in sources.values():
            check_source(environment, source)
    except TemplateError as error:
        raise CheckpointError(f"The chat template is not valid: {error}.") from None
    return ChatTemplates(sources)


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
