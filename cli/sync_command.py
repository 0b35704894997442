"""`qdrant-bridge sync postgres` and `run`: the daemon, with or without the copy before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import typer

from bridge.config import Effective, SyncSettings
from bridge.errors import StopError, UsageError
from bridge.state import TablePlan
from bridge.status import read_stream
from bridge.stream_state import RECORD_NAME, StreamState
from cli import options as o
from cli.backfill_command import copy_all
from cli.copied import require_equal
from cli.copy_metrics import CopyMetrics
from cli.handoff import extend, make_daemon, prepare
from cli.help import Command, Group
from cli.places import Place, require_tables, state_of
from cli.service import Service, service


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(
        cls=Group,
        no_args_is_help=True,
        help="Keep Qdrant equal to Postgres.",
        epilog="Example: qdrant-bridge sync postgres --config bridge.yaml",
    )
    for name, command in (("postgres", sync_postgres), ("debezium", sync_debezium)):
        example = f"Example: qdrant-bridge sync {name} --config bridge.yaml"
        group.command(name, cls=Command, epilog=example)(command)
    app.add_typer(group, name="sync")
    app.command("run", cls=Command, epilog="Example: qdrant-bridge run --config bridge.yaml")(run)


def sync_postgres(
    config: o.Config = None,
    pg_url: o.PgUrl = None,
    qdrant_url: o.QdrantUrl = None,
    qdrant_key: o.QdrantKey = None,
    skip_tls: o.SkipTls = None,
    allow_plaintext: o.AllowPlaintext = None,
    debug: o.Debug = False,
) -> None:
    """Follow the changes of Postgres, from where the copy began or the daemon stopped."""
    effective = _with_sync(_effective(locals()))
    with service(effective.settings) as around, around.open() as place:
        around.patiently(lambda: _require_copied(effective, place))
        with around.holding(place) as held:
            follow(effective, held, around)


def sync_debezium(
    config: o.Config = None,
    pg_url: o.PgUrl = None,
    qdrant_url: o.QdrantUrl = None,
    qdrant_key: o.QdrantKey = None,
    skip_tls: o.SkipTls = None,
    allow_plaintext: o.AllowPlaintext = None,
    debug: o.Debug = False,
) -> None:
    """Follow Debezium's topics in Kafka, as one process of a consumer group."""
    effective = _effective(locals())
    with service(effective.settings) as around, around.open() as place:
        _run_debezium(effective, around, place, copy=False)


def run(
    config: o.Config = None,
    pg_url: o.PgUrl = None,
    qdrant_url: o.QdrantUrl = None,
    qdrant_key: o.QdrantKey = None,
    skip_tls: o.SkipTls = None,
    workers: o.Workers = None,
    batch_size: o.BatchSize = None,
    allow_plaintext: o.AllowPlaintext = None,
    debug: o.Debug = False,
) -> None:
    """Copy the tables if that is not done yet, then follow their changes: the whole life."""
    effective = _with_sync(_effective(locals()))
    with service(effective.settings) as around, around.open() as place:
        if effective.settings.reads_kafka:
            _run_debezium(effective, around, place)
            return
        state = around.board.state = around.patiently(lambda: prepare(effective, place))
        around.watch(str(state.facts["slot"]))
        # Before the copy: two that copy at once would end with one copying behind the other's stream.
        with around.holding(place) as held:
            if state.phase == "backfill":
                around.patiently(lambda: extend(effective, held, state))
                told = CopyMetrics(around.telemetry)
                # Again from the beginning, where recorded chunks are passed over: what is asked before
                # and after the chunks does not wait by itself.
                reports = around.patiently(
                    lambda: copy_all(effective, held, quiet=False, patient=True, also=told)
                )
                require_equal(reports)
            follow(effective, held, around)


def follow(effective: Effective, place: Place, around: Service) -> None:
    """The daemon, until it is told to stop; `place` is the one that the lease guards."""
    stream = around.patiently(lambda: read_stream(around.state_of(place)))
    if stream is not None:
        # A table that the configuration has got since; during the first copy that is done before.
        try:
            around.patiently(lambda: extend(effective, place, stream))
        except StopError as error:
            record = stream.stopped_by(error).to_record()
            around.patiently(lambda: around.state_of(place).put("stream", RECORD_NAME, record))
            raise
    store = around.state_of(place)
    # It reads its records.
    around.follow(
        around.patiently(lambda: make_daemon(effective, place, store=store, tell=around.tell))
    )


def _require_copied(effective: Effective, place: Place) -> None:
    """UsageError unless every table's chunks are done: the stream alone would miss what was before.

    Tables that the stream takes in later are copied within it (`backfill.extension`).
    """
    store = state_of(place, effective.settings)
    plans = {} if not store.exists() else dict(store.records("plan"))
    done = [name for name, _record in store.records("chunk")] if plans else []
    stream = read_stream(store) if plans else None
    later = _taken_in_later(effective, stream)
    missing = [
        name
        for name in effective.settings.tables
        if name not in later
        and not any(_is_complete(TablePlan.from_record(r), done, name) for r in plans.values())
    ]
    if missing:
        raise UsageError(
            f"not copied yet: {', '.join(missing)}",
            code="NOT_PREPARED",
            hint="qdrant-bridge run copies and then follows; or backfill pgvector --prepare-sync first",
        )


def _is_complete(plan: TablePlan, done: Sequence[str], name: str) -> bool:
    table = plan.source.table
    same = table == name or table.partition(".")[2] == name
    return same and sum(chunk.startswith(f"{table}/") for chunk in done) == plan.chunks


def _taken_in_later(effective: Effective, stream: StreamState | None) -> set[str]:
    """Tables of the configuration that are none of the first copy's."""
    if stream is None or stream.phase == "backfill":
        return set()
    first = set(stream.facts["tables"]) - set(stream.facts.get("added", ()))
    return {
        name
        for name in effective.settings.tables
        if not any(name in (label, label.partition(".")[2]) for label in first)
    }


def _effective(parameters: Mapping[str, Any]) -> Effective:
    effective = o.Flags.of(parameters).load()
    require_tables(effective.settings)
    return effective


def _with_sync(effective: Effective) -> Effective:
    """The command itself asks for a stream: the section, all of which has defaults, need not be there."""
    settings = effective.settings
    if settings.sync is not None:
        return effective
    return replace(effective, settings=settings.model_copy(update={"sync": SyncSettings()}))


def _run_debezium(
    effective: Effective, around: Service, place: Place, *, copy: bool = True
) -> None:
    from cli.debezium_command import run_debezium  # Kafka's client is not every command's to load

    run_debezium(effective, around, place, copy=copy)
