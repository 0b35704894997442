"""Before a stream: slot and publication, tables that came later, the daemon as it is configured."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from backfill.extension import extend_stream
from backfill.handoff import prepare_stream
from bridge.config import Effective
from bridge.errors import UsageError
from bridge.postgres.slots import Blocker
from bridge.qdrant.state import QdrantState
from bridge.stream_state import StreamState
from cli.logs import log
from cli.places import Place, postgres_url, state_of
from sync.daemon import Daemon, DaemonOptions
from sync.windows import Limits


def prepare(effective: Effective, place: Place) -> StreamState:
    """Publication and slot, before the first row is read; where the pipeline stands."""
    settings = effective.settings
    return prepare_stream(
        postgres_url(settings),
        settings.tables,
        slot=settings.slot,
        publication=settings.publication,
        target=place.target,
        store=state_of(place, settings),
        create_collection=settings.migration.create_collection,
        allow_plaintext=settings.allow_plaintext,
        on_wait=tell_blockers,
    )


def extend(effective: Effective, place: Place, state: StreamState) -> StreamState:
    """Take in tables that the configuration has and the stream does not; for the lease's holder."""
    settings = effective.settings
    return extend_stream(
        postgres_url(settings),
        settings.tables,
        state,
        target=place.target,
        store=state_of(place, settings),
        create_collection=settings.migration.create_collection,
        allow_plaintext=settings.allow_plaintext,
        on_wait=tell_blockers,
    )


def make_daemon(
    effective: Effective,
    place: Place,
    *,
    store: QdrantState | None = None,
    tell: Callable[..., None] = log,
) -> Daemon:
    """The daemon; `place` is the one that the lease guards."""
    settings = effective.settings
    sync = settings.sync
    if sync is None or sync.source != "postgres":
        raise UsageError(
            "the configuration has no sync: section for Postgres",
            hint="add sync: {source: postgres} to bridge.yaml",
        )
    window = sync.window
    return Daemon(
        settings.tables,
        target=place.target,
        store=store or state_of(place, settings),
        options=DaemonOptions(
            postgres_url=postgres_url(settings),
            allow_plaintext=settings.allow_plaintext,
            limits=Limits(
                operations=window.operations,
                size_bytes=window.bytes,
                seconds=window.milliseconds / 1000,
            ),
            write_ordering=settings.qdrant.write_ordering,
        ),
        log=tell,
    )


def tell_blockers(blockers: Sequence[Blocker]) -> None:
    """Log who is waited for."""
    log("waiting_for_transactions", blockers=", ".join(map(str, blockers)))
