"""How fast a stream is read here, next to pg_recvlogical writing the same stream to /dev/null.

python -m benchmarks.replication_read [--rows N] [--dimension D] [--text]

One embedded server, one table, one transaction of inserts for each chunk of rows; every reader has a
slot of its own at the same position and reads to the same LSN, one after the other, `ROUNDS` times,
the best of which counts: what a reader can do, not what else the machine does meanwhile. `read`
frames the messages, `decode` turns them into events as well. CPU seconds are the reader's own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import time
from dataclasses import dataclass

import psycopg

from benchmarks.measure import machine, usage
from bridge.positions import Lsn
from bridge.postgres.embedded import EmbeddedPostgres, installation
from sync.framing import XLogData
from sync.pgoutput import Decoder
from sync.replication import ReplicationConnection

ROUNDS = 2
_ROWS_A_TRANSACTION = 5_000
_READERS = ("pg_recvlogical", "read", "decode")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One reader's best round."""

    rows_per_second: float
    megabytes_per_second: float
    cpu_seconds: float
    share_of_pg_recvlogical: float


def run(*, rows: int, dimension: int, binary: bool) -> dict[str, Figure]:
    """Measure every reader on a server made for it."""
    with EmbeddedPostgres.temporary("18", {"fsync": "off", "max_wal_size": "8GB"}) as server:
        url = server.url()
        slots = [f"{reader}_{number}" for reader in _READERS for number in range(ROUNDS)]
        end = _fill(url, slots, rows=rows, dimension=dimension)
        measured: dict[str, tuple[float, float, int]] = {}
        for number in range(ROUNDS):
            for reader in _READERS:
                before = usage()
                size = _read(reader, url, f"{reader}_{number}", end, binary=binary)
                after = usage()
                found = (after.wall - before.wall, after.cpu - before.cpu, size)
                measured[reader] = min(measured.get(reader, found), found)
    fastest = measured["pg_recvlogical"][0]
    size = measured["read"][2]
    return {
        reader: Figure(
            rows_per_second=rows / wall,
            megabytes_per_second=size / wall / 1e6,
            cpu_seconds=cpu,
            share_of_pg_recvlogical=fastest / wall,
        )
        for reader, (wall, cpu, _) in measured.items()
    }


def _fill(url: str, slots: list[str], *, rows: int, dimension: int) -> Lsn:
    """The table, the slots, then the rows; where the log ends."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION vector")
        connection.execute(
            f"CREATE TABLE docs (id bigint PRIMARY KEY, title text, embedding vector({dimension:d}))".encode()
        )
        connection.execute("CREATE PUBLICATION pub FOR TABLE docs")
        for slot in slots:
            connection.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", (slot,))
        for start in range(0, rows, _ROWS_A_TRANSACTION):
            connection.execute(
                "INSERT INTO docs SELECT i, 'title of number ' || i, v.vector FROM"
                " (SELECT array_agg(random())::vector AS vector FROM generate_series(1, %s)) v,"
                " generate_series(%s::bigint, %s::bigint) i",
                (dimension, start, min(start + _ROWS_A_TRANSACTION, rows) - 1),
            )
        connection.execute("CHECKPOINT")
        row = connection.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
        assert row is not None
        # Something behind it, so that every reader sees that it has passed the end.
        connection.execute("SELECT pg_logical_emit_message(false, 'end', '')")
        return Lsn.parse(row[0])


def _read(reader: str, url: str, slot: str, end: Lsn, *, binary: bool) -> int:
    if reader != "pg_recvlogical":
        return asyncio.run(_our_read(url, slot, end, binary=binary, decode=reader == "decode"))
    subprocess.run(
        [
            str(installation("18") / "bin" / "pg_recvlogical"), "-d", url, "--slot", slot, "--start",
            "--endpos", str(end), "--file", "/dev/null", "--no-loop", "-o", "proto_version=1",
            "-o", "publication_names=pub", "-o", f"binary={str(binary).lower()}",
        ],
        check=True,
    )  # fmt: skip
    return 0


async def _our_read(url: str, slot: str, end: Lsn, *, binary: bool, decode: bool) -> int:
    """Read up to `end`; the bytes of all messages."""
    size = 0
    decoder = Decoder()
    async with await ReplicationConnection.connect(url) as connection:
        await connection.start(
            slot=slot, publication_names=("pub",), start_lsn=Lsn(0), binary=binary
        )
        while True:
            for frame in await connection.read_batch():
                if isinstance(frame, XLogData):
                    size += len(frame.payload)
                    if decode:
                        decoder.decode(frame.payload, frame.start)
                elif frame.end_lsn >= end:
                    return size


def main() -> None:
    """Parse, measure, print JSON."""
    parser = argparse.ArgumentParser(prog="benchmarks.replication_read")
    parser.add_argument("--rows", type=int, default=40_000)
    parser.add_argument("--dimension", type=int, default=1536)
    parser.add_argument("--text", action="store_true", help="text instead of binary")
    arguments = parser.parse_args()
    started = time.time()
    figures = run(rows=arguments.rows, dimension=arguments.dimension, binary=not arguments.text)
    report = {
        "rows": arguments.rows,
        "dimension": arguments.dimension,
        "form": "text" if arguments.text else "binary",
        "machine": machine(),
        "seconds": round(time.time() - started, 1),
        "readers": {
            reader: {
                "rows_per_second": round(figure.rows_per_second),
                "megabytes_per_second": round(figure.megabytes_per_second, 1),
                "cpu_seconds": round(figure.cpu_seconds, 2),
                "share_of_pg_recvlogical": round(figure.share_of_pg_recvlogical, 2),
            }
            for reader, figure in figures.items()
        },
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
