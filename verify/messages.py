"""What a comparison's parent and its workers tell each other, and what the parent tells its listener.

Everything here is pickled over a socket pair, so it holds values only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bridge.mapping import TableMapping
from bridge.point_ids import PointId
from bridge.postgres.chunks import KeyRange
from bridge.postgres.verify_reads import Part
from bridge.qdrant.channel import Endpoint
from bridge.workers import WorkerLost

Key = tuple[str, ...]

PATIENCE_SECONDS = 300.0
"""How long a service that is away is waited for before the comparison gives up (exit 4)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """All that a worker needs to compare chunks of one table. Without `projections` vectors are read."""

    postgres_url: str = field(repr=False)
    allow_plaintext: bool
    endpoint: Endpoint
    mapping: TableMapping
    part: Part
    batch_rows: int
    projections: Mapping[str, tuple[bytes, ...]]
    patience_seconds: float = PATIENCE_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """One key range to be compared."""

    number: int
    bounds: KeyRange


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """A row whose point is not there or not the same, at the first look."""

    key: Key
    id: PointId


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAside:
    """A row that cannot become a point, and why."""

    key: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkCompared:
    """Every row of the chunk was looked at. `ids`: hashes of the points that rows of it own and that
    are there, whatever their content."""

    chunk: int
    rows: int
    suspects: tuple[Suspect, ...]
    set_aside: tuple[SetAside, ...]
    ids: NDArray[np.uint64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Rows of a chunk that were looked at so far; starts again at 0 if the chunk is read again."""

    chunk: int
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Something is away, or a stream has not come far enough; looked again after `seconds`."""

    reason: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """The comparison of a table begins, or goes on behind `rows_done`."""

    table: str
    collection: str
    chunks: int
    chunks_left: int
    rows_done: int
    rows: int
    workers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What is done besides reading rows: `looking again`, `points without a row`; how many so far."""

    table: str
    what: str
    done: int
    of: int


Event = Planned | Progress | ChunkCompared | Waiting | WorkerLost | Step
