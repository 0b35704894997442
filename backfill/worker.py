"""A worker process: copies chunks of one table, one after the other, as the parent hands them out.

Started by `pool.py` as `python -m backfill.worker PIPE LIFELINE [HELD_UNTIL]`, inherited descriptors. With
the third it sends no request unless the parent's lease counts (`bridge/held_until.py`). It gets a `Task`,
then `Chunk`s, and ends at None. How it begins and ends: `bridge/worker_process.py`.

A chunk is read in one short transaction (a single COPY) and written as it comes. If Postgres fails in
the middle, the whole chunk is read again: what was written is written again, which changes nothing.
"""

from __future__ import annotations

import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, Protocol

from backfill.messages import Answer, Chunk, ChunkCopied, Progress, Request, Task, Waiting
from bridge import held_until
from bridge.errors import BridgeError, Unreachable
from bridge.events import Read
from bridge.failpoints import failpoint
from bridge.lease import boottime
from bridge.payload_fields import fields_rule, owns_whole_points
from bridge.plan import DeadLetter
from bridge.postgres import scan
from bridge.postgres.connection import Connection as Postgres
from bridge.postgres.connection import connect
from bridge.qdrant.channel import Sender
from bridge.qdrant.wire import encode_upsert
from bridge.qdrant.wire_columns import EncodedRows
from bridge.qdrant.wire_fields import encode_field_updates
from bridge.retry import Retry
from bridge.worker_process import failures_told, run
from bridge.writer import Identified, Pending, Writer

_REPORT_SECONDS = 0.2


class Send(Protocol):
    """Begins a write that is ready."""

    def __call__(self, request: bytes) -> Pending:
        """The request, in flight."""


class Rows(Protocol):
    """Makes points of rows, in one form or another."""

    def points(self, read: Read) -> tuple[Sequence[Identified], list[DeadLetter]]:
        """The points of a batch in its rows' order, and the dead letters."""


class _TargetFailed(Exception):
    """Carries a target's error past the retry that is for the source's."""

    def __init__(self, error: BridgeError) -> None:
        self.error = error


class OpenChunk:
    """A chunk that is read, while its last requests may still be in flight."""

    def __init__(self, chunk: Chunk, writer: Writer[Any]) -> None:
        self.chunk = chunk
        self.writer = writer
        self.letters: list[DeadLetter] = []
        self.partitions: Counter[int] = Counter()
        # What can still be refused, with the keys that a point does not know.
        self.recent: deque[Read] = deque(maxlen=writer.in_flight + 2)
        self.rows = 0
        self.size_bytes = 0
        self.started = time.monotonic()


class ChunkCopier:
    """Copies chunks of one table; holds the connection to Postgres between them."""

    def __init__(self, task: Task, send: Send, pipe: Connection) -> None:
        self._task = task
        self._send = send
        self._pipe = pipe
        self._mapping = task.mapping
        self._table = task.mapping.table
        self._fields = None if owns_whole_points(task.mapping) else fields_rule(task.mapping)
        # What is sent as bytes need not be a dict before.
        encoded = self._fields is None and EncodedRows.fits(task.mapping)
        self._rows: Rows = EncodedRows(task.mapping) if encoded else task.mapping
        self._postgres: Postgres | None = None
        self._reported = 0.0

    def read(self, chunk: Chunk, meanwhile: Callable[[], None]) -> OpenChunk:
        """Read a chunk and begin to write all of it, whatever it takes within the task's patience.

        `meanwhile` is called once, when this chunk's first request is on its way: time to see the
        chunk before it through, so that the target never waits for the next one.
        """
        todo = [meanwhile]

        def run_once() -> None:
            while todo:
                todo.pop()()

        try:
            return self._retry().call(lambda: self._attempt(chunk, run_once))
        except _TargetFailed as failure:
            raise failure.error from None

    def finish(self, opened: OpenChunk) -> ChunkCopied:
        """Wait until every row of the chunk is durable or a dead letter."""
        failpoint("backfill.mid_chunk")
        opened.writer.drain()
        opened.letters += self._refused(opened)
        return ChunkCopied(
            chunk=opened.chunk.number,
            rows_read=opened.rows,
            rows_written=opened.writer.written,
            size_bytes=opened.size_bytes,
            seconds=time.monotonic() - opened.started,
            letters=tuple(opened.letters),
            partitions=dict(opened.partitions),
        )

    def _retry(self) -> Retry:
        def tell(error: BridgeError, seconds: float) -> None:
            self._pipe.send(Waiting(reason=error.message, seconds=seconds))

        return Retry(patience_seconds=self._task.patience_seconds, on_wait=tell)

    def _attempt(self, chunk: Chunk, meanwhile: Callable[[], None]) -> OpenChunk:
        writer = Writer(
            encode=self._encode,
            send=self._send,
            retry=self._retry(),
            refused_limit=self._task.dead_letter_limit,
        )
        opened = OpenChunk(chunk, writer)
        try:
            for batch in self._batches(chunk):
                failpoint("backfill.read")
                self._write(opened, batch)
                with _target_errors():
                    meanwhile()
                if self._task.batch_delay_seconds:
                    time.sleep(self._task.batch_delay_seconds)
        except Unreachable:
            # What is in flight must land before the rows are read again: it may be older.
            with _target_errors():
                writer.drain()
            raise
        with _target_errors():
            meanwhile()
        return opened

    def _write(self, opened: OpenChunk, batch: scan.Batch) -> None:
        position = f"chunk {opened.chunk.number}"
        read = Read(table=self._table.label, rows=batch.rows, position=position)
        points, bad = self._rows.points(read)
        opened.letters += bad
        index = self._mapping.partition_index
        if index is not None:
            leaves = (int.from_bytes(row[index] or b"", "big") for row in batch.rows)
            opened.partitions.update(leaves)
        opened.recent.append(read)
        with _target_errors():
            opened.writer.write(points)
        opened.letters += self._refused(opened)
        opened.rows += len(batch.rows)
        opened.size_bytes += batch.size_bytes
        self._report(opened)

    def _batches(self, chunk: Chunk) -> Iterator[scan.Batch]:
        task, mapping = self._task, self._mapping
        if self._postgres is None:
            self._postgres = connect(task.postgres_url, allow_plaintext=task.allow_plaintext)
            scan.prepare(self._postgres)
        statement = scan.copy_statement(
            self._table, mapping.selection, mapping.key_columns, chunk.bounds, dict(mapping.where)
        )
        done = False
        try:
            yield from scan.read_batches(
                self._postgres,
                statement,
                fields=len(mapping.selection),
                table=self._table.label,
                batch_rows=task.batch_rows,
                batch_bytes=task.batch_bytes,
            )
            done = True
        finally:
            if not done:
                # Whatever happened, the connection may be inside a COPY or gone.
                self._postgres.close()
                self._postgres = None

    def _encode(self, points: Sequence[Any]) -> bytes:
        collection, ordering = self._mapping.collection.name, self._task.write_ordering
        if self._fields is not None:
            updates = list(map(self._fields, points))
            return encode_field_updates(collection, updates, ordering=ordering)
        return encode_upsert(collection, points, ordering=ordering)

    def _refused(self, opened: OpenChunk) -> list[DeadLetter]:
        """Dead letters for what the writer has refused since the last time.

        A point knows its id only; the key is found again among the rows that can still be in
        flight, which costs nothing as long as nothing is refused.
        """
        letters: list[DeadLetter] = []
        for refused in opened.writer.take_refused():
            for read in opened.recent:
                for row in read.rows:
                    texts = self._mapping.key_texts(row)
                    if self._mapping.id_rule.of(texts) == refused.point.id:
                        letters.append(
                            self._mapping.dead_letter(texts, refused.reason, read.position)
                        )
        return letters

    def _report(self, opened: OpenChunk) -> None:
        now = time.monotonic()
        if now - self._reported >= _REPORT_SECONDS:
            self._reported = now
            self._pipe.send(
                Progress(chunk=opened.chunk.number, rows=opened.rows, size_bytes=opened.size_bytes)
            )


