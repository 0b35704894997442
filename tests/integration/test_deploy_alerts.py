"""Alerts in conditions that are caused for real: what a daemon exports then makes them fire.

A daemon is scraped twice in the condition; `promtool` is then asked which alerts fire if that goes on
for an hour (`tests/support/prometheus.py::firing`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from bridge.postgres.embedded import EmbeddedPostgres
from bridge.telemetry import METRICS, full_name
from tests.support.command import Running
from tests.support.daemons import Pipeline, ask, http_address, wait_streaming
from tests.support.databases import fresh_database
from tests.support.places import open_server
from tests.support.prometheus import MISSING, PROMTOOL, firing, names, parsed, promtool

pytestmark = pytest.mark.skipif(PROMTOOL is None, reason=MISSING)

PATIENCE_SECONDS = 60.0
# Not of a daemon that reads Postgres and has not stopped; tests/unit/test_board.py has them.
ELSEWHERE = {"stopped", "kafka_lag_messages", "kafka_partitions", "rows_read_again_total"}
LAG, RETRIES = "qdrant_bridge_lag_seconds", "qdrant_bridge_retries_total"
STOPPED = 'qdrant_bridge_stopped{code="SLOT_LOST"}'
MISSING_SLOT = 'qdrant_bridge_slot_wal_status{status="missing"}'
OVERFLOW = "INSERT INTO docs VALUES (1000, 'large', '[3e38,3e38,3e38]')"


def metrics_when(address: str, condition: Callable[[dict[str, float]], bool]) -> dict[str, float]:
    """A scrape of which the condition holds; `/metrics` is what tells, so it is asked until then."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        found = parsed(ask(address, "/metrics")[1])
        if condition(found):
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.1)


def fired(
    address: str,
    directory: Path,
    condition: Callable[[dict[str, float]], bool],
    *,
    grows: tuple[str, ...] = ("process_cpu_seconds_total",),
) -> set[str]:
    """The alerts of a condition that goes on; two scrapes, between which all of `grows` grew, give
    the course of each figure."""
    first = metrics_when(address, condition)
    began = time.monotonic()
    second = metrics_when(address, lambda now: all(now[name] > first[name] for name in grows))
    return firing(first, second, time.monotonic() - began, directory)


def test_each_condition_makes_its_alerts_fire(
    own_postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        database = stack.enter_context(fresh_database(own_postgres))
        place = stack.enter_context(open_server(tmp_path))
        assert place.server is not None
        http = {"listen": "127.0.0.1:0", "hold_on_stop": True}
        pipeline = Pipeline.make(database, place, tmp_path, http=http)
        daemon: Running = stack.enter_context(pipeline.run())
        address = http_address(daemon)
        wait_streaming(daemon)

        calm = lambda now: now.get("qdrant_bridge_lag_seconds") == 0.0  # noqa: E731
        assert fired(address, tmp_path, calm) == set()

        # All that there is to export is exported, and named as Prometheus' own tool wants it.
        text = ask(address, "/metrics")[1]
        assert names(text) == {full_name(name) for name in METRICS if name not in ELSEWHERE}
        told = promtool("check", "metrics", text=text)
        assert told.returncode == 0, told.stdout + told.stderr

        database.execute(OVERFLOW)
        aside = lambda now: now["qdrant_bridge_dead_letters"] == 1.0  # noqa: E731
        assert fired(address, tmp_path, aside) == {"DeadLetters"}
        database.execute("DELETE FROM docs WHERE id = 1000")
        metrics_when(address, lambda now: now["qdrant_bridge_dead_letters"] == 0.0)

        place.server.stop()
        database.execute("UPDATE docs SET body = body || '!'")
        behind = lambda now: now.get("qdrant_bridge_lag_seconds", 0.0) > 0.5  # noqa: E731
        alerts = fired(address, tmp_path, behind, grows=(LAG, RETRIES))
        assert alerts >= {"Lag", "LagHigh", "CheckpointStale", "Retrying"}
        place.server.start()
        pipeline.wait_now()

        own_postgres.stop()
        away = lambda now: now["qdrant_bridge_source_reachable"] == 0.0  # noqa: E731
        alerts = fired(address, tmp_path, away)
        assert alerts >= {"SourceUnreachable", "NotReady"}
        assert not alerts & {"Lag", "SlotLost"}, "what is not known raises nothing"
        own_postgres.start()
        metrics_when(address, lambda now: now["qdrant_bridge_ready"] == 1.0)

        database.execute(
            f"SELECT pg_terminate_backend(active_pid, 10000) FROM pg_replication_slots"
            f" WHERE slot_name = '{pipeline.slot}'"
        )
        _drop_slot(database.execute, pipeline.slot)
        # It goes on looking at Postgres while it holds: what it shows of the slot is true.
        stopped = lambda now: now.get(STOPPED) == now.get(MISSING_SLOT) == 1.0  # noqa: E731
        assert fired(address, tmp_path, stopped) >= {"Stopped", "SlotLost", "NotReady"}


def _drop_slot(execute: Callable[[str], object], slot: str) -> None:
    """As soon as nobody reads from it; the daemon comes back at once."""
    where = f"FROM pg_replication_slots WHERE slot_name = '{slot}'"
    deadline = time.monotonic() + PATIENCE_SECONDS
    while execute(f"SELECT 1 {where}"):
        execute(f"SELECT pg_terminate_backend(active_pid, 10000) {where} AND active")
        execute(f"SELECT pg_drop_replication_slot(slot_name) {where} AND NOT active")
        assert time.monotonic() < deadline, "the slot was never free"
