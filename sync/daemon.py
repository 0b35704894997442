"""The daemon: keeps Qdrant equal to Postgres from a slot, for as long as it is let.

    reader   frames -> events -> windows       (event loop)
    writer   window -> points -> checkpoint -> acknowledgement   (its blocking work in one thread)

The two run beside each other with one window between them, so memory is bounded by a few windows
whatever a transaction's size, and a slow Qdrant makes Postgres wait. The order in which a window is
finished is that of design.md section 6, in `_finish`:

    1. every row of it is durable in Qdrant, or a dead letter that is stored
    2. the record with the new checkpoint is stored
    3. Postgres is told, and may drop the log before it

A crash anywhere repeats windows from the last stored checkpoint, which changes nothing the second time.
Outages are waited for without end; what would lose or damage data stops (exit 3), with the slot kept.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

from bridge import recorded_schema
from bridge.config_tables import TableSettings
from bridge.errors import BridgeError, StopError, Unreachable
from bridge.failpoints import failpoint
from bridge.plan import DeadLetter
from bridge.positions import Lsn
from bridge.postgres.connection import connect
from bridge.postgres.timelines import TimelineSwitch
from bridge.postgres.walsender import SystemIdentity
from bridge.qdrant.state import QdrantState
from bridge.qdrant.target import Target
from bridge.retry import Retry, decide
from bridge.state import letter_name
from bridge.stream_state import RECORD_NAME, StreamState, TableCounts
from sync.apply import Applied, Applier
from sync.checks import SilentChange, SourceChecks, require_same_history
from sync.replication import ReplicationConnection
from sync.requests import RequestRunner
from sync.resync import clear_except
from sync.session import Session
from sync.source import RereadSource
from sync.window import TableWindow
from sync.windows import Limits, Window, WindowBuilder

T = TypeVar("T")

DRAIN_SECONDS = 30.0
CHECK_SECONDS = 60.0
SILENCE_SECONDS = 20.0
"""A server that does not answer for so long is given up, so that a black hole in the network is
noticed and left within half a minute."""
DEAD_LETTER_LIMIT = 1000
_OBJECTS_BETWEEN_COLLECTIONS = 200_000


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonOptions:
    """How the daemon runs. `limits` close a window."""

    postgres_url: str = field(repr=False)
    allow_plaintext: bool
    limits: Limits
    write_ordering: str = "weak"
    dead_letter_limit: int = DEAD_LETTER_LIMIT


Log = Callable[..., None]


def tune_collector() -> None:
    """For a process that runs a daemon and little else.

    Changes become many small objects, none of them in a cycle: with the usual threshold the collector
    takes a fifth of the time looking through what is alive.
    """
    gc.freeze()
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)


class Stopping(Unreachable):
    """The drain's time is up: what could not be written is read again after the next start."""


