"""`qdrant-bridge sync debezium`, and `run` where the changes come through Kafka.

Any number of processes may be started: one of them copies what is to be copied, under the pipeline's
lease, and the others wait for it; then all read the topics as one consumer group.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

from backfill.kafka_handoff import copy_done, prepare_topics
from bridge.config import Effective, Settings
from bridge.errors import StopError, UsageError
from bridge.kafka_state import KafkaState, read_kafka
from bridge.postgres import slots
from bridge.postgres.connection import connect
from cli.backfill_command import copy_all
from cli.copied import require_equal
from cli.copy_metrics import CopyMetrics
from cli.debezium_places import (
    connector_of,
    kafka_settings,
    look_at_kafka,
    make_kafka_daemon,
    modes_of,
    offsets_of,
)
from cli.handoff import tell_blockers
from cli.places import Place, postgres_url, state_of
from cli.service import Service
from sync.connect import Connector
from sync.daemon import tune_collector
from sync.debezium_daemon import DRAIN_SECONDS, KafkaDaemon

_LOOK_SECONDS = 1.0
_LAST_WORDS_SECONDS = 1.0
_WITHOUT_ROWS = ("no_data", "never", "schema_only")


def run_debezium(effective: Effective, around: Service, place: Place, *, copy: bool = True) -> None:
    """Copy what is to be copied, unless somebody has; then read. `copy`: whether we may."""
    settings = effective.settings
    kafka_settings(settings)
    connector = around.patiently(lambda: connector_of(settings))
    state = around.patiently(lambda: _prepare(effective, place, connector, copy))
    while state.phase == "backfill":
        state = _copy(effective, around, place, state, copy)
    store = around.state_of(place)
    daemon = make_kafka_daemon(
        effective,
        place,
        store=store,
        modes=modes_of(settings, connector),
        tell=around.tell,
        observe=around.telemetry.observe_write,
    )
    follow(around, daemon)


def _prepare(
    effective: Effective, place: Place, connector: Connector | None, copy: bool
) -> KafkaState:
    settings = effective.settings
    kafka = kafka_settings(settings)
    store = state_of(place, settings)
    copied = kafka.existing_rows == "copied"
    known = read_kafka(store) if store.exists() else None
    if known is None:
        if not copy and copied:
            raise UsageError(
                "the tables are not copied yet",
                hint="qdrant-bridge run copies and then follows",
            )
        if connector is not None:
            require_snapshot_mode(connector, copied=copied)
            if copied and settings.postgres.url is not None:
                require_slot(settings, connector)
    url = settings.postgres.url
    return prepare_topics(
        settings.tables,
        kafka.topics,
        group=settings.consumer_group,
        copied=copied,
        look=lambda topic: look_at_kafka(settings, lambda consumer: offsets_of(consumer, topic)),
        postgres_url=None if url is None else url.get_secret_value(),
        target=place.target,
        store=store,
        create_collection=settings.migration.create_collection,
        allow_plaintext=settings.allow_plaintext,
        on_wait=tell_blockers,
    )


def require_snapshot_mode(connector: Connector, *, copied: bool) -> None:
    """UsageError if rows would come twice, or not at all. StopError if the connector has failed."""
    if connector.failed:
        raise StopError(
            f"the connector {connector.name} has failed: {connector.trace}",
            code="CONNECTOR_FAILED",
            hint="qdrant-bridge doctor names settings that do that; then restart its task",
        )
    mode = connector.config.get("snapshot.mode", "initial")
    without_rows = mode in _WITHOUT_ROWS
    if not copied and without_rows:
        raise UsageError(
            f"the connector {connector.name} has snapshot.mode={mode}: rows that are there would never "
            "come",
            hint="kafka.existing_rows: copied takes them directly from Postgres",
        )
    if copied and not without_rows:
        raise UsageError(
            f"the connector {connector.name} has snapshot.mode={mode}: it sends every row through Kafka "
            "as well",
            hint="snapshot.mode=no_data leaves that to the direct copy; or kafka.existing_rows: snapshot",
        )


def require_slot(settings: Settings, connector: Connector) -> None:
    """UsageError if the connector has no slot yet: what changes during the copy would be missing."""
    name = connector.config.get("slot.name", "debezium")
    with connect(postgres_url(settings), allow_plaintext=settings.allow_plaintext) as connection:
        if slots.inspect_slot(connection, name) is None:
            raise UsageError(
                f"the connector's slot {name} is not there: changes during the copy would be missing",
                hint="wait until the connector streams; or is this another Postgres than its own?",
            )


def _copy(
    effective: Effective, around: Service, place: Place, state: KafkaState, copy: bool
) -> KafkaState:
    """Copy, or wait for the process that does; the state afterwards."""
    store = around.state_of(place)
    try:
        if copy:
            with around.holding(place) as held:
                now = around.patiently(lambda: read_kafka(store)) or state
                if now.phase == "backfill":
                    told = CopyMetrics(around.telemetry)
                    reports = around.patiently(
                        lambda: copy_all(effective, held, quiet=False, patient=True, also=told)
                    )
                    require_equal(reports)
                    return around.patiently(lambda: copy_done(around.state_of(held), now))
                return now
    except StopError as error:
        if error.code != "LEASE_HELD":
            raise
        around.tell("waiting_for_copy", holder=error.message)
    threading.Event().wait(_LOOK_SECONDS)
    return around.patiently(lambda: read_kafka(store)) or state


def follow(around: Service, daemon: KafkaDaemon) -> None:
    """The process, until SIGTERM, SIGINT or an error."""
    around.board.kafka = daemon
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    limit = threading.Timer(DRAIN_SECONDS - _LAST_WORDS_SECONDS, _leave(around))
    limit.daemon = True

    def stop(_number: int, _frame: object) -> None:
        if not daemon.stopping:
            daemon.stop()
            limit.start()

    for number in before:
        signal.signal(number, stop)
    around.tell("starting", pipeline=around.pipeline, group=daemon.state.group)
    try:
        tune_collector()
        daemon.run()
    finally:
        limit.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)
    around.tell("ended")


def _leave(around: Service) -> Callable[[], None]:
    def leave() -> None:
        """What nobody answers cannot be interrupted; it is read again."""
        around.tell("drain_timeout")
        os._exit(0)

    return leave
