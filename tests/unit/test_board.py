"""What a process tells of itself, before it has a daemon and with what a daemon shows."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace
from typing import Any, cast

from bridge.errors import StopError
from bridge.positions import Lsn
from bridge.postgres.progress import SourceProgress
from bridge.postgres.slots import SlotStatus
from bridge.stream_state import StreamState, TableCounts
from bridge.telemetry import METRICS, Copied, Telemetry, full_name
from sync.board import WAITING_SECONDS, Board
from sync.http import Feed, Response


class Clock:
    """Time as the test has it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def slot(**changes: Any) -> SlotStatus:
    fields: dict[str, Any] = {
        "name": "bridge_shop",
        "plugin": "pgoutput",
        "database": "app",
        "active_pid": 7,
        "restart_lsn": Lsn(1),
        "confirmed_flush_lsn": Lsn(1),
        "wal_status": "reserved",
        "retained_bytes": 4096,
        "invalidation_reason": None,
        "failover": False,
    }
    return SlotStatus(**{**fields, **changes})


class Shop:
    """A board with everything that it may look at, as the test sets it."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.telemetry = Telemetry()
        self.board = Board("shop", self.telemetry, wall=self.clock, clock=self.clock)
        self.state = StreamState(
            facts={"tables": {"public.docs": 1, "public.other": 2}},
            checkpoint=Lsn.parse("0/1000"),
            phase="streaming",
            tables={"public.docs": TableCounts(upserts=5, patches=3, deletes=1)},
            commit_time_microseconds=1_000_000,
        )
        self.source = SourceProgress(
            lsn=Lsn.parse("0/1800"), now_microseconds=3_500_000, slot=slot()
        )

    def follow(self) -> SimpleNamespace:
        daemon = SimpleNamespace(
            state=self.state, connected=True, windows=4, dead_letters=2, saved_at=999.0
        )
        self.board.daemon = cast(Any, daemon)
        self.board.watch = cast(Any, SimpleNamespace(seen=self.source))
        return daemon

    def answer(self, path: str) -> Response:
        answer = self.board.routes[path]()
        assert isinstance(answer, Response)
        return answer

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.answer("/status.json").body)
        return found

    def metrics(self) -> str:
        return self.answer("/metrics").body.decode()


def test_before_anything_is_known_nothing_is_claimed() -> None:
    shop = Shop()
    report = shop.status()
    assert (report["phase"], report["ready"]) == ("starting", False)
    for name in ("lag", "slot", "checkpoint_lsn", "source_lsn", "dead_letters", "stop", "waiting"):
        assert report[name] is None, name
    metrics = shop.metrics()
    for name in ("lag_bytes", "lag_seconds", "dead_letters", "slot_active", "source_reachable"):
        assert full_name(name) + " " not in metrics
    assert 'qdrant_bridge_info{pipeline="shop",version=' in metrics


def test_a_daemon_that_follows_is_reported() -> None:
    shop = Shop()
    shop.follow()
    report = shop.status()
    assert report["lag"] == {"bytes": 0x800, "seconds": 2.5}
    assert report["slot"] == {"active": True, "retained_bytes": 4096, "wal_status": "reserved"}
    assert report["checkpoint_age_seconds"] == 1.0
    assert report["tables"]["public.other"] == {"upserts": 0, "patches": 0, "deletes": 0}
    metrics = shop.metrics()
    assert 'qdrant_bridge_slot_wal_status{status="reserved"} 1' in metrics
    assert 'qdrant_bridge_slot_wal_status{status="lost"} 0' in metrics
    assert 'qdrant_bridge_changes_total{table="public.docs",kind="patch"} 3' in metrics
    assert "qdrant_bridge_source_reachable 1" in metrics


def test_a_source_that_cannot_be_asked_is_told_and_its_figures_are_left_out() -> None:
    shop = Shop()
    shop.follow()
    shop.board.watch = cast(Any, SimpleNamespace(seen=None))
    assert shop.status()["source_reachable"] is False
    metrics = shop.metrics()
    assert "qdrant_bridge_source_reachable 0" in metrics
    assert "qdrant_bridge_lag_seconds" not in metrics


def test_a_stop_is_reported_with_its_remedy_and_its_code_is_a_label() -> None:
    shop = Shop()
    shop.follow()
    shop.board.stop = StopError("it is gone", code="SLOT_LOST", hint="resync --all")
    report = shop.status()
    assert report["stop"] == {"code": "SLOT_LOST", "message": "it is gone", "hint": "resync --all"}
    assert (report["phase"], report["ready"]) == ("stopped", False)
    assert 'qdrant_bridge_stopped{code="SLOT_LOST"} 1' in shop.metrics()


def test_a_wait_is_shown_while_it_lasts() -> None:
    shop = Shop()
    shop.board.tick()
    shop.telemetry.count_event("waiting", reason="connection refused")
    shop.board.tick()
    assert shop.status()["waiting"] == "connection refused"
    shop.clock.now += WAITING_SECONDS + 1
    shop.board.tick()
    assert shop.status()["waiting"] is None
    assert shop.status()["retries"] == 1


def test_a_copy_is_reported_by_table() -> None:
    shop = Shop()
    copied = Copied(
        table="public.docs",
        collection="docs",
        rows=50,
        estimated_rows=200,
        chunks=4,
        chunks_done=1,
        dead_letters=1,
    )
    shop.telemetry.tell_copy(copied)
    assert shop.status()["backfill"]["public.docs"]["rows"] == 50
    metrics = shop.metrics()
    assert 'qdrant_bridge_backfill_chunks_done{table="public.docs"} 1' in metrics
    assert 'qdrant_bridge_backfill_estimated_rows{table="public.docs"} 200' in metrics


def test_the_feed_begins_with_the_past_and_goes_on_with_single_points() -> None:
    shop = Shop()
    daemon = shop.follow()
    shop.board.tick()
    shop.clock.now += 2
    tables = {"public.docs": TableCounts(upserts=25, patches=3, deletes=1)}
    daemon.state = StreamState(
        facts={}, checkpoint=Lsn.parse("0/1800"), phase="streaming", tables=tables
    )
    shop.board.tick()
    feed = shop.board.routes["/events"]()
    assert isinstance(feed, Feed)
    assert feed.first()["history"] == [[1000.0, 2.5, 0.0], [1002.0, 0.0, 10.0]]
    following = feed.following()
    assert following["point"] == [1002.0, 0.0, 10.0]
    assert "history" not in following


def test_windows_are_counted_by_their_changes() -> None:
    shop = Shop()
    for changes in (1, 300, 2000):
        shop.telemetry.observe_window(changes)
    metrics = shop.metrics()
    assert 'qdrant_bridge_window_changes_bucket{le="250.0"} 1' in metrics
    assert "qdrant_bridge_window_changes_sum 2301" in metrics


def test_every_metric_is_named_by_the_conventions() -> None:
    """Prometheus, "Metric and label naming": base units, counters end in _total."""
    for name, (kind, told) in METRICS.items():
        assert re.fullmatch(r"[a-z][a-z0-9_]*[a-z0-9]", name)
        assert (kind == "counter") == name.endswith("_total"), name
        assert not re.search(r"(milli|micro)seconds|_ms|_mb|_kb|minutes", name), name
        assert told and not told.endswith("."), name
