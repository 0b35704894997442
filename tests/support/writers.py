"""Connections that write to a table all the time, at random from a fixed seed, until they are stopped."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import psycopg

from tests.support.databases import Database

PAUSE_SECONDS = 0.005
"""After each statement: unchecked, a few connections write more than a busy machine can follow."""

Statement = tuple[str, tuple[Any, ...]]


class Writers:
    """`choose` makes the next statement of a connection from its own random numbers.

    Statements that the table's constraints refuse count as nothing; any other error is raised on exit.
    """

    def __init__(
        self,
        database: Database,
        choose: Callable[[random.Random, int], Statement],
        *,
        seed: int,
        connections: int = 3,
    ) -> None:
        print(f"writers' seed: {seed}")
        self._database = database
        self._choose = choose
        self._stop = threading.Event()
        self._error: Exception | None = None
        self._written = threading.Semaphore(0)
        self._threads = [
            threading.Thread(target=self._run, args=(number, seed), daemon=True)
            for number in range(connections)
        ]

    def await_written(self, statements: int) -> None:
        """Return after so many more statements."""
        for _ in range(statements):
            assert self._written.acquire(timeout=60), "nobody writes"

    def _run(self, number: int, seed: int) -> None:
        numbers = random.Random(seed * 1000 + number)
        try:
            with self._database.connect() as connection:
                while not self._stop.is_set():
                    try:
                        connection.execute(*self._choose(numbers, number))
                    except (psycopg.IntegrityError, psycopg.errors.DeadlockDetected):
                        continue
                    finally:
                        self._written.release()
                        self._stop.wait(PAUSE_SECONDS)
        except Exception as error:
            self._error = error

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
        if self._error is not None and error is None:
            raise self._error
