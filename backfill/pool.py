"""The workers of a backfill (`bridge/workers.py`), and the requests that they hand to the parent."""

from __future__ import annotations

from collections.abc import Callable

from backfill.messages import Answer, Chunk, ChunkCopied, Progress, Request, Task, Waiting
from bridge.errors import BridgeError
from bridge.workers import Kind, Workers

Apply = Callable[[bytes], BridgeError | None]
"""Applies an Upsert to the embedded target; its error, or None."""

_KIND = Kind(
    module="backfill.worker",
    did="copied",
    done=ChunkCopied,
    hint="is the machine out of memory? fewer workers need less: --migration.num-workers; a smaller "
    "--migration.batch-size as well",
)


class Pool(Workers[Chunk, Progress | ChunkCopied | Waiting]):
    """Copies chunks of one table. `held_until`: the descriptor by which workers look whether they may
    write."""

    def __init__(
        self,
        task: Task,
        *,
        workers: int,
        apply: Apply | None = None,
        held_until: int | None = None,
    ) -> None:
        def answer(message: object) -> Answer | None:
            if not isinstance(message, Request):
                return None
            return Answer(error=None if apply is None else apply(message.data))

        super().__init__(
            _KIND,
            task,
            table=task.mapping.table.label,
            size=workers,
            answer=answer,
            inherited=[] if held_until is None else [held_until],
        )
