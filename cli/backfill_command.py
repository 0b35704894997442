"""`qdrant-bridge backfill pgvector` (`pg`): the full copy of one table or of all that are configured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import typer

from backfill.pgvector import TableBackfill
from backfill.report import TableReport, to_json
from bridge.config import Effective
from bridge.errors import BridgeError, CheckFailed
from bridge.lease import Lease, held
from bridge.qdrant.guarded import GuardedTarget
from bridge.retry import FOR_EVER
from bridge.status import read_stream
from cli import options as o
from cli import pinecone_command
from cli.copied import COUNTS_DIFFER_HINT
from cli.display import duration
from cli.handoff import extend, prepare
from cli.help import Command, Group
from cli.output import err, note, print_json, print_table
from cli.places import Place, backfill_options, open_target, pipeline_name, require_tables, state_of
from cli.progress import RunEvent, display

# Lines of at most 78 columns, or of prose, which wraps by itself.
_EXAMPLES = (
    """
Examples:
  qdrant-bridge backfill pgvector --pg.table docs \\
      --pg.url postgresql://me@db/app --qdrant.url https://qdrant:6334
  qdrant-bridge backfill pgvector --config bridge.yaml --json
  qdrant-bridge backfill pgvector --config bridge.yaml --shard 0/4

"""
    "Booleans also take =true and =false. A run that is repeated goes on where the last one "
    "stopped. Exit code 1 if the counts of a table that stood still do not agree."
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(
        cls=Group,
        no_args_is_help=True,
        help="Copy everything once, resumably.",
        epilog="Example: qdrant-bridge backfill pgvector --config bridge.yaml",
    )
    group.command("pgvector", cls=Command, epilog=_EXAMPLES)(backfill_pgvector)
    group.command("pg", cls=Command, epilog=_EXAMPLES, hidden=True)(backfill_pgvector)
    pinecone_command.add_to(group)
    app.add_typer(group, name="backfill")


def backfill_pgvector(
    pg_url: o.PgUrl = None,
    pg_table: o.PgTable = None,
    pg_key: o.PgKey = None,
    pg_columns: o.PgColumns = None,
    qdrant_url: o.QdrantUrl = None,
    qdrant_key: o.QdrantKey = None,
    collection: o.QdrantCollection = None,
    distance: o.QdrantDistance = None,
    skip_tls: o.SkipTls = None,
    workers: o.Workers = None,
    batch_size: o.BatchSize = None,
    batch_delay: o.BatchDelay = None,
    restart: o.Restart = None,
    prepare_sync: o.PrepareSync = False,
    create_collection: o.CreateCollection = None,
    offsets_collection: o.OffsetsCollection = None,
    shard: o.Shard = None,
    config: o.Config = None,
    as_json: o.Json = False,
    allow_plaintext: o.AllowPlaintext = None,
    debug: o.Debug = False,
    show_version: o.Version = False,
) -> None:
    """Copy a Postgres table with pgvector columns into a Qdrant collection."""
    effective = o.Flags.of(locals()).load()
    reports = copy_tables(effective, quiet=as_json, prepare_sync=prepare_sync)
    if as_json:
        print_json(to_json(pipeline_name(effective.settings), reports))
    else:
        print_summary(reports)
    failed = [report for report in reports if report.problems]
    if failed:
        raise CheckFailed(
            "; ".join(
                f"{report.table}: {problem}" for report in failed for problem in report.problems
            ),
            code="COUNTS_DIFFER",
            hint=COUNTS_DIFFER_HINT,
        )


def copy_tables(
    effective: Effective, *, quiet: bool, prepare_sync: bool = False
) -> list[TableReport]:
    """Open the target and copy every configured table, one after the other.

    `prepare_sync`: publication and slot are made before the first row is read, for a stream to
    go on from.
    """
    require_tables(effective.settings)
    with open_target(effective.settings) as place:
        if prepare_sync:
            state = prepare(effective, place)
            if state.phase == "backfill":
                extend(effective, place, state)
        with _alone(effective, place) as mine:
            return copy_all(effective, mine, quiet=quiet)


@contextmanager
def _alone(effective: Effective, place: Place) -> Iterator[Place]:
    """No daemon may write meanwhile (`bridge.lease`): StopError `LEASE_HELD`, naming it.

    The lease is taken only once a stream has begun; before that shards copy side by side.
    """
    store = state_of(place, effective.settings)
    stream = read_stream(store) if store.exists() else None
    if stream is None or stream.phase == "backfill":
        if store.exists():
            Lease(store).require_takeable(_tell_holder)
        yield place
        return
    with held(store, on_wait=_tell_holder) as lease:
        guarded = GuardedTarget(place.target, before=lease.require, held_until=lease.share())
        yield replace(place, target=guarded)


def _tell_holder(who: str) -> None:
    note(f"waiting whether {who} is still alive")


def copy_all(
    effective: Effective,
    place: Place,
    *,
    quiet: bool,
    patient: bool = False,
    also: Callable[[RunEvent], None] = lambda event: None,
) -> list[TableReport]:
    """Copy every configured table. `patient`: outages are waited for without end. `also` hears the
    events that are shown."""
    settings = effective.settings
    reports: list[TableReport] = []
    with display(quiet=quiet) as show:
        options = backfill_options(effective, place)
        if patient:
            options = replace(options, patience_seconds=FOR_EVER)
        store = state_of(place, settings)

        def tell(event: RunEvent) -> None:
            show(event)
            also(event)

        runs = [
            TableBackfill(name, table, target=place.target, store=store, options=options, tell=tell)
            for name, table in settings.tables.items()
        ]
        if len(runs) > 1:
            # Else the first are copied before the last is found not to be fit for it.
            for run in runs:
                run.check()
        try:
            for run in runs:
                reports.append(run.run())
        except BridgeError:
            if reports and not quiet:
                print_summary(reports)
            raise
    return reports


def print_summary(reports: list[TableReport]) -> None:
    """The outcome: a row a table, then what is worth knowing."""
    print_table(
        err(),
        ["table", "collection", "in Postgres", "in Qdrant", "set aside", "copied", "index"],
        [
            [
                report.table,
                report.collection,
                _number(report.source_count),
                _number(report.target_count),
                f"{report.dead_letters:,}",
                _speed(report),
                "-" if report.index_seconds is None else duration(report.index_seconds),
            ]
            for report in reports
        ],
        names=2,
    )
    for report in reports:
        _print_notes(report)


def _print_notes(report: TableReport) -> None:
    if not report.complete:
        note(
            f"{report.table}: this part is done; {report.chunks_done} of {report.chunks} chunks are "
            "copied, the rest is with the other shards"
        )
    elif not report.copied_now:
        note(f"{report.table}: was copied before; --migration.restart copies it again")
    for text in report.notes:
        note(f"{report.table}: {text}", style="yellow")


def _number(count: int | None) -> str:
    return "-" if count is None else f"{count:,}"


def _speed(report: TableReport) -> str:
    if not report.copied_now:
        return "-"
    rate = report.copied_now / max(report.copy_seconds, 1e-9)
    return f"{duration(report.copy_seconds)}, {rate:,.0f}/s"
