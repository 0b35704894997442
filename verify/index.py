"""The comparison of one collection with the index that it was copied from.

    1. schema    the collection is there and its vectors are those of the stored plan
    2. records   listed, fetched and compared, namespace after namespace (`index_records.py`)
    3. settle    records that differ are looked at again (`index_looks.py`), some thousand at a time
    4. extras    points without a record (`index_extras.py`)

A record becomes the point that the backfill made of it: by the plan that is stored, whatever a sample would
say today. Memory does not grow with the index: what is held are batches under way, suspects, and 3 MiB of
buckets. Nothing is written. A comparison that raises has no result.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from bridge.pinecone.index import Stats, shown
from bridge.pinecone.reader import Reader, ReadLimits, record_bytes
from bridge.pinecone.scan import Pages
from bridge.point_ids import PointId
from bridge.postgres.verify_reads import Part
from bridge.qdrant.channel import Endpoint
from bridge.qdrant.collections import compare
from bridge.qdrant.target import Target
from bridge.retry import Retry
from verify.digests import Buckets
from verify.index_extras import RecordExtras
from verify.index_looks import RecordSettler, Sleep
from verify.index_records import BeganAgain, RecordReader, Seen
from verify.index_subject import IndexSubject
from verify.looks import Verdict
from verify.messages import Event, Key, Planned, Progress, Step, Waiting
from verify.points import Points, ServerPoints, TargetPoints
from verify.report import Findings, TableResult

NOT_A_SNAPSHOT = (
    "not a snapshot: Pinecone has none, and what was written while this ran may have been missed"
)
_SUSPECTS_HELD = 2_000
_COUNT_TRIES, _COUNT_SECONDS = 3, 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexOptions:
    """How to compare. Without an `endpoint` the target is embedded in this process, or asked by it."""

    limits: ReadLimits = field(default_factory=ReadLimits)
    endpoint: Endpoint | None = None
    sample_records: int | None = None
    part: Part = field(default_factory=Part)
    sleep: Sleep = time.sleep


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tools:
    records: RecordReader
    settler: RecordSettler
    extras: RecordExtras


@dataclass(slots=True, kw_only=True)
class _Found:
    """What was found so far. `held`: suspects that are not settled yet."""

    buckets: Buckets = field(default_factory=Buckets)
    findings: Findings = field(default_factory=Findings)
    held: list[Key] = field(default_factory=list)
    listed: int = 0
    compared: int = 0

    def copy(self) -> _Found:
        """As it is now, for a namespace that may have to begin again."""
        found = self.findings
        return _Found(
            buckets=Buckets.restored(*self.buckets.state()),
            findings=Findings(
                counts=Counter(found.counts),
                examples=list(found.examples),
                keys=list(found.keys),
                extras=list(found.extras),
                overflowed=found.overflowed,
            ),
            held=list(self.held),
            listed=self.listed,
            compared=self.compared,
        )


class IndexComparison:
    """Compares one collection. `tell` hears of everything that happens."""

    def __init__(
        self,
        subject: IndexSubject,
        pages: Pages,
        *,
        stats: Callable[[], Stats],
        target: Target,
        options: IndexOptions,
        tell: Callable[[Event], None],
    ) -> None:
        self._subject = subject
        self._pages = pages
        self._stats = stats
        self._target = target
        self._options = options
        self._tell = tell
        self._part = self._part_asked_for()

    def run(self) -> TableResult:
        """All four steps. Raises what keeps it from coming to an end."""
        started = time.monotonic()
        schema = self._schema()
        counted = sum(self._subject.counts.values())
        if schema:
            absent = schema[-1] == self._absence
            return self._result(_Found(), counted, 0, schema=schema, absent=absent)
        part = self._part
        with self._tools(part) as tools:
            found = self._compare(tools, counted)
            target = self._retry().call(lambda: self._target.count(self._subject.collection))
            searched = part.fraction >= 1.0 or target > found.listed
            if searched:
                target = self._search(found, tools)
            problems, notes = self._counts_again(found, counted)
        return self._result(
            found,
            found.compared if part.fraction >= 1.0 else found.listed,
            target,
            schema=problems,
            notes=notes,
            searched=searched,
            seconds=time.monotonic() - started,
        )

    def recheck(
        self, keys: Sequence[Key], extras: Iterable[PointId]
    ) -> tuple[list[Verdict], list[PointId]]:
        """What is still wrong with these records and points, after a repair."""
        with self._tools(Part()) as tools:
            return tools.settler.settle(keys), tools.extras.settle(set(extras))

    def _part_asked_for(self) -> Part:
        wanted, part = self._options.sample_records, self._options.part
        if wanted is None:
            return part
        counted = sum(self._subject.counts.values())
        fraction = min(1.0, wanted / max(1, counted))
        return Part(fraction=fraction, seed=part.seed, index=part.index, count=part.count)

    def _schema(self) -> list[str]:
        spec = self._subject.mapping.collection
        lines = [
            f"namespace {shown(name)} came after the copy of a single one, and is not in the "
            "collection; backfill pinecone --migration.restart copies all of them"
            for name in self._subject.unplaced
        ]
        state = self._retry().call(lambda: self._target.collection(spec.name))
        if state is None:
            return [*lines, self._absence]
        return [*lines, *compare(spec, state)]

    @property
    def _absence(self) -> str:
        return f"the collection {self._subject.collection} does not exist"

    # --- records -----------------------------------------------------------------------------------

    def _compare(self, tools: _Tools, counted: int) -> _Found:
        subject, part = self._subject, self._part
        large = tools.records.large()
        self._tell(
            Planned(
                table=subject.table,
                collection=subject.collection,
                chunks=len(subject.namespaces),
                chunks_left=len(subject.namespaces),
                rows_done=0,
                rows=round(counted * part.fraction / part.count),
                workers=1,
            )
        )
        found = _Found()
        for seen in tools.records.small():
            self._take(found, seen, tools)
        for namespace in large:
            before = found.copy()
            for one in tools.records.namespace(namespace):
                if isinstance(one, BeganAgain):
                    found = before.copy()
                else:
                    self._take(found, one, tools)
        self._settle(found, tools)
        return found

    def _take(self, found: _Found, seen: Seen, tools: _Tools) -> None:
        found.buckets.add(seen.ids)
        found.listed += seen.listed
        found.compared += seen.compared
        found.held += seen.suspects
        self._tell(Progress(chunk=0, rows=found.compared))
        if len(found.held) >= _SUSPECTS_HELD:
            self._settle(found, tools)

    def _settle(self, found: _Found, tools: _Tools) -> None:
        if not found.held:
            return
        held, found.held = found.held, []
        self._tell(Step(table=self._subject.table, what="looking again", done=0, of=len(held)))
        for verdict in tools.settler.settle(held):
            found.findings.add(verdict)

    def _search(self, found: _Found, tools: _Tools) -> int:
        """Find the points without a record; how many points there are."""
        number, extras = tools.extras.run(found.buckets)
        for batch in extras:
            for identity in batch:
                found.findings.add_extra(identity)
        return number

    def _counts_again(self, found: _Found, before: int) -> tuple[list[str], list[str]]:
        """(problems, notes): whether as many records were listed as Pinecone counts.

        A listing that leaves records out would leave them out of the comparison too.
        """
        if self._part.count > 1:
            return [], []
        now = before
        for left in reversed(range(_COUNT_TRIES)):
            counts = self._retry().call(self._stats).counts
            now = sum(counts.get(name, 0) for name in self._subject.namespaces)
            if now == found.listed:
                return [], []
            if left:
                self._options.sleep(_COUNT_SECONDS)  # stats are eventually consistent
        told = f"{found.listed:,} records were listed, and Pinecone counts {now:,}"
        if now == before:
            return [told], []
        return [], [f"{told}, {before:,} before: the index is being written to"]

    # --- what is needed for it ---------------------------------------------------------------------

    @contextmanager
    def _tools(self, part: Part) -> Iterator[_Tools]:
        subject, options = self._subject, self._options
        points: Points = TargetPoints(self._target, subject.collection)
        if options.endpoint is not None:
            points = ServerPoints(options.endpoint, subject.collection)
        dimensions = [spec.dimension or 0 for spec in subject.mapping.collection.vectors]
        reader = Reader(
            self._pages,
            options.limits,
            self._waiting,
            record_bytes=record_bytes(dimensions),
            stats=self._stats,
        )
        records = RecordReader(subject, reader, points, self._retry(), part)
        settler = RecordSettler(
            subject, records=records, points=points, retry=self._retry(), sleep=options.sleep
        )
        extras = RecordExtras(
            subject,
            records=records,
            points=points,
            all_ids=records.all_ids,
            retry=self._retry(),
            tell=lambda number: self._tell(
                Step(table=subject.table, what="points", done=number, of=0)
            ),
            sleep=options.sleep,
            shard=(part.index, part.count),
        )
        try:
            yield _Tools(records=records, settler=settler, extras=extras)
        finally:
            records.close()
            points.close()

    def _retry(self) -> Retry:
        return Retry(
            patience_seconds=self._options.limits.patience_seconds,
            on_wait=lambda error, seconds: self._waiting(error.message, seconds),
        )

    def _waiting(self, reason: str, seconds: float) -> None:
        self._tell(Waiting(reason=reason, seconds=seconds))

    def _result(
        self,
        found: _Found,
        source: int,
        target: int,
        *,
        schema: Sequence[str] = (),
        absent: bool = False,
        notes: Sequence[str] = (),
        searched: bool = True,
        seconds: float = 0.0,
    ) -> TableResult:
        subject, part = self._subject, self._part
        told = [NOT_A_SNAPSHOT, *notes]
        if not searched:
            told.append(
                "points without a record were not looked for: the collection has no more points than "
                "the index has records"
            )
        return TableResult(
            table=subject.table,
            collection=subject.collection,
            source=source,
            target=target,
            compared=found.compared,
            findings=found.findings,
            schema=tuple(schema),
            absent=absent,
            notes=tuple(told),
            extras_searched=searched,
            sampled=part.fraction < 1.0,
            seconds=seconds,
        )
