"""Every metric of the contract is there, and many processes' texts become one that Prometheus accepts."""

import re
import subprocess
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from attendant_engine.stats import LoadStats, StepOutput, StepStats, TenantUsage
from attendant_engine.types import PooledOutput, SequenceOutput
from attendant_server.metrics import GatewayMetrics, ReplicaMetrics, merge_expositions
from tests.external_tools import find_prometheus_program
from tests.server.fakes import model_info

CONTRACT = {
    "attendant_requests_total",
    "attendant_requests_running",
    "attendant_requests_waiting",
    "attendant_request_duration_seconds",
    "attendant_request_queue_seconds",
    "attendant_request_prefill_seconds",
    "attendant_request_decode_seconds",
    "attendant_time_to_first_token_seconds",
    "attendant_inter_token_latency_seconds",
    "attendant_prompt_tokens_total",
    "attendant_cached_prompt_tokens_total",
    "attendant_generated_tokens_total",
    "attendant_draft_tokens_total",
    "attendant_accepted_draft_tokens_total",
    "attendant_batch_sequences",
    "attendant_batch_tokens",
    "attendant_step_seconds",
    "attendant_kv_cache_usage_ratio",
    "attendant_kv_cache_bytes",
    "attendant_preemptions_total",
    "attendant_requests_rejected_total",
    "attendant_stream_failovers_total",
    "attendant_model_load_seconds",
    "attendant_build_info",
}


def _replica(replica_id: str, num_tokens: int) -> ReplicaMetrics:
    metrics = ReplicaMetrics(model="m", replica=replica_id)
    metrics.loaded(model_info(), LoadStats(phase_s={"weights": 0.5, "warmup": 0.25}, kv_cache_bytes=4096))
    stats = StepStats(step_index=1, step_s=0.01, num_sequences=2, num_tokens=num_tokens, num_generated_tokens=num_tokens, num_running=2)
    ended = SequenceOutput(request_id="a", finish_reason="stop", queue_s=0.1)
    metrics.observe_step(StepOutput(outputs=(ended, PooledOutput(request_id="b", queue_s=0.1)), stats=stats))
    return metrics


def _gateway() -> GatewayMetrics:
    metrics = GatewayMetrics()
    metrics.request_ended("completions", "ok", 0.1)
    metrics.request_rejected("queue_full")
    metrics.failed_over("m")
    metrics.replica_picked("m", "prefix")
    times = metrics.token_times("m")
    times.first_token(0.1)
    times.next_tokens(0.1, 2)
    return metrics


def _value(text: bytes, name: str, **labels: str) -> float | None:
    for family in text_string_to_metric_families(text.decode("utf-8")):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                return sample.value
    return None


def test_every_metric_of_the_contract_is_served() -> None:
    text = merge_expositions([_gateway().render(), _replica("r0", 3).render()]).decode("utf-8")
    families = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ")}
    assert families >= CONTRACT


def test_the_operators_guide_has_every_metric_with_its_labels_and_no_other() -> None:
    gateway, replica = _gateway(), _replica("r0", 3)
    gateway.stream_resumed("m")
    used = TenantUsage(tenant="a", num_prompt_tokens=3, num_cached_prompt_tokens=2, num_generated_tokens=1)
    replica.observe_step(StepOutput(outputs=(), stats=StepStats(step_index=2, usage=(used,))))
    served: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(merge_expositions([gateway.render(), replica.render()]).decode("utf-8")):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        served[name] = {label for sample in family.samples for label in sample.labels if label != "le"}
    guide = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(attendant_\w+)` \| ([\w, ]*)\|", guide, re.MULTILINE)
    told = {name: set(filter(None, re.split(r"[, ]+", labels))) for name, labels in rows}
    assert told == served


def test_each_family_comes_once_with_the_series_of_every_replica() -> None:
    text = merge_expositions([_gateway().render(), _replica("r0", 3).render(), _replica("r1", 5).render()])
    heads = [line for line in text.decode("utf-8").splitlines() if line.startswith("#")]
    assert len(heads) == len(set(heads))
    assert _value(text, "attendant_generated_tokens_total", replica="r0") == 3
    assert _value(text, "attendant_generated_tokens_total", replica="r1") == 5
    assert "_created" not in text.decode("utf-8")


def test_a_replica_that_is_gone_leaves_no_series() -> None:
    assert b'replica="r1"' not in merge_expositions([_gateway().render(), _replica("r0", 3).render(), b""])


def test_steps_without_work_fill_no_batch_histogram() -> None:
    metrics = ReplicaMetrics(model="m", replica="r")
    metrics.observe_step(StepOutput(outputs=(), stats=StepStats(step_index=0, num_waiting=4)))
    text = metrics.render()
    assert _value(text, "attendant_step_seconds_count") == 0
    assert _value(text, "attendant_requests_waiting") == 4


def test_usage_is_counted_by_tenant_and_without_tenants_there_is_no_such_series() -> None:
    metrics = ReplicaMetrics(model="m", replica="r")
    nobody = TenantUsage(tenant="", num_prompt_tokens=7)
    metrics.observe_step(StepOutput(outputs=(), stats=StepStats(step_index=0, num_prompt_tokens=7, usage=(nobody,))))
    assert b"tenant=" not in metrics.render()
    used = [
        TenantUsage(tenant=tenant, num_prompt_tokens=n, num_cached_prompt_tokens=2, num_generated_tokens=1)
        for tenant, n in (("a", 3), ("b", 5))
    ]
    for step_index in range(2):
        metrics.observe_step(StepOutput(outputs=(), stats=StepStats(step_index=step_index, usage=tuple(used))))
    text = metrics.render()
    assert _value(text, "attendant_tenant_prompt_tokens_total", tenant="a") == 6
    assert _value(text, "attendant_tenant_prompt_tokens_total", tenant="b") == 10
    assert _value(text, "attendant_tenant_cached_prompt_tokens_total", tenant="b") == 4
    assert _value(text, "attendant_tenant_generated_tokens_total", tenant="a") == 2


def test_labels_with_odd_characters_survive_the_merge() -> None:
    metrics = ReplicaMetrics(model='a"b\\c\nd # HELP x', replica="r")
    metrics.observe_step(StepOutput(outputs=(), stats=StepStats(step_index=0, num_running=1)))
    assert _value(merge_expositions([metrics.render()]), "attendant_requests_running", model='a"b\\c\nd # HELP x') == 1


@pytest.mark.slow
def test_promtool_accepts_the_merged_text() -> None:
    text = merge_expositions([_gateway().render(), _replica("r0", 3).render(), _replica("r1", 5).render()])
    done = subprocess.run([find_prometheus_program("promtool"), "check", "metrics"], input=text, capture_output=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
