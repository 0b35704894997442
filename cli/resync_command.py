"""`qdrant-bridge resync`: read rows again and write them into the running stream; a stream begun again."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.text import Text

from backfill.extension import begin_again
from backfill.preflight import inspect
from bridge import recorded_schema, requests
from bridge.config import Effective
from bridge.errors import BridgeError, CheckFailed, StopError, UsageError
from bridge.kafka_state import read_kafka
from bridge.postgres import catalog
from bridge.postgres.connection import Connection, connect
from bridge.postgres.key_texts import require_key
from bridge.qdrant.state import QdrantState
from bridge.recorded_schema import RecordedSchema
from bridge.requests import Key, Request
from bridge.schema import Table
from bridge.status import read_stream
from bridge.stream_state import StreamState
from bridge.table_names import find_table, parse_table_name
from cli import options as o
from cli.handoff import tell_blockers
from cli.help import Command
from cli.holder import await_holder, execute, holding, is_held
from cli.output import err, note, print_json, print_table
from cli.places import Place, begun_state, open_target, postgres_url, require_tables, state_of
from sync.checks import SourceChecks

REPORT_VERSION = 1

LOST = ("SLOT_LOST", "GAP", "SOURCE_CHANGED", "PUBLICATION_CHANGED", "TARGET_CHANGED")
"""Stops after which the stream cannot be gone on with."""

_WHAT = "What"
_EXAMPLES = """
Examples:
  qdrant-bridge resync public.docs --config bridge.yaml
  qdrant-bridge resync public.docs --from 1000 --to 2000 --config bridge.yaml
  qdrant-bridge resync --all --config bridge.yaml
""" + (
    "\nA daemon that runs does it within its stream; else this command follows the stream for so long. "
    "Through Kafka, a process of the group does it beside the topics; else this command is one for so "
    "long. After SLOT_LOST and the like, --all begins again: another slot, every table copied, points "
    "without a row removed."
)

TableName = Annotated[
    str | None, typer.Argument(help="A table of the configuration.", metavar="TABLE")
]
From = Annotated[
    str | None,
    typer.Option(
        "--from",
        help='The first key. Of several columns: ["a", "7"].',
        metavar="KEY",
        rich_help_panel=_WHAT,
    ),
]
To = Annotated[
    str | None,
    typer.Option("--to", help="The last key, included.", metavar="KEY", rich_help_panel=_WHAT),
]
All = Annotated[bool, typer.Option("--all", help="Every table.", rich_help_panel=_WHAT)]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.", rich_help_panel=_WHAT)]
Wait = Annotated[
    bool,
    typer.Option(
        "--wait/--no-wait",
        help="Wait until it is done (the default); --no-wait hands it over and returns.",
        show_default=False,
        rich_help_panel=_WHAT,
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("resync", cls=Command, epilog=_EXAMPLES)(resync)


def resync(
    table: TableName = None,
    first: From = None,
    last: To = None,
    everything: All = False,
    yes: Yes = False,
    wait: Wait = True,
    pg_url: o.PgUrl = None,
    qdrant_url: o.QdrantUrl = None,
    qdrant_key: o.QdrantKey = None,
    config: o.Config = None,
    as_json: o.Json = False,
    skip_tls: o.SkipTls = None,
    allow_plaintext: o.AllowPlaintext = None,
    debug: o.Debug = False,
) -> None:
    """Read a table, a range of its keys or everything again, and remove points without a row."""
    if (table is None) == (not everything):
        raise UsageError(
            "what to read again is not said",
            hint="qdrant-bridge resync TABLE, or --all",
        )
    if table is None and (first is not None or last is not None):
        raise UsageError("--from and --to are keys of one table", hint="name the table")
    effective = o.Flags.of(locals()).load()
    require_tables(effective.settings)
    names = list(effective.settings.tables) if table is None else [_configured(effective, table)]
    with open_target(effective.settings, beside=True) as place:
        store = begun_state(place.target, effective.settings)
        reads_kafka = effective.settings.reads_kafka
        stream = None if reads_kafka else _require_stream(store)
        copied = recorded_schema.load(store)
        asked = [_request(effective, name, wait, first, last, copied) for name in names]
        wanted = [request for request, _table in asked]
        if stream is None:
            with _Watched() as watched:
                from cli.debezium_requests import execute_in_group  # with it comes Kafka's client

                ended = execute_in_group(
                    effective, place.target, store, wanted, watched.show, wait=wait
                )
        else:
            ended = _carry_out(effective, place, stream, wanted, everything, yes, wait)
        lacking = _unplaced(effective, store, names, [table for _request, table in asked])
    _report(ended, lacking, as_json)


def _require_stream(store: QdrantState) -> StreamState:
    stream = read_stream(store)
    if stream is None and read_kafka(store) is not None:
        raise UsageError(
            f"pipeline {store.pipeline} reads Kafka, and the configuration does not say so",
            hint="sync: {source: debezium} and kafka:, as its processes have them",
        )
    if stream is None or stream.phase == "backfill":
        raise UsageError(
            f"pipeline {store.pipeline} has no stream yet",
            hint="qdrant-bridge run begins it; backfill pgvector --migration.restart copies again",
        )
    return stream


# --- what is asked ---------------------------------------------------------------------------------


def _configured(effective: Effective, name: str) -> str:
    """The table's name as the configuration has it."""
    return find_table(effective.settings.tables, name)


