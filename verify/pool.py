"""The worker processes of a comparison: started, fed with chunks, watched, replaced, stopped.

Each worker has a socket pair of its own. One that dies is replaced and its chunks handed out again; a chunk
that takes three workers with it stops the run.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path

from bridge.errors import StopError
from verify.messages import Chunk, ChunkCompared, Event, Failed, Task, WorkerLost

_DEATHS_ALLOWED = 3
_STOP_SECONDS = 5.0
_PACKAGES = Path(__file__).resolve().parent.parent


@dataclass(slots=True)
class _Worker:
    process: subprocess.Popen[bytes]
    pipe: Connection
    lifeline: int
    chunks: deque[Chunk]

    def close(self) -> None:
        """Let it end: it notices that the lifeline is cut."""
        self.pipe.close()
        os.close(self.lifeline)


class Pool:
    """Compares chunks of one table on `workers` processes. Use it as a context manager."""

    def __init__(self, task: Task, *, workers: int) -> None:
        self._task = task
        self._size = workers
        self._workers: list[_Worker] = []
        self._deaths: Counter[int] = Counter()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()

    @property
    def pids(self) -> list[int]:
        """The workers that are running."""
        return [worker.process.pid for worker in self._workers]

    def run(self, chunks: Iterable[Chunk]) -> Iterator[Event]:
        """Events until every chunk is compared. Raises what a worker failed with."""
        todo = deque(chunks)
        while todo or any(worker.chunks for worker in self._workers):
            self._feed(todo)
            pipes: list[object] = [worker.pipe for worker in self._workers]
            for ready in wait(pipes):  # type: ignore[arg-type]
                worker = next(one for one in self._workers if one.pipe is ready)
                yield self._take(worker, todo)

    def stop(self) -> None:
        """End all workers and wait for them."""
        for worker in self._workers:
            worker.close()
        for worker in self._workers:
            try:
                worker.process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
        self._workers.clear()

    def _feed(self, todo: deque[Chunk]) -> None:
        """Give every worker a chunk, and one ahead while there are plenty."""
        while todo and len(self._workers) < self._size:
            if sum(not worker.chunks for worker in self._workers) >= len(todo):
                break  # no more workers than there is work
            self._workers.append(self._start())
        for ahead in (0, 1):
            for worker in self._workers:
                plenty = not ahead or len(todo) >= len(self._workers)
                if todo and plenty and len(worker.chunks) <= ahead:
                    self._hand_out(worker, todo.popleft())

    def _hand_out(self, worker: _Worker, chunk: Chunk) -> None:
        worker.chunks.append(chunk)
        # If it is dead, reading from it will tell.
        with contextlib.suppress(OSError):
            worker.pipe.send(chunk)

    def _start(self) -> _Worker:
        ours, theirs = socket.socketpair()
        reads, lifeline = os.pipe()
        path = os.pathsep.join(filter(None, (str(_PACKAGES), os.environ.get("PYTHONPATH"))))
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-m", "verify.worker", str(theirs.fileno()), str(reads)],
            pass_fds=(theirs.fileno(), reads),
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            process_group=0,  # a Ctrl-C in the terminal is for the parent alone
        )
        theirs.close()
        os.close(reads)
        worker = _Worker(
            process=process, pipe=Connection(ours.detach()), lifeline=lifeline, chunks=deque()
        )
        with contextlib.suppress(OSError):
            worker.pipe.send(self._task)
        return worker

    def _take(self, worker: _Worker, todo: deque[Chunk]) -> Event:
        try:
            message = worker.pipe.recv()
        except (EOFError, OSError):
            return self._lost(worker, todo)
        if isinstance(message, Failed):
            raise message.error
        if isinstance(message, ChunkCompared):
            worker.chunks = deque(one for one in worker.chunks if one.number != message.chunk)
            # Before anybody looks at this event: the worker need not wait for that.
            self._feed(todo)
        event: Event = message
        return event

    def _lost(self, worker: _Worker, todo: deque[Chunk]) -> WorkerLost:
        self._workers.remove(worker)
        worker.close()
        code = worker.process.wait()
        for chunk in reversed(worker.chunks):
            self._deaths[chunk.number] += 1
            if self._deaths[chunk.number] >= _DEATHS_ALLOWED:
                raise StopError(
                    f"{_DEATHS_ALLOWED} workers died while they compared chunk {chunk.number}, "
                    f"the last one with code {code}",
                    code="WORKER_DIED",
                    table=self._task.mapping.table.label,
                    hint="is the machine out of memory? fewer workers need less: --migration.num-workers",
                )
            todo.appendleft(chunk)
        return WorkerLost(
            pid=worker.process.pid, chunks=tuple(chunk.number for chunk in worker.chunks)
        )
