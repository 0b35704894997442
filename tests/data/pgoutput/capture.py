"""Captures what real servers send: python -m tests.data.pgoutput.capture

Runs the statements below on the embedded Postgres 16 and 18, once for each protocol version and
format, and writes every XLogData payload up to the end of the log as a line of JSON. It reads with
libpq alone, so that the decoder's tests do not rest on the code that they test.
"""

from __future__ import annotations

import contextlib
import json
import struct
from pathlib import Path
from typing import Literal

import psycopg

from bridge.postgres.embedded import EmbeddedPostgres

HERE = Path(__file__).parent
# Over 2 kB, so that it is TOASTed: vector's storage is external.
VECTOR = "(SELECT array_agg(i)::vector FROM generate_series({0}, {0} + 599) i)"

SETUP = (
    "CREATE EXTENSION vector",
    "CREATE TABLE docs (id int PRIMARY KEY, title text, embedding vector(600))",
    'CREATE TABLE "Wéird ""t" (a int NOT NULL, b int NOT NULL, note text, PRIMARY KEY (b, a))',
    "CREATE TABLE whole (id int, title text, embedding vector(600))",
    "ALTER TABLE whole REPLICA IDENTITY FULL",
    "CREATE TABLE parts (id int PRIMARY KEY, title text) PARTITION BY RANGE (id)",
    "CREATE TABLE parts_low PARTITION OF parts FOR VALUES FROM (0) TO (100)",
    'CREATE PUBLICATION capture FOR TABLE docs, "Wéird ""t", whole, parts'
    " WITH (publish_via_partition_root = true)",
)
STATEMENTS = (
    "INSERT INTO docs VALUES (1, 'one', " + VECTOR.format(1) + "), (2, NULL, NULL)",
    "UPDATE docs SET title = 'eins' WHERE id = 1",
    "UPDATE docs SET id = 10 WHERE id = 1",
    "UPDATE docs SET embedding = " + VECTOR.format(5) + " WHERE id = 10",
    "DELETE FROM docs WHERE id = 10",
    'INSERT INTO "Wéird ""t" VALUES (1, 2, \'x\')',
    'UPDATE "Wéird ""t" SET a = 3',
    'DELETE FROM "Wéird ""t"',
    "INSERT INTO whole VALUES (1, 'one', " + VECTOR.format(1) + ")",
    "UPDATE whole SET title = 'eins'",
    "DELETE FROM whole",
    "INSERT INTO parts VALUES (5, 'five')",
    "BEGIN; INSERT INTO docs VALUES (3, 'three', NULL); SAVEPOINT s;"
    " INSERT INTO docs VALUES (4, 'gone', NULL); ROLLBACK TO s;"
    " ALTER TABLE docs ADD COLUMN extra int; INSERT INTO docs VALUES (5, 'five', NULL, 55); COMMIT",
    "ALTER TABLE docs RENAME COLUMN title TO headline",
    "ALTER TABLE docs RENAME TO papers",
    "UPDATE papers SET headline = 'drei' WHERE id = 3",
    "ALTER TABLE papers DROP COLUMN extra",
    "UPDATE papers SET headline = 'fünf' WHERE id = 5",
    "BEGIN; INSERT INTO papers VALUES (6, 'never', NULL); ROLLBACK",
    "SELECT pg_logical_emit_message(true, 'bridge', 'inside')",
    "SELECT pg_logical_emit_message(false, 'bridge', 'outside')",
    "TRUNCATE papers, whole, parts RESTART IDENTITY CASCADE",
    "TRUNCATE papers",
)


def main() -> None:
    """Capture all; existing files are replaced."""
    versions: tuple[Literal["16", "18"], ...] = ("16", "18")
    for version in versions:
        with EmbeddedPostgres.temporary(version) as server:
            url = server.url()
            with psycopg.connect(url, autocommit=True) as connection:
                for statement in SETUP:
                    connection.execute(statement.encode())
                streams = [
                    (form, protocol) for form in ("binary", "text") for protocol in (1, 2, 4)
                ]
                for form, protocol in streams:
                    connection.execute(
                        "SELECT pg_create_logical_replication_slot(%s, 'pgoutput')",
                        (f"{form}_{protocol}",),
                    )
                for statement in STATEMENTS:
                    connection.execute(statement.encode())
                row = connection.execute("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn").fetchone()
                assert row is not None
            for form, protocol in streams:
                path = HERE / f"pg{version}-{form}-v{protocol}.jsonl"
                path.write_text(capture(url, form, protocol, int(row[0])))
                print(path.name, path.stat().st_size)


def capture(url: str, form: str, protocol: int, end: int) -> str:
    """The stream of one slot up to the LSN `end`, as lines of JSON."""
    lines: list[str] = []
    with contextlib.closing(psycopg.connect(url, replication="database")) as connection:
        pgconn = connection.pgconn
        pgconn.exec_(
            f"START_REPLICATION SLOT {form}_{protocol} LOGICAL 0/0 (proto_version '{protocol}',"
            f" publication_names 'capture', binary '{str(form == 'binary').lower()}',"
            " messages 'true')".encode()
        )
        while True:
            _, data = pgconn.get_copy_data(0)
            if data[0] == ord("k"):
                if struct.unpack_from(">Q", data, 1)[0] >= end:
                    return "".join(line + "\n" for line in lines)
                continue
            (start,) = struct.unpack_from(">Q", data, 1)
            lsn = f"{start >> 32:X}/{start & 0xFFFFFFFF:X}"
            lines.append(json.dumps({"lsn": lsn, "payload": bytes(data[25:]).hex()}))


if __name__ == "__main__":
    main()
