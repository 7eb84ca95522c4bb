"""Alert rules and the dashboard: they use existing metrics, fire when they must, and link to the runbook."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # types-PyYAML is not worth a pin
from flask.testing import FlaskClient

ROOT = Path(__file__).resolve().parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
METRIC = re.compile(r"\breceiver_[a-z_]+")

# These are in the metrics only after a worker has counted something.
OF_WORKERS = {
    "receiver_sends_total",
    "receiver_worker_failures_total",
    "receiver_worker_heartbeat_age_seconds",
    "receiver_deliveries_total",
}

# Only with an endpoint: tests/web/test_metrics.py checks them.
OF_ENDPOINTS = {"receiver_endpoint_events", "receiver_endpoint_oldest_waiting_seconds"}


# Only with a replica: tests/web/test_replica.py checks each of them.
OF_A_REPLICA = {
    "receiver_web_replica_reads_total",
    "receiver_web_replica_usable",
    "receiver_web_replica_lag_seconds",
}


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    return subprocess.run([found, *arguments], cwd=PROMETHEUS, capture_output=True, text=True, check=False)


@pytest.fixture
def metric_names(stranger: FlaskClient) -> set[str]:
    """The names of all samples in the service's metrics."""
    lines = stranger.get("/metrics").text.splitlines()
    return (
        {re.split(r"[{ ]", line)[0] for line in lines if not line.startswith("#")}
        | OF_WORKERS
        | OF_A_REPLICA
        | OF_ENDPOINTS
    )


def alerts() -> list[dict[str, Any]]:
    rules = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())
    return [rule for group in rules["groups"] for rule in group["rules"]]


def queries_of(panels: list[dict[str, Any]]) -> list[str]:
    return [target["expr"] for panel in panels for target in panel.get("targets", [])]


def test_prometheus_accepts_the_rules_and_the_configuration() -> None:
    for arguments in (("check", "rules", "alerts.yml"), ("check", "config", "--lint=none", "prometheus.yml")):
        ran = promtool(*arguments)
        assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.long
def test_alerts_fire_when_they_must_and_not_on_an_ordinary_day() -> None:
    ran = promtool("test", "rules", "alerts_test.yml")
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_prometheus_accepts_the_metrics(stranger: FlaskClient) -> None:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    text = stranger.get("/metrics").text
    ran = subprocess.run([found, "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_alerts_and_dashboard_use_only_existing_metrics(metric_names: set[str]) -> None:
    dashboard = json.loads((ROOT / "deploy" / "grafana" / "receiver.json").read_text())
    queries = [alert["expr"] for alert in alerts()] + queries_of(dashboard["panels"])
    assert len(queries) > 40
    used = {name for query in queries for name in METRIC.findall(query)}
    assert used - metric_names == set()


def test_every_alert_is_tested_and_has_a_section_in_the_runbook() -> None:
    tested = (PROMETHEUS / "alerts_test.yml").read_text()
    headings = re.findall(r"^#+ (\w+)$", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE)
    for alert in alerts():
        name = alert["alert"]
        assert re.search(rf"\b{name}\b", tested), f"no test makes {name} fire"
        assert name in headings, f"docs/operations.md has no section {name}"
        assert alert["annotations"]["runbook"] == f"docs/operations.md#{name.lower()}"
        assert alert["labels"]["severity"] in ("critical", "warning")


def test_every_metric_is_described_once(metric_names: set[str]) -> None:
    described = re.findall(r"^\| `(receiver_\w+)", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE)
    assert len(described) == len(set(described))
    plain = {re.sub(r"_(bucket|count|sum)$", "", name) for name in metric_names}
    assert set(described) == plain


def test_panels_of_the_dashboard_do_not_overlap() -> None:
    panels = json.loads((ROOT / "deploy" / "grafana" / "receiver.json").read_text())["panels"]
    occupied: set[tuple[int, int]] = set()
    for panel in panels:
        left, top, width, height = (panel["gridPos"][name] for name in "xywh")
        cells = {(x, y) for x in range(left, left + width) for y in range(top, top + height)}
        assert not cells & occupied and left + width <= 24, panel["title"]
        occupied |= cells
    assert len({panel["id"] for panel in panels}) == len(panels)
