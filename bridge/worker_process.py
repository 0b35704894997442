"""A worker process: how it begins and ends. The worker's side of `workers.py`.

A program that is run as one calls `run` with its descriptors: the pipe, the lifeline, and what else its
parent has it inherit. It should import neither the command line nor `qdrant_client`, so that it starts in a
fraction of a second and stays small.
"""

from __future__ import annotations

import gc
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

from bridge.errors import BridgeError, StopError
from bridge.workers import Failed

_OBJECTS_BETWEEN_COLLECTIONS = 200_000


def run(serve: Callable[..., None], arguments: Sequence[str]) -> None:
    """Call `serve(pipe, *further descriptors)` until it returns, or the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    pipe_descriptor, lifeline, *further = map(int, arguments)
    # Rows become many small objects, none of them in a cycle: with the usual threshold the collector
    # takes a quarter of a worker's time looking through what is alive.
    gc.freeze()
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
    threading.Thread(target=_end_with_parent, args=(lifeline,), daemon=True).start()
    with Connection(pipe_descriptor) as pipe:
        try:
            serve(pipe, *further)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            # The parent is gone or does not want this worker any more.
            return


@contextmanager
def failures_told(pipe: Connection, *, hint: str) -> Iterator[None]:
    """Within it, an error ends the work and is told; `hint` goes with what nobody has foreseen."""
    try:
        yield
    except BridgeError as error:
        pipe.send(Failed(error=error))
    except (EOFError, OSError):
        raise
    except Exception as error:
        pipe.send(Failed(error=_unforeseen(error, hint)))


def _unforeseen(error: Exception, hint: str) -> StopError:
    """A defect of ours: told by its kind and place, since its text may hold a row's values."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return StopError(f"a worker failed: {type(error).__name__}{place}", code="INTERNAL", hint=hint)


def _end_with_parent(lifeline: int) -> None:
    """Block until the parent's end closes, then end this process without further ado."""
    os.read(lifeline, 1)
    os._exit(1)
