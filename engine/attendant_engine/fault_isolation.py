"""Finds the one request that a step fails on, so that it alone ends: the step is computed again, each request by itself.

So a request that breaks a step breaks one more and no third. Want of memory is nobody's fault as long as fewer at a time can
be served: then the step is computed in ever smaller groups, after the idea of delta debugging (Zeller 2002). A group is all
items of one request. Running an item twice must do no harm; for a step it writes the same keys and values to the same slots.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import torch

from attendant_engine.errors import ReplicaFaultError
from attendant_engine.types import OutputError

_logger = logging.getLogger(__name__)


class Item(Protocol):
    """Something to compute for a request."""

    @property
    def request_id(self) -> str:
        """Items of one request succeed or fail together."""
        ...


class Result(Protocol):
    """What came of an item."""

    @property
    def error(self) -> OutputError | None:
        """Set when the item's own numbers are bad."""
        ...


ItemT = TypeVar("ItemT", bound=Item)
ResultT = TypeVar("ResultT", bound=Result)


def run_isolated(
    items: Sequence[ItemT], run: Callable[[Sequence[ItemT]], list[ResultT]], fail: Callable[[ItemT], ResultT]
) -> list[ResultT]:
    """Return ``run(items)``, or where that raises or reports errors, each request's own result computed without the culprits.

    ``run`` returns one result an item, in order; ``fail`` makes the result of an item that raises even alone. Raises
    ``ReplicaFaultError`` when ``run`` does.
    """
    groups: dict[str, list[ItemT]] = {}
    for item in items:
        groups.setdefault(item.request_id, []).append(item)
    return _run_groups(list(groups.values()), run, fail)


def _run_groups(
    groups: list[list[ItemT]], run: Callable[[Sequence[ItemT]], list[ResultT]], fail: Callable[[ItemT], ResultT]
) -> list[ResultT]:
    items = [item for group in groups for item in group]
    try:
        results = run(items)
    except ReplicaFaultError:
        raise  # no request's doing: computing it again can help nobody
    except Exception as error:
        _logger.exception("A step with %d requests failed.", len(groups))
        if len(groups) == 1:
            return [fail(item) for item in items]
        num_each = (len(groups) + 1) // 2 if _wants_memory(error) else 1
        parts = [groups[first : first + num_each] for first in range(0, len(groups), num_each)]
        return [result for part in parts for result in _run_groups(part, run, fail)]
    if len(groups) == 1 or all(result.error is None for result in results):
        return results
    return _rerun_suspects(groups, results, run, fail)


def _wants_memory(error: Exception) -> bool:
    # On a CPU torch's allocator raises a plain RuntimeError.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "not enough memory" in str(error) or "can't allocate" in str(error)


def _rerun_suspects(
    groups: list[list[ItemT]], results: list[ResultT], run: Callable[[Sequence[ItemT]], list[ResultT]], fail: Callable[[ItemT], ResultT]
) -> list[ResultT]:
    """Compute alone each request that came out bad: it may have met another's bad numbers in padding both were given."""
    settled: list[ResultT] = []
    first = 0
    for group in groups:
        own = results[first : first + len(group)]
        first += len(group)
        is_suspect = any(result.error is not None for result in own)
        settled += _run_groups([group], run, fail) if is_suspect else own
    return settled
