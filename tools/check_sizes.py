"""Fail when a source file of ours is longer than 400 lines and does not say why.

A file that must be longer has a line ``# size: reason`` (``// size: reason`` in C++). Generated stubs do not count.
"""

import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

MAX_LINES = 400
_SUFFIXES = {".py", ".cpp", ".h", ".proto"}
_REASON = re.compile(r"^\s*(#|//) size: \S", re.MULTILINE)


def find_long_files(paths: Iterable[Path]) -> list[str]:
    """Return ``path: n lines`` for each file above the limit without a stated reason, longest first."""
    long_files = []
    for path in paths:
        if path.suffix not in _SUFFIXES or "_pb2" in path.name:
            continue
        text = path.read_text("utf-8")
        num_lines = text.count("\n")
        if num_lines > MAX_LINES and not _REASON.search(text):
            long_files.append((num_lines, path))
    return [f"{path}: {num_lines} lines" for num_lines, path in sorted(long_files, reverse=True)]


def main() -> int:
    """Check every file that git tracks or would track; 1 when one is too long."""
    listing = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], check=True, capture_output=True, text=True)
    long_files = find_long_files(path for line in listing.stdout.splitlines() if (path := Path(line)).is_file())
    for line in long_files:
        print(f"{line}; at most {MAX_LINES}, or give the reason in a line '# size: ...'")
    return 1 if long_files else 0


if __name__ == "__main__":
    sys.exit(main())
