"""Tables to measure with: a bigint key, a five-column payload, one vector. Seeded, made by COPY."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np
import psycopg

SEED = 20_261_124
_HEADER = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
_ROWS_A_BLOCK = 1000
_DDL = (
    "CREATE {kind} TABLE {name} (id bigint, title text, category text, price numeric(10,2), "
    "created_at timestamptz, meta jsonb, embedding vector({dimension}))"
)


def make(url: str, name: str, *, rows: int, dimension: int, logged: bool = False) -> None:
    """Create and fill the table, with its primary key. Changes of unlogged ones are not streamed."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        connection.execute(f"DROP TABLE IF EXISTS {name}")
        kind = "" if logged else "UNLOGGED"
        connection.execute(_DDL.format(kind=kind, name=name, dimension=dimension))
        statement = f"COPY {name} FROM STDIN (FORMAT binary)"
        with connection.cursor() as cursor, cursor.copy(statement) as copy:
            copy.write(_HEADER)
            for block in _blocks(rows, dimension):
                copy.write(block)
            copy.write(b"\xff\xff")
        connection.execute(f"ALTER TABLE {name} ADD PRIMARY KEY (id)")
        connection.execute(f"VACUUM ANALYZE {name}")


def _blocks(rows: int, dimension: int) -> Iterator[bytes]:
    random = np.random.default_rng(SEED)
    vector_header = struct.pack(">hh", dimension, 0)
    for start in range(0, rows, _ROWS_A_BLOCK):
        count = min(_ROWS_A_BLOCK, rows - start)
        vectors = random.standard_normal((count, dimension), dtype=np.float32).astype(">f4")
        parts: list[bytes] = []
        for offset in range(count):
            number = start + offset
            fields = (
                struct.pack(">q", number),
                f"Product number {number} with a title of some words".encode(),
                f"category-{number % 50}".encode(),
                _cents(number % 1_000_000),
                struct.pack(">q", 757_382_400_000_000 + number * 1_000_003),
                b'\x01{"rank": %d, "tags": ["new", "blue"], "stock": {"berlin": %d}}'
                % (number % 97, number % 13),
                vector_header + vectors[offset].tobytes(),
            )
            parts.append(struct.pack(">h", len(fields)))
            for field in fields:
                parts += (struct.pack(">i", len(field)), field)
        yield b"".join(parts)


def _cents(value: int) -> bytes:
    """numeric's binary form (numeric.c, numeric_send) of value / 100, scale 2."""
    whole, cents = divmod(value, 100)
    digits: list[int] = []
    while whole:
        whole, digit = divmod(whole, 10_000)
        digits.insert(0, digit)
    weight = len(digits) - 1
    if cents:
        digits.append(cents * 100)
    return struct.pack(f">HhHH{len(digits)}H", len(digits), weight, 0, 2, *digits)