@contextmanager
def _target_errors() -> Iterator[None]:
    try:
        yield
    except Unreachable as error:
        raise _TargetFailed(error) from error


class Inbox:
    """What the parent sends: chunks, None at the end, and the answers to requests handed to it."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._chunks: deque[Chunk | None] = deque()
        self._answers: deque[BridgeError | None] = deque()

    def chunk(self) -> Chunk | None:
        """The next chunk; None: there are no more."""
        while not self._chunks:
            self._take()
        return self._chunks.popleft()

    def chunk_waits(self) -> bool:
        """Whether `chunk` would answer at once."""
        while not self._chunks and self._pipe.poll():
            self._take()
        return bool(self._chunks)

    def answer(self) -> BridgeError | None:
        """The answer to the oldest request that has had none."""
        while not self._answers:
            self._take()
        return self._answers.popleft()

    def _take(self) -> None:
        message = self._pipe.recv()
        if isinstance(message, Answer):
            self._answers.append(message.error)
        else:
            self._chunks.append(message)


class ParentSend:
    """Hands requests to the parent, which has the embedded target open. Answers come in order."""

    def __init__(self, pipe: Connection, inbox: Inbox) -> None:
        self._pipe = pipe
        self._inbox = inbox
        self._waiting: deque[_HandedOver] = deque()

    def __call__(self, request: bytes) -> Pending:
        self._pipe.send(Request(data=request))
        handed = _HandedOver(self)
        self._waiting.append(handed)
        return handed

    def settle_next(self) -> None:
        """Give the oldest request its answer."""
        self._waiting.popleft().settle(self._inbox.answer())


class _HandedOver:
    """A request that the parent has (`writer.Pending`)."""

    def __init__(self, source: ParentSend) -> None:
        self._source = source
        self._settled = False
        self._error: BridgeError | None = None

    def settle(self, error: BridgeError | None) -> None:
        self._settled, self._error = True, error

    def result(self) -> None:
        while not self._settled:
            self._source.settle_next()
        if self._error is not None:
            raise self._error


def guarded(send: Send, descriptor: int) -> Send:
    """`send`, but not before the parent's lease counts."""

    def send_if_held(request: bytes) -> Pending:
        held_until.require(descriptor, boottime)
        return send(request)

    return send_if_held


def serve(pipe: Connection, descriptor: int | None = None) -> None:
    """Take the task, then chunks until None; tell what was copied."""
    task: Task = pipe.recv()
    inbox = Inbox(pipe)
    sender = None if task.endpoint is None else Sender(task.endpoint)
    send: Send
    if sender is None:
        send = ParentSend(pipe, inbox)
    else:
        send = sender.send if owns_whole_points(task.mapping) else sender.send_batch
    if descriptor is not None:
        send = guarded(send, descriptor)
    copier = ChunkCopier(task, send, pipe)
    opened: list[OpenChunk] = []

    def finish() -> None:
        while opened:
            copied = copier.finish(opened.pop())
            failpoint("backfill.after_chunk")
            pipe.send(copied)

    with failures_told(pipe, hint="please report it; what is finished is kept"):
        while True:
            if not inbox.chunk_waits():
                finish()
            chunk = inbox.chunk()
            if chunk is None:
                finish()
                return
            opened.append(copier.read(chunk, finish))


if __name__ == "__main__":
    run(serve, sys.argv[1:])
