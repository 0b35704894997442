"""`qdrant-bridge sync postgres` and `run`: the daemon, with or without the copy before it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence

import typer

from backfill.handoff import prepare_stream
from backfill.report import TableReport
from bridge.config import Effective
from bridge.errors import CheckFailed, UsageError
from bridge.postgres.slots import Blocker
from bridge.state import TablePlan
from bridge.stream_state import StreamState
from cli import options as o
from cli.backfill_command import copy_all
from cli.logs import log
from cli.places import Place, open_target, pipeline_name, postgres_url, require_tables, state_of
from sync.daemon import Daemon, DaemonOptions
from sync.windows import Limits


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(no_args_is_help=True, help="Keep Qdrant equal to Postgres.")
    group.command("postgres", epilog="Example: qdrant-bridge sync postgres --config bridge.yaml")(
        sync_postgres
    )
    app.add_typer(group, name="sync")
    app.command("run", epilog="Example: qdrant-bridge run --config bridge.yaml")(run)


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
    effective = _effective(config, pg_url, qdrant_url, qdrant_key, skip_tls, allow_plaintext)
    with open_target(effective.settings) as place:
        _require_copied(effective, place)
        follow(effective, place)


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
    effective = _effective(
        config, pg_url, qdrant_url, qdrant_key, skip_tls, allow_plaintext, workers, batch_size
    )
    with open_target(effective.settings) as place:
        state = prepare(effective, place)
        if state.phase == "backfill":
            require_equal(copy_all(effective, place, quiet=False, patient=True))
        follow(effective, place)


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
        on_wait=_tell_blockers,
    )


def require_equal(reports: Sequence[TableReport]) -> None:
    """CheckFailed if a copy lost rows: a stream on top of it would hide that."""
    problems = [f"{r.table}: {problem}" for r in reports for problem in r.problems]
    if problems:
        raise CheckFailed(
            "; ".join(problems), code="COUNTS_DIFFER", hint="copy again with --migration.restart"
        )


def follow(effective: Effective, place: Place) -> None:
    """The daemon, until it is told to stop."""
    settings = effective.settings
    sync = settings.sync
    if sync is None or sync.source != "postgres":
        raise UsageError(
            "the configuration has no sync: section for Postgres",
            hint="add sync: {source: postgres} to bridge.yaml",
        )
    window = sync.window
    daemon = Daemon(
        settings.tables,
        target=place.target,
        store=state_of(place, settings),
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
        log=log,
    )
    asyncio.run(_until_stopped(daemon, pipeline_name(settings)))


async def _until_stopped(daemon: Daemon, pipeline: str) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, daemon.stop)
    log("starting", pipeline=pipeline, checkpoint=str(daemon.state.checkpoint))
    await daemon.run()
    log("ended", checkpoint=str(daemon.state.checkpoint))


def _require_copied(effective: Effective, place: Place) -> None:
    """UsageError unless every table's chunks are done: the stream alone would miss what was before."""
    store = state_of(place, effective.settings)
    plans = {} if not store.exists() else dict(store.records("plan"))
    done = [name for name, _record in store.records("chunk")] if plans else []
    missing = [
        name
        for name in effective.settings.tables
        if not any(_is_complete(TablePlan.from_record(r), done, name) for r in plans.values())
    ]
    if missing:
        raise UsageError(
            f"not copied yet: {', '.join(missing)}",
            hint="qdrant-bridge run copies and then follows; or backfill pgvector --prepare-sync first",
        )


def _is_complete(plan: TablePlan, done: Sequence[str], name: str) -> bool:
    table = plan.source.table
    same = table == name or table.partition(".")[2] == name
    return same and sum(chunk.startswith(f"{table}/") for chunk in done) == plan.chunks


def _tell_blockers(blockers: Sequence[Blocker]) -> None:
    log("waiting_for_transactions", blockers=", ".join(map(str, blockers)))


def _effective(
    config: object,
    pg_url: str | None,
    qdrant_url: str | None,
    qdrant_key: str | None,
    skip_tls: bool | None,
    allow_plaintext: bool | None,
    workers: int | None = None,
    batch_size: int | None = None,
) -> Effective:
    effective = o.Flags(
        config=config,  # type: ignore[arg-type]
        pg_url=pg_url,
        qdrant_url=qdrant_url,
        qdrant_key=qdrant_key,
        skip_tls=skip_tls,
        allow_plaintext=allow_plaintext,
        workers=workers,
        batch_size=batch_size,
    ).load()
    require_tables(effective.settings)
    return effective
