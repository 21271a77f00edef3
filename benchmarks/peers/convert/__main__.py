"""Turn a source checkpoint into one engine's format: ``python -m benchmarks.peers.convert FORMAT MODEL PRECISION SOURCE TARGET``.

Runs in the peers' virtual environment, one process a conversion, so that its memory is gone when it ends.
"""

import importlib
import sys
from pathlib import Path


def main() -> None:
    """Convert what the arguments name."""
    name, model, precision, source, target = sys.argv[1:]
    importlib.import_module(f"benchmarks.peers.convert.to_{name}").convert(model, precision, Path(source), Path(target))


if __name__ == "__main__":
    main()
