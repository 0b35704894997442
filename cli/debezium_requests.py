"""Requests to a pipeline that reads Kafka: handed to the group's processes, or done as one of them.

While a process of the group runs, the request is left in the state and executed there. With none, this
process joins the group and reads the topics until its requests have ended: rows are written beside the
topics in one way only, whoever does it.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from bridge import requests
from bridge.config import Effective
from bridge.errors import Unreachable, UsageError
from bridge.kafka_state import KafkaState, read_kafka
from bridge.kafka_status import is_read_from_kafka
from bridge.qdrant.edge_client import EdgeClient
from bridge.qdrant.state import QdrantState
from bridge.qdrant.target import Target
from bridge.requests import Request
from cli.awaiting import GivenUp, OnProgress, await_elsewhere, sleep_until, tell_waits
from cli.debezium_places import connector_of, make_kafka_daemon, modes_of
from cli.output import note
from cli.places import Place, postgres_url
from sync.debezium_daemon import KafkaDaemon

_KEPT = "the request is kept: it is done when qdrant-bridge run (or sync debezium) is started again"


def require_reading(store: QdrantState) -> KafkaState:
    """The pipeline's record. UsageError if it does not read its topics yet."""
    state = read_kafka(store)
    if state is None or state.phase == "backfill":
        raise UsageError(
            f"pipeline {store.pipeline} does not read its topics yet",
            hint="qdrant-bridge run copies the tables and begins to read",
        )
    return state


def execute_in_group(
    effective: Effective,
    target: Target,
    store: QdrantState,
    asked: Sequence[Request],
    on_progress: OnProgress,
    *,
    wait: bool = True,
) -> list[Request]:
    """Have the requests executed; as they ended, or, unless we `wait`, as they were handed over."""
    require_reading(store)
    postgres_url(effective.settings)
    is_read = is_read_from_kafka(store)
    if not is_read and wait and isinstance(target, EdgeClient):
        raise UsageError(
            f"another process has {target.label} open, and does not read pipeline {store.pipeline}",
            hint="wait for that process, or stop it; then run the same command again",
        )
    for request in asked:
        requests.ask(store, request)
    if not wait:
        if not is_read:
            note("no process of the group is running: it is done when one is started")
        return list(asked)
    if is_read:
        return await_elsewhere(
            store,
            asked,
            on_progress,
            is_there=lambda: is_read_from_kafka(store),
            gone=Unreachable("the group's processes have ended before it was done", hint=_KEPT),
        )
    place = Place(target=target, endpoint=None)
    settings = effective.settings
    daemon = make_kafka_daemon(
        effective,
        place,
        store=store,
        modes=modes_of(settings, connector_of(settings)),
        tell=tell_waits,
        observe=lambda kind, seconds: None,
    )
    return _as_member(daemon, store, asked, on_progress)


def _as_member(
    daemon: KafkaDaemon, store: QdrantState, asked: Sequence[Request], on_progress: OnProgress
) -> list[Request]:
    failed: list[BaseException] = []
    ended = threading.Event()

    def run() -> None:
        try:
            daemon.run()
        except BaseException as error:
            failed.append(error)
        finally:
            ended.set()

    member = threading.Thread(target=run, name="member", daemon=True)
    member.start()
    try:
        return requests.await_outcomes(
            store, asked, on_progress=on_progress, sleep=sleep_until(ended)
        )
    except GivenUp:
        raise (failed or [Unreachable("the group was left", hint=_KEPT)])[0] from None
    finally:
        daemon.stop()
        member.join()
