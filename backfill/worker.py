"""A worker process: copies chunks of one table, one after the other, as the parent hands them out.

Started by `pool.py` as `python -m backfill.worker PIPE LIFELINE` with two inherited descriptors. It
gets a `Task`, then `Chunk`s, and ends at None. It imports neither the command line nor
`qdrant_client`, so that it starts in a fraction of a second and stays small.

A chunk is read in one short transaction (a single COPY) and written as it comes. If Postgres fails in
the middle, the whole chunk is read again: what was written is written again, which changes nothing.
When the parent dies, however it dies, its end of the lifeline closes and the worker ends at once.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Protocol

from backfill.messages import Chunk, ChunkCopied, Failed, Progress, Request, Task, Waiting
from bridge.errors import BridgeError, Unreachable
from bridge.events import Read
from bridge.failpoints import failpoint
from bridge.plan import DeadLetter, Point
from bridge.postgres import scan
from bridge.postgres.connection import Connection as Postgres
from bridge.postgres.connection import connect
from bridge.qdrant.channel import Sender
from bridge.qdrant.wire import encode_upsert
from bridge.retry import Retry
from bridge.writer import Pending, Writer

_REPORT_SECONDS = 0.2
_OBJECTS_BETWEEN_COLLECTIONS = 200_000


class Send(Protocol):
    """Begins an Upsert that is ready."""

    def __call__(self, request: bytes) -> Pending:
        """The request, in flight."""


class _TargetFailed(Exception):
    """Carries a target's error past the retry that is for the source's."""

    def __init__(self, error: BridgeError) -> None:
        self.error = error


class ChunkCopier:
    """Copies chunks of one table; holds the connection to Postgres between them."""

    def __init__(self, task: Task, send: Send, pipe: Connection) -> None:
        self._task = task
        self._send = send
        self._pipe = pipe
        self._mapping = task.mapping
        self._table = task.mapping.table
        self._postgres: Postgres | None = None
        self._reported = 0.0

    def copy(self, chunk: Chunk) -> ChunkCopied:
        """Read and write one chunk, whatever it takes within the task's patience."""
        try:
            return self._retry().call(lambda: self._attempt(chunk))
        except _TargetFailed as failure:
            raise failure.error from None

    def _retry(self) -> Retry:
        def tell(error: BridgeError, seconds: float) -> None:
            self._pipe.send(Waiting(reason=error.message, seconds=seconds))

        return Retry(patience_seconds=self._task.patience_seconds, on_wait=tell)

    def _attempt(self, chunk: Chunk) -> ChunkCopied:
        started = time.monotonic()
        task, mapping = self._task, self._mapping
        position = f"chunk {chunk.number}"
        writer = Writer(
            encode=self._encode,
            send=self._send,
            retry=self._retry(),
            refused_limit=task.dead_letter_limit,
        )
        letters: list[DeadLetter] = []
        partitions: Counter[int] = Counter()
        recent: deque[Read] = deque(maxlen=writer.in_flight + 2)
        rows = size = 0
        for batch in self._batches(chunk):
            failpoint("backfill.read")
            read = Read(table=self._table.label, rows=batch.rows, position=position)
            points, bad = mapping.points(read)
            letters += bad
            if mapping.partition_index is not None:
                index = mapping.partition_index
                partitions.update(int.from_bytes(row[index] or b"", "big") for row in batch.rows)
            recent.append(read)
            with _target_errors():
                writer.write(points)
            letters += self._refused(writer, recent)
            rows += len(batch.rows)
            size += batch.size_bytes
            self._report(chunk.number, rows, size)
            if task.batch_delay_seconds:
                time.sleep(task.batch_delay_seconds)
        failpoint("backfill.mid_chunk")
        with _target_errors():
            writer.drain()
        letters += self._refused(writer, recent)
        return ChunkCopied(
            chunk=chunk.number,
            rows_read=rows,
            rows_written=writer.written,
            size_bytes=size,
            seconds=time.monotonic() - started,
            letters=tuple(letters),
            partitions=dict(partitions),
        )

    def _batches(self, chunk: Chunk) -> Iterator[scan.Batch]:
        task, mapping = self._task, self._mapping
        if self._postgres is None:
            self._postgres = connect(task.postgres_url, allow_plaintext=task.allow_plaintext)
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

    def _encode(self, points: Sequence[Point]) -> bytes:
        collection = self._mapping.collection.name
        return encode_upsert(collection, points, ordering=self._task.write_ordering)

    def _refused(self, writer: Writer, recent: Sequence[Read]) -> list[DeadLetter]:
        """Dead letters for what the writer has refused since the last time.

        A point knows its id only; the key is found again among the rows that can still be in
        flight, which costs nothing as long as nothing is refused.
        """
        letters: list[DeadLetter] = []
        for refused in writer.take_refused():
            for read in recent:
                for row in read.rows:
                    texts = self._mapping.key_texts(row)
                    if self._mapping.id_rule.of(texts) == refused.point.id:
                        letters.append(
                            self._mapping.dead_letter(texts, refused.reason, read.position)
                        )
        return letters

    def _report(self, number: int, rows: int, size: int) -> None:
        now = time.monotonic()
        if now - self._reported >= _REPORT_SECONDS:
            self._reported = now
            self._pipe.send(Progress(chunk=number, rows=rows, size_bytes=size))


@contextmanager
def _target_errors() -> Iterator[None]:
    try:
        yield
    except Unreachable as error:
        raise _TargetFailed(error) from error


class ParentSend:
    """Hands requests to the parent, which has the embedded target open. Answers come in order."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._answers: list[BridgeError | None] = []
        self._sent = 0
        self._received = 0

    def __call__(self, request: bytes) -> Pending:
        self._pipe.send(Request(data=request))
        self._sent += 1
        return _Answer(self, self._sent)

    def wait(self, number: int) -> BridgeError | None:
        """The answer to the `number`-th request."""
        while self._received < number:
            self._answers.append(self._pipe.recv())
            self._received += 1
        return self._answers.pop(0)


class _Answer:
    def __init__(self, source: ParentSend, number: int) -> None:
        self._source = source
        self._number = number

    def result(self) -> None:
        error = self._source.wait(self._number)
        if error is not None:
            raise error


def serve(pipe: Connection) -> None:
    """Take the task, then chunks until None."""
    task: Task = pipe.recv()
    sender = None if task.endpoint is None else Sender(task.endpoint)
    copier = ChunkCopier(task, sender.send if sender is not None else ParentSend(pipe), pipe)
    while True:
        chunk: Chunk | None = pipe.recv()
        if chunk is None:
            return
        try:
            copied = copier.copy(chunk)
        except BridgeError as error:
            pipe.send(Failed(error=error))
            return
        failpoint("backfill.after_chunk")
        pipe.send(copied)


def _end_with_parent(lifeline: int) -> None:
    """Block until the parent's end closes, then end this process without further ado."""
    os.read(lifeline, 1)
    os._exit(1)


def main(arguments: Sequence[str]) -> None:
    """`PIPE LIFELINE`: the inherited descriptors."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    pipe_descriptor, lifeline = map(int, arguments)
    # Rows become many small objects, none of them in a cycle: with the usual threshold the collector
    # takes a quarter of a worker's time looking through what is alive.
    gc.freeze()
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
    threading.Thread(target=_end_with_parent, args=(lifeline,), daemon=True).start()
    with Connection(pipe_descriptor) as pipe:
        try:
            serve(pipe)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            # The parent is gone or does not want this worker any more.
            return


if __name__ == "__main__":
    main(sys.argv[1:])
