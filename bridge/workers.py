"""Worker processes: started, fed with chunks, watched, replaced, stopped. The parent's side.

Each worker has a socket pair of its own, so that one that is killed cannot damage what the others
share. A worker that dies is replaced and its chunks handed out again; a chunk that takes three workers
with it stops the run. When the parent dies, however it dies, its end of each worker's lifeline closes,
and the worker ends (`worker_process.py`, the other side).

What passes over the pair is pickled, by and for this program's own processes: the task first, then chunks,
None at the end; back come events, and at last `Failed` if the worker cannot go on.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar

from bridge.errors import BridgeError, StopError

_DEATHS_ALLOWED = 3
_STOP_SECONDS = 5.0
_PACKAGES = Path(__file__).resolve().parent.parent


class Numbered(Protocol):
    """A chunk of the work."""

    @property
    def number(self) -> int:
        """By it everybody names the chunk."""


ChunkT = TypeVar("ChunkT", bound=Numbered)
EventT = TypeVar("EventT")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLost:
    """A worker process died; its chunks are handed to another."""

    pid: int
    chunks: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A worker cannot go on."""

    error: BridgeError


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What the workers do. `module` is run as a program; `did` tells in a message what became of a chunk;
    `done` is the event, with its number as `chunk`, that ends a chunk; `hint` is what to do when a chunk
    takes worker after worker with it."""

    module: str
    did: str
    done: type[Any]
    hint: str


@dataclass(slots=True)
class _Worker(Generic[ChunkT]):
    process: subprocess.Popen[bytes]
    pipe: Connection
    lifeline: int
    chunks: deque[ChunkT]

    def close(self) -> None:
        """Let it end: it notices that the lifeline is cut."""
        self.pipe.close()
        os.close(self.lifeline)


class Workers(Generic[ChunkT, EventT]):
    """Runs the chunks of one task on `size` processes. Use it as a context manager.

    `answer` gives the reply to a message that asks for one, None for an event; `inherited` are further
    descriptors that the workers get.
    """

    def __init__(
        self,
        kind: Kind,
        task: object,
        *,
        table: str,
        size: int,
        answer: Callable[[object], object | None] = lambda message: None,
        inherited: Sequence[int] = (),
    ) -> None:
        self._kind = kind
        self._task = task
        self._table = table
        self._size = size
        self._answer = answer
        self._inherited = inherited
        self._workers: list[_Worker[ChunkT]] = []
        self._deaths: Counter[int] = Counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()

    @property
    def pids(self) -> list[int]:
        """The workers that are running."""
        return [worker.process.pid for worker in self._workers]

    def run(self, chunks: Iterable[ChunkT]) -> Iterator[EventT | WorkerLost]:
        """Events until every chunk is done. Raises what a worker failed with."""
        todo = deque(chunks)
        while todo or any(worker.chunks for worker in self._workers):
            self._feed(todo)
            pipes: list[object] = [worker.pipe for worker in self._workers]
            for ready in wait(pipes):  # type: ignore[arg-type]
                worker = next(one for one in self._workers if one.pipe is ready)
                event = self._take(worker, todo)
                if event is not None:
                    yield event

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

    def _feed(self, todo: deque[ChunkT]) -> None:
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

    def _hand_out(self, worker: _Worker[ChunkT], chunk: ChunkT) -> None:
        worker.chunks.append(chunk)
        _send(worker.pipe, chunk)

    def _start(self) -> _Worker[ChunkT]:
        ours, theirs = socket.socketpair()
        reads, lifeline = os.pipe()
        path = os.pathsep.join(filter(None, (str(_PACKAGES), os.environ.get("PYTHONPATH"))))
        descriptors = [theirs.fileno(), reads, *self._inherited]
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-m", self._kind.module, *map(str, descriptors)],
            pass_fds=descriptors,
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            process_group=0,  # a Ctrl-C in the terminal is for the parent alone
        )
        theirs.close()
        os.close(reads)
        pipe = Connection(ours.detach())
        _send(pipe, self._task)
        return _Worker(process=process, pipe=pipe, lifeline=lifeline, chunks=deque())

    def _take(self, worker: _Worker[ChunkT], todo: deque[ChunkT]) -> EventT | WorkerLost | None:
        try:
            message = worker.pipe.recv()
        except (EOFError, OSError):
            return self._lost(worker, todo)
        if isinstance(message, Failed):
            raise message.error
        reply = self._answer(message)
        if reply is not None:
            _send(worker.pipe, reply)
            return None
        if isinstance(message, self._kind.done):
            worker.chunks = deque(one for one in worker.chunks if one.number != message.chunk)
            # Before anybody looks at this event: the worker need not wait for that.
            self._feed(todo)
        event: EventT = message
        return event

    def _lost(self, worker: _Worker[ChunkT], todo: deque[ChunkT]) -> WorkerLost:
        self._workers.remove(worker)
        worker.close()
        code = worker.process.wait()
        for chunk in reversed(worker.chunks):
            self._deaths[chunk.number] += 1
            if self._deaths[chunk.number] >= _DEATHS_ALLOWED:
                raise StopError(
                    f"{_DEATHS_ALLOWED} workers died while they {self._kind.did} chunk "
                    f"{chunk.number}, the last one with code {code}",
                    code="WORKER_DIED",
                    table=self._table,
                    hint=self._kind.hint,
                )
            todo.appendleft(chunk)
        return WorkerLost(
            pid=worker.process.pid, chunks=tuple(chunk.number for chunk in worker.chunks)
        )


def _send(pipe: Connection, message: object) -> None:
    # If the worker is dead, reading from it will tell.
    with contextlib.suppress(OSError):
        pipe.send(message)
