"""A worker process: compares chunks of one table, one after the other, as the parent hands them out.

Started by `pool.py` as `python -m verify.worker PIPE LIFELINE` with two inherited descriptors. It gets a
`Task`, then `Chunk`s, and ends at None; it writes nothing anywhere. How it begins and ends:
`bridge/worker_process.py`.
"""

from __future__ import annotations

import sys
import time
from multiprocessing.connection import Connection

from bridge.errors import BridgeError
from bridge.failpoints import failpoint
from bridge.payload_fields import owns_whole_points
from bridge.retry import Retry
from bridge.worker_process import failures_told, run
from verify.chunk import ChunkComparer
from verify.comparison import Comparer
from verify.messages import Progress, Task, Waiting
from verify.points import ServerPoints
from verify.rows import PostgresRows

_REPORT_SECONDS = 0.2


def serve(pipe: Connection) -> None:
    """Take the task, then chunks until None; tell what was found."""
    task: Task = pipe.recv()
    comparer = _comparer(task, pipe)
    with failures_told(pipe, hint="please report it; nothing was written"):
        while (chunk := pipe.recv()) is not None:
            compared = comparer.compare(chunk)
            failpoint("verify.after_chunk")
            pipe.send(compared)


def _comparer(task: Task, pipe: Connection) -> ChunkComparer:
    reported = 0.0

    def tell(chunk: int, rows: int) -> None:
        nonlocal reported
        if time.monotonic() - reported >= _REPORT_SECONDS:
            reported = time.monotonic()
            pipe.send(Progress(chunk=chunk, rows=rows))

    def waiting(error: BridgeError, seconds: float) -> None:
        pipe.send(Waiting(reason=error.message, seconds=seconds))

    mapping = task.mapping
    return ChunkComparer(
        PostgresRows(
            task.postgres_url,
            mapping,
            task.part,
            batch_rows=task.batch_rows,
            allow_plaintext=task.allow_plaintext,
        ),
        ServerPoints(task.endpoint, mapping.collection.name),
        Comparer.of(mapping),
        with_vectors=owns_whole_points(mapping),
        projections=task.projections,
        retry=Retry(patience_seconds=task.patience_seconds, on_wait=waiting),
        tell=tell,
    )


if __name__ == "__main__":
    run(serve, sys.argv[1:])
