"""The backfill of one Postgres table: checked, planned, copied, counted.

    1. inspect   catalog, mapping, privileges, key, collection: nothing is written before this passes
    2. claim     the collection is this pipeline's; its plan of chunks is made once, and stored
    3. copy      indexing deferred; workers copy chunks; each is recorded when it is durable
    4. finish    indexing restored, also after a failure; exact counts of both sides compared

A run that is repeated goes on where the last one stopped: the stored plan wins, and a chunk that is
recorded is not read again. Chunk i belongs to shard i mod n; whichever shard finds all chunks done
does step 4's counting.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

from backfill import indexing
from backfill.indexing import Indexing
from backfill.messages import PATIENCE_SECONDS, Chunk, ChunkCopied, Event, Task, Waiting
from backfill.pool import Pool
from backfill.preflight import Inspection, check_target, inspect, require_fit
from backfill.report import Counts, TableReport, judge, sum_up
from backfill.resume import fingerprint_of, require_same
from bridge.config_tables import TableSettings
from bridge.errors import BridgeError, StopError, UsageError
from bridge.failpoints import failpoint
from bridge.ownership import claim, require_claimable
from bridge.payload_fields import owns_whole_points
from bridge.pipeline import checkpoint_chunk
from bridge.postgres import activity, catalog, checks, chunks
from bridge.postgres.connection import Connection, connect
from bridge.qdrant.channel import Endpoint
from bridge.qdrant.guarded import GuardedTarget
from bridge.qdrant.state import QdrantState
from bridge.qdrant.target import CollectionState, Pending, Target
from bridge.retry import Retry
from bridge.schema import quote_identifier
from bridge.state import ChunkDone, Source, TablePlan
from bridge.table_names import parse_table_name

_CHUNK_BYTES = 64 * 1024 * 1024
_CHUNK_ROWS = (500, 50_000)
_CHUNKS_PER_WORKER = 4
# Counting costs seconds up to here; it tells a table that stood still from one that is written to.
_COUNTED_TWICE_ROWS = 50_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """The copy of a table is about to begin, or to go on. The last three: what its parts are called."""

    table: str
    collection: str
    chunks: int
    chunks_left: int
    rows_done: int
    bytes_done: int
    estimated_rows: int
    workers: int
    part: str = "chunk"
    worker: str = "worker"
    row: str = "row"


Tell = Callable[[Planned | Indexing | Event], None]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to copy. `shard` is (i, n); without an `endpoint` the target is embedded in this process."""

    postgres_url: str = field(repr=False)
    allow_plaintext: bool = False
    endpoint: Endpoint | None = None
    write_ordering: str = "weak"
    workers: int = 0
    batch_rows: int = 256
    batch_delay_seconds: float = 0.0
    restart: bool = False
    create_collection: bool = True
    shard: tuple[int, int] = (0, 1)
    patience_seconds: float = PATIENCE_SECONDS
    dead_letter_limit: int = 1000
    wait_for_index: bool = True

    @property
    def worker_count(self) -> int:
        """As asked for; 0 means one for each core that this process may use."""
        return self.workers or usable_cores()


