"""Alert rules and dashboard against the metrics that there are, and promtool's opinion of the rules."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bridge.telemetry import METRICS, full_name
from tests.support.prometheus import MISSING, PROMTOOL, promtool

ROOT = Path(__file__).resolve().parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboards" / "qdrant-bridge.json"
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason=MISSING)
EXPORTED = {
    full_name(name) + suffix
    for name, (kind, _told) in METRICS.items()
    for suffix in (("_bucket", "_sum", "_count") if kind == "histogram" else ("",))
}
_METRIC = re.compile(r"\b(?:qdrant_bridge|process)_\w+")


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return [panel for panel in found if panel["type"] != "row"]


def expressions() -> Iterator[str]:
    for panel in panels():
        yield from (target["expr"] for target in panel["targets"])
    board = json.loads(DASHBOARD.read_text())
    yield from (note["expr"] for note in board["annotations"]["list"])
    yield from (
        variable["definition"]
        for variable in board["templating"]["list"]
        if "definition" in variable
    )


def test_alerts_ask_for_metrics_that_are_exported() -> None:
    for rule in rules():
        assert set(_METRIC.findall(rule["expr"])) <= EXPORTED, rule["alert"]


def test_the_dashboard_asks_for_metrics_that_are_exported() -> None:
    for expression in expressions():
        assert set(_METRIC.findall(expression)) <= EXPORTED, expression


def test_the_dashboard_shows_every_metric() -> None:
    shown = {name for expression in expressions() for name in _METRIC.findall(expression)}
    histograms = {full_name(name) for name, (kind, _) in METRICS.items() if kind == "histogram"}
    for name in {full_name(name) for name in METRICS} - histograms:
        assert name in shown
    for name in histograms:
        assert f"{name}_bucket" in shown


def test_panels_do_not_overlap_and_have_names_of_their_own() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
    everything = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    assert len({panel["title"] for panel in everything}) == len(everything)


def test_the_dashboard_names_no_data_source_but_the_chosen_one() -> None:
    for panel in panels():
        assert panel["datasource"]["uid"] == "${datasource}"
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"


def test_every_alert_says_how_bad_it_is_and_where_its_runbook_stands() -> None:
    sections = re.findall(
        r"^### (\w+)$", (ROOT / "docs" / "monitoring.md").read_text(), re.MULTILINE
    )
    alerts = [rule["alert"] for rule in rules()]
    assert sections == alerts
    for rule in rules():
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
        anchor = rule["alert"].lower()
        assert rule["annotations"]["runbook_url"] == f"docs/monitoring.md#{anchor}"


def test_every_alert_has_a_case_in_which_it_fires() -> None:
    cases = yaml.safe_load((PROMETHEUS / "rules_test.yml").read_text())["tests"]
    fired = {
        name
        for case in cases
        for asked in case["promql_expr_test"]
        for sample in asked["exp_samples"]
        for name in re.findall(r'alertname="(\w+)"', sample["labels"])
    }
    assert fired == {rule["alert"] for rule in rules()}


@needs_promtool
def test_the_rules_fire_as_their_cases_say() -> None:
    done = promtool("test", "rules", str(PROMETHEUS / "rules_test.yml"))
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_the_cases_would_notice_another_limit(tmp_path: Path) -> None:
    text = (PROMETHEUS / "rules.yml").read_text()
    assert "qdrant_bridge_lag_seconds > 60" in text
    changed = text.replace("qdrant_bridge_lag_seconds > 60", "qdrant_bridge_lag_seconds > 1e9")
    (tmp_path / "rules.yml").write_text(changed)
    (tmp_path / "cases.yml").write_text((PROMETHEUS / "rules_test.yml").read_text())
    assert promtool("test", "rules", str(tmp_path / "cases.yml")).returncode != 0


@needs_promtool
def test_promtool_takes_the_configuration() -> None:
    done = promtool("check", "config", "--syntax-only", str(PROMETHEUS / "prometheus.yml"))
    assert done.returncode == 0, done.stderr
    done = promtool("check", "rules", str(PROMETHEUS / "rules.yml"))
    assert done.returncode == 0, done.stderr


def test_the_configuration_scrapes_the_job_that_the_alerts_name() -> None:
    scraped = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["scrape_configs"]
    jobs = {one["job_name"] for one in scraped}
    named = {name for rule in rules() for name in re.findall(r'job="([^"]+)"', rule["expr"])}
    assert named == jobs


def test_the_daemons_directory_of_dashboards_is_the_one_that_is_provisioned() -> None:
    provisioning = DASHBOARD.parent.parent / "provisioning"
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "qdrant-bridge.yml").read_text())[
        "providers"
    ]
    assert provider["options"]["path"] == "/etc/grafana/dashboards"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())[
        "datasources"
    ]
    assert source["type"] == "prometheus"
