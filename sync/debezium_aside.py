"""What the writing thread does beside the windows: truncates to settle, requests of other commands.

Each is done in pieces, one at a time, and windows come in between, so that neither waits for the other
for long. All but the pieces themselves runs in the thread that polls.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future

from bridge.errors import Unreachable
from bridge.kafka_state import PartitionState, read_partitions
from bridge.qdrant.state import QdrantState
from bridge.retry import Retry
from sync.debezium_job import Desk
from sync.debezium_requests import RequestRunner
from sync.debezium_tables import TopicTables
from sync.debezium_truncate import Truncates
from sync.debezium_writer import WindowWriter
from sync.kafka_partition import Partition
from sync.letters import Letters

SETTLE_SECONDS = 1.0
LETTERS_SECONDS = 30.0
PIECE_SECONDS = 0.1
_UNDER_WAY_SECONDS = 0.05


class Aside:
    """That of one session. `partitions` reads the records of all partitions."""

    def __init__(
        self,
        executor: Executor,
        truncates: Truncates,
        runner: RequestRunner,
        letters: Letters,
        *,
        partitions: Callable[[], Sequence[PartitionState]],
        settle_seconds: float = SETTLE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._executor = executor
        self._truncates = truncates
        self._runner = runner
        self._letters = letters
        self._partitions = partitions
        self._settle_seconds = settle_seconds
        self._clock = clock
        self._settle_at = 0.0
        self._letters_at = clock() + LETTERS_SECONDS
        self._piece: Future[None] | None = None

    @classmethod
    def of(
        cls,
        executor: Executor,
        writer: WindowWriter,
        letters: Letters,
        tables: TopicTables,
        *,
        store: QdrantState,
        retry: Retry,
        tell: Callable[..., None],
        settle_seconds: float,
        clock: Callable[[], float],
    ) -> Aside:
        """Of a session with this writer."""
        desk = Desk(
            tables=tables,
            sweep=writer.truncates.sweep,
            write=writer.write_rows,
            forget=writer.forget,
            store=store,
            retry=retry,
            open_rows=writer.truncates.open_rows,
            tell=tell,
        )
        return cls(
            executor,
            writer.truncates,
            RequestRunner(desk, writer.topics_of, clock=clock),
            letters,
            partitions=lambda: read_partitions(store),
            settle_seconds=settle_seconds,
            clock=clock,
        )

    @property
    def under_way(self) -> list[Future[None]]:
        """The piece that is not done yet."""
        return [] if self._piece is None or self._piece.done() else [self._piece]

    def due_in(self) -> float:
        """Seconds until there is something to do, as far as one can know."""
        if self.under_way:
            return _UNDER_WAY_SECONDS
        settle = self._settle_at - self._clock() if self._truncates.may_wait() else float("inf")
        return max(0.0, min(settle, self._runner.due_in()))

    def go_on(self, owned: set[Partition]) -> None:
        """Hand the next piece to the writing thread, if one is due and none is under way. Raises what
        the last one met."""
        if self._piece is not None:
            if not self._piece.done():
                return
            piece, self._piece = self._piece, None
            piece.result()
        if not owned:
            return
        now = self._clock()
        if now >= self._letters_at:
            # Rows that requests set aside, or wrote, may be ours.
            self._letters_at = now + LETTERS_SECONDS
            self._letters.look_again()
        if self._truncates.may_wait() and now >= self._settle_at:
            self._settle_at = now + self._settle_seconds
            self._piece = self._executor.submit(self._settle, owned)
        elif self._runner.due_in() == 0.0:
            self._piece = self._executor.submit(self._work, owned)

    def _settle(self, owned: set[Partition]) -> None:
        until, pause = self._clock() + PIECE_SECONDS, 0.0
        while pause == 0.0 and self._clock() < until:
            found = self._truncates.settle(owned, self._partitions)
            if found is None:
                return
            pause = found
        self._settle_at = self._clock() + pause

    def _work(self, owned: set[Partition]) -> None:
        until = self._clock() + PIECE_SECONDS
        self._runner.work(owned)
        while self._runner.due_in() == 0.0 and self._clock() < until:
            self._runner.work(owned)

    def forget(self) -> None:
        """It has ended. Where it could not go on, it is done again by whoever has the partition."""
        piece, self._piece = self._piece, None
        error = None if piece is None else piece.exception()
        if error is not None and not isinstance(error, Unreachable):
            raise error

    def close(self) -> None:
        """Close the connections; nothing may be under way."""
        self._truncates.give_up()
        self._runner.close()
