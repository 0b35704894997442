"""The workers of a comparison (`bridge/workers.py`)."""

from __future__ import annotations

from bridge.workers import Kind, Workers
from verify.messages import Chunk, ChunkCompared, Progress, Task, Waiting

_KIND = Kind(
    module="verify.worker",
    did="compared",
    done=ChunkCompared,
    hint="is the machine out of memory? fewer workers need less: --migration.num-workers",
)


class Pool(Workers[Chunk, Progress | ChunkCompared | Waiting]):
    """Compares chunks of one table."""

    def __init__(self, task: Task, *, workers: int) -> None:
        super().__init__(_KIND, task, table=task.mapping.table.label, size=workers)
