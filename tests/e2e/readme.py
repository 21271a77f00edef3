"""The README's fenced blocks and the paths it names, as a reader would paste or open them."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
BASES = tuple(ROOT / base for base in (".", "engine/attendant_engine", "server/attendant_server", "server/attendant_server/gateway"))
"""What a path in the text is relative to."""

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"\s{2,}# .*$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block: its language and its lines."""

    language: str
    text: str

    @property
    def commands(self) -> tuple[str, ...]:
        """The shell commands of a block, each on one line, without the comments behind them."""
        joined = _COMMENT.sub("", self.text).replace("\\\n", " ")
        return tuple(re.sub(r"\s+", " ", line).strip() for line in joined.splitlines() if line.strip())


def blocks() -> tuple[Block, ...]:
    """Return all fenced blocks in order."""
    return tuple(Block(language=match[1], text=match[2]) for match in _BLOCK.finditer(README.read_text(encoding="utf-8")))


def shell_commands() -> tuple[str, ...]:
    """Return every command of the shell blocks."""
    return tuple(command for block in blocks() if block.language == "bash" for command in block.commands)


def named_paths() -> tuple[str, ...]:
    """Return what the text calls by a path: in backticks, with a slash inside or a file's ending."""
    prose = _BLOCK.sub("", README.read_text(encoding="utf-8"))
    names = re.findall(r"`([a-z][\w./*-]+)`", prose, re.IGNORECASE)
    return tuple(dict.fromkeys(name for name in names if "/" in name or name.endswith((".py", ".md", ".toml", ".proto"))))
