"""A pytest plugin: run the tests on another build of the CPU kernels, ``-p tests.other_kernels --kernels PATH``."""

from pathlib import Path

import pytest

from attendant_engine.kernels.cpu import library


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take the path of the shared object."""
    parser.addoption("--kernels", type=Path, required=True, help="the shared object to test instead of the engine's own")


def pytest_configure(config: pytest.Config) -> None:
    """Load it before any test asks for the kernels; a test that finds none would pass on torch."""
    library.LIBRARY_PATH = config.getoption("kernels")
    library.load_library.cache_clear()
    if library.load_library() is None:
        raise pytest.UsageError(f"the kernels in {library.LIBRARY_PATH} cannot be loaded")


def pytest_report_header() -> str:
    """Say which kernels are tested."""
    return f"kernels: {library.LIBRARY_PATH}"
