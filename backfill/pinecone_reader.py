"""How a Pinecone backfill reads and writes: the index's limits, and those of the requests to Qdrant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from backfill.messages import Waiting
from bridge.pinecone import reader
from bridge.pinecone.index import Stats
from bridge.pinecone.reader import ReadLimits
from bridge.pinecone.scan import Pages

_CHECKPOINT_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyOptions(ReadLimits):
    """How fast, and how patiently."""

    write_ordering: str = "weak"
    batch_rows: int = 256
    batch_delay_seconds: float = 0.0
    dead_letter_limit: int = 1000
    checkpoint_seconds: float = _CHECKPOINT_SECONDS


class Reader(reader.Reader):
    """The index with its limits, as listers and fetchers of a backfill ask it."""

    def __init__(
        self,
        pages: Pages,
        options: CopyOptions,
        tell: Callable[[Waiting], None],
        *,
        record_bytes: int = 0,
        stats: Callable[[], Stats] | None = None,
    ) -> None:
        super().__init__(
            pages,
            options,
            lambda reason, seconds: tell(Waiting(reason=reason, seconds=seconds)),
            record_bytes=record_bytes,
            stats=stats,
        )