def usable_cores() -> int:
    """The cores that this process may use, where the system tells (Linux); else those there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class TableBackfill:
    """Copies one table. `store` must be prepared only after `inspect`, which `run` sees to."""

    def __init__(
        self,
        name: str,
        settings: TableSettings,
        *,
        target: Target,
        store: QdrantState,
        options: Options,
        tell: Tell,
    ) -> None:
        self._name = name
        self._settings = settings
        self._target = target
        self._store = store
        self._options = options
        self._tell = tell
        self._checked: Inspection | None = None

    def run(self) -> TableReport:
        """All four steps. Raises what stops it; the report says how it ended otherwise."""
        options = self._options
        if options.restart and options.shard[0] > 0:
            # Each shard would forget what the one before it has just begun.
            raise UsageError(
                "--migration.restart is for shard 0 alone",
                hint="start shard 0 with it, and the others without once it copies",
            )
        with self._connect() as connection:
            facts, inspection, state = self._look(connection)
            source = Source(
                system_id=str(facts.system_identifier or ""),
                database=connection.info.dbname,
                table=inspection.table.label,
                table_oid=inspection.table.oid,
            )
            plan = self._claim(connection, inspection, source, state)
        done = self._patiently(lambda: self._done(plan))
        copied, seconds = self._copy(inspection, plan, done)
        return self._finish(inspection, plan, copied, seconds)

    def check(self) -> None:
        """Raise what `run` would refuse by looking at both sides. Nothing is written."""
        with self._connect() as connection:
            _facts, inspection, _state = self._look(connection)
        self._checked = inspection
        if self._store.exists():
            self._refuse_foreign(inspection.table.label, inspection.mapping.collection.name)

    def _look(
        self, connection: Connection
    ) -> tuple[catalog.ServerFacts, Inspection, CollectionState | None]:
        facts = catalog.server_facts(connection)
        inspection = self._inspected(connection)
        catalog.require_supported(facts, vectors=bool(inspection.mapping.vectors))
        inspection.require_sound()
        state, finding = check_target(
            self._target, inspection.mapping.collection, create=self._options.create_collection
        )
        require_fit(finding)
        return facts, inspection, state

    def _inspected(self, connection: Connection) -> Inspection:
        """What `check` saw, if the table is still the same: a look may read all of its rows."""
        checked, self._checked = self._checked, None
        if checked is not None:
            table = catalog.read_table(connection, *parse_table_name(self._name))
            if table == checked.table:
                return checked
        return inspect(connection, self._name, self._settings)

    def _connect(self) -> Connection:
        options = self._options
        return connect(options.postgres_url, allow_plaintext=options.allow_plaintext)

    # --- claim ---------------------------------------------------------------------------------

    def _claim(
        self,
        connection: Connection,
        inspection: Inspection,
        source: Source,
        state: CollectionState | None,
    ) -> TablePlan:
        spec, store = inspection.mapping.collection, self._store
        replication = 1 if state is None else state.replication_factor
        store.prepare(replication_factor=replication)
        self._refuse_foreign(source.table, spec.name)
        if self._options.restart:
            self._forget(source.table)
        fingerprint = fingerprint_of(inspection)
        record = store.get("plan", source.table)
        if record is None:
            points = 0 if state is None else self._target.count(spec.name)
            plan = self._make_plan(connection, inspection, source, fingerprint, points)
            claim(store, spec.name, source.table, points)
            # The stored plan wins: another shard may have been first.
            record = store.put_new("plan", source.table, plan.to_record())
            failpoint("backfill.after_plan")
        plan = TablePlan.from_record(record)
        require_same(plan, source, fingerprint)
        if state is None:
            self._refuse_vanished(plan)
        self._target.create_collection(spec, replication_factor=replication)
        return plan

    def _refuse_foreign(self, table: str, collection: str) -> None:
        require_claimable(
            self._store.pipeline, table, collection, self._store.get("owner", collection)
        )

    def _refuse_vanished(self, plan: TablePlan) -> None:
        if self._done(plan):
            raise StopError(
                f"collection {plan.collection} is gone, though chunks of {plan.source.table} are "
                "recorded as copied into it",
                code="TARGET_CHANGED",
                hint="start with --migration.restart to copy everything again",
                table=plan.source.table,
            )

    def _forget(self, table: str) -> None:
        store = self._store
        prefix = f"{table}/"
        for kind in ("chunk", "dead_letter"):
            store.remove(kind, [n for n, _ in store.records(kind) if n.startswith(prefix)])
        store.remove("plan", [table])

    def _make_plan(
        self,
        connection: Connection,
        inspection: Inspection,
        source: Source,
        fingerprint: str,
        points: int,
    ) -> TablePlan:
        table, key = inspection.table, inspection.mapping.key_columns
        rows_per_chunk = chunk_rows(
            catalog.relation_bytes(connection, table),
            table.estimated_rows,
            self._options.worker_count * self._options.shard[1],
        )
        bounds = chunks.plan_bounds(
            connection, table, key, target_rows=rows_per_chunk, where=inspection.where
        )
        return TablePlan(
            source=source,
            collection=inspection.mapping.collection.name,
            key=key,
            bounds=tuple(bounds),
            fingerprint=fingerprint,
            points_before=points,
            rows_before=(
                checks.exact_count(connection, table, inspection.where)
                if table.estimated_rows <= _COUNTED_TWICE_ROWS
                else None
            ),
            created_at=now(),
            writes_before=activity.write_count(connection, table),
        )

    def _done(self, plan: TablePlan) -> dict[int, ChunkDone]:
        done = (ChunkDone.from_record(record) for _, record in self._store.records("chunk"))
        return {chunk.number: chunk for chunk in done if chunk.table == plan.source.table}

    # --- copy ----------------------------------------------------------------------------------

    def _copy(
        self, inspection: Inspection, plan: TablePlan, done: Mapping[int, ChunkDone]
    ) -> tuple[int, float]:
        """Copy what is left of this shard's chunks; (rows read, seconds)."""
        index, count = self._options.shard
        todo = [
            Chunk(number=number, bounds=bounds)
            for number, bounds in enumerate(chunks.key_ranges(plan.bounds))
            if number % count == index and number not in done
        ]
        workers = min(self._options.worker_count, max(1, len(todo)))
        rows, _written, _letters, size = sum_up(done.values())
        self._tell(
            Planned(
                table=plan.source.table,
                collection=plan.collection,
                chunks=plan.chunks,
                chunks_left=len(todo),
                rows_done=rows,
                bytes_done=size,
                estimated_rows=inspection.table.estimated_rows,
                workers=workers,
            )
        )
        if not todo:
            return 0, 0.0
        started = time.monotonic()
        try:
            self._patiently(lambda: indexing.defer(self._target, self._store, plan.collection))
            copied = self._run_pool(inspection, plan, todo, workers)
        except BaseException:
            self._restore_quietly(plan.collection)
            raise
        return copied, time.monotonic() - started

    def _restore_quietly(self, collection: str) -> None:
        indexing.restore_quietly(self._target, self._store, collection, self._tell)

    def _run_pool(
        self, inspection: Inspection, plan: TablePlan, todo: list[Chunk], workers: int
    ) -> int:
        options = self._options
        task = Task(
            postgres_url=options.postgres_url,
            allow_plaintext=options.allow_plaintext,
            endpoint=options.endpoint,
            mapping=inspection.mapping,
            write_ordering=options.write_ordering,
            batch_rows=options.batch_rows,
            batch_delay_seconds=options.batch_delay_seconds,
            patience_seconds=options.patience_seconds,
            dead_letter_limit=options.dead_letter_limit,
        )
        whole = owns_whole_points(inspection.mapping)
        send = self._target.send if whole else self._target.send_fields
        apply = None if options.endpoint is not None else partial(_apply, send)
        copied = letters = 0
        guard = self._target.held_until if isinstance(self._target, GuardedTarget) else None
        with Pool(task, workers=workers, apply=apply, held_until=guard) as pool:
            for event in pool.run(todo):
                if isinstance(event, ChunkCopied):
                    self._checkpoint(plan, event)
                    copied += event.rows_read
                    letters += len(event.letters)
                self._tell(event)
                if letters > options.dead_letter_limit:
                    raise StopError(
                        f"more than {options.dead_letter_limit} rows had to be set aside",
                        code="DEAD_LETTERS",
                        table=plan.source.table,
                        hint="see why with qdrant-bridge dead-letters list; what is copied is kept",
                    )
        return copied

    def _checkpoint(self, plan: TablePlan, event: ChunkCopied) -> None:
        done = ChunkDone(
            table=plan.source.table,
            number=event.chunk,
            rows_read=event.rows_read,
            rows_written=event.rows_written,
            dead_letters=len(event.letters),
            size_bytes=event.size_bytes,
            seconds=event.seconds,
            partitions={str(oid): rows for oid, rows in event.partitions.items()},
        )
        self._patiently(
            lambda: checkpoint_chunk(
                self._store, self._target.flush, done, event.letters, now=now()
            )
        )

    def _patiently(self, action: Callable[[], T]) -> T:
        """Its result; tried again while a service is away. The action may be done twice."""

        def tell(error: BridgeError, seconds: float) -> None:
            self._tell(Waiting(reason=error.message, seconds=seconds))

        return Retry(patience_seconds=self._options.patience_seconds, on_wait=tell).call(action)

    # --- finish --------------------------------------------------------------------------------

    def _finish(
        self, inspection: Inspection, plan: TablePlan, copied: int, seconds: float
    ) -> TableReport:
        done = self._patiently(lambda: self._done(plan))
        read, written, letters, size = sum_up(done.values())
        report = TableReport(
            table=plan.source.table,
            collection=plan.collection,
            chunks=plan.chunks,
            chunks_done=len(done),
            rows_read=read,
            rows_written=written,
            dead_letters=letters,
            size_bytes=size,
            copied_now=copied,
            copy_seconds=seconds,
        )
        if not report.complete:
            return report
        index_seconds = self._build_index(plan.collection)
        counts, names = self._patiently(lambda: self._count(inspection, plan, letters))
        by_partition: Counter[str] = Counter()
        for chunk in done.values():
            for oid, rows in chunk.partitions.items():
                by_partition[names.get(oid, oid)] += rows
        problems, notes = judge(read, written, letters, by_partition, counts)
        return TableReport(
            **{
                **{name: getattr(report, name) for name in report.__slots__},
                "index_seconds": index_seconds,
                "source_count": counts.source,
                "target_count": counts.target,
                "partitions": dict(counts.partitions),
                "problems": problems,
                "notes": notes,
            }
        )

    def _build_index(self, collection: str) -> float | None:
        return indexing.build(
            self._target,
            self._store,
            collection,
            patiently=self._patiently,
            tell=self._tell,
            wait=self._options.wait_for_index,
            poll_seconds=0.0 if self._options.endpoint is None else indexing.POLL_SECONDS,
        )

    def _count(
        self, inspection: Inspection, plan: TablePlan, letters: int
    ) -> tuple[Counts, dict[str, str]]:
        with self._connect() as connection:
            partitions: dict[str, int] = {}
            if inspection.table.kind == "partitioned table":
                partitions = checks.partition_counts(connection, inspection.table, inspection.where)
                source = sum(partitions.values())
            else:
                source = checks.exact_count(connection, inspection.table, inspection.where)
            writes = activity.write_count(connection, inspection.table)
        owner = self._store.get("owner", plan.collection) or {}
        left = sum(
            record["table"] == plan.source.table
            for _name, record in self._store.records("dead_letter")
        )
        counts = Counts(
            source=source,
            target=self._target.count(plan.collection),
            partitions=partitions,
            source_before=plan.rows_before,
            letters_settled=max(0, letters - left),
            written_to=writes is None or writes != plan.writes_before,
            found_points=int(owner.get("found_points", plan.points_before)),
        )
        names = {
            str(oid): f"{quote_identifier(schema)}.{quote_identifier(name)}"
            for oid, schema, name in inspection.table.partitions
        }
        return counts, names


def chunk_rows(relation_bytes: int, estimated_rows: int, workers: int) -> int:
    """Rows of a chunk: about 64 MiB, and enough chunks for all workers to end at the same time."""
    least, most = _CHUNK_ROWS
    if estimated_rows <= 0:
        return most // 5
    by_size = int(_CHUNK_BYTES / max(1.0, relation_bytes / estimated_rows))
    by_workers = -(-estimated_rows // (workers * _CHUNKS_PER_WORKER))
    return max(least, min(most, by_size, by_workers))


def now() -> str:
    """RFC 3339, UTC, whole seconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _apply(send: Callable[[bytes], Pending], request: bytes) -> BridgeError | None:
    """Apply a worker's request to the embedded target."""
    try:
        send(request).result()
    except BridgeError as error:
        return error
    return None
