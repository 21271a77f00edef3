"""The Prometheus configuration, the alerts and the dashboard, checked by promtool and against the metrics that we really have."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from attendant_engine.stats import LoadStats
from attendant_engine.types import ModelInfo
from attendant_server.metrics import GatewayMetrics, ReplicaMetrics, merge_expositions
from tests.external_tools import find_prometheus_program

_ROOT = Path(__file__).resolve().parents[2]
_PROMETHEUS = _ROOT / "deploy" / "prometheus"
_DASHBOARD = _ROOT / "deploy" / "grafana" / "dashboard.json"
_METRIC = re.compile(r"\battendant_[a-z_]+\b|\bup\b")
_GROUPED = re.compile(r"\bby \(([^)]*)\)")
_MATCHED = re.compile(r"[{,]\s*([a-z_]+)\s*=")
_MODEL = ModelInfo(
    name="m",
    path="m",
    family="gpt2",
    kind="decoder",
    tasks=("completion",),
    digest="0",
    engine_version="0",
    dtype="float32",
    device_kind="cpu",
    max_model_len=8,
    vocab_size=8,
)


@pytest.fixture(scope="session")
def promtool() -> Path:
    """Prometheus' own checker."""
    return find_prometheus_program("promtool")


def test_prometheus_accepts_the_configuration_and_the_alerts(promtool: Path) -> None:
    assert _run(promtool, "check", "config", str(_PROMETHEUS / "prometheus.yml")) == ""


def test_each_alert_fires_on_its_fault_and_only_then(promtool: Path) -> None:
    assert _run(promtool, "test", "rules", str(Path(__file__).with_name("alerts_test.yml"))) == ""


def test_every_alert_has_a_test_that_makes_it_fire() -> None:
    alerts = {
        rule["alert"] for group in yaml.safe_load((_PROMETHEUS / "alerts.yml").read_text("utf-8"))["groups"] for rule in group["rules"]
    }
    tests = yaml.safe_load(Path(__file__).with_name("alerts_test.yml").read_text("utf-8"))["tests"]
    assert alerts == {case["alertname"] for test in tests for case in test["alert_rule_test"] if case["exp_alerts"]}


def test_prometheus_accepts_every_expression_of_the_dashboard(promtool: Path, tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{index}", "expr": expression.replace("$__rate_interval", "5m")}
        for index, expression in enumerate(_dashboard_expressions())
    ]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}), "utf-8")
    assert _run(promtool, "check", "rules", str(file)) == ""


def test_alerts_and_dashboard_ask_for_metrics_and_labels_that_the_server_has() -> None:
    known = {"up": {"job", "instance"}, **_served_labels()}
    expressions = [*_dashboard_expressions(), *(rule["expr"] for rule in _alerts())]
    assert len(expressions) > 20
    for expression in expressions:
        names = set(_METRIC.findall(expression))
        assert names, expression
        assert names <= known.keys(), expression
        used = {label.strip() for group in _GROUPED.findall(expression) for label in group.split(",")} | set(_MATCHED.findall(expression))
        for name in names:
            assert used <= known[name], f"{name} in {expression}"


def test_panels_do_not_overlap() -> None:
    panels = json.loads(_DASHBOARD.read_text("utf-8"))["panels"]
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert len({panel["id"] for panel in panels}) == len(panels)


def _served_labels() -> dict[str, set[str]]:
    """Return the label names of every series that a gateway and a replica serve once each of their metrics has a value."""
    gateway = GatewayMetrics()
    gateway.request_ended("completions", "ok", 1.0)
    gateway.request_rejected("queue_full")
    gateway.failed_over("m")
    gateway.replica_picked("m", "prefix")
    gateway.token_times("m").first_token(1.0)
    replica = ReplicaMetrics(model="m", replica="r")
    replica.loaded(_MODEL, LoadStats(phase_s={"weights": 1.0}))
    text = merge_expositions([gateway.render(), replica.render()]).decode("utf-8")
    labels: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    return labels


def _alerts() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load((_PROMETHEUS / "alerts.yml").read_text("utf-8"))["groups"] for rule in group["rules"]]


def _dashboard_expressions() -> Iterator[str]:
    for panel in json.loads(_DASHBOARD.read_text("utf-8"))["panels"]:
        for target in panel["targets"]:
            yield target["expr"]


def _run(program: Path, *arguments: str) -> str:
    """Return what is wrong, empty when nothing is."""
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60)
    return "" if done.returncode == 0 else done.stdout + done.stderr
