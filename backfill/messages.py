"""What a backfill's parent and its workers tell each other, and what the parent tells its listener.

Everything here is pickled over a socket pair, so it holds values only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bridge.errors import BridgeError
from bridge.mapping import TableMapping
from bridge.plan import DeadLetter
from bridge.postgres.chunks import KeyRange
from bridge.qdrant.channel import Endpoint
from bridge.workers import WorkerLost

BATCH_BYTES = 4 * 1024 * 1024
"""A request stays below what proxies in front of Qdrant commonly allow, whatever the rows' width."""
PATIENCE_SECONDS = 300.0
"""How long a one-shot command waits for a service that is away before it gives up (exit 4)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """All that a worker needs to copy chunks of one table.

    Without an `endpoint` the target is embedded, in the parent, and requests go there.
    """

    postgres_url: str = field(repr=False)
    allow_plaintext: bool
    endpoint: Endpoint | None
    mapping: TableMapping
    write_ordering: str = "weak"
    batch_rows: int = 256
    batch_bytes: int = BATCH_BYTES
    batch_delay_seconds: float = 0.0
    patience_seconds: float = PATIENCE_SECONDS
    dead_letter_limit: int = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """One key range to be copied."""

    number: int
    bounds: KeyRange


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Rows of a chunk that are written so far; starts again at 0 if the chunk is read again."""

    chunk: int
    rows: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkCopied:
    """Every row of the chunk is durable or among the dead letters. `partitions`: rows by leaf OID."""

    chunk: int
    rows_read: int
    rows_written: int
    size_bytes: int
    seconds: float
    letters: tuple[DeadLetter, ...]
    partitions: Mapping[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Something is away; the worker tries again after `seconds`."""

    reason: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """An Upsert for the parent's embedded target; answered in order."""

    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What became of a `Request`: nothing if it is done, else why not."""

    error: BridgeError | None


Event = Progress | ChunkCopied | Waiting | WorkerLost
