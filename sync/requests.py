"""Requests of other commands in the daemon: looked for, executed between windows, kept out of its way.

One is executed at a time. A request that cannot be done fails with its reason, and the stream goes on;
an outage of Postgres ends the session, as everywhere, and the request is gone on with in the next one;
what stops the daemon stops it here as well.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from bridge import requests
from bridge.config_tables import TableSettings
from bridge.errors import BridgeError, StopError, Unreachable, UsageError
from bridge.point_ids import PointId
from bridge.positions import Lsn
from bridge.postgres.connection import connect
from bridge.postgres.pages import PageReader
from bridge.qdrant.state import QdrantState
from bridge.qdrant.target import Target
from bridge.requests import Request
from bridge.retry import Retry
from bridge.state import ChunkDone
from sync.apply import Applied
from sync.checks import Copied, SourceChecks
from sync.merge import Merge
from sync.resync import Desk, Job, changed_ids, xids_of
from sync.window import TableWindow

LOOK_SECONDS = 1.0


class RequestRunner:
    """The requests of one session. All but `due_in` and `awaited` belong to the writing thread.

    `write` and `forget` are `Desk`'s.
    """

    def __init__(
        self,
        *,
        postgres_url: str,
        allow_plaintext: bool,
        target: Target,
        store: QdrantState,
        checks: SourceChecks,
        retry: Retry,
        write: Callable[[TableWindow, str, str], Applied],
        forget: Callable[[str, Sequence[str]], None],
        tell: Callable[..., None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._postgres_url = postgres_url
        self._allow_plaintext = allow_plaintext
        self._target = target
        self._store = store
        self._checks = checks
        self._retry = retry
        self._write = write
        self._forget = forget
        self._tell = tell
        self._clock = clock
        self._reader: PageReader | None = None
        self._job: Job | None = None
        # The table as it was when its first page was read; None if an earlier session read that.
        self._begun: Copied | None = None
        # Of jobs that failed halfway: what they wrote still counts.
        self._left: list[tuple[int, Merge]] = []
        self._due_at = float("-inf")

    # --- the stream's side ---------------------------------------------------------------------

    def merged(self, oid: int, changes: TableWindow) -> TableWindow:
        """The changes of a window that no page shows already. Call it before they are written."""
        for merge in self._merges(oid):
            merge.streamed(xids_of(changes))
            changes = merge.unshown(changes)
        if self._job is not None and self._job.oid == oid:
            self._job.streamed(changed_ids(changes))
        return changes

    def outliving(self, oid: int, xid: int) -> set[PointId]:
        """Points of pages that were read after this TRUNCATE: it does not concern them."""
        merges = self._merges(oid)
        for merge in merges:
            merge.streamed([xid])
        return set[PointId]().union(*(merge.outliving(xid) for merge in merges))

    def _merges(self, oid: int) -> list[Merge]:
        found = [merge for other, merge in self._left if other == oid]
        if self._job is not None and self._job.oid == oid:
            found.append(self._job.merge)
        return found

    # --- the requests' side --------------------------------------------------------------------

    @property
    def awaited(self) -> Lsn | None:
        """The position that a request waits for: the sooner the stream is there, the better."""
        job = self._job
        return None if job is None else job.awaited

    def due_in(self) -> float:
        """Seconds until `work` has something to do."""
        return max(0.0, self._due_at - self._clock())

    def work(self, position: Lsn) -> None:
        """A bounded piece of work; the stream has been applied up to `position`."""
        self._left = [(oid, merge) for oid, merge in self._left if not _passed(merge, position)]
        if self._job is None:
            self._look()
        else:
            self._job.merge.passed(position)
            self._step(self._job, position)

    def _after(self, seconds: float) -> None:
        self._due_at = self._clock() + seconds

    def _look(self) -> None:
        self._after(LOOK_SECONDS)
        try:
            waiting = requests.open_requests(self._store)
        except Unreachable:
            return  # the target is away: whoever writes says so
        if waiting:
            self._begin(waiting[0])
        elif self._reader is not None:
            self.close()

    def _begin(self, request: Request) -> None:
        try:
            self._job = self._make(request)
        except Unreachable:
            raise
        except BridgeError as error:
            self._end(request, error)
            return
        self._after(0.0)
        self._tell("request_began", action=request.action, table=request.table)

    def _make(self, request: Request) -> Job:
        followed = self._checks.look_again(request.table)
        if followed is None:
            raise UsageError(
                f"the daemon does not follow {request.table}",
                hint="is it in the daemon's configuration? a table that was added is noticed when "
                "the daemon starts",
            )
        mapping, settings = followed
        if request.whole and request.progress.stage == "asked":
            self._begun = self._checks.as_copied(mapping)
        if self._reader is None:
            self._reader = PageReader(
                connect(self._postgres_url, allow_plaintext=self._allow_plaintext, read_only=False)
            )
        desk = Desk(
            target=self._target,
            reader=self._reader,
            retry=self._retry,
            write=self._write,
            forget=self._forget,
            save=self._save,
            extras_may_go=self._extras_may_go(mapping.collection.name, settings),
        )
        return Job(request, mapping, desk)

    def _extras_may_go(self, collection: str, settings: TableSettings) -> bool:
        owner: Mapping[str, Any] | None = self._retry.call(
            lambda: self._store.get("owner", collection)
        )
        return settings.owns_collection or not int((owner or {}).get("found_points", 0))

    def _save(self, request: Request) -> None:
        self._retry.call(lambda: requests.save(self._store, request))

    def _step(self, job: Job, position: Lsn) -> None:
        try:
            pause = job.step(position)
        except Unreachable:
            raise
        except StopError as error:
            # It would stop every later start as well.
            if error.code == "DEAD_LETTERS":
                self._end(job.request, error)
            raise
        except BridgeError as error:
            self._end(job.request, error)
            return
        if pause is None:
            self._end(job.request, None)
        else:
            self._after(pause)

    def _end(self, request: Request, error: BridgeError | None) -> None:
        begun, self._begun = self._begun, None
        if self._job is not None:
            self._left.append((self._job.oid, self._job.merge))
            self._job = None
        self._after(0.0)
        if error is None and request.whole:
            self._retry.call(lambda: self._complete_plan(request))
            if begun is not None:
                self._retry.call(lambda: self._checks.save_copied(self._store, begun))
        outcome = requests.outcome(error)
        ended = self._retry.call(lambda: requests.finish(self._store, request, **outcome))
        self._tell("request_ended", **requests.told(ended))

    def _complete_plan(self, request: Request) -> None:
        """A table that was added later has a plan of one chunk, which this was."""
        plan = self._store.get("plan", request.table)
        if plan is None or plan["bounds"]:
            return
        progress = request.progress
        done = ChunkDone(
            table=request.table,
            number=0,
            rows_read=progress.rows,
            rows_written=progress.written,
            dead_letters=progress.letters,
            size_bytes=0,
        )
        self._store.put_new("chunk", done.name, asdict(done))

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None


def _passed(merge: Merge, position: Lsn) -> bool:
    merge.passed(position)
    return merge.idle
