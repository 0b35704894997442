"""`qdrant-bridge status`: how far a pipeline is; once, all the time, or as soon as it is far enough."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from bridge.config import Settings
from bridge.errors import BridgeError, Unreachable, UsageError
from bridge.kafka_state import read_kafka
from bridge.positions import Lsn
from bridge.postgres.connection import Connection, connect
from bridge.postgres.progress import SourceProgress, look
from bridge.qdrant.state import QdrantState
from bridge.status import read_stream, status_report
from cli import options as o
from cli.help import Command
from cli.output import out, print_json
from cli.places import begun_state, look_at_target, postgres_url

WATCH_SECONDS = 1.0
POLL_SECONDS = 0.1

_STREAM = "Stream"

Watch = Annotated[
    bool,
    typer.Option("--watch", help="Show it again every second.", rich_help_panel=_STREAM),
]
Wait = Annotated[
    str | None,
    typer.Option(
        "--wait",
        help="Return once the checkpoint has reached this position of Postgres' log (16/B374D848), "
        "or where Postgres is now (now).",
        metavar="POSITION",
        rich_help_panel=_STREAM,
    ),
]
Timeout = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        help="Seconds that --wait waits; then exit code 4. Default: without end.",
        metavar="SECONDS",
        min=0.0,
        show_default=False,
        rich_help_panel=_STREAM,
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "status", cls=Command, epilog="Example: qdrant-bridge status --config bridge.yaml --json"
    )(status)


def status(
    watch: Watch = False,
    wait: Wait = None,
    timeout: Timeout = None,
    pg_url: o.PgUrl = None,
    qdrant_url: o.QdrantUrl = None,
    qdrant_key: o.QdrantKey = None,
    pg_table: o.PgTable = None,
    collection: o.QdrantCollection = None,
    skip_tls: o.SkipTls = None,
    config: o.Config = None,
    as_json: o.Json = False,
    allow_plaintext: o.AllowPlaintext = None,
    debug: o.Debug = False,
) -> None:
    """Show phase, lag, counts and dead letters of a pipeline."""
    _require_sense(watch, wait, timeout, as_json)
    settings = o.Flags.of(locals()).load().settings
    with look_at_target(settings) as target, _source(settings) as source:
        store = begun_state(target, settings)
        if wait is not None and read_kafka(store) is not None:
            from cli.debezium_status import wait_for_ends  # with it comes Kafka's client

            wait_for_ends(store, wait, settings, timeout_seconds=timeout)
        elif wait is not None:
            wait_until(store, _position(wait, settings), timeout_seconds=timeout)
        if watch:
            _watch(lambda: _report(store, source))
        elif as_json:
            print_json(_report(store, source))
        else:
            out().print(_shown(_report(store, source)))


def _require_sense(watch: bool, wait: str | None, timeout: float | None, as_json: bool) -> None:
    if watch and as_json:
        raise UsageError(
            "--watch is for people, --json for scripts",
            hint="scripts wait with --wait POSITION, or ask again",
        )
    if timeout is not None and wait is None:
        raise UsageError("--timeout belongs to --wait", hint="--wait now --timeout 60")


# --- Postgres, if it can be asked ------------------------------------------------------------------


class _Source:
    """Postgres' position, looked up over one connection; `note` says why it is not known."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._connection: Connection | None = None
        self.note = ""

    def look(self, slot: str) -> SourceProgress | None:
        if self._settings.postgres.url is None:
            self.note = "no Postgres url is configured (--pg.url, postgres.url)"
            return None
        try:
            if self._connection is None:
                self._connection = _connect(self._settings)
            return look(self._connection, slot)
        except BridgeError as error:
            self.close()
            self.note = error.message
            return None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


@contextmanager
def _source(settings: Settings) -> Iterator[_Source]:
    source = _Source(settings)
    try:
        yield source
    finally:
        source.close()


def _connect(settings: Settings) -> Connection:
    return connect(postgres_url(settings), allow_plaintext=settings.allow_plaintext)


def _report(store: QdrantState, source: _Source) -> dict[str, Any]:
    stream = read_stream(store)
    seen = None if stream is None else source.look(str(stream.facts["slot"]))
    return status_report(store, seen, source_note=source.note)


# --- waiting ---------------------------------------------------------------------------------------


def _position(text: str, settings: Settings) -> Lsn:
    if text == "now":
        with _connect(settings) as connection:
            return look(connection).lsn
    try:
        return Lsn.parse(text)
    except ValueError:
        raise UsageError(
            f"--wait: {text!r} is no position",
            hint="as pg_current_wal_lsn() prints it (16/B374D848), or now",
        ) from None


