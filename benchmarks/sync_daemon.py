"""The daemon as `script/bench sync` runs it: a process of its own, which measures itself.

python -m benchmarks.sync_daemon        takes a `Job` as JSON on standard input

It tells on standard output, as JSON lines: `{"event": "ready"}` once it streams, and `{"event": "done",
...}` at its end. Without a position to stop at, it ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.measure import resident_bytes, usage
from bridge.config_tables import TableSettings
from bridge.errors import StopError
from bridge.map_table import map_table
from bridge.positions import Lsn
from bridge.postgres import catalog
from bridge.postgres.connection import connect
from bridge.qdrant.channel import Endpoint
from bridge.qdrant.server import ServerTarget
from bridge.qdrant.state import QdrantState
from bridge.qdrant.target import CollectionState
from bridge.state import Kind, Record
from bridge.stream_state import RECORD_NAME, StreamState
from sync.daemon import Daemon, DaemonOptions, tune_collector
from sync.windows import Limits

PIPELINE = "bench"
# As in a configuration file that does not say otherwise.
LIMITS = Limits(operations=2000, size_bytes=16 * 2**20, seconds=0.05)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to run. `facts`: of the slot (`SlotFacts.to_record`). `null`: the target keeps nothing."""

    postgres_url: str
    host: str
    port: int
    null: bool
    table: str
    facts: dict[str, Any]
    until: str | None = None


@dataclass(slots=True)
class Measured:
    """What a run came to. `checkpoints`: (time since 1970, position) as they became durable."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_bytes: int = 0
    checkpoints: list[tuple[float, int]] = field(default_factory=list)
    counts: dict[str, Any] = field(default_factory=dict)


class MemoryState(QdrantState):
    """Records in memory: a null target keeps none."""

    def __init__(self, target: ServerTarget, pipeline: str) -> None:
        super().__init__(target, pipeline)
        self._records: dict[tuple[Kind, str], Record] = {}

    def get(self, kind: Kind, name: str) -> Record | None:
        return self._records.get((kind, name))

    def put(self, kind: Kind, name: str, record: Record) -> None:
        self._records[kind, name] = record

    def put_new(self, kind: Kind, name: str, record: Record) -> Record:
        return self._records.setdefault((kind, name), record)

    def records(self, kind: Kind) -> Iterator[tuple[str, Record]]:
        found = [(name, record) for (of, name), record in self._records.items() if of == kind]
        yield from found

    def remove(self, kind: Kind, names: Any) -> None:
        for name in names:
            self._records.pop((kind, name), None)


class NullTarget(ServerTarget):
    """A server without collections, which says that it has the one that is written to. It keeps no log
    by which a group of patches could be proven."""

    def __init__(self, place: Endpoint, state: CollectionState) -> None:
        super().__init__(place)
        self._state = state

    def collection(self, name: str) -> CollectionState | None:
        return self._state

    def patch_group(self, collection: str) -> None:
        return None


def open_target(job: Job) -> ServerTarget:
    """The target; on a real one the collection is there already."""
    place = Endpoint(host=job.host, port=job.port, tls=False)
    if not job.null:
        return ServerTarget(place)
    with connect(job.postgres_url) as connection:
        table = catalog.read_table(connection, None, job.table)
    spec = map_table(table, TableSettings(), {}).collection
    state = CollectionState(
        name=spec.name, vectors=spec.vectors, payload_indexes=spec.payload_indexes
    )
    return NullTarget(place, state)


async def run(job: Job) -> Measured:
    """Stream until the position, or the end of standard input."""
    target = open_target(job)
    store: QdrantState = (
        MemoryState(target, PIPELINE) if job.null else QdrantState(target, PIPELINE)
    )
    start = Lsn.parse(job.facts["start_lsn"])
    state = StreamState(facts=job.facts, checkpoint=start, phase="catching_up")
    if not job.null:
        store.prepare()
    store.put("stream", RECORD_NAME, state.to_record())
    daemon = Daemon(
        {job.table: TableSettings()},
        target=target,
        store=store,
        options=DaemonOptions(postgres_url=job.postgres_url, allow_plaintext=False, limits=LIMITS),
        log=_log,
    )
    measured = Measured()
    until = None if job.until is None else Lsn.parse(job.until)
    before = usage()
    async with asyncio.TaskGroup() as group:
        running = group.create_task(daemon.run())
        await _watch(daemon, measured, until, running)
        after = usage()
        daemon.stop()
    measured.seconds = after.wall - before.wall
    measured.cpu_seconds = after.cpu - before.cpu
    measured.peak_bytes = resident_bytes([os.getpid()])
    measured.counts = {name: asdict(counts) for name, counts in daemon.state.tables.items()}
    target.close()
    return measured


async def _watch(
    daemon: Daemon, measured: Measured, until: Lsn | None, running: asyncio.Task[None]
) -> None:
    """Note each checkpoint until the last one; a few milliseconds late at most."""
    ended = asyncio.Event()
    if until is None:
        asyncio.get_running_loop().add_reader(0, ended.set)
    latest = daemon.state.checkpoint
    while not ended.is_set() and (until is None or latest < until):
        if running.done():
            raise StopError("the daemon ended by itself", code="BENCHMARK")
        await asyncio.sleep(0.002)
        if daemon.state.checkpoint > latest:
            latest = daemon.state.checkpoint
            measured.checkpoints.append((time.time(), latest.value))


def _log(event: str, **fields: object) -> None:
    if event == "connected":
        print(json.dumps({"event": "ready"}), flush=True)
    elif event in ("stopped", "dead_letter"):
        print(json.dumps({"event": event, **fields}, default=str), file=sys.stderr, flush=True)


def main() -> None:
    """Run the job; tell what it came to."""
    job = Job(**json.loads(sys.stdin.readline()))
    tune_collector()
    measured = asyncio.run(run(job))
    print(json.dumps({"event": "done", **asdict(measured)}), flush=True)


if __name__ == "__main__":
    main()
