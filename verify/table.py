"""The comparison of one table: counted, compared chunk by chunk, settled, searched for extras.

    1. schema    the collection is there and its vectors are those that the mapping wants
    2. chunks    key ranges, compared by worker processes (`worker.py`), or here if the target is embedded
    3. settle    rows that differ are looked at again (`looks.py`), some thousand at a time
    4. extras    ids of the target without a row (`extras.py`)

Memory does not grow with the table: what is held are batches, suspects of a few chunks, and 3 MiB of
buckets. Nothing is written but the progress file, if one is wanted. A comparison that raises has no result.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bridge.failpoints import failpoint
from bridge.mapping import TableMapping
from bridge.payload_fields import owns_whole_points
from bridge.point_ids import PointId
from bridge.postgres import catalog, checks, chunks
from bridge.postgres.connection import Connection, connect
from bridge.postgres.predicate import SqlCondition, where_sql
from bridge.postgres.verify_reads import Part, RowLooks, key_texts, read_part
from bridge.qdrant.channel import Endpoint
from bridge.qdrant.collections import compare
from bridge.qdrant.target import Target
from bridge.recorded_schema import unplaced
from bridge.redaction import redact_url
from bridge.retry import Retry
from verify.chunk import ChunkComparer
from verify.comparison import Comparer
from verify.comparison import Path as FieldPath
from verify.digests import hashes
from verify.extras import ExtraSearch
from verify.looks import Settler, Verdict
from verify.messages import (
    PATIENCE_SECONDS,
    Chunk,
    ChunkCompared,
    Event,
    Key,
    Planned,
    Progress,
    Step,
    Task,
    Waiting,
)
from verify.points import Points, ServerPoints, TargetPoints
from verify.pool import Pool
from verify.progress_file import ProgressFile, Saved, fingerprint
from verify.projections import drawn
from verify.report import TableResult
from verify.rows import NO_KEY, PostgresRows
from verify.stream import Follower

_CHUNK_BYTES = 64 * 1024 * 1024
_CHUNK_ROWS = (500, 20_000)
_CHUNKS_PER_WORKER = 4
_SUSPECTS_HELD = 2_000
_SAVE_SECONDS = 5.0
_KEYS_A_BATCH = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to compare. Without an `endpoint` the target is embedded in this process."""

    postgres_url: str = field(repr=False)
    allow_plaintext: bool = False
    endpoint: Endpoint | None = None
    workers: int = 1
    batch_rows: int = 256
    sample_rows: int | None = None
    part: Part = field(default_factory=Part)
    resume: Path | None = None
    exact_vectors: bool = False
    patience_seconds: float = PATIENCE_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is compared. `table` is its name in the pipeline's records, which it keeps when it is renamed;
    `stale` are the fields of columns whose schema was changed, `unplaced` the vector columns that came
    since the copy and have no place in the collection, `letters` gives the dead letters' reasons by key."""

    table: str
    mapping: TableMapping
    stale: frozenset[FieldPath] = frozenset()
    unplaced: tuple[str, ...] = ()
    letters: Callable[[], Mapping[str, str]] = field(default=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What looks at single rows and points, open for one comparison."""

    looks: RowLooks
    points: Points
    settler: Settler
    retry: Retry

    def settled(self, keys: Sequence[Key]) -> list[Verdict]:
        """What is wrong with these rows, for sure; begun again if a service fails meanwhile."""
        return self.retry.call(lambda: self.settler.settle(keys))


class TableComparison:
    """Compares one table with its collection. `tell` hears of everything that happens."""

    def __init__(
        self,
        subject: Subject,
        *,
        target: Target,
        follower: Follower,
        options: Options,
        tell: Callable[[Event], None],
    ) -> None:
        self._mapping = subject.mapping
        self._subject = subject
        self._target = target
        self._follower = follower
        self._options = options
        self._tell = tell
        self._label = subject.table
        self._with_vectors = owns_whole_points(subject.mapping)
        self._comparer = Comparer.of(subject.mapping, subject.stale)
        self._projections = {} if options.exact_vectors else drawn(subject.mapping)
        self._where: SqlCondition | None = where_sql(
            subject.mapping.table,
            dict(subject.mapping.where),
        )

    def run(self) -> TableResult:
        """All four steps. Raises what keeps it from coming to an end."""
        started = time.monotonic()
        schema = self._schema()
        source = self._count_source()
        if schema is None or schema:
            return self._result(Saved(bounds=()), source, 0, schema=schema)
        part = self._part(source)
        with self._tools() as tools:
            file = ProgressFile(self._options.resume, self._label, self._fingerprint(part))
            saved = file.load() or Saved(bounds=self._bounds())
            self._compare(saved, part, source, tools, file)
            target = self._retry().call(lambda: self._target.count(self._mapping.collection.name))
            searched = part.fraction >= 1.0 or target > source
            if searched:
                target = self._search(saved, part, tools)
            file.forget()
        return self._result(
            saved,
            sum(saved.done.values()) if part.whole else source,
            target,
            sampled=part.fraction < 1.0,
            extras_searched=searched,
            seconds=time.monotonic() - started,
        )

    def _fingerprint(self, part: Part) -> str:
        options = self._options
        return fingerprint(
            self._mapping,
            part,
            source=redact_url(options.postgres_url),
            target=self._target.label,
            exact_vectors=options.exact_vectors,
        )

    def recheck(
        self, keys: Sequence[Key], extras: Iterable[PointId]
    ) -> tuple[list[Verdict], list[PointId]]:
        """What is still wrong with these rows and points, after a repair."""
        with self._tools() as tools:
            search = self._extra_search(tools, (0, 1))
            return tools.settled(keys), search.settle(set(extras))

    def _result(
        self,
        saved: Saved,
        source: int,
        target: int,
        *,
        schema: Sequence[str] | None = (),
        sampled: bool = False,
        extras_searched: bool = True,
        seconds: float = 0.0,
    ) -> TableResult:
        collection, columns = self._mapping.collection.name, self._subject.unplaced
        if schema is None:
            lines = [f"the collection {collection} does not exist"]
        else:
            lines = [*schema, *([unplaced(columns)] if columns else [])]
        notes: list[str] = []
        if sampled and not extras_searched:
            notes.append(
                "points without a row were not looked for: the collection has no more points than "
                "the table has rows"
            )
        return TableResult(
            table=self._label,
            collection=collection,
            source=source,
            target=target,
            compared=sum(saved.done.values()),
            findings=saved.findings,
            schema=tuple(lines),
            absent=schema is None,
            unplaced=() if schema is None else columns,
            notes=tuple(notes),
            extras_searched=extras_searched,
            sampled=sampled,
            vectors="scores" if self._projections else "components",
            seconds=seconds,
        )

    def _retry(self) -> Retry:
        return Retry(
            patience_seconds=self._options.patience_seconds,
            on_wait=lambda error, seconds: self._tell(
                Waiting(reason=error.message, seconds=seconds)
            ),
        )

    @contextmanager
    def _tools(self) -> Iterator[Tools]:
        options, collection = self._options, self._mapping.collection.name
        looks = RowLooks(options.postgres_url, allow_plaintext=options.allow_plaintext)
        points: Points = TargetPoints(self._target, collection)
        if options.endpoint is not None:
            points = ServerPoints(options.endpoint, collection)
        settler = Settler(
            self._mapping,
            comparer=self._comparer,
            looks=looks,
            points=points,
            follower=self._follower,
            letters=self._subject.letters,
            with_vectors=self._with_vectors,
        )
        try:
            yield Tools(looks=looks, points=points, settler=settler, retry=self._retry())
        finally:
            looks.close()
            points.close()

    # --- schema and counts ---------------------------------------------------------------------

    def _schema(self) -> list[str] | None:
        """How the collection does not fit; None if it does not exist."""
        spec = self._mapping.collection
        state = self._retry().call(lambda: self._target.collection(spec.name))
        return None if state is None else compare(spec, state)

    def _count_source(self) -> int:
        with self._connect() as connection:
            return checks.exact_count(connection, self._mapping.table, self._where)

    def _connect(self) -> Connection:
        options = self._options
        return connect(options.postgres_url, allow_plaintext=options.allow_plaintext)

    def _part(self, source: int) -> Part:
        """The part asked for; a number of rows becomes the fraction that has about as many."""
        wanted, part = self._options.sample_rows, self._options.part
        if wanted is None:
            return part
        return Part(
            fraction=min(1.0, wanted / max(1, source)),
            seed=part.seed,
            index=part.index,
            count=part.count,
        )

    def _bounds(self) -> tuple[tuple[str, ...], ...]:
        table = self._mapping.table
        with self._connect() as connection:
            size = catalog.relation_bytes(connection, table)
            bounds = chunks.plan_bounds(
                connection,
                table,
                self._mapping.key_columns,
                target_rows=_chunk_rows(size, table.estimated_rows, self._options.workers),
                where=self._where,
            )
        return tuple(bounds)

    # --- rows ----------------------------------------------------------------------------------

    def _compare(
        self, saved: Saved, part: Part, source: int, tools: Tools, file: ProgressFile
    ) -> None:
        todo = [
            Chunk(number=number, bounds=bounds)
            for number, bounds in enumerate(chunks.key_ranges(saved.bounds))
            if number not in saved.done
        ]
        workers = min(self._options.workers, max(1, len(todo)))
        self._tell(
            Planned(
                table=self._label,
                collection=self._mapping.collection.name,
                chunks=len(saved.bounds) + 1,
                chunks_left=len(todo),
                rows_done=sum(saved.done.values()),
                rows=round(source * part.fraction / part.count),
                workers=workers,
            )
        )
        held: list[Key] = []
        done: dict[int, int] = {}
        saved_at = float("-inf")  # the first chunk is kept at once
        for event in self._events(part, todo, workers, tools):
            self._tell(event)
            if not isinstance(event, ChunkCompared):
                continue
            held += self._take(saved, part, event)
            done[event.chunk] = event.rows
            overdue = file.kept and time.monotonic() - saved_at > _SAVE_SECONDS
            if len(held) >= _SUSPECTS_HELD or overdue:
                self._settle(saved, held, tools)
                saved.done.update(done)
                file.save(saved)
                failpoint("verify.after_save")
                held, done, saved_at = [], {}, time.monotonic()
        self._settle(saved, held, tools)
        saved.done.update(done)

    def _events(
        self, part: Part, todo: Sequence[Chunk], workers: int, tools: Tools
    ) -> Iterator[Event]:
        options = self._options
        if options.endpoint is None or len(todo) <= 1:
            yield from self._compare_here(part, todo, tools.points)
            return
        task = Task(
            postgres_url=options.postgres_url,
            allow_plaintext=options.allow_plaintext,
            endpoint=options.endpoint,
            mapping=self._mapping,
            part=part,
            batch_rows=options.batch_rows,
            projections=self._projections,
            patience_seconds=options.patience_seconds,
        )
        with Pool(task, workers=workers) as pool:
            yield from pool.run(todo)

    def _compare_here(self, part: Part, todo: Sequence[Chunk], points: Points) -> Iterator[Event]:
        """An embedded target is open in this process alone; and for one chunk, no worker starts."""
        rows = PostgresRows(
            self._options.postgres_url,
            self._mapping,
            part,
            batch_rows=self._options.batch_rows,
            allow_plaintext=self._options.allow_plaintext,
        )
        comparer = ChunkComparer(
            rows,
            points,
            self._comparer,
            with_vectors=self._with_vectors,
            projections=self._projections,
            retry=self._retry(),
            tell=lambda chunk, number: self._tell(Progress(chunk=chunk, rows=number)),
        )
        try:
            for chunk in todo:
                yield comparer.compare(chunk)
        finally:
            rows.close()

    def _take(self, saved: Saved, part: Part, event: ChunkCompared) -> list[Key]:
        """Count a chunk; the keys that must be looked at again."""
        if part.whole:
            saved.buckets.add(event.ids)
        keys = [suspect.key for suspect in event.suspects]
        for aside in event.set_aside:
            if aside.key == NO_KEY:
                saved.findings.add(
                    Verdict(kind="dead_lettered", key=(NO_KEY,), id=None, reason=aside.reason)
                )
            else:
                keys.append(self._texts(aside.key))
        return keys

    def _texts(self, key: str) -> Key:
        return (key,) if len(self._mapping.key) == 1 else tuple(json.loads(key))

    def _settle(self, saved: Saved, held: Sequence[Key], tools: Tools) -> None:
        if not held:
            return
        self._tell(Step(table=self._label, what="looking again", done=0, of=len(held)))
        for verdict in tools.settled(held):
            saved.findings.add(verdict)

    # --- extras --------------------------------------------------------------------------------

    def _search(self, saved: Saved, part: Part, tools: Tools) -> int:
        """Find the points without a row; how many points there are."""
        search = self._extra_search(tools, (part.index, part.count))
        if not part.whole:
            # The rows that were compared are some of the table's; what counts here are all ids.
            for ids in self.all_ids():
                saved.buckets.add(hashes(search.own(list(ids))))
        number, extras = search.run(saved.buckets)
        for batch in extras:
            for identity in batch:
                saved.findings.add_extra(identity)
        return number

    def _extra_search(self, tools: Tools, shard: tuple[int, int]) -> ExtraSearch:
        return ExtraSearch(
            self._mapping,
            points=tools.points,
            looks=tools.looks,
            follower=self._follower,
            all_ids=self.all_ids,
            retry=self._retry(),
            tell=lambda number: self._tell(
                Step(table=self._label, what="points", done=number, of=0)
            ),
            shard=shard,
        )

    def all_ids(self) -> Iterator[list[PointId]]:
        """The ids of all rows, from their keys alone; each key range is read in a transaction."""
        mapping = self._mapping
        with self._connect() as connection:
            for batch in read_part(
                connection,
                mapping,
                chunks.KeyRange(lower=None, upper=None),
                Part(),
                batch_rows=_KEYS_A_BATCH,
                keys_only=True,
            ):
                yield [
                    mapping.id_rule.of(key_texts(mapping, row))
                    for row in batch.rows
                    if None not in row
                ]


def _chunk_rows(relation_bytes: int, estimated_rows: int, workers: int) -> int:
    """Rows of a chunk: about 64 MiB, few enough that its suspects and ids are soon told."""
    least, most = _CHUNK_ROWS
    if estimated_rows <= 0:
        return most
    by_size = int(_CHUNK_BYTES / max(1.0, relation_bytes / estimated_rows))
    by_workers = -(-estimated_rows // (workers * _CHUNKS_PER_WORKER))
    return max(least, min(most, by_size, by_workers))