def wait_until(
    store: QdrantState,
    position: Lsn,
    *,
    timeout_seconds: float | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Return once the checkpoint has reached the position; Unreachable (exit 4) after the timeout.

    A daemon that stopped, and a Qdrant that does not answer, may both come back: they are waited for.
    """
    began = clock()
    reason = "the pipeline has no stream"
    while True:
        try:
            stream = read_stream(store)
        except Unreachable as error:
            reason = error.message
        else:
            if stream is not None:
                if stream.checkpoint >= position:
                    return
                reason = f"the checkpoint is {stream.checkpoint}, the phase {stream.phase}"
                if stream.stop is not None:
                    reason += f" ({stream.stop.code}: {stream.stop.message})"
        if timeout_seconds is not None and clock() - began >= timeout_seconds:
            raise Unreachable(
                f"{position} was not reached within {timeout_seconds:g} s: {reason}",
                hint="is the daemon running? see qdrant-bridge status",
            )
        sleep(POLL_SECONDS)


# --- for people ------------------------------------------------------------------------------------


def _watch(report: Callable[[], dict[str, Any]]) -> None:
    """Until Ctrl-C. Into a file or a pipe, one report after the other."""
    console = out()
    with suppress(KeyboardInterrupt):
        if not console.is_terminal:
            while True:
                console.print(_shown(report()))
                time.sleep(WATCH_SECONDS)
        with Live(_shown(report()), console=console, auto_refresh=False) as live:
            while True:
                time.sleep(WATCH_SECONDS)
                live.update(_shown(report()), refresh=True)


def _shown(report: dict[str, Any]) -> RenderableType:
    streams = report["checkpoint_lsn"] is not None or "kafka" in report
    parts: list[RenderableType] = [Text(_headline(report), style="bold")]
    if "kafka" in report:
        from cli.debezium_status import kafka_lines

        parts.append(Text("\n".join([*kafka_lines(report), *_stop_lines(report)])))
    elif streams:
        parts.append(_stream_lines(report))
    parts += [_tables(report, streams), Text(f"dead letters: {report['dead_letters']:,}")]
    parts += [Text(_request(request)) for request in report["requests"]]
    return Group(*parts)


def _headline(report: dict[str, Any]) -> str:
    if report["phase"] != "backfill":
        return f"pipeline {report['pipeline']}: {_stream_phase(report)}"
    how = "complete" if report["complete"] else "under way or interrupted"
    return f"pipeline {report['pipeline']}: backfill {how}"


def _stream_phase(report: dict[str, Any]) -> str:
    """The phase, unless nobody is in it any more."""
    phase = str(report["phase"]).replace("_", " ")
    if "holder" not in report or report["holder"]["alive"] is not False:
        return phase
    if phase != "stopped":
        return f"no daemon is running (the last one was {phase} and did not end in order)"
    return phase if report["stop"] else "ended in order; a daemon goes on from here"


def _stream_lines(report: dict[str, Any]) -> RenderableType:
    lines = [f"checkpoint {report['checkpoint_lsn']}"]
    if report["source_lsn"] is None:
        lines.append(f"Postgres: not looked at: {report['source_note']}")
    else:
        seconds = report["lag"]["seconds"]
        lag = f"{report['lag']['bytes']:,} bytes"
        lag += "" if seconds is None else f", {seconds:.1f} s"
        slot = report["slot"]
        kept = "" if slot["retained_bytes"] is None else f", keeps {slot['retained_bytes']:,} bytes"
        reader = "is read" if slot["active"] else "is not read by anybody"
        lines.append(f"Postgres   {report['source_lsn']}, lag {lag}")
        lines.append(f"slot       {slot['wal_status']}, {reader}{kept}")
    lines += _stop_lines(report)
    return Text("\n".join(lines))


def _request(request: dict[str, Any]) -> str:
    """A request that has not ended, in a line."""
    text = f"asked: {request['action']} {request['table']}, {request['stage']}"
    text += f", {request['rows']:,} rows" if request["rows"] else ""
    return text + (f", waiting for {request['waiting']}" if request["waiting"] else "")


def _stop_lines(report: dict[str, Any]) -> list[str]:
    stop = report["stop"]
    if stop is None:
        return []
    lines = [f"stopped    {stop['code']}: {stop['message']}"]
    return [*lines, f"remedy     {stop['hint']}"] if stop["hint"] else lines


def _tables(report: dict[str, Any], streams: bool) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    headings = ["table", "collection", "chunks", "rows read", "written"]
    for heading in headings + (["patched", "removed"] if streams else []):
        left = heading in ("table", "collection")
        table.add_column(heading, justify="left" if left else "right", overflow="fold")
    for name, row in report["tables"].items():
        cells = [
            Text(name),
            Text(row["collection"]),
            Text(f"{row['chunks_done']} of {row['chunks']}"),
            Text(f"{row['rows_read']:,}"),
            Text(f"{row['upserts']:,}"),
        ]
        if streams:
            cells += [Text(f"{row['patches']:,}"), Text(f"{row['deletes']:,}")]
        table.add_row(*cells)
    return table
