"""What every test shares: one thread a worker, the marks, and one cluster for all tests that use Ray."""

import os

# Before torch is imported anywhere: workers run side by side, and results must not depend on how many cores there are.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Send all tests marked ``ray`` to one xdist worker, and those of a file to one: what they share is then made once.

    Those on Ray begin, since they take longest. Of these the ones that leave the session's server other than it was started come
    last: an update hands Serve an application without a model directory.
    """
    items.sort(key=lambda item: (item.get_closest_marker("ray") is None, item.get_closest_marker("changes_ray_server") is not None))
    for item in items:
        item.add_marker(pytest.mark.xdist_group("ray" if item.get_closest_marker("ray") is not None else item.path.stem))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test marked ``gpu``, with the reason, where torch sees no CUDA device."""
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device, and torch sees none here")
