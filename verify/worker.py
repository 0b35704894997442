"""A worker process: compares chunks of one table, one after the other, as the parent hands them out.

Started by `pool.py` as `python -m verify.worker PIPE LIFELINE` with two inherited descriptors. It gets a
`Task`, then `Chunk`s, and ends at None. It loads neither the command line nor `qdrant_client`, so that it
starts soon and stays small; it writes nothing anywhere. When the parent dies, however it dies, its end of
the lifeline closes and the worker ends at once.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from bridge.errors import BridgeError, StopError
from bridge.failpoints import failpoint
from bridge.payload_fields import owns_whole_points
from bridge.retry import Retry
from verify.chunk import ChunkComparer
from verify.comparison import Comparer
from verify.messages import Failed, Progress, Task, Waiting
from verify.points import ServerPoints
from verify.rows import PostgresRows

_REPORT_SECONDS = 0.2
_OBJECTS_BETWEEN_COLLECTIONS = 200_000


def serve(pipe: Connection) -> None:
    """Take the task, then chunks until None; tell what was found."""
    task: Task = pipe.recv()
    comparer = _comparer(task, pipe)
    try:
        while (chunk := pipe.recv()) is not None:
            compared = comparer.compare(chunk)
            failpoint("verify.after_chunk")
            pipe.send(compared)
    except BridgeError as error:
        pipe.send(Failed(error=error))
    except (EOFError, OSError):
        raise
    except Exception as error:
        pipe.send(Failed(error=_unforeseen(error)))


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


def _unforeseen(error: Exception) -> StopError:
    """A defect of ours: told by its kind and place, since its text may hold a row's values."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return StopError(
        f"a worker failed: {type(error).__name__}{place}",
        code="INTERNAL",
        hint="please report it; nothing was written",
    )


def _end_with_parent(lifeline: int) -> None:
    """Block until the parent's end closes, then end this process without further ado."""
    os.read(lifeline, 1)
    os._exit(1)


def main(arguments: Sequence[str]) -> None:
    """`PIPE LIFELINE`: the inherited descriptors."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    pipe_descriptor, lifeline = map(int, arguments)
    # Points become many small objects, none of them in a cycle.
    gc.freeze()
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
    threading.Thread(target=_end_with_parent, args=(lifeline,), daemon=True).start()
    with Connection(pipe_descriptor) as pipe:
        try:
            serve(pipe)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return  # the parent is gone or does not want this worker any more


if __name__ == "__main__":
    main(sys.argv[1:])
