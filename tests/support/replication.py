"""A table, its publication and slot on a test's database, and ways to wait for what a stream does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from bridge.events import Commit, Insert
from bridge.positions import Lsn
from bridge.postgres.connection import connect
from bridge.postgres.slots import drop
from sync.framing import Keepalive, XLogData
from sync.pgoutput import Decoder, Message
from sync.replication import ReplicationConnection
from tests.support.databases import Database

LIMIT_SECONDS: Final = 60.0
LOOK_SECONDS: Final = 0.02


def publish(database: Database, statement: str = "CREATE TABLE docs (id int PRIMARY KEY)") -> str:
    """Create a table, the publication `pub` FOR ALL TABLES and a slot, whose name is returned."""
    slot = f"slot_{database.name}"
    database.execute(statement)
    database.execute("CREATE PUBLICATION pub FOR ALL TABLES")
    database.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", (slot,))
    return slot


def forget(database: Database, slot: str) -> None:
    """Drop the slot."""
    with connect(database.url, read_only=False) as connection:
        drop(connection, slot=slot, publication="", pipeline="")


async def streaming(
    database: Database,
    slot: str,
    *,
    url: str | None = None,
    start: Lsn | None = None,
    **options: Any,
) -> ReplicationConnection:
    """A connection that streams; the caller closes it."""
    connection = await ReplicationConnection.connect(url or database.url, **options)
    try:
        await connection.start(
            slot=slot, publication_names=("pub",), start_lsn=start or Lsn(0), messages=True
        )
    except BaseException:
        await connection.close()
        raise
    return connection


async def until_commit(connection: ReplicationConnection, decoder: Decoder) -> list[Message]:
    """The messages up to and including the next Commit."""
    found: list[Message] = []
    async with asyncio.timeout(LIMIT_SECONDS):
        async for frame in connection:
            if isinstance(frame, XLogData):
                found.append(decoder.decode(frame.payload, frame.start))
                if isinstance(found[-1], Commit):
                    return found
    raise AssertionError("a stream does not end by itself")


async def keepalive_behind(connection: ReplicationConnection, lsn: Lsn) -> Keepalive:
    """The next keepalive at or behind an LSN; everything before it is thrown away."""
    async with asyncio.timeout(LIMIT_SECONDS):
        async for frame in connection:
            if isinstance(frame, Keepalive) and frame.end_lsn >= lsn:
                return frame
    raise AssertionError("a stream does not end by itself")


def inserted(messages: list[Message]) -> list[bytes]:
    """The first column of every inserted row."""
    values = [message.row.values[0] for message in messages if isinstance(message, Insert)]
    return [value for value in values if isinstance(value, bytes)]


async def eventually(holds: Callable[[], bool], what: str) -> None:
    """Return once it holds; the condition is looked at off the event loop."""
    # The event is the server's; there is nothing here that could be awaited.
    look = asyncio.Event()
    loop = asyncio.get_running_loop()
    end = loop.time() + LIMIT_SECONDS
    while not await asyncio.to_thread(holds):
        assert loop.time() < end, f"not within {LIMIT_SECONDS:g} s: {what}"
        loop.call_later(LOOK_SECONDS, look.set)
        await look.wait()
        look.clear()
