"""Write a benchmark's table where the next reader finds it: ``benchmarks/results/DATE-NAME.md``."""

import datetime
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from statistics import median

RESULTS = Path(__file__).parent / "results"


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Median with the least and the greatest value: ``12.3 (11.0-14.2)``."""
    return f"{median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def markdown_table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay rows out as a Markdown table."""
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def results_path(name: str) -> Path:
    """Return where today's results of ``name`` go."""
    return RESULTS / f"{_today()}-{name}.md"


def write_results(name: str, command: str, sections: Sequence[str]) -> Path:
    """Write the sections under a heading that says when, with what command and on what processor kind they were measured."""
    RESULTS.mkdir(exist_ok=True)
    path = results_path(name)
    about = f"`{command}`, {_today()}, {_num_cpus()} cores of {_cpu_model()}, Python {platform.python_version()}."
    path.write_text("\n\n".join([f"# {name}", about, *sections]) + "\n")
    return path


def _today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def _num_cpus() -> int:
    return len(os.sched_getaffinity(0))


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
