"""Rows of a source as the points that they must be: what a comparison wants of any source.

`PostgresRows` reads key ranges of a table. A source of another kind (records of an index, page by page)
implements `Rows` over its own chunks; nothing behind it knows where the points came from.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from bridge.errors import Unstorable
from bridge.events import Field, Read
from bridge.mapping import TableMapping
from bridge.plan import DeadLetter, Point
from bridge.point_ids import PointId
from bridge.postgres import scan
from bridge.postgres.connection import Connection, connect
from bridge.postgres.verify_reads import Part, read_part
from verify.messages import Chunk, Key, SetAside

_BATCH_BYTES = 4 * 1024 * 1024

NO_KEY = "NULL"
"""How a dead letter names a row whose key has a NULL in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Points, and by their number the keys of their rows; rows that cannot become a point, and the ids
    that they would have."""

    points: list[Point]
    key_of: Callable[[int], Key]
    set_aside: list[SetAside]
    set_aside_ids: list[PointId]


class Rows(Protocol):
    """A source's rows, in chunks."""

    def batches(self, chunk: Chunk) -> Iterator[Batch]:
        """The rows of a chunk. Leaving the iterator early is allowed."""

    def close(self) -> None:
        """Let go of the connection."""


class PostgresRows:
    """A table's rows, or a part of them."""

    def __init__(
        self,
        postgres_url: str,
        mapping: TableMapping,
        part: Part,
        *,
        batch_rows: int,
        allow_plaintext: bool = False,
    ) -> None:
        self._url = postgres_url
        self._allow_plaintext = allow_plaintext
        self._mapping = mapping
        self._part = part
        self._batch_rows = batch_rows
        self._connection: Connection | None = None

    def batches(self, chunk: Chunk) -> Iterator[Batch]:
        if self._connection is None:
            self._connection = connect(self._url, allow_plaintext=self._allow_plaintext)
            scan.prepare(self._connection)
        done = False
        try:
            for batch in read_part(
                self._connection,
                self._mapping,
                chunk.bounds,
                self._part,
                batch_rows=self._batch_rows,
                batch_bytes=_BATCH_BYTES,
            ):
                yield as_points(self._mapping, batch.rows)
            done = True
        finally:
            if not done:
                # Whatever happened, the connection may be inside a COPY or gone.
                self.close()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def as_points(mapping: TableMapping, rows: Sequence[Sequence[Field]]) -> Batch:
    """Rows as the points that they must be."""
    points, letters = mapping.points(Read(table=mapping.table.label, rows=rows, position="verify"))
    kept = rows
    if letters:
        aside = {letter.key for letter in letters}
        kept = [row for row in rows if _letter_key(mapping, row) not in aside]
    texts = [_texts_of(mapping, letter) for letter in letters if letter.key != NO_KEY]
    return Batch(
        points=points,
        key_of=lambda number: tuple(mapping.key_texts(kept[number])),
        set_aside=[SetAside(key=letter.key, reason=letter.reason) for letter in letters],
        set_aside_ids=[mapping.id_rule.of(key) for key in texts],
    )


def _letter_key(mapping: TableMapping, row: Sequence[Field]) -> str:
    try:
        return mapping.dead_letter(mapping.key_texts(row), "", "").key
    except Unstorable:
        return NO_KEY


def _texts_of(mapping: TableMapping, letter: DeadLetter) -> Key:
    """A dead letter's key as its columns' texts."""
    return (letter.key,) if len(mapping.key) == 1 else tuple(json.loads(letter.key))
