"""`qdrant-bridge dead-letters list|show|retry|drop`: rows that were set aside, and what becomes of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from backfill.retry_letters import Outcome, retry_letters
from bridge import requests
from bridge.config import Effective, Settings
from bridge.errors import CheckFailed, UsageError
from bridge.kafka_state import read_kafka
from bridge.qdrant.state import QdrantState
from bridge.qdrant.target import Target
from bridge.requests import Request
from bridge.state import Record
from cli import options as o
from cli.help import Command, Group
from cli.holder import await_holder, is_held
from cli.output import counted, note, out, print_json
from cli.pinecone_letters import of_index, retry_of_index
from cli.places import begun_state, look_at_target, postgres_url

REPORT_VERSION = 1

_ROWS = "Which rows"

Key = Annotated[
    str | None,
    typer.Argument(help="The row's key, as `list` shows it.", metavar="KEY"),
]
Of = Annotated[
    str | None,
    typer.Option("--table", help="This table's.", metavar="NAME", rich_help_panel=_ROWS),
]
All = Annotated[bool, typer.Option("--all", help="All of them.", rich_help_panel=_ROWS)]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(
        cls=Group,
        no_args_is_help=True,
        help="Rows that were set aside, and why.",
        epilog="Example: qdrant-bridge dead-letters list --config bridge.yaml",
    )
    for name, command, rest in (
        ("list", list_letters, ""),
        ("show", show, " 42"),
        ("retry", retry, " --all"),
        ("drop", drop, " 42 --table public.docs"),
    ):
        example = f"Example: qdrant-bridge dead-letters {name}{rest} --config bridge.yaml"
        group.command(name, cls=Command, epilog=example)(command)
    app.add_typer(group, name="dead-letters")


@contextmanager
def _opened(
    flags: o.Flags, *, writes: bool = False
) -> Iterator[tuple[Target, QdrantState, Settings]]:
    settings = flags.load().settings
    with look_at_target(settings, writes=writes) as target:
        store = begun_state(target, settings)
        assert target is not None  # noqa: S101 - nothing has begun without one
        yield target, store, settings


def _letters(
    store: QdrantState, table: str | None = None, key: str | None = None
) -> list[tuple[str, Record]]:
    found = [
        (name, record)
        for name, record in store.records("dead_letter")
        if (table is None or record["table"] == table) and (key is None or record["key"] == key)
    ]
    return sorted(found, key=lambda item: (item[1]["table"], item[1]["key"]))


def _chosen(
    store: QdrantState, table: str | None, key: str | None, everything: bool
) -> list[tuple[str, Record]]:
    if key is None and table is None and not everything:
        raise UsageError(
            "which rows is not said",
            hint="name a key (qdrant-bridge dead-letters list shows them), or --table, or --all",
        )
    found = _letters(store, table, key)
    if not found:
        raise UsageError("there is no such dead letter", hint="qdrant-bridge dead-letters list")
    return found


def list_letters(
    table: Of = None,
    qdrant_url: o.QdrantUrl = None,
    qdrant_key: o.QdrantKey = None,
    pg_table: o.PgTable = None,
    collection: o.QdrantCollection = None,
    config: o.Config = None,
    as_json: o.Json = False,
    skip_tls: o.SkipTls = None,
    allow_plaintext: o.AllowPlaintext = None,
    debug: o.Debug = False,
) -> None:
    """List the rows that were set aside."""
    flags = o.Flags.of(locals())
    with _opened(flags) as (_target, store, _settings):
        letters = [dict(record) for _name, record in _letters(store, table)]
    if as_json:
        print_json({"version": REPORT_VERSION, "dead_letters": letters})
        return
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("table", "key", "reason", "at"):
        # What is copied into the next command stays in one piece.
        shown.add_column(heading, overflow="fold", no_wrap=heading in ("key", "at"))
    for letter in letters:
        shown.add_row(*(Text(str(letter[name])) for name in ("table", "key", "reason", "at")))
    out().print(shown if letters else "no dead letters")


def show(
    key: Key = None,
    table: Of = None,
    qdrant_url: o.QdrantUrl = None,
    qdrant_key: o.QdrantKey = None,
    pg_table: o.PgTable = None,
    collection: o.QdrantCollection = None,
    config: o.Config = None,
    as_json: o.Json = False,
    skip_tls: o.SkipTls = None,
    allow_plaintext: o.AllowPlaintext = None,
    debug: o.Debug = False,
) -> None:
    """Show all that is known of one row that was set aside."""
    if key is None:
        raise UsageError("name the key", hint="qdrant-bridge dead-letters list")
    flags = o.Flags.of(locals())
    with _opened(flags) as (_target, store, _settings):
        letters: list[dict[str, Any]] = [
            dict(record) for _name, record in _chosen(store, table, key, False)
        ]
    if as_json:
        print_json({"version": REPORT_VERSION, "dead_letters": letters})
        return
    for letter in letters:
        for name in ("table", "key", "position", "at", "reason"):
            out().print(Text(f"{name:>9}: {letter[name]}"))


def retry(
    key: Key = None,
    table: Of = None,
    everything: All = False,
    pg_url: o.PgUrl = None,
    qdrant_url: o.QdrantUrl = None,
    qdrant_key: o.QdrantKey = None,
    pg_table: o.PgTable = None,
    pg_key: o.PgKey = None,
    pg_columns: o.PgColumns = None,
    collection: o.QdrantCollection = None,
    distance: o.QdrantDistance = None,
    config: o.Config = None,
    as_json: o.Json = False,
    skip_tls: o.SkipTls = None,
    allow_plaintext: o.AllowPlaintext = None,
    debug: o.Debug = False,
) -> None:
    """Read such rows again from Postgres and write them; exit 1 if one still cannot be."""
    flags = o.Flags.of(locals())
    with _opened(flags, writes=True) as (target, store, settings):
        chosen = _chosen(store, table, key, everything)
        records = [record for _name, record in chosen if not of_index(record)]
        outcome = retry_of_index(
            settings, [record for _name, record in chosen if of_index(record)], target, store
        )
        if records and settings.reads_kafka and read_kafka(store) is not None:
            outcome += _through_group(flags.load(), target, store, records)
        elif records and is_held(store):
            outcome += _hand_over(store, records)
        elif records:
            outcome += retry_letters(
                postgres_url(settings),
                settings.tables,
                records,
                target=target,
                store=store,
                allow_plaintext=settings.allow_plaintext,
            )
    if as_json:
        print_json({"version": REPORT_VERSION, **outcome.to_json()})
    else:
        note(f"{outcome.written} written, {outcome.gone} gone from Postgres, {outcome.kept} kept")
    if outcome.kept:
        raise CheckFailed(
            f"{counted(outcome.kept, 'row')} still cannot be written",
            hint="qdrant-bridge dead-letters list",
        )


def _hand_over(store: QdrantState, records: Sequence[Record]) -> Outcome:
    """The daemon does it within its stream, where nothing can be newer than what it reads."""
    asked = _requests(records)
    for request in asked:
        requests.ask(store, request)
    return _outcome(await_holder(store, asked, lambda request: None))


def _through_group(
    effective: Effective, target: Target, store: QdrantState, records: Sequence[Record]
) -> Outcome:
    """A process of the group does it, beside the topics. A message whose key nobody could read has
    no row."""
    rows = [record for record in records if record["key"] != record["position"]]
    outcome = Outcome(kept=len(records) - len(rows))
    if outcome.kept:
        note(
            f"{counted(outcome.kept, 'message')} without a key that could be read: nobody knows which "
            "row; dead-letters drop forgets them"
        )
    if rows:
        from cli.debezium_requests import execute_in_group  # with it comes Kafka's client

        ended = execute_in_group(effective, target, store, _requests(rows), lambda request: None)
        outcome += _outcome(ended)
    return outcome


def _requests(records: Sequence[Record]) -> list[Request]:
    by_table: dict[str, list[str]] = {}
    for record in records:
        by_table.setdefault(record["table"], []).append(record["key"])
    return [
        requests.make("retry", table, keys=tuple(keys), waited_for=True)
        for table, keys in by_table.items()
    ]


def _outcome(ended: Sequence[Request]) -> Outcome:
    outcome = Outcome()
    for request in ended:
        progress = request.progress
        if progress.stage == "failed":
            raise CheckFailed(
                f"{request.table}: {progress.reason}", hint=progress.hint, table=request.table
            )
        outcome += Outcome(written=progress.written, gone=progress.gone, kept=progress.letters)
    return outcome


def drop(
    key: Key = None,
    table: Of = None,
    everything: All = False,
    qdrant_url: o.QdrantUrl = None,
    qdrant_key: o.QdrantKey = None,
    pg_table: o.PgTable = None,
    collection: o.QdrantCollection = None,
    config: o.Config = None,
    skip_tls: o.SkipTls = None,
    allow_plaintext: o.AllowPlaintext = None,
    debug: o.Debug = False,
) -> None:
    """Forget such rows: they stay as they are in Qdrant, or missing from it."""
    flags = o.Flags.of(locals())
    with _opened(flags) as (_target, store, _settings):
        chosen = _chosen(store, table, key, everything)
        store.remove("dead_letter", [name for name, _record in chosen])
    note(f"{len(chosen)} dropped")
