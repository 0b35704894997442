"""Metrics as text, and the words of the log."""

from __future__ import annotations

import re

import pytest

from bridge.telemetry import BUCKETS, EVENTS, Telemetry, exposition
from tests.support.command import ROOT


def test_samples_of_one_metric_stand_under_its_help_and_type() -> None:
    text = exposition(
        [
            ("changes_total", (("table", "a"), ("kind", "upsert")), 3),
            ("ready", (), 1.0),
            ("changes_total", (("table", "b"), ("kind", "upsert")), 4),
        ]
    )
    lines = text.splitlines()
    assert lines[1:4] == [
        "# TYPE qdrant_bridge_changes_total counter",
        'qdrant_bridge_changes_total{table="a",kind="upsert"} 3',
        'qdrant_bridge_changes_total{table="b",kind="upsert"} 4',
    ]
    assert lines[5:] == ["# TYPE qdrant_bridge_ready gauge", "qdrant_bridge_ready 1"]
    assert text.endswith("\n")


def test_names_of_tables_are_escaped() -> None:
    text = exposition([("changes_total", (("table", 'a"b\\c\nd'), ("kind", "patch")), 1)])
    assert r'{table="a\"b\\c\nd",kind="patch"} 1' in text


def test_buckets_count_all_that_is_below_them() -> None:
    telemetry = Telemetry()
    for seconds in (BUCKETS[0], 0.3, 1000.0):
        telemetry.observe_write("upsert", seconds)
    text = exposition(telemetry.samples())
    counts = [float(n) for n in re.findall(r'_bucket\{kind="upsert",le="[^"]+"\} (\S+)', text)]
    assert len(counts) == len(BUCKETS) + 1
    assert counts == sorted(counts)
    assert (counts[0], counts[-2], counts[-1]) == (1, 2, 3)
    assert 'write_seconds_count{kind="upsert"} 3' in text
    assert 'write_seconds_sum{kind="upsert"} 1000.305' in text


def test_waits_and_sessions_are_counted_by_their_events() -> None:
    telemetry = Telemetry()
    for event in ("waiting", "connected", "waiting"):
        telemetry.count_event(event)
    text = exposition(telemetry.samples())
    assert "qdrant_bridge_retries_total 2" in text
    assert "qdrant_bridge_sessions_total 1" in text


@pytest.mark.parametrize("folder", ["sync", "cli"])
def test_every_event_that_is_logged_is_described(folder: str) -> None:
    called = re.compile(r'\b(?:self\._log|self\._tell|\w+\.tell|log)\(\s*"([^"]+)"')
    logged = {
        name for path in (ROOT / folder).glob("*.py") for name in called.findall(path.read_text())
    }
    assert logged, "nothing is logged: is the pattern right?"
    assert logged <= EVENTS.keys()
