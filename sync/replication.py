"""The connection that a stream of changes is read from: asyncio over libpq.

External specification: PostgreSQL documentation, section 54.4 "Streaming Replication Protocol"
(IDENTIFY_SYSTEM, TIMELINE_HISTORY, START_REPLICATION ... LOGICAL), section 54.5 "Logical Streaming
Replication Protocol" (pgoutput's options), and libpq's "Functions Associated with the COPY Command".

What always holds:

- Nothing is buffered here beyond one batch: who does not read leaves the bytes in the sockets, and
  the server waits. Feedback needs writing only, so it goes on meanwhile: a timer of the event loop
  sends it every min(5 s, wal_sender_timeout / 3), whether or not anybody reads. Therefore the
  event loop must not be blocked: long synchronous work belongs into a thread.
- `flushed` is what the caller said last, never more; it does not go back.
- Frames come in the server's order, whole transactions after they committed (`streaming` is off).
- Every error leaves as one of ours. `Unreachable` asks for a new connection from the checkpoint;
  a connection that raised is only to be closed.
- After a crash the server notices the closed socket, at the latest after wal_sender_timeout, and
  frees the slot; until then it is in use (`SLOT_IN_USE`).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Final, Literal, NoReturn, Self

import psycopg
from psycopg import pq
from psycopg.errors import error_from_result

from bridge.errors import BridgeError, StopError, Unreachable
from bridge.positions import Lsn
from bridge.postgres.connection import translate
from bridge.postgres.replication_errors import (
    AMBIGUOUS,
    SlotState,
    publication_missing,
    replication_error,
)
from bridge.postgres.timelines import TimelineSwitch
from bridge.postgres.walsender import TLS_POLL_SECONDS, SystemIdentity, Walsender, start_command
from sync.framing import Frame, Keepalive, parse_frame, status_update

DEFAULT_BATCH_BYTES: Final = 256 * 1024
MOST_FEEDBACK_SECONDS: Final = 5.0
CLOSE_SECONDS: Final = 2.0
# Without a wal_sender_timeout of the server's: as long as its default.
DEFAULT_SILENCE_SECONDS: Final = 60.0


class ReplicationConnection:
    """One connection: `connect`, look around, `start`, read and give feedback, `close`.

    Not for several threads; `read_batch` for one task at a time, `send_feedback` for any.
    """

    def __init__(
        self,
        walsender: Walsender,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Takes over an open connection; use `connect`."""
        self._walsender = walsender
        self._pgconn = walsender.pgconn
        self._clock = clock
        self._wall_clock = wall_clock
        self._slot = self._publication = ""
        self._state: Literal["idle", "streaming", "closed"] = "idle"
        self._failure: BridgeError | None = None
        self._ready: deque[Frame] = deque()
        self._copy_ended = False
        self._timer: asyncio.TimerHandle | None = None
        self._positions = (Lsn(0), Lsn(0), Lsn(0))
        self._flushing = self._unsent = False
        self._received_at = clock()
        self.feedback_seconds = MOST_FEEDBACK_SECONDS
        self.silence_seconds = DEFAULT_SILENCE_SECONDS
        self.feedback_count = 0
        walsender.connection.add_notice_handler(self._on_notice)

    # --- opening and closing ---

    @classmethod
    async def connect(
        cls,
        url: str,
        *,
        application_name: str = "qdrant-bridge",
        allow_plaintext: bool = False,
        connect_timeout_seconds: int = 10,
        silence_seconds: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> Self:
        """Open it, by the rules of `bridge.postgres.connection.connect`.

        `silence_seconds`: a server that says nothing for so long, though it was asked to answer,
        is given up; default wal_sender_timeout, after which it would have given us up.
        """
        walsender = await Walsender.open(
            url,
            application_name=application_name,
            allow_plaintext=allow_plaintext,
            connect_timeout_seconds=connect_timeout_seconds,
        )
        self = cls(walsender, clock=clock, wall_clock=wall_clock)
        try:
            timeout_seconds = await walsender.sender_timeout_seconds()
            if timeout_seconds:
                self.feedback_seconds = min(MOST_FEEDBACK_SECONDS, timeout_seconds / 3)
                self.silence_seconds = timeout_seconds
            if silence_seconds is not None:
                self.silence_seconds = silence_seconds
        except BaseException:
            await self.close()
            raise
        return self

    async def close(self) -> None:
        """End the stream with CopyDone and close; with a socket reset if the server does not answer.

        Never raises: a connection that is closed because it broke has nothing left to tell.
        """
        if self._state == "closed":
            return
        if self._timer is not None:
            self._timer.cancel()
        try:
            if self._state == "streaming" and self._failure is None and not self._copy_ended:
                with contextlib.suppress(BridgeError, psycopg.Error, TimeoutError):
                    async with asyncio.timeout(CLOSE_SECONDS):
                        await self._finish_copy()
        finally:
            self._state = "closed"
            self._stop_flushing()
            self._walsender.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    # --- before the stream ---

    async def identify_system(self) -> SystemIdentity:
        """Cluster, timeline, flush LSN. Before `start` only."""
        return await self._walsender.identify_system()

    async def timeline_history(self, timeline: int) -> tuple[TimelineSwitch, ...]:
        """The timelines that led to this one, oldest first. Before `start` only."""
        return await self._walsender.timeline_history(timeline)

    async def start(
        self,
        *,
        slot: str,
        publication_names: tuple[str, ...],
        start_lsn: Lsn,
        proto_version: int = 1,
        binary: bool = True,
        messages: bool = False,
    ) -> None:
        """START_REPLICATION from `start_lsn` (a checkpoint; `Lsn(0)`: where the slot stands).

        The server goes on from the slot's confirmed_flush_lsn if that is later, without saying so:
        compare before. All versions of the protocol look alike here; 1 is known to every server.

        StopError `SLOT_LOST`; UsageError (wal_level, privileges, the slot's plugin or database);
        Unreachable, `SLOT_IN_USE` among others.
        """
        if self._state != "idle":
            raise RuntimeError(f"start on a connection that is {self._state}")
        self._slot = slot
        self._publication = ", ".join(publication_names)
        command = start_command(
            slot=slot,
            publication_names=publication_names,
            start_lsn=start_lsn,
            proto_version=proto_version,
            binary=binary,
            messages=messages,
        )
        results = await self._walsender.execute(command)
        if results[-1].status != pq.ExecStatus.COPY_BOTH:
            await self._refuse(results[-1])
        self._state = "streaming"
        self._positions = (start_lsn, start_lsn, start_lsn)
        self._received_at = self._clock()
        self._on_timer()

    # --- the stream ---

    async def read_batch(self, max_bytes: int = DEFAULT_BATCH_BYTES) -> list[Frame]:
        """What has arrived, up to about `max_bytes`; waits until there is something.

        A keepalive that wants a reply has been answered when it is returned. Cancelling it loses
        nothing. Raises what ended the stream, after everything that came before it was returned.
        """
        if self._state != "streaming":
            raise RuntimeError(f"read on a connection that is {self._state}")
        if self._ready:
            return self._take_ready()
        # A stream that never runs dry must still let the timer and other tasks run.
        await asyncio.sleep(0)
        waiting_since = self._clock()
        while True:
            frames = self._receive(max_bytes)
            if frames:
                return frames
            if self._failure is not None:
                raise self._failure
            if self._copy_ended:
                await self._explain_end()
            await self._wait_for_server(waiting_since)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Frame:
        """The next frame, without end: only an error ends a stream."""
        if not self._ready:
            self._ready.extend(await self.read_batch())
        return self._ready.popleft()

    def send_feedback(self, *, written: Lsn, flushed: Lsn, applied: Lsn) -> None:
        """Report positions now; the timer repeats them. `flushed` must be durable and checkpointed.

        ValueError if one goes back: the server may already have dropped the log in between.
        """
        previous = self._positions
        if written < previous[0] or flushed < previous[1] or applied < previous[2]:
            raise ValueError("feedback does not go back")
        self._positions = (written, flushed, applied)
        self._send()
        if self._failure is not None:
            raise self._failure

    # --- receiving ---

    def _take_ready(self) -> list[Frame]:
        frames = list(self._ready)
        self._ready.clear()
        return frames

    def _receive(self, max_bytes: int) -> list[Frame]:
        """All that libpq has or can read without waiting. An error is kept for the next call."""
        frames: list[Frame] = []
        if self._failure is not None or self._copy_ended:
            return frames
        # libpq reads a few kilobytes at a time. With TLS a second look may find the other half of
        # a record, with which the socket is not readable any more.
        dry, patience = 0, 2 if self._pgconn.ssl_in_use else 1
        size = 0
        try:
            while dry <= patience and size < max_bytes and not self._copy_ended:
                got = self._drain(frames, max_bytes - size)
                size += got
                dry = 0 if got else dry + 1
                if size < max_bytes and dry <= patience and not self._copy_ended:
                    self._pgconn.consume_input()
        except psycopg.Error as error:
            self._fail(translate(error))
        except StopError as error:
            self._fail(error)
        if frames:
            self._received_at = self._clock()
        return frames

    def _drain(self, frames: list[Frame], max_bytes: int) -> int:
        """Whole messages out of libpq's buffer; returns their bytes."""
        size = 0
        get_copy_data = self._pgconn.get_copy_data
        while size < max_bytes:
            length, data = get_copy_data(1)
            if length <= 0:
                self._copy_ended = length < 0
                break
            frame = parse_frame(data)
            frames.append(frame)
            size += length
            if type(frame) is Keepalive and frame.reply_requested:
                self._send()
        return size

    async def _wait_for_server(self, waiting_since: float) -> None:
        """Until the socket is readable; Unreachable if the server has been silent for too long."""
        heard = max(waiting_since, self._received_at)
        left = heard + self.silence_seconds - self._clock()
        if left <= 0:
            raise Unreachable(
                f"Postgres has been silent for {self.silence_seconds:g} seconds",
                hint="check the network between here and the server",
            )
        if self._pgconn.ssl_in_use:
            left = min(left, TLS_POLL_SECONDS)
        await self._walsender.readable(left)

    # --- sending ---

    def _on_timer(self) -> None:
        # Asks for an answer only while somebody reads: unread answers would pile up.
        waiting = self._walsender.waiting
        silent = self._clock() - self._received_at >= self.feedback_seconds / 2
        self._send(reply_requested=waiting and silent)
        if self._failure is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self.feedback_seconds, self._on_timer)

    def _send(self, *, reply_requested: bool = False) -> None:
        """Put one status update on its way. While an earlier one is stuck, only note that one is
        due, so that nothing piles up."""
        if self._failure is not None:
            return
        if self._flushing:
            self._unsent = True
            return
        written, flushed, applied = self._positions
        update = status_update(
            written=written,
            flushed=flushed,
            applied=applied,
            now_microseconds=int(self._wall_clock() * 1_000_000),
            reply_requested=reply_requested,
        )
        try:
            self._pgconn.put_copy_data(update)
            self.feedback_count += 1
            self._flush()
        except psycopg.Error as error:
            self._fail(translate(error))

    def _flush(self) -> None:
        """Hand libpq's output to the socket; if that is full, go on when it is not."""
        if self._pgconn.flush() == 0:
            self._stop_flushing()
        elif not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().add_writer(self._walsender.descriptor, self._on_writable)

    def _on_writable(self) -> None:
        try:
            self._flush()
        except psycopg.Error as error:
            self._fail(translate(error))
            return
        if not self._flushing and self._unsent:
            self._unsent = False
            self._send()

    def _stop_flushing(self) -> None:
        if self._flushing:
            self._flushing = False
            asyncio.get_running_loop().remove_writer(self._walsender.descriptor)

    def _fail(self, error: BridgeError) -> None:
        """Note the first failure, for whoever reads next, and wake who waits."""
        if self._failure is None:
            self._failure = error
        self._stop_flushing()
        self._walsender.wake()

    # --- the end ---

    async def _finish_copy(self) -> None:
        """CopyDone, then everything up to the server's own, thrown away."""
        self._send()
        self._pgconn.put_copy_end()
        self._flush()
        while True:
            length, _ = self._pgconn.get_copy_data(1)
            if length < 0:
                await self._walsender.results()
                return
            if length == 0:
                await self._walsender.readable(TLS_POLL_SECONDS)
                self._pgconn.consume_input()

    async def _explain_end(self) -> NoReturn:
        """The server ended the stream: with an error, or because it shuts down."""
        try:
            results = await self._walsender.results()
        except BridgeError as error:
            self._fail(error)
            raise
        await self._refuse(results[-1])

    async def _refuse(self, result: pq.abc.PGresult) -> NoReturn:
        """Raise what a result says that is no stream."""
        error: BridgeError
        if result.status != pq.ExecStatus.FATAL_ERROR:
            error = Unreachable("Postgres ended the stream: the server shuts down")
            self._fail(error)
            raise error
        cause = error_from_result(result)
        error = replication_error(
            cause,
            slot=self._slot,
            publication=self._publication,
            role=self._walsender.role,
            started=self._state == "streaming",
            state=await self._slot_state() if cause.sqlstate in AMBIGUOUS else None,
        )
        self._fail(error)
        raise error from cause

    async def _slot_state(self) -> SlotState | None:
        """Asked on this very connection, which is an ordinary one again after an error."""
        try:
            return await self._walsender.slot_state(self._slot)
        except BridgeError:
            return None  # the error that is being explained is told without

    def _on_notice(self, notice: psycopg.errors.Diagnostic) -> None:
        # Since Postgres 18 a publication that is not there is no error any more: its changes are
        # left out of the stream.
        if notice.sqlstate == "55000" and notice.source_function == "LoadPublications":
            self._fail(publication_missing(self._publication))
