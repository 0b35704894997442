"""What the daemon shows of itself: /healthz, /readyz, /metrics and a page for people.

Read by the HTTP thread while others write: it reads single attributes, each of which is replaced as a
whole, and calls nothing that blocks. Postgres' position is looked up by a thread of its own
(`SourceWatch`), so that a scrape never waits for a database.
"""

from __future__ import annotations

import html
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Self

from bridge.errors import BridgeError, StopError
from bridge.postgres.connection import Connection, connect
from bridge.postgres.progress import SourceProgress, look
from bridge.status import lag, slot_report
from bridge.stream_state import StreamState
from bridge.telemetry import Sample, Telemetry, exposition
from sync.daemon import Daemon
from sync.http import HTML, METRICS, Response, Routes

LOOK_SECONDS = 5.0


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

    def __init__(self, pipeline: str, telemetry: Telemetry) -> None:
        self._pipeline = pipeline
        self._telemetry = telemetry
        self.state: StreamState | None = None
        self.daemon: Daemon | None = None
        self.watch: SourceWatch | None = None
        self.stop: StopError | None = None

    @property
    def routes(self) -> Routes:
        """What `HttpServer` answers."""
        return {
            "/healthz": lambda: Response.of_json({"status": "ok"}),
            "/readyz": self._readyz,
            "/metrics": self._metrics,
            "/": self._page,
        }

    @property
    def phase(self) -> str:
        """That of the pipeline; `starting` before it is known."""
        if self.stop is not None:
            return "stopped"
        state = self._stream
        return "starting" if state is None else state.phase

    @property
    def ready(self) -> bool:
        """Whether a session streams, and nothing has stopped it."""
        daemon = self.daemon
        return (
            self.stop is None
            and daemon is not None
            and daemon.connected
            and daemon.state.phase in ("catching_up", "streaming")
        )

    @property
    def _stream(self) -> StreamState | None:
        return self.state if self.daemon is None else self.daemon.state

    def _report(self) -> dict[str, Any]:
        state, source = self._stream, self.watch.seen if self.watch else None
        known = state is not None and source is not None
        stop = self.stop
        return {
            "pipeline": self._pipeline,
            "ready": self.ready,
            "phase": self.phase,
            "checkpoint_lsn": None if state is None else str(state.checkpoint),
            "source_lsn": None if source is None else str(source.lsn),
            "lag": lag(state, source) if known and state and source else None,
            "slot": None if source is None else slot_report(source.slot),
            "stop": (
                None
                if stop is None
                else {"code": stop.code, "message": stop.message, "hint": stop.hint}
            ),
        }

    # --- answers -------------------------------------------------------------------------------

    def _readyz(self) -> Response:
        report = self._report()
        status = HTTPStatus.OK if report["ready"] else HTTPStatus.SERVICE_UNAVAILABLE
        return Response.of_json({name: report[name] for name in ("ready", "phase", "stop")}, status)

    def _metrics(self) -> Response:
        return Response(content_type=METRICS, body=exposition(self._samples()).encode())

    def _samples(self) -> list[Sample]:
        phase = self.phase
        samples: list[Sample] = [
            ("ready", (), float(self.ready)),
            *(
                ("phase", (("phase", name),), float(name == phase))
                for name in ("starting", "backfill", "catching_up", "streaming", "stopped")
            ),
        ]
        report = self._report()
        if report["lag"] is not None:
            samples.append(("lag_bytes", (), report["lag"]["bytes"]))
            if report["lag"]["seconds"] is not None:
                samples.append(("lag_seconds", (), report["lag"]["seconds"]))
        if report["slot"] is not None:
            samples.append(("slot_active", (), float(report["slot"]["active"])))
            if report["slot"]["retained_bytes"] is not None:
                samples.append(("slot_retained_bytes", (), report["slot"]["retained_bytes"]))
        if self.daemon is not None:
            samples += _daemon_samples(self.daemon)
        return samples + self._telemetry.samples()

    def _page(self) -> Response:
        report = self._report()
        rows = "".join(
            f"<tr><th>{html.escape(name)}</th><td>{html.escape(_told(value))}</td></tr>"
            for name, value in report.items()
        )
        page = (
            "<!doctype html><html lang=en><meta charset=utf-8><meta http-equiv=refresh content=5>"
            f"<title>qdrant-bridge {html.escape(self._pipeline)}</title>"
            "<style>body{font:16px/1.5 system-ui;margin:2rem}th{text-align:left;padding-right:2rem}"
            f"</style><h1>qdrant-bridge</h1><table>{rows}</table>"
            '<p><a href="/metrics">metrics</a> <a href="/readyz">readyz</a></p>'
        )
        return Response(content_type=HTML, body=page.encode())


def _told(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_told(item)}" for name, item in value.items())
    if value is None:
        return "-"
    return str(value)


def _daemon_samples(daemon: Daemon) -> list[Sample]:
    samples: list[Sample] = [
        ("windows_total", (), daemon.windows),
        ("dead_letters", (), daemon.dead_letters),
    ]
    if daemon.saved_at is not None:
        age = max(0.0, time.monotonic() - daemon.saved_at)
        samples.append(("checkpoint_age_seconds", (), round(age, 3)))
    for table, counts in sorted(daemon.state.tables.items()):
        for kind, count in (
            ("upsert", counts.upserts),
            ("patch", counts.patches),
            ("delete", counts.deletes),
        ):
            samples.append(("changes_total", (("table", table), ("kind", kind)), count))
    return samples
