"""The Prometheus configuration, the alerts and the dashboard, checked by promtool and against the metrics that we really have."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.external_tools import find_prometheus_program

_ROOT = Path(__file__).resolve().parents[2]
_PROMETHEUS = _ROOT / "deploy" / "prometheus"
_DASHBOARD = _ROOT / "deploy" / "grafana" / "dashboard.json"
_METRIC = re.compile(r"\battendant_[a-z_]+\b")


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


def _dashboard_expressions() -> Iterator[str]:
    for panel in json.loads(_DASHBOARD.read_text("utf-8"))["panels"]:
        for target in panel["targets"]:
            yield target["expr"]


def _run(program: Path, *arguments: str) -> str:
    """Return what is wrong, empty when nothing is."""
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60)
    return "" if done.returncode == 0 else done.stdout + done.stderr
