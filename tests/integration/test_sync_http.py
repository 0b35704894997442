"""Health, readiness and metrics of a daemon that runs as a process."""

from __future__ import annotations

import json
import re
import signal
import socket
import time
from pathlib import Path

import pytest

from tests.support.command import ANY_PORT
from tests.support.daemons import Pipeline, ask, http_address, wait_streaming
from tests.support.databases import Database
from tests.support.places import ServerPlace
from tests.support.ports import free_port


@pytest.fixture
def pipeline(database: Database, place: ServerPlace, tmp_path: Path) -> Pipeline:
    return Pipeline.make(database, place, tmp_path)


def test_a_daemon_is_healthy_first_and_ready_when_it_streams(pipeline: Pipeline) -> None:
    with pipeline.run() as daemon:
        address = http_address(daemon)
        assert ask(address, "/healthz") == (200, '{"status": "ok"}\n')
        wait_streaming(daemon)
        status, body = ask(address, "/readyz")
        assert (status, json.loads(body)) == (
            200,
            {"ready": True, "phase": "streaming", "stop": None},
        )
        daemon.signal(signal.SIGTERM)
        daemon.finish().require()


def test_a_daemon_whose_target_is_away_is_healthy_and_not_ready(pipeline: Pipeline) -> None:
    assert pipeline.place.server is not None
    pipeline.place.server.stop()
    with pipeline.run() as daemon:
        address = http_address(daemon)
        daemon.wait_line('"waiting"')
        assert ask(address, "/healthz")[0] == 200
        status, body = ask(address, "/readyz")
        assert status == 503
        assert json.loads(body) == {"ready": False, "phase": "starting", "stop": None}
        # Nothing has begun, so there is nothing to drain.
        daemon.signal(signal.SIGTERM)
        daemon.finish(30).require()


def test_metrics_tell_what_was_done(pipeline: Pipeline) -> None:
    with pipeline.run() as daemon:
        address = http_address(daemon)
        wait_streaming(daemon)
        pipeline.database.execute("UPDATE docs SET body = body || '!'")
        pipeline.wait_now()  # in one window the last change of a row is the one that counts
        pipeline.database.execute("DELETE FROM docs WHERE id <= 3")
        pipeline.wait_now()
        status, text = ask(address, "/metrics")
        assert status == 200
        metrics = _parsed(text)
        label = '{table="public.docs",kind='
        written = sum(
            metrics[f'qdrant_bridge_changes_total{label}"{kind}"}}'] for kind in ("upsert", "patch")
        )
        assert written == pipeline.rows
        assert metrics[f'qdrant_bridge_changes_total{label}"delete"}}'] == 3
        assert metrics['qdrant_bridge_phase{phase="streaming"}'] == 1
        assert metrics["qdrant_bridge_ready"] == 1
        assert metrics["qdrant_bridge_windows_total"] >= 1
        assert metrics["qdrant_bridge_dead_letters"] == 0
        assert metrics["qdrant_bridge_sessions_total"] == 1
        assert metrics["qdrant_bridge_checkpoint_age_seconds"] < 60
        assert metrics['qdrant_bridge_write_seconds_count{kind="state"}'] >= 1
        assert metrics['qdrant_bridge_write_seconds_bucket{kind="delete",le="+Inf"}'] >= 1
        daemon.signal(signal.SIGTERM)
        daemon.finish().require()


def test_metrics_tell_the_lag_as_soon_as_postgres_was_looked_at(pipeline: Pipeline) -> None:
    with pipeline.run() as daemon:
        address = http_address(daemon)
        wait_streaming(daemon)
        metrics = _wait_for_metric(address, "qdrant_bridge_lag_bytes")
        assert metrics["qdrant_bridge_lag_bytes"] >= 0
        assert metrics["qdrant_bridge_lag_seconds"] >= 0
        assert metrics["qdrant_bridge_slot_retained_bytes"] >= 0
        daemon.signal(signal.SIGTERM)
        daemon.finish().require()


def test_a_stop_is_told_until_sigterm_where_that_is_asked_for(
    database: Database, place: ServerPlace, tmp_path: Path
) -> None:
    http = {"listen": "127.0.0.1:0", "hold_on_stop": True}
    pipeline = Pipeline.make(database, place, tmp_path, http=http)
    with pipeline.run() as daemon:
        address = http_address(daemon)
        wait_streaming(daemon)
        database.execute(
            "SELECT pg_terminate_backend(active_pid, 10000) FROM pg_replication_slots"
            f" WHERE slot_name = '{pipeline.slot}'"
        )
        _drop_slot(database, pipeline.slot)
        daemon.wait_line('"holding"', 60)
        assert ask(address, "/healthz")[0] == 200
        status, body = ask(address, "/readyz")
        report = json.loads(body)
        assert status == 503
        assert (report["phase"], report["stop"]["code"]) == ("stopped", "SLOT_LOST")
        assert json.loads(ask(address, "/status.json")[1])["stop"]["code"] == "SLOT_LOST"
        daemon.signal(signal.SIGTERM)
        assert "SLOT_LOST" in daemon.finish().require(3).err


def test_a_port_in_use_is_told_before_anything_begins(pipeline: Pipeline) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pipeline.run(environment={ANY_PORT: f"127.0.0.1:{port}"}) as daemon:
            outcome = daemon.finish().require(2)
    assert f"cannot listen on 127.0.0.1:{port}" in outcome.err
    assert not pipeline.place.exists("_qdrant_bridge")


def test_the_configured_port_is_used(pipeline: Pipeline) -> None:
    port = free_port()
    with pipeline.run(environment={ANY_PORT: f"127.0.0.1:{port}"}) as daemon:
        assert http_address(daemon) == f"127.0.0.1:{port}"
        assert ask(f"127.0.0.1:{port}", "/healthz")[0] == 200
        daemon.signal(signal.SIGTERM)
        daemon.finish().require()


def _drop_slot(database: Database, slot: str) -> None:
    """As soon as nobody reads from it; the daemon comes back at once."""
    for _ in range(200):
        database.execute(
            "SELECT pg_terminate_backend(active_pid, 10000) FROM pg_replication_slots"
            f" WHERE slot_name = '{slot}' AND active"
        )
        database.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
            f" WHERE slot_name = '{slot}' AND NOT active"
        )
        left = database.execute(f"SELECT 1 FROM pg_replication_slots WHERE slot_name = '{slot}'")
        if not left:
            return
    raise AssertionError("the slot was never free")


def _parsed(text: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            match = re.fullmatch(r"(\w+(?:\{[^}]*\})?) (\S+)", line)
            assert match is not None, line
            assert match[1] not in found
            found[match[1]] = float(match[2])
    return found


def _wait_for_metric(address: str, name: str) -> dict[str, float]:
    """`/metrics` is what tells; it is asked again until it does."""
    deadline = time.monotonic() + 60
    while True:
        metrics = _parsed(ask(address, "/metrics")[1])
        if name in metrics:
            return metrics
        assert time.monotonic() < deadline
        time.sleep(0.1)
