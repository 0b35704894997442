"""Requests of other commands in a process that reads Kafka: looked for, executed between windows.

Every request has one executor, the owner of the first partition of its table; it executes one at a time
(`debezium_job.py`). One that cannot be begun fails with its reason. One that has begun is never given up,
since rows that it wrote may not be sure: what is in its way is told and waited for, an outage of
Postgres too, which is no reason to leave the group. What stops the process stops it here as well.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from bridge import requests
from bridge.errors import BridgeError, StopError, Unreachable, UsageError
from bridge.requests import Request
from sync.debezium_job import Desk, Job
from sync.debezium_options import Abandoned
from sync.debezium_sweep import Rows
from sync.kafka_partition import Partition

LOOK_SECONDS: Final = 1.0
OBSTACLE_SECONDS: Final = 5.0


class RequestRunner:
    """The requests of one process. All of it belongs to the writing thread, but `due_in`."""

    def __init__(
        self,
        desk: Desk,
        topics_of: Mapping[str, Sequence[str]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._desk = desk
        self._topics_of = topics_of
        self._clock = clock
        self._rows: Rows | None = None
        self._job: Job | None = None
        self._due_at = float("-inf")

    def due_in(self) -> float:
        """Seconds until `work` has something to do."""
        return max(0.0, self._due_at - self._clock())

    def work(self, owned: set[Partition]) -> None:
        """A bounded piece of work; `owned`: the partitions that are ours. Abandoned leaves the request
        to be gone on with, by whoever is its executor then; so does an outage of Postgres, which is
        no reason to leave the group."""
        if self._job is not None and self._executed_at(self._job.request.table) not in owned:
            self._job = None
        try:
            self._desk.retry.sleep(0.0)  # given up?
            if self._job is None:
                self._look(owned)
            else:
                self._step(self._job)
        except Unreachable as error:
            job, self._job = self._job, None
            self._after(OBSTACLE_SECONDS)
            self.close()
            if isinstance(error, Abandoned):
                raise
            table = "" if job is None else job.request.table
            self._desk.tell("request_waiting", table=table, reason=error.message)

    def _after(self, seconds: float) -> None:
        self._due_at = self._clock() + seconds

    def _executed_at(self, label: str) -> Partition:
        """Whose owner executes a table's requests; those of tables that nobody knows have one too."""
        topics = self._topics_of.get(label) or [
            min(t for ts in self._topics_of.values() for t in ts)
        ]
        return Partition(topics[0], 0)

    def _look(self, owned: set[Partition]) -> None:
        self._after(LOOK_SECONDS)
        try:
            waiting = requests.open_requests(self._desk.store)
        except Unreachable:
            return  # the target is away: whoever writes says so
        for request in waiting:
            if self._executed_at(request.table) in owned:
                self._begin(request)
                return
        self.close()

    def _begin(self, request: Request) -> None:
        try:
            self._job = self._make(request)
        except (Unreachable, StopError):
            raise
        except BridgeError as error:
            if request.progress.stage == "asked" or request.table not in self._topics_of:
                self._end(request, error)
            else:
                # Rows of another process may not be sure.
                self._desk.tell("request_waiting", table=request.table, reason=error.message)
                self._after(OBSTACLE_SECONDS)
            return
        self._after(0.0)
        self._desk.tell("request_began", action=request.action, table=request.table)

    def _make(self, request: Request) -> Job:
        desk = self._desk
        topics = self._topics_of.get(request.table)
        if topics is None:
            raise UsageError(
                f"no process follows {request.table}", hint="has it a topic in kafka.topics?"
            )
        if desk.open_rows is None:
            raise UsageError(
                "the process that has to do it has no Postgres url",
                hint="give every process of the group postgres.url, and start it again",
            )
        if self._rows is None:
            self._rows = desk.open_rows()
        return Job(request, topics[0], self._rows, desk, self._extras_may_go(request.table))

    def _extras_may_go(self, label: str) -> bool:
        """As for the direct path: not where the collection also held points of other origin."""
        collection = self._desk.tables.mapping(label).collection.name
        owner = self._desk.retry.call(lambda: self._desk.store.get("owner", collection))
        owns = self._desk.tables.settings(label).owns_collection
        return owns or not int((owner or {}).get("found_points", 0))

    def _step(self, job: Job) -> None:
        try:
            pause = job.step()
        except (Unreachable, StopError):
            raise
        except BridgeError as error:
            if not job.begun:
                self._end(job.request, error)
                return
            # Rows that it has written may not be sure: it cannot be left at that.
            self._desk.tell("request_waiting", table=job.request.table, reason=error.message)
            job.note(waiting=error.message)
            self._after(OBSTACLE_SECONDS)
            return
        if pause is None:
            self._end(job.request, None)
        else:
            self._after(pause)

    def _end(self, request: Request, error: BridgeError | None) -> None:
        self._job = None
        self._after(0.0)
        desk, outcome = self._desk, requests.outcome(error)
        ended = desk.retry.call(lambda: requests.finish(desk.store, request, **outcome))
        desk.tell("request_ended", **requests.told(ended))

    def close(self) -> None:
        """Close the connection, if there is one."""
        rows, self._rows = self._rows, None
        if rows is not None:
            rows.close()
