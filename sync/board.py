"""What the daemon shows of itself: /healthz, /readyz, /metrics, and a page for people with its feed.

    /               the page (`status_page.html`), which draws what /events sends
    /events         the report, every second, as server-sent events; the first with the last ten minutes
    /status.json    the report with the last ten minutes, once

Read by the HTTP thread while others write: it reads single attributes, each of which is replaced as a
whole, and calls nothing that blocks. Postgres' position is looked up by a thread of its own
(`SourceWatch`), so that a scrape never waits for a database.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from http import HTTPStatus
from importlib.metadata import version
from typing import Any, Self

from bridge.errors import BridgeError, StopError
from bridge.postgres.connection import Connection, connect
from bridge.postgres.progress import SourceProgress, look
from bridge.status import lag, slot_report
from bridge.stream_state import StreamState, TableCounts
from bridge.telemetry import Copied, Telemetry, exposition
from sync.board_samples import samples_of
from sync.daemon import Daemon
from sync.history import History, Moment
from sync.http import METRICS, Feed, Response, Routes
from sync.kafka_board import KafkaProcess, process_phase, with_kafka
from sync.status_page import page

LOOK_SECONDS = 2.0
WAITING_SECONDS = 15.0
"""So long a wait is shown as the present one: the longest pause between two tries is ten seconds."""


class SourceWatch:
    """Looks at Postgres every few seconds; `seen` is None while it cannot be asked."""

    def __init__(
        self,
        url: str,
        slot: str,
        *,
        allow_plaintext: bool,
        tell: Callable[..., None],
        seconds: float = LOOK_SECONDS,
    ) -> None:
        self._url = url
        self._slot = slot
        self._allow_plaintext = allow_plaintext
        self._tell = tell
        self._seconds = seconds
        self._connection: Connection | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="source-watch", daemon=True)
        self.seen: SourceProgress | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._ended.set()
        self._thread.join(self._seconds)

    def _run(self) -> None:
        while True:
            self._look()
            if self._ended.wait(self._seconds):
                break
        if self._connection is not None:
            self._connection.close()

    def _look(self) -> None:
        try:
            if self._connection is None:
                self._connection = connect(self._url, allow_plaintext=self._allow_plaintext)
            self.seen = look(self._connection, self._slot)
        except BridgeError as error:
            if self.seen is not None:
                self._tell("source_unseen", reason=error.message)
            self.seen = None
            if self._connection is not None:
                self._connection.close()
                self._connection = None


class Board:
    """The state of this process, for whoever asks."""

    def __init__(
        self,
        pipeline: str,
        telemetry: Telemetry,
        *,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pipeline = pipeline
        self._telemetry = telemetry
        self._wall = wall
        self._clock = clock
        self._version = version("qdrant-bridge")
        self._history = History()
        self._waits = 0
        self._waited_at = float("-inf")
        self.state: StreamState | None = None
        self.daemon: Daemon | None = None
        self.watch: SourceWatch | None = None
        self.stop: StopError | None = None
        self.kafka: KafkaProcess | None = None

    @property
    def routes(self) -> Routes:
        """What `HttpServer` answers."""
        return {
            "/healthz": lambda: Response.of_json({"status": "ok"}),
            "/readyz": self._readyz,
            "/metrics": self._metrics,
            "/status.json": lambda: Response.of_json(self._full_report()),
            "/events": lambda: Feed(first=self._full_report, following=self._next_report),
            "/": page,
        }

    @property
    def phase(self) -> str:
        """That of the pipeline; `starting` before it is known."""
        if self.stop is not None:
            return "stopped"
        if self.kafka is not None:
            return process_phase(self.kafka)
        state = self._stream
        return "starting" if state is None else state.phase

    @property
    def ready(self) -> bool:
        """Whether a session streams, and nothing has stopped it."""
        daemon = self.daemon
        if self.kafka is not None:
            return self.stop is None and self.kafka.connected
        return (
            self.stop is None
            and daemon is not None
            and daemon.connected
            and daemon.state.phase in ("catching_up", "streaming")
        )

    @property
    def _stream(self) -> StreamState | None:
        return self.state if self.daemon is None else self.daemon.state

    def tick(self) -> None:
        """Every second: keep a point of the history, and whether something is waited for."""
        waits = self._telemetry.count_of("waiting")
        if waits != self._waits:
            self._waits, self._waited_at = waits, self._clock()
        report = self._report()
        lag_now = report["lag"] or {}
        tables = report["tables"].values()
        self._history.add(
            Moment(
                at=round(self._wall(), 1),
                lag_seconds=lag_now.get("seconds"),
                lag_bytes=lag_now.get("bytes"),
                changes=sum(t["upserts"] + t["patches"] + t["deletes"] for t in tables),
                rows=sum(copied.rows for copied in self._telemetry.copies),
            )
        )

    # --- the report ----------------------------------------------------------------------------

    def _report(self) -> dict[str, Any]:
        state, source = self._stream, self.watch.seen if self.watch else None
        daemon, stop = self.daemon, self.stop
        saved_at = None if daemon is None else daemon.saved_at
        report: dict[str, Any] = {
            "pipeline": self._pipeline,
            "version": self._version,
            "at": datetime.fromtimestamp(self._wall(), UTC).isoformat(timespec="seconds"),
            "ready": self.ready,
            "phase": self.phase,
            "connected": daemon is not None and daemon.connected,
            "source_reachable": None if self.watch is None else source is not None,
            "checkpoint_lsn": None if state is None else str(state.checkpoint),
            "source_lsn": None if source is None else str(source.lsn),
            "lag": None if state is None or source is None else lag(state, source),
            "slot": None if source is None else slot_report(source.slot),
            "checkpoint_age_seconds": (
                None if saved_at is None else round(max(0.0, self._clock() - saved_at), 1)
            ),
            "tables": {} if state is None else _counts(state),
            "backfill": {copied.table: _copy(copied) for copied in self._telemetry.copies},
            "dead_letters": None if daemon is None else daemon.dead_letters,
            "changes_per_second": self._history.rate(),
            "windows": 0 if daemon is None else daemon.windows,
            "retries": self._telemetry.count_of("waiting"),
            "waiting": self._waiting(),
            "stop": (
                None
                if stop is None
                else {"code": stop.code, "message": stop.message, "hint": stop.hint}
            ),
        }
        if self.kafka is not None:
            report = with_kafka(report, self.kafka, wall=self._wall(), clock=self._clock())
        return report

    def _waiting(self) -> str | None:
        """What does not answer, while it is being tried again."""
        if self._clock() - self._waited_at > WAITING_SECONDS:
            return None
        return self._telemetry.last_reason

    def _full_report(self) -> dict[str, Any]:
        return {**self._report(), "history": self._history.points()}

    def _next_report(self) -> dict[str, Any]:
        return {**self._report(), "point": self._history.last_point()}

    # --- answers -------------------------------------------------------------------------------

    def _readyz(self) -> Response:
        report = self._report()
        status = HTTPStatus.OK if report["ready"] else HTTPStatus.SERVICE_UNAVAILABLE
        return Response.of_json({name: report[name] for name in ("ready", "phase", "stop")}, status)

    def _metrics(self) -> Response:
        samples = samples_of(self._report()) + self._telemetry.samples()
        return Response(content_type=METRICS, body=exposition(samples).encode())


def _counts(state: StreamState) -> dict[str, dict[str, int]]:
    """What the stream did, by table; with zeros for those that nothing has come of yet."""
    names = {*state.facts.get("tables", ()), *state.tables}
    return {
        name: {"upserts": counts.upserts, "patches": counts.patches, "deletes": counts.deletes}
        for name in sorted(names)
        for counts in (state.tables.get(name, TableCounts()),)
    }


def _copy(copied: Copied) -> dict[str, Any]:
    return {
        "collection": copied.collection,
        "rows": copied.rows,
        "estimated_rows": copied.estimated_rows,
        "chunks": copied.chunks,
        "chunks_done": copied.chunks_done,
        "dead_letters": copied.dead_letters,
    }