def _request(
    effective: Effective,
    name: str,
    wait: bool,
    first: str | None,
    last: str | None,
    copied: Mapping[int, RecordedSchema],
) -> tuple[Request, Table]:
    """The request, and the table as the catalog has it. StopError if it was dropped."""
    settings = effective.settings
    with connect(postgres_url(settings), allow_plaintext=settings.allow_plaintext) as connection:
        _require_there(connection, name, copied)
        mapping = inspect(connection, name, settings.tables[name]).mapping
        keys: dict[str, Key | None] = {}
        for flag, text in (("--from", first), ("--to", last)):
            key = keys[flag] = _key(text, mapping.key_columns, flag)
            if key is not None:
                require_key(connection, mapping.table, mapping.key_columns, key, flag)
    request = requests.make(
        "resync",
        mapping.table.label,
        first=keys["--from"],
        last=keys["--to"],
        waited_for=wait,
    )
    return request, mapping.table


def _require_there(connection: Connection, name: str, copied: Mapping[int, RecordedSchema]) -> None:
    known = _recorded(name, copied)
    if known is None or catalog.read_table_by_oid(connection, known.oid) is not None:
        return
    if not catalog.has_table(connection, known.schema, known.name):
        raise recorded_schema.dropped(known, made_again=False)


def _recorded(name: str, copied: Mapping[int, RecordedSchema]) -> RecordedSchema | None:
    parsed = parse_table_name(name)
    return next((known for known in copied.values() if known.is_called(*parsed)), None)


def _key(text: str | None, columns: Sequence[str], flag: str) -> Key | None:
    """A key as dead letters name it: its text, or a JSON array of texts for several columns."""
    if text is None:
        return None
    if len(columns) == 1:
        return (text,)
    try:
        values = json.loads(text)
    except ValueError:
        values = None
    if not isinstance(values, list) or len(values) != len(columns):
        raise UsageError(
            f"{flag}: the key has {len(columns)} columns ({', '.join(columns)})",
            hint=f"""{flag} '["a", "7"]'""",
        )
    return tuple(value if isinstance(value, str) else json.dumps(value) for value in values)


def _unplaced(
    effective: Effective, store: QdrantState, names: Sequence[str], tables: Sequence[Table]
) -> dict[str, list[str]]:
    """By table, the vector columns that its collection has no place for, also now."""
    copied = recorded_schema.load(store)
    found: dict[str, list[str]] = {}
    for name, table in zip(names, tables, strict=True):
        known = _recorded(name, copied)
        if known is not None:
            columns = known.unplaced_vectors(table, effective.settings.tables[name])
            if columns:
                found[table.label] = columns
    return found


# --- doing it --------------------------------------------------------------------------------------


def _carry_out(
    effective: Effective,
    place: Place,
    stream: StreamState,
    wanted: list[Request],
    everything: bool,
    yes: bool,
    wait: bool,
) -> list[Request]:
    """Hand it to the daemon, or do it; the requests as they ended, or as they were handed over."""
    store = state_of(place, effective.settings)
    with _Watched() as watched:
        if is_held(store):
            for request in wanted:
                requests.ask(store, request)
            return await_holder(store, wanted, watched.show) if wait else wanted
        lost = _why_lost(effective, place, stream) if everything else None
        if lost is not None:
            _confirm(lost, yes)
            with holding(effective, place) as mine:
                asked = _begin_again(effective, mine, stream, wait)
                return execute(effective, mine, asked, watched.show) if wait else asked
        for request in wanted:
            requests.ask(store, request)
        if not wait:
            note("no daemon is running: it is done when one is started")
            return wanted
        with holding(effective, place) as mine:
            return execute(effective, mine, wanted, watched.show)


def _why_lost(effective: Effective, place: Place, stream: StreamState) -> StopError | None:
    """Why the stream cannot be gone on with; None if it can."""
    settings = effective.settings
    if stream.stop is not None and stream.stop.code == "SOURCE_CHANGED":
        return StopError(stream.stop.message, code=stream.stop.code)
    known = stream.facts["tables"]
    try:
        connection = connect(postgres_url(settings), allow_plaintext=settings.allow_plaintext)
        found = str(catalog.server_facts(connection).system_identifier)
        if found != stream.facts["system_id"]:
            connection.close()
            return StopError("this is another cluster", code="SOURCE_CHANGED")
        followed = {
            name: table
            for name, table in settings.tables.items()
            if any(name in (label, label.partition(".")[2]) for label in known)
        }
        checks = SourceChecks(connection, followed, place.target)
        try:
            store = state_of(place, settings)
            checks.require_sound(lambda: read_stream(store) or stream)
        finally:
            checks.close()
    except StopError as error:
        if error.code not in LOST:
            raise
        told = _moved(effective, place) if error.code == "TARGET_CHANGED" else None
        return told or error
    return None