class Daemon:
    """One pipeline's stream. `run` returns after `stop` was called, and raises what stops it."""

    def __init__(
        self,
        tables: dict[str, TableSettings],
        *,
        target: Target,
        store: QdrantState,
        options: DaemonOptions,
        log: Log,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = tables
        self._target = target
        self._store = store
        self._options = options
        self._log = log
        self._clock = clock
        self._stopping = asyncio.Event()
        self._give_up_at: float | None = None
        self._applying: asyncio.Future[Any] | None = None
        self._letters: set[str] = set()
        self._changed: dict[str, list[str]] = {}
        # For whoever watches, from other threads: whether a session streams, windows applied, when
        # (by `time.monotonic`) a checkpoint was stored last; and who is told each window's changes.
        self.connected = False
        self.windows = 0
        self.observe_window: Callable[[int], None] = lambda changes: None
        self.saved_at: float | None = None
        self.state = self._load()

    def _load(self) -> StreamState:
        record = self._store.get("stream", RECORD_NAME)
        if record is None:
            raise StopError(
                f"pipeline {self._store.pipeline} has no slot yet",
                code="NOT_PREPARED",
                hint="qdrant-bridge run copies the tables and goes on with the stream",
            )
        self._changed = recorded_schema.noted_changes(self._store)
        self._told: dict[str, SilentChange] = {}
        self._letters = {name for name, _record in self._store.records("dead_letter")}
        return StreamState.from_record(record)

    # --- life ----------------------------------------------------------------------------------

    def stop(self) -> None:
        """Read nothing more, finish what was read within 30 s, then return from `run`."""
        self._give_up_at = self._clock() + DRAIN_SECONDS
        self._stopping.set()

    async def run(self) -> None:
        """Stream until stopped. Outages are retried for ever, with backoff."""
        failures = 0
        try:
            while not self._stopping.is_set():
                began = self._clock()
                try:
                    await self._session()
                except Unreachable as error:
                    # A session that lasted has nothing to do with the failures before it.
                    failures = 1 if self._clock() - began > 60 else failures + 1
                    wait = decide(error, failures).wait_seconds
                    self._log("waiting", reason=error.message, seconds=round(wait, 2))
                    await self._pause(wait)
        except StopError as error:
            await self._note_stop(error)
            raise
        try:
            await self._save(replace(self.state, phase="stopped", stop=None))
        except Unreachable as error:
            self._log("stop_not_recorded", reason=error.message)

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return

    async def _note_stop(self, error: StopError) -> None:
        self._log("stopped", code=error.code, reason=error.message)
        try:
            await self._save(self.state.stopped_by(error))
        except BridgeError as second:
            self._log("stop_not_recorded", reason=second.message)

    async def _save(self, state: StreamState) -> None:
        await asyncio.to_thread(self._store.put, "stream", RECORD_NAME, state.to_record())
        self.state = state

    # --- one connection ------------------------------------------------------------------------

    async def _session(self) -> None:
        """From connecting to the first error, or to `stop`."""
        if self._applying is not None:
            # A window of the last connection may still be on its way; order demands to wait.
            await asyncio.wait([self._applying])
        options = self._options
        async with await ReplicationConnection.connect(
            options.postgres_url,
            allow_plaintext=options.allow_plaintext,
            silence_seconds=SILENCE_SECONDS,
        ) as stream:
            identity = await stream.identify_system()
            history: tuple[TimelineSwitch, ...] = ()
            if identity.timeline != self.state.facts["timeline"]:
                history = await stream.timeline_history(identity.timeline)
            # First of all: whatever else another cluster lacks is not its fault.
            require_same_history(identity, history, self.state)
            checks = await asyncio.to_thread(self._open_checks)
            try:
                await self._start(stream, checks, identity)
            finally:
                self.connected = False
                await asyncio.to_thread(checks.close)

    async def _start(
        self, stream: ReplicationConnection, checks: SourceChecks, identity: SystemIdentity
    ) -> None:
        await asyncio.to_thread(
            checks.require_sound, lambda: self.state, timeline=identity.timeline
        )
        await asyncio.to_thread(self.tell_changes, checks)
        await stream.start(
            slot=str(self.state.facts["slot"]),
            publication_names=(str(self.state.facts["publication"]["name"]),),
            start_lsn=self.state.checkpoint,
            binary=checks.binary,
        )
        caught_up = max(identity.flush_lsn, self.state.checkpoint)
        # What is written from now on lies on this timeline.
        facts = {**self.state.facts, "timeline": identity.timeline}
        await self._save(replace(self.state, facts=facts, phase="catching_up", stop=None))
        self._log("connected", checkpoint=str(self.state.checkpoint), binary=checks.binary)
        self.connected = True
        await self._stream(stream, checks, caught_up)

    def _open_checks(self) -> SourceChecks:
        return SourceChecks(
            connect(
                self._options.postgres_url,
                allow_plaintext=self._options.allow_plaintext,
            ),
            self._settings,
            self._target,
            recorded_schema.load(self._store),
        )

    async def _stream(
        self, stream: ReplicationConnection, checks: SourceChecks, caught_up: Lsn
    ) -> None:
        windows: asyncio.Queue[Window | None] = asyncio.Queue(maxsize=1)
        source = RereadSource(
            self._options.postgres_url,
            allow_plaintext=self._options.allow_plaintext,
            wait=self._blocking_wait,
        )
        requests = self.requests(checks, source)
        session = Session(self, stream, checks, source, windows, caught_up, requests)
        try:
            async with asyncio.TaskGroup() as group:
                reader = group.create_task(session.read(), name="reader")
                group.create_task(session.write(reader), name="writer")
                check = group.create_task(session.check_every(CHECK_SECONDS), name="checks")
                reader.add_done_callback(lambda _task: check.cancel())
        except* BridgeError as errors:
            raise _worst(errors) from None
        finally:
            if self._applying is not None:
                # It uses the connections that are closed now.
                await asyncio.wait([self._applying])
            await asyncio.to_thread(requests.close)
            await asyncio.to_thread(source.close)

    def tell_changes(self, checks: SourceChecks) -> None:
        """Say what changed since the copy without telling of its rows, each once; which columns are
        kept for `verify`."""
        found = checks.silent_changes(self._store)
        for label in self._changed.keys() - {name for name, one in found.items() if one.columns}:
            recorded_schema.forget_changes(self._store, label)  # its rows were read again since
            del self._changed[label]
        for label, change in found.items():
            if self._told.get(label) == change:
                continue
            self._told[label] = change
            if change.columns and self._changed.get(label) != change.columns:
                recorded_schema.note_changes(self._store, label, change.columns)
                self._changed[label] = change.columns
                self._log(
                    "schema_changed",
                    table=label,
                    columns=", ".join(change.columns),
                    hint="rows that do not change keep their old payload until a resync",
                )
            if change.unplaced:
                columns, hint = ", ".join(change.unplaced), recorded_schema.UNPLACED_HINT
                self._log("vectors_left_out", table=label, columns=columns, hint=hint)
            if change.attached or change.detached:
                self._log(
                    "partitions_changed",
                    table=label,
                    attached=", ".join(change.attached),
                    detached=", ".join(change.detached),
                    hint="their rows came or went without an event: run qdrant-bridge resync",
                )
        self._told = {label: told for label, told in self._told.items() if label in found}

    def _blocking_wait(self, seconds: float) -> None:
        """Sleep in the writing thread; gives up when the drain's time is over."""
        if self._give_up_at is not None and self._clock() + seconds > self._give_up_at:
            raise Stopping("stopped while something was away")
        time.sleep(seconds)

    # --- windows -------------------------------------------------------------------------------

    def apply_window(
        self,
        window: Window,
        checks: SourceChecks,
        source: RereadSource,
        requests: RequestRunner,
    ) -> tuple[StreamState, list[DeadLetter]]:
        """Write a window; the state after it and its dead letters. In the writing thread."""
        retry = self._retry
        self._note_written(retry, window.bound)
        applier = self._applier(source)
        position = str(window.checkpoint or self.state.checkpoint)
        counts = dict(self.state.tables)
        letters: list[DeadLetter] = []
        for oid in window.truncated:
            mapping = checks.mapping(oid)
            collection = mapping.collection.name
            owner = retry.call(partial(self._store.get, "owner", collection)) or {}
            checks.require_owned(mapping, int(owner.get("found_points", 0)))
            kept = requests.outliving(oid, window.truncating_xid)
            if kept:
                retry.call(partial(clear_except, self._target, collection, kept))
                continue
            retry.call(partial(self._target.clear, collection))
            label = mapping.table.label
            self._forget_letters(retry, {f"{label}/{key}" for key in self._set_aside(label)})
        for oid, changes in window.tables.items():
            mapping = checks.mapping(oid)
            label = mapping.table.label
            changes = requests.merged(oid, changes)
            applied = applier.apply(changes, position, self._set_aside(label))
            counts[label] = counts.get(label, TableCounts()).plus(
                upserts=applied.upserts, patches=applied.patches, deletes=applied.deletes
            )
            letters += applied.letters
            self._settle_letters(retry, checks, label, applied)
        self._target.flush()
        state = replace(self.state, tables=counts)
        if window.checkpoint is not None:
            state = state.at(
                window.checkpoint,
                commit_time_microseconds=window.commit_time_microseconds,
            )
        return state, letters

    def _note_written(self, retry: Retry, bound: Lsn) -> None:
        """Store that a window may be in Qdrant before it is, unless that is stored already."""
        if bound <= self.state.reached:
            return
        state = replace(self.state, written=bound)
        retry.call(partial(self._store.put, "stream", RECORD_NAME, state.to_record()))
        self.state = state

    @property
    def _retry(self) -> Retry:
        """How whatever the writing thread asks of the target is tried again: for ever."""
        return Retry(sleep=self._blocking_wait, on_wait=self._tell_waiting)

    def _applier(self, source: RereadSource) -> Applier:
        return Applier(
            self._target,
            source,
            retry=self._retry,
            ordering=self._options.write_ordering,
            refused_limit=self._options.dead_letter_limit,
        )

    def requests(self, checks: SourceChecks, source: RereadSource) -> RequestRunner:
        """What other commands ask for, during one session."""
        retry = self._retry

        def write(changes: TableWindow, label: str, position: str) -> Applied:
            applied = self._applier(source).apply(changes, position)
            self._settle_letters(retry, checks, label, applied)
            self._target.flush()
            return applied

        def forget(label: str, keys: Sequence[str]) -> None:
            self._forget_letters(retry, {f"{label}/{key}" for key in keys})

        return RequestRunner(
            postgres_url=self._options.postgres_url,
            allow_plaintext=self._options.allow_plaintext,
            target=self._target,
            store=self._store,
            checks=checks,
            retry=retry,
            write=write,
            forget=forget,
            tell=self._log,
        )

    def _settle_letters(
        self, retry: Retry, checks: SourceChecks, label: str, applied: Applied
    ) -> None:
        """Store new dead letters; forget those whose row has been written since."""
        if applied.letters:
            retry.call(partial(checks.require_collection, label))
        at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        for letter in applied.letters:
            name = letter_name(letter)
            record = {**asdict(letter), "at": at}
            retry.call(partial(self._store.put, "dead_letter", name, record))
            self._letters.add(name)
        if self._letters:
            self._forget_letters(retry, {f"{label}/{key}" for key in applied.settled})
        if len(self._letters) > self._options.dead_letter_limit:
            raise StopError(
                f"more than {self._options.dead_letter_limit} rows are set aside",
                code="DEAD_LETTERS",
                hint="see why with qdrant-bridge dead-letters list",
            )

    def _set_aside(self, label: str) -> set[str]:
        """The keys of a table's rows that are dead letters."""
        prefix = f"{label}/"
        return {name.removeprefix(prefix) for name in self._letters if name.startswith(prefix)}

    def _forget_letters(self, retry: Retry, names: set[str]) -> None:
        """Dead letters whose row is stored or gone now."""
        superseded = sorted(names & self._letters)
        if superseded:
            retry.call(lambda: self._store.remove("dead_letter", superseded))
            self._letters -= set(superseded)

    def _tell_waiting(self, error: BridgeError, seconds: float) -> None:
        self._log("waiting", reason=error.message, seconds=round(seconds, 2))

    async def in_thread(self, action: Callable[[], T]) -> T:
        """Run blocking work; it is seen through even if this task is cancelled."""
        future = asyncio.get_running_loop().run_in_executor(None, action)
        self._applying = future
        try:
            return await asyncio.shield(future)
        finally:
            if future.done():
                self._applying = None

    def tell(self, event: str, **fields: object) -> None:
        """Log an event by its constant name."""
        self._log(event, **fields)

    @property
    def dead_letters(self) -> int:
        """Rows that are set aside."""
        return len(self._letters)

    @property
    def stopping(self) -> asyncio.Event:
        """Set once `stop` was called."""
        return self._stopping

    def builder(self, checks: SourceChecks) -> WindowBuilder:
        """The windows of a new connection."""
        return WindowBuilder(
            self._options.limits,
            checks.mapping_of,
            binary=checks.binary,
            clock=self._clock,
        )

    async def finish(
        self, stream: ReplicationConnection, state: StreamState, caught_up: Lsn
    ) -> None:
        """Steps 2 and 3: save the checkpoint, then acknowledge it."""
        failpoint("sync.before_checkpoint")
        if state.phase == "catching_up" and state.checkpoint >= caught_up:
            state = replace(state, phase="streaming")
        record = state.to_record()
        retry = Retry(sleep=self._blocking_wait, on_wait=self._tell_waiting)
        await self.in_thread(
            lambda: retry.call(lambda: self._store.put("stream", RECORD_NAME, record))
        )
        caught_up_now = state.phase == "streaming" != self.state.phase
        self.state = state
        self.saved_at = time.monotonic()
        if caught_up_now:
            self._log("streaming", checkpoint=str(state.checkpoint))
        failpoint("sync.after_checkpoint")
        lsn = state.checkpoint
        stream.send_feedback(written=lsn, flushed=lsn, applied=lsn)
        failpoint("sync.after_acknowledge")


def _worst(errors: BaseExceptionGroup[BridgeError]) -> BridgeError:
    """What stops counts more than what may be tried again."""
    found: list[BridgeError] = []
    for error in errors.exceptions:
        if isinstance(error, BaseExceptionGroup):
            found.append(_worst(error))
        elif isinstance(error, BridgeError):
            found.append(error)
    return next((e for e in found if not isinstance(e, Unreachable)), found[0])
