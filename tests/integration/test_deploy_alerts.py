"""Every alert fires in a condition that is caused for real, and the right ones do.

A daemon is scraped twice in the condition; `promtool` is then asked which alerts of the real rules fire
if that goes on for an hour (`tests/support/prometheus.py::firing`): what a rule's `for` and its windows
want is replayed from what was scraped, not waited for. What Prometheus itself has to notice (that nobody
answers, or is asked) a Prometheus notices, with the rules' own conditions and shorter patience.

A new alert needs a row in `CAUSES`.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import orjson
import pytest

from bridge.telemetry import METRICS, full_name
from tests.support import qdrant_faults as faults
from tests.support.alert_stand import LAG, Metrics, Stand, alert_stand, grown, is_calm
from tests.support.command import ANY_PORT, Running
from tests.support.daemons import ask
from tests.support.debezium_messages import envelope
from tests.support.kafka_stack import Topic, stack
from tests.support.ports import free_port
from tests.support.prometheus import (
    MISSING,
    MISSING_SERVER,
    PROMTOOL,
    SERVER,
    Prometheus,
    alert_names,
    names,
    promtool,
)

needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason=MISSING)

# Not of a daemon that reads Postgres and has not stopped; tests/unit/test_board.py has them.
ELSEWHERE = {"stopped", "kafka_lag_messages", "kafka_partitions", "rows_read_again_total"}
RETRIES, SESSIONS = "qdrant_bridge_retries_total", "qdrant_bridge_sessions_total"
RETAINED, KAFKA_LAG = "qdrant_bridge_slot_retained_bytes", "qdrant_bridge_kafka_lag_messages"
STOPPED = 'qdrant_bridge_stopped{code="SLOT_LOST"}'
UPSERTS = 'qdrant_bridge_write_seconds_count{kind="upsert"}'
COPYING = 'qdrant_bridge_phase{phase="backfill"}'
SLOW_SECONDS = 5.1  # above what the rule takes for slow


def wal_status(status: str) -> str:
    return f'qdrant_bridge_slot_wal_status{{status="{status}"}}'


# --- what a daemon that follows meets ---------------------------------------------------------------


def nothing(stand: Stand) -> set[str]:
    return stand.follower().fired(is_calm)


def _rows_that_cannot_be_stored(stand: Stand, count: int) -> set[str]:
    daemon = stand.follower()
    daemon.change(
        "INSERT INTO docs SELECT 1000 + i, 'large', '[3e38,3e38,3e38]'"
        f" FROM generate_series(1, {count}) i"
    )
    fired = daemon.fired(lambda now: now["qdrant_bridge_dead_letters"] == count and is_calm(now))
    daemon.change("DELETE FROM docs WHERE id > 1000")
    daemon.metrics_when(lambda now: now["qdrant_bridge_dead_letters"] == 0.0)
    return fired


def a_row_that_cannot_be_stored(stand: Stand) -> set[str]:
    return _rows_that_cannot_be_stored(stand, 1)


def many_rows_that_cannot_be_stored(stand: Stand) -> set[str]:
    return _rows_that_cannot_be_stored(stand, 501)


def qdrant_takes_long(stand: Stand) -> set[str]:
    daemon = stand.follower()
    daemon.change("INSERT INTO docs VALUES (500, 'fast', '[1,2,3]')")
    daemon.metrics_when(lambda now: is_calm(now) and UPSERTS in now)
    slow = stand.qdrant.faults.add(
        method="Upsert", collection=daemon.pipeline.name, action=faults.delay(SLOW_SECONDS)
    )

    def write(now: Metrics) -> bool:
        if is_calm(now) and not slow.matched:
            daemon.change("INSERT INTO docs VALUES (501, 'slow', '[1,2,3]')")
            return True
        return False

    written = grown(UPSERTS)
    return daemon.fired(write, lambda first, now: written(first, now) and is_calm(now))


def qdrant_is_away(stand: Stand) -> set[str]:
    """While others write to the source, so that its log grows."""
    daemon = stand.follower()
    stand.qdrant.stop()
    daemon.change("UPDATE docs SET body = body || '!'")
    fired = daemon.fired(
        lambda now: now.get(LAG, 0.0) > 0.5,
        grown(LAG, RETRIES, RETAINED),
        meanwhile=_each_second(daemon.write_log),
    )
    stand.qdrant.start()
    daemon.pipeline.wait_now()
    return fired


def more_log_than_may_be_kept(stand: Stand) -> set[str]:
    daemon = stand.follower()
    stand.qdrant.stop()
    daemon.change(
        "UPDATE docs SET body = body || '?'",
        "ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'",
        "SELECT pg_reload_conf()",
    )
    daemon.write_log()
    fired = daemon.fired(lambda now: now.get(wal_status("unreserved")) == 1.0)
    # As the runbook says: raise the limit, before the next checkpoint, and mend what holds it up.
    daemon.change("ALTER SYSTEM RESET max_slot_wal_keep_size", "SELECT pg_reload_conf()")
    stand.qdrant.start()
    daemon.pipeline.wait_now()
    daemon.metrics_when(lambda now: now.get(wal_status("unreserved")) == 0.0)
    return fired


def sessions_that_keep_ending(stand: Stand) -> set[str]:
    daemon = stand.follower()
    another = grown(SESSIONS)

    def is_ended(now: Metrics) -> bool:
        if calm := is_calm(now):
            daemon.change(
                "SELECT pg_terminate_backend(active_pid, 10000) FROM pg_replication_slots"
                f" WHERE slot_name = '{daemon.pipeline.slot}' AND active"
            )
        return calm

    return daemon.fired(is_ended, lambda first, now: another(first, now) and is_calm(now))


def postgres_is_away(stand: Stand) -> set[str]:
    daemon = stand.follower()
    stand.postgres.stop()
    fired = daemon.fired(lambda now: now["qdrant_bridge_source_reachable"] == 0.0)
    stand.postgres.start()
    return fired


# --- what damages a pipeline, or keeps one from its beginning ---------------------------------------


def a_slot_that_is_dropped(stand: Stand) -> set[str]:
    with stand.daemon() as daemon:
        daemon.metrics_when(is_calm)
        where = f"FROM pg_replication_slots WHERE slot_name = '{daemon.pipeline.slot}'"
        deadline = time.monotonic() + 60
        # The daemon comes back at once; the slot can go when nobody reads from it.
        while daemon.pipeline.database.execute(f"SELECT 1 {where}"):
            daemon.change(
                f"SELECT pg_terminate_backend(active_pid, 10000) {where} AND active",
                f"SELECT pg_drop_replication_slot(slot_name) {where} AND NOT active",
            )
            assert time.monotonic() < deadline, "the slot was never free"
        # It goes on looking at Postgres while it holds: what it shows of the slot is true.
        return daemon.fired(lambda now: now.get(STOPPED) == now.get(wal_status("missing")) == 1.0)


def _copies_nothing(stand: Stand, method: str) -> set[str]:
    with stand.daemon() as daemon:
        refused = stand.qdrant.faults.add(
            method=method,
            collection=daemon.pipeline.name,
            action=faults.unavailable(),
            times=None,
        )
        stand.qdrant.faults.wait_fired(refused)
        fired = daemon.fired(
            lambda now: now[COPYING] == 1.0 and RETAINED in now,
            grown(RETRIES, RETAINED),
            meanwhile=_each_second(daemon.write_log),
        )
        stand.qdrant.faults.clear()
        # What stood still goes on by itself.
        daemon.metrics_when(is_calm)
        return fired


def qdrant_takes_no_row(stand: Stand) -> set[str]:
    return _copies_nothing(stand, "Upsert")


def qdrant_takes_no_collection(stand: Stand) -> set[str]:
    return _copies_nothing(stand, "Collections.Create")


def messages_that_nobody_writes(stand: Stand) -> set[str]:
    with stack("--no-postgres", "--no-connect") as kafka:
        topic = Topic(servers=kafka.kafka).create()
        settings = {"bootstrap_servers": kafka.kafka, "topics": {topic.name: "public.docs"}}
        with stand.daemon(sync={"source": "debezium"}, kafka=settings) as daemon:
            numbers = iter(range(1000, 100_000))

            def send() -> None:
                topic.send([_message(next(numbers)) for _ in range(100)])

            send()
            daemon.metrics_when(lambda now: KAFKA_LAG in now and is_calm(now))
            stand.qdrant.stop()
            send()
            try:
                return daemon.fired(
                    lambda now: now[KAFKA_LAG] > 0.0, grown(KAFKA_LAG, LAG, RETRIES), send
                )
            finally:
                stand.qdrant.start()


def _message(identity: int) -> tuple[bytes, bytes]:
    row = {"id": identity, "body": "row", "v": [1.0, 2.0, 3.0]}
    source: dict[str, Any] = {"table": "docs", "ts_ms": int(time.time() * 1000)}
    return orjson.dumps({"id": identity}), orjson.dumps(envelope("c", row, **source))


# --- what only Prometheus sees ----------------------------------------------------------------------


def a_daemon_that_dies_again_and_again(stand: Stand) -> set[str]:
    """And is lost in the end."""
    if SERVER is None:
        pytest.skip(MISSING_SERVER)
    address = f"127.0.0.1:{free_port()}"
    with ExitStack() as context:
        pipeline = stand.pipeline(context)
        prometheus = context.enter_context(Prometheus(stand.directory("prometheus"), address))
        started: list[float] = []

        def sees_another(it: Prometheus) -> bool:
            return it.ask("process_start_time_seconds and up == 1") not in ([], started)

        def start() -> Running:
            return context.enter_context(pipeline.run(environment={ANY_PORT: address}))

        for _ in range(4):
            daemon = start()
            prometheus.wait(sees_another)
            started = prometheus.ask("process_start_time_seconds")
            daemon.kill()
            daemon.finish()
        daemon = start()
        prometheus.wait(lambda it: "Restarting" in it.firing() and sees_another(it))
        prometheus.wait(lambda it: "Down" not in it.firing())
        fired = prometheus.firing()
        # One that hangs is as one that is gone.
        daemon.signal(signal.SIGSTOP)
        prometheus.wait(lambda it: "Down" in it.firing())
        daemon.signal(signal.SIGCONT)
        prometheus.wait(lambda it: "Down" not in it.firing())
        daemon.kill()
        prometheus.wait(lambda it: "Down" in it.firing())
        fired |= prometheus.firing()
        prometheus.lose_target()
        prometheus.wait(lambda it: "Absent" in it.firing())
        return fired | prometheus.firing()


# --- the table --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """What is done, which alerts it has to raise, and which it may raise as well."""

    act: Callable[[Stand], set[str]]
    alerts: set[str]
    also: frozenset[str] = frozenset()


WAITS = frozenset({"Retrying"})
LOG = {"SlotRetention", "SlotFilling"}
CAUSES = (
    Cause(act=nothing, alerts=set()),
    Cause(act=a_row_that_cannot_be_stored, alerts={"DeadLetters"}),
    Cause(act=many_rows_that_cannot_be_stored, alerts={"DeadLetters", "DeadLettersMany"}),
    Cause(act=qdrant_takes_long, alerts={"SlowWrites"}),
    Cause(
        act=qdrant_is_away,
        alerts={"Lag", "LagHigh", "CheckpointStale", "Retrying", *LOG},
        also=frozenset({"NotReady", "Reconnecting"}),
    ),
    Cause(
        act=more_log_than_may_be_kept,
        alerts={"SlotUnreserved"},
        also=frozenset({"Lag", "LagHigh", "CheckpointStale", "NotReady", "Reconnecting", *WAITS}),
    ),
    Cause(act=sessions_that_keep_ending, alerts={"Reconnecting"}, also=WAITS),
    # What is not known raises nothing: neither lag nor slot.
    Cause(act=postgres_is_away, alerts={"SourceUnreachable", "NotReady"}, also=WAITS),
    Cause(
        act=a_slot_that_is_dropped,
        alerts={"Stopped", "SlotLost", "NotReady"},
        also=frozenset({"CheckpointStale", *WAITS}),
    ),
    Cause(act=qdrant_takes_no_row, alerts={"BackfillStalled", "Retrying", *LOG}),
    Cause(act=qdrant_takes_no_collection, alerts={"BackfillStalled", "Retrying", *LOG}),
    Cause(
        act=messages_that_nobody_writes,
        alerts={"KafkaLag", "Lag", "CheckpointStale", "Retrying"},
        also=frozenset({"LagHigh", "NotReady", "Reconnecting"}),
    ),
    Cause(
        act=a_daemon_that_dies_again_and_again,
        alerts={"Restarting", "Down", "Absent"},
        also=frozenset({"NotReady"}),
    ),
)


def test_every_alert_has_a_cause() -> None:
    assert set().union(*(cause.alerts for cause in CAUSES)) == set(alert_names())


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    with alert_stand(tmp_path_factory.mktemp("alerts")) as made:
        yield made


@needs_promtool
@pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: cause.act.__name__)
def test_a_condition_makes_its_alerts_fire_and_no_others(cause: Cause, stand: Stand) -> None:
    fired = cause.act(stand)
    assert cause.alerts <= fired <= cause.alerts | cause.also


@needs_promtool
def test_all_that_there_is_to_export_is_exported_as_promtool_wants_it(stand: Stand) -> None:
    text = ask(stand.follower().address, "/metrics")[1]
    assert names(text) == {full_name(name) for name in METRICS if name not in ELSEWHERE}
    told = promtool("check", "metrics", text=text)
    assert told.returncode == 0, told.stdout + told.stderr


def _each_second(act: Callable[[], None]) -> Callable[[], None]:
    """Called often, it acts once a second: at a rate that a slow machine does not lower."""
    acted = float("-inf")

    def acting() -> None:
        nonlocal acted
        if time.monotonic() - acted >= 1.0:
            acted = time.monotonic()
            act()

    return acting
