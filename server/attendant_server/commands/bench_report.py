"""Figures of a load: percentiles of the three times, and throughput; as plain data and as a table."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from attendant_server.commands.load_generator import LoadResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantiles:
    """Of times in seconds; all None where nothing was measured."""

    p50: float | None
    p90: float | None
    p99: float | None
    mean: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One load's figures; failed requests count in ``num_failed`` alone."""

    concurrency: int
    rate: float | None
    num_requests: int
    num_failed: int
    first_error: str | None
    duration_s: float
    prompt_tokens: int
    generated_tokens: int
    requests_per_s: float
    generated_tokens_per_s: float
    total_tokens_per_s: float
    time_to_first_token_s: Quantiles
    inter_token_latency_s: Quantiles
    end_to_end_s: Quantiles


def make_report(result: LoadResult) -> Report:
    """Sum a load up."""
    done = [request for request in result.requests if request.error is None]
    errors = [request.error for request in result.requests if request.error is not None]
    prompt_tokens = sum(request.num_prompt_tokens for request in done)
    generated_tokens = sum(request.num_tokens for request in done)
    return Report(
        concurrency=result.load.concurrency,
        rate=result.load.rate,
        num_requests=len(result.requests),
        num_failed=len(errors),
        first_error=errors[0] if errors else None,
        duration_s=result.duration_s,
        prompt_tokens=prompt_tokens,
        generated_tokens=generated_tokens,
        requests_per_s=len(done) / result.duration_s,
        generated_tokens_per_s=generated_tokens / result.duration_s,
        total_tokens_per_s=(prompt_tokens + generated_tokens) / result.duration_s,
        time_to_first_token_s=quantiles([request.first_token_s for request in done]),
        inter_token_latency_s=quantiles([wait for request in done for wait in request.inter_token_s]),
        end_to_end_s=quantiles([request.duration_s for request in done]),
    )


def quantiles(values: Sequence[float]) -> Quantiles:
    """Return nearest-rank percentiles: each is a value that was measured."""
    if not values:
        return Quantiles(p50=None, p90=None, p99=None, mean=None)
    ranked = sorted(values)

    def at(percent: int) -> float:
        return ranked[max(0, -(-percent * len(ranked) // 100) - 1)]

    return Quantiles(p50=at(50), p90=at(90), p99=at(99), mean=sum(ranked) / len(ranked))


def make_table(reports: Sequence[Report], title: str) -> Table:
    """Lay the reports out, one row a load; times in milliseconds as p50 / p90 / p99."""
    table = Table(title=title, caption="times in ms: p50 / p90 / p99")
    for heading in ("callers", "requests", "failed", "first token", "between tokens", "end to end", "requests/s", "tokens/s"):
        table.add_column(heading, justify="right")
    for report in reports:
        table.add_row(
            str(report.concurrency) if report.rate is None else f"{report.rate:g}/s",
            str(report.num_requests),
            str(report.num_failed),
            _times(report.time_to_first_token_s),
            _times(report.inter_token_latency_s),
            _times(report.end_to_end_s),
            f"{report.requests_per_s:.2f}",
            f"{report.generated_tokens_per_s:.1f}",
        )
    return table


def _times(times: Quantiles) -> str:
    return " / ".join("-" if value is None else f"{1000 * value:.1f}" for value in (times.p50, times.p90, times.p99))
