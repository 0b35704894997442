"""The tasks of one connection to Postgres: frames into windows, windows into Qdrant, and the checks.

Reader and writer run beside each other with one window between them, so a slow Qdrant makes Postgres
wait. When nothing is pending, the server's position becomes the checkpoint: an idle table in a busy
database holds no log back. Nothing in here decides on the order of durable, checkpoint and acknowledged:
that is `Daemon.finish`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

from bridge.events import Relation
from bridge.failpoints import failpoint
from bridge.plan import DeadLetter
from bridge.positions import Lsn
from bridge.stream_state import StreamState
from sync.checks import SourceChecks
from sync.framing import Keepalive, XLogData
from sync.pgoutput import Decoder
from sync.replication import ReplicationConnection
from sync.requests import RequestRunner
from sync.source import RereadSource
from sync.windows import Window, WindowBuilder

IDLE_SAVE_SECONDS = 1.0
IDLE_LOOK_SECONDS = 0.05


class Host(Protocol):
    """What a session needs of the daemon."""

    windows: int
    observe_window: Callable[[int], None]

    @property
    def state(self) -> StreamState: ...
    @property
    def stopping(self) -> asyncio.Event: ...
    def builder(self, checks: SourceChecks) -> WindowBuilder: ...
    def tell(self, event: str, **fields: object) -> None: ...
    def tell_changes(self, checks: SourceChecks) -> None: ...
    async def in_thread(self, action: Callable[[], Any]) -> Any: ...
    def apply_window(
        self, window: Window, checks: SourceChecks, source: RereadSource, requests: RequestRunner
    ) -> tuple[StreamState, list[DeadLetter]]: ...
    async def finish(
        self, stream: ReplicationConnection, state: StreamState, caught_up: Lsn
    ) -> None: ...


class Session:
    """The reader and the writer of one connection, with one window between them."""

    def __init__(
        self,
        daemon: Host,
        stream: ReplicationConnection,
        checks: SourceChecks,
        source: RereadSource,
        windows: asyncio.Queue[Window | None],
        caught_up: Lsn,
        requests: RequestRunner,
    ) -> None:
        self._daemon = daemon
        self._stream = stream
        self._checks = checks
        self._source = source
        self._windows = windows
        self._caught_up = caught_up
        self._requests = requests
        self._builder = daemon.builder(checks)
        self._busy = False
        self._saved_idle_at = float("-inf")
        self._keepalive: Keepalive | None = None

    async def read(self) -> None:
        """Frames into windows, until `stop`; then what has been collected, and None."""
        decoder = Decoder()
        builder = self._builder
        while not self._daemon.stopping.is_set():
            frames = await self._next_frames(builder)
            for frame in frames:
                if isinstance(frame, XLogData):
                    failpoint("sync.decode")
                    await self._add(decoder.decode(frame.payload, frame.start))
                elif isinstance(frame, Keepalive):
                    self._keepalive = frame
            for window in builder.take():
                await self._windows.put(window)
            if builder.due_in() == 0.0:
                for window in builder.flush():
                    await self._windows.put(window)
            if self._keepalive is not None and builder.idle:
                await self._idle(self._keepalive)
        # Half a transaction is written as well: it only lacks its checkpoint.
        for window in builder.flush():
            await self._windows.put(window)
        await self._windows.put(None)

    async def _add(self, event: object) -> None:
        if isinstance(event, Relation):
            # It looks into the catalog, which may take its time; feedback goes on meanwhile.
            await asyncio.to_thread(self._builder.add, event)
        else:
            self._builder.add(event)

    async def _next_frames(self, builder: WindowBuilder) -> Sequence[XLogData | Keepalive]:
        """What arrives before the open window is due, or before `stop`."""
        reading = asyncio.ensure_future(self._stream.read_batch())
        stopping = asyncio.ensure_future(self._daemon.stopping.wait())
        try:
            await asyncio.wait(
                {reading, stopping},
                timeout=self._patience(builder),
                return_when=asyncio.FIRST_COMPLETED,
            )
            return reading.result() if reading.done() else []
        finally:
            stopping.cancel()
            if not reading.done():
                reading.cancel()

    def _patience(self, builder: WindowBuilder) -> float | None:
        """Seconds until something is to be done though nothing arrives; None if there is nothing."""
        due = builder.due_in()
        if self._keepalive is None:
            return due
        next_look = self._saved_idle_at + IDLE_SAVE_SECONDS - time.monotonic()
        idle = max(IDLE_LOOK_SECONDS, next_look)
        return idle if due is None else min(due, idle)

    async def _idle(self, keepalive: Keepalive) -> None:
        """Nothing is pending: the server's position becomes the checkpoint, so it may drop its log."""
        daemon, latest = self._daemon, keepalive.end_lsn
        now = time.monotonic()
        reached = latest >= self._caught_up and daemon.state.phase == "catching_up"
        awaited = self._requests.awaited
        reached = reached or (awaited is not None and daemon.state.checkpoint < awaited <= latest)
        due = now - self._saved_idle_at >= IDLE_SAVE_SECONDS
        if self._busy or not self._windows.empty():
            return
        if latest <= daemon.state.checkpoint:
            self._keepalive = None
        if reached or (due and latest > daemon.state.checkpoint):
            self._saved_idle_at, self._keepalive = now, None
            state = daemon.state
            if latest >= state.checkpoint:
                at = keepalive.sent_microseconds
                state = state.at(latest, commit_time_microseconds=at)
            self._busy = True
            try:
                await daemon.finish(self._stream, state, self._caught_up)
            finally:
                self._busy = False

    async def write(self, reader: asyncio.Task[None]) -> None:
        """Apply windows one after the other, until None."""
        daemon = self._daemon
        while True:
            window = await self._next_window()
            if window is None:
                return
            self._busy = True
            try:
                state, letters = await daemon.in_thread(
                    partial(daemon.apply_window, window, self._checks, self._source, self._requests)
                )
                for letter in letters:
                    daemon.tell("dead_letter", table=letter.table, reason=letter.reason)
                # What has arrived is written next: with this it need not be stored apart.
                state = replace(state, written=max(state.written, self._builder.bound))
                await daemon.finish(self._stream, state, self._caught_up)
                daemon.windows += 1
                daemon.observe_window(window.operations)
            finally:
                self._busy = False

    async def _next_window(self) -> Window | None:
        """The next window; what other commands ask for is done one step before each, and meanwhile."""
        while True:
            due = self._requests.due_in()
            if due == 0.0 and not self._busy and not self._daemon.stopping.is_set():
                await self._work()
                due = self._requests.due_in()
            if not self._windows.empty():
                return self._windows.get_nowait()
            try:
                # Never 0: the reader must have its turn.
                return await asyncio.wait_for(self._windows.get(), max(due, 0.001))
            except TimeoutError:
                continue

    async def _work(self) -> None:
        """A step of a request, in the writing thread, between two windows."""
        self._busy = True
        try:
            position = self._daemon.state.checkpoint
            await self._daemon.in_thread(partial(self._requests.work, position))
        finally:
            self._busy = False
        # The reader's look may have found the thread busy every time.
        if self._keepalive is not None and self._builder.idle:
            await self._idle(self._keepalive)

    async def check_every(self, seconds: float) -> None:
        """Look at slot, publication, schema and target while streaming."""
        while True:
            await asyncio.sleep(seconds)
            await asyncio.to_thread(self._checks.require_sound, lambda: self._daemon.state)
            await asyncio.to_thread(self._daemon.tell_changes, self._checks)