def _moved(effective: Effective, place: Place) -> StopError | None:
    """That a table is to go into another collection, which was never there; None if none is."""
    copied = recorded_schema.load(state_of(place, effective.settings))
    for name, settings in effective.settings.tables.items():
        known, wanted = _recorded(name, copied), settings.collection
        if known is None or wanted is None or wanted == known.collection:
            continue
        if place.target.collection(wanted) is None:
            return recorded_schema.moved(known, wanted)
    return None


def _confirm(lost: BridgeError, yes: bool) -> None:
    # Where the collection is another, no change is lost: it has none of the rows yet.
    why = (
        "" if lost.code == "TARGET_CHANGED" else "What has changed since cannot be read any more. "
    )
    note(
        f"{lost.message}. {why}A new replication slot is made, all tables are copied again, and points "
        "without a row are removed. A collection that the configuration no longer names stays as it is."
    )
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(
            "that is not begun without being asked for", hint="qdrant-bridge resync --all --yes"
        )
    if not typer.confirm("Begin again?", err=True):
        raise UsageError(
            "nothing was done", hint="the stream stays stopped until it is begun again"
        )


def _begin_again(
    effective: Effective, place: Place, stream: StreamState, wait: bool
) -> list[Request]:
    settings = effective.settings
    _state, asked = begin_again(
        postgres_url(settings),
        settings.tables,
        stream,
        publication=settings.publication,
        target=place.target,
        store=state_of(place, settings),
        create_collection=settings.migration.create_collection,
        allow_plaintext=settings.allow_plaintext,
        waited_for=wait,
        on_wait=tell_blockers,
    )
    return asked


# --- what is shown ---------------------------------------------------------------------------------


class _Watched:
    """One line on a terminal, rewritten as the request goes on; nothing in a pipe."""

    def __init__(self) -> None:
        self._console = err()
        self._status = self._console.status("waiting for the daemon")

    def __enter__(self) -> _Watched:
        if self._console.is_terminal:
            self._status.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._status.stop()

    def show(self, request: Request) -> None:
        """The request as it is now."""
        progress = request.progress
        about = f" of about {progress.estimated_rows:,}" if progress.estimated_rows > 0 else ""
        stages = {
            "asked": "waiting for the daemon",
            "rows": f"{progress.rows:,}{about} rows",
            "extras": f"looking for points without a row; {progress.extras:,} so far",
        }
        told = stages.get(progress.stage, progress.stage)
        if progress.waiting:
            told += f"; waiting for {progress.waiting}"
        self._status.update(Text(f"{request.table}: {told}"))


def _report(ended: Sequence[Request], lacking: Mapping[str, Sequence[str]], as_json: bool) -> None:
    if as_json:
        print_json({"version": REPORT_VERSION, "requests": [to_json(r, lacking) for r in ended]})
    else:
        _print(ended)
    for name, columns in lacking.items():
        told = f"{name}: {recorded_schema.unplaced(columns)}; no resync brings that"
        note(f"{told}. {recorded_schema.UNPLACED_HINT}", style="yellow")
    failed = [request for request in ended if request.progress.stage == "failed"]
    if failed:
        first = failed[0].progress
        raise CheckFailed(
            "; ".join(f"{r.table}: {r.progress.reason}" for r in failed), hint=first.hint
        )


def to_json(request: Request, lacking: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """As `--json` prints it. `outcome`: done, failed, or asked where nobody waited."""
    progress = request.progress
    return {
        "table": request.table,
        "outcome": progress.stage,
        "rows": progress.rows,
        "written": progress.written,
        "dead_letters": progress.letters,
        "extras": progress.extras,
        "extras_removed": not progress.extras_kept,
        "vectors_left_out": list(lacking.get(request.table, ())),
        "reason": progress.reason or None,
    }


def _print(ended: Sequence[Request]) -> None:
    print_table(
        err(),
        ["table", "outcome", "rows", "written", "set aside", "without a row"],
        [_row(request) for request in ended],
        names=2,
    )
    if any(request.progress.extras_kept and request.progress.extras for request in ended):
        note("points of other origin are kept; owns_collection: true lets all of them go")


def _row(request: Request) -> list[str]:
    progress = request.progress
    return [
        request.table,
        {"asked": "handed over"}.get(progress.stage, progress.stage),
        f"{progress.rows:,}",
        f"{progress.written:,}",
        f"{progress.letters:,}",
        f"{progress.extras:,}" + (" (kept)" if progress.extras_kept else ""),
    ]
