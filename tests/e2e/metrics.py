"""Reading ``/metrics`` as Prometheus would."""

import asyncio
import time
from collections.abc import Callable

import httpx
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample


async def scrape(url: str) -> list[Sample]:
    """Return every sample of one scrape."""
    async with httpx.AsyncClient() as client:
        response = await client.get(f"{url}/metrics")
    response.raise_for_status()
    return [sample for family in text_string_to_metric_families(response.text) for sample in family.samples]


def total(samples: list[Sample], name: str, **labels: str) -> float:
    """Sum the samples of a name that have these labels."""
    return sum(sample.value for sample in samples if sample.name == name and labels.items() <= sample.labels.items())


def label_values(samples: list[Sample], name: str, label: str) -> set[str]:
    """Return the values that a label has among the samples of a name."""
    return {sample.labels[label] for sample in samples if sample.name == name}


def engine_replicas(samples: list[Sample]) -> set[str]:
    """Return the names of the engine replicas that the gateway knows."""
    return label_values(samples, "attendant_requests_running", "replica")


def are_two_there(samples: list[Sample]) -> bool:
    """True when two engine replicas report."""
    return len(engine_replicas(samples)) == 2


async def eventually(url: str, holds: Callable[[list[Sample]], bool], *, within_s: float = 30.0) -> float:
    """Scrape until ``holds`` and return the seconds that took; fail with the last scrape when it takes too long."""
    started_s = time.monotonic()
    while True:
        samples = await scrape(url)
        elapsed_s = time.monotonic() - started_s
        if holds(samples):
            return elapsed_s
        if elapsed_s > within_s:
            shown = "\n".join(str(sample) for sample in samples if sample.value and not sample.name.endswith("_bucket"))
            raise AssertionError(f"not so within {within_s} s:\n{shown}")
        # Nothing announces a change of a remote counter; the pause leaves the server its core.
        await asyncio.sleep(0.02)


def is_idle(samples: list[Sample]) -> bool:
    """True when no replica runs, queues or holds anything."""
    names = ("attendant_requests_running", "attendant_requests_waiting", "attendant_kv_cache_usage_ratio")
    return all(total(samples, name) == 0 for name in names)
