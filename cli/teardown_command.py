"""`qdrant-bridge teardown`: removes what the bridge made for itself; asks first."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from backfill.teardown import Made, look, tear_down
from bridge.config import Settings
from bridge.errors import UsageError
from bridge.kafka_status import is_read_from_kafka
from bridge.lease import held
from bridge.postgres.connection import Connection, connect
from bridge.qdrant.state import QdrantState
from bridge.qdrant.target import Target
from cli import options as o
from cli.help import Command
from cli.output import note, print_json
from cli.places import look_at_target, pipeline_name, postgres_url

REPORT_VERSION = 1

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "teardown", cls=Command, epilog="Example: qdrant-bridge teardown --config bridge.yaml"
    )(teardown)


def teardown(
    yes: Yes = False,
    pg_url: o.PgUrl = None,
    pg_table: o.PgTable = None,
    qdrant_url: o.QdrantUrl = None,
    qdrant_key: o.QdrantKey = None,
    collection: o.QdrantCollection = None,
    skip_tls: o.SkipTls = None,
    config: o.Config = None,
    as_json: o.Json = False,
    allow_plaintext: o.AllowPlaintext = None,
    debug: o.Debug = False,
) -> None:
    """Remove a pipeline's slot, publication and records. Collections and tables stay."""
    settings = o.Flags.of(locals()).load().settings
    pipeline = pipeline_name(settings)
    removed: list[str] = []
    with look_at_target(settings) as target, _alone(target, pipeline) as store:
        made = _made(store, settings)
        if not made.nothing:
            _require_consent(made, pipeline, yes)
            with _source(made, settings) as connection:
                removed = tear_down(
                    made,
                    pipeline=pipeline,
                    connection=connection,
                    target=target,
                    store=store,
                    tell=lambda what: note(f"removed: {what}"),
                )
    if as_json:
        print_json({"version": REPORT_VERSION, "pipeline": pipeline, "removed": removed})
    elif not removed:
        note(f"pipeline {pipeline}: there is nothing to remove")


@contextmanager
def _alone(target: Target | None, pipeline: str) -> Iterator[QdrantState | None]:
    """The records, with the lease held: a daemon that is alive is named (`LEASE_HELD`)."""
    store = None if target is None else QdrantState(target, pipeline)
    if store is None or not store.exists():
        yield None
        return
    if is_read_from_kafka(store):
        raise UsageError(
            "processes read the pipeline's topics", hint="stop all of them, then wait 20 s"
        )
    with held(store, on_wait=lambda who: note(f"waiting whether {who} is still alive")):
        yield store
    store.remove("lease", ["lease"])


def _made(store: QdrantState | None, settings: Settings) -> Made:
    streams = settings.sync is not None and settings.sync.source == "postgres"
    return look(
        store,
        slot=settings.slot if streams else None,
        publication=settings.publication if streams else None,
    )


@contextmanager
def _source(made: Made, settings: Settings) -> Iterator[Connection | None]:
    if made.slot is None:
        yield None
        return
    url, plaintext = postgres_url(settings), settings.allow_plaintext
    with connect(url, allow_plaintext=plaintext, read_only=False) as connection:
        yield connection


def _require_consent(made: Made, pipeline: str, yes: bool) -> None:
    if yes:
        return
    parts = []
    if made.slot is not None:
        parts.append(
            f"the replication slot {made.slot} and the publication {made.publication} (if the "
            "bridge made them)"
        )
    if made.records:
        parts.append(f"{made.records:,} records of progress in Qdrant")
    note(f"pipeline {pipeline}: this removes {', and '.join(parts)}.")
    note("Collections and tables stay. Without the slot, a new copy is needed to follow again.")
    if not sys.stdin.isatty():
        raise UsageError("nobody is there to be asked", hint="add --yes")
    if not typer.confirm("Remove them?", err=True):
        raise UsageError("nothing was removed")
