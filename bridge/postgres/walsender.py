"""A replication connection before it streams: asyncio over libpq, commands and their answers.

External specification: PostgreSQL documentation, section 54.4 "Streaming Replication Protocol"
(IDENTIFY_SYSTEM, TIMELINE_HISTORY), and libpq's "Asynchronous Command Processing".

What always holds: it was opened by the rules of `connection.connect` (encryption, session settings,
which are those of the output functions that write a stream's texts); every error leaves as one of
ours; a command that gets no answer is given up.
"""

from __future__ import annotations

import asyncio
import re
import threading
from dataclasses import dataclass
from typing import Final, Self

import psycopg
from psycopg import pq, sql
from psycopg.conninfo import make_conninfo
from psycopg.errors import error_from_result

from bridge.errors import BridgeError, StopError, Unreachable, UsageError
from bridge.positions import Lsn
from bridge.postgres.connection import Connection, connect, conninfo, translate
from bridge.postgres.replication_errors import SlotState, no_replication
from bridge.postgres.timelines import TimelineSwitch, parse_timeline_history

# A server that is there answers at once; only START_REPLICATION may read log before it does.
COMMAND_SECONDS: Final = 60.0
# OpenSSL may hold half a record while the socket is not readable, and libpq does not tell.
TLS_POLL_SECONDS: Final = 0.25

# Given again and again until one of the sides ends the copy: COPY_IN is what COPY_BOTH becomes when
# the server has ended its own.
_STREAMS = frozenset({pq.ExecStatus.COPY_BOTH, pq.ExecStatus.COPY_IN})

_STATE = """
SELECT pg_catalog.current_setting('wal_level'), pg_catalog.current_database(), s.plugin, s.database,
  s.wal_status, s.active_pid
FROM (SELECT) one LEFT JOIN pg_catalog.pg_replication_slots s ON s.slot_name = {}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemIdentity:
    """IDENTIFY_SYSTEM: which cluster, on which timeline, and how far its log is flushed."""

    system_id: str
    timeline: int
    flush_lsn: Lsn
    database: str


class Walsender:
    """One replication connection, for one task at a time."""

    def __init__(self, connection: Connection) -> None:
        """Takes over an open connection; use `open`."""
        self.connection = connection
        self.pgconn = connection.pgconn
        self.pgconn.nonblocking = 1
        # libpq forgets it when the connection breaks, the event loop must not.
        self.descriptor = self.pgconn.socket
        self.role = connection.info.user
        self._waiter: asyncio.Future[bool] | None = None

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        application_name: str = "qdrant-bridge",
        allow_plaintext: bool = False,
        connect_timeout_seconds: int = 10,
    ) -> Self:
        """Connect, in a thread, because name resolution and authentication block."""
        options = conninfo(url)
        options["replication"] = "database"
        abandoned = threading.Event()

        def open_it() -> Connection:
            connection = connect(
                make_conninfo(**options),
                application_name=application_name,
                allow_plaintext=allow_plaintext,
                connect_timeout_seconds=connect_timeout_seconds,
            )
            if abandoned.is_set():
                connection.close()
            return connection

        opening = asyncio.ensure_future(asyncio.to_thread(open_it))
        try:
            return cls(await asyncio.shield(opening))
        except asyncio.CancelledError:
            abandoned.set()
            opening.add_done_callback(_close_unused)
            raise
        except Unreachable as error:
            raise _opening_error(error) from error

    def close(self) -> None:
        """Close the socket; a command or stream that is under way ends with it."""
        self.connection.close()

    # --- facts ---

    async def identify_system(self) -> SystemIdentity:
        """Cluster, timeline, flush LSN."""
        ((system_id, timeline, flush_lsn, database),) = await self.query("IDENTIFY_SYSTEM")
        return SystemIdentity(
            system_id=_text(system_id),
            timeline=int(_text(timeline)),
            flush_lsn=Lsn.parse(_text(flush_lsn)),
            database=_text(database),
        )

    async def timeline_history(self, timeline: int) -> tuple[TimelineSwitch, ...]:
        """The timelines that led to this one, oldest first; empty for timeline 1."""
        if timeline == 1:
            return ()  # it has no history file
        ((_name, content),) = await self.query(f"TIMELINE_HISTORY {timeline:d}")
        return parse_timeline_history(content or b"")

    async def sender_timeout_seconds(self) -> float:
        """wal_sender_timeout as it is for this connection; 0 if there is none."""
        # In milliseconds, whatever the unit in which somebody set it.
        ((setting,),) = await self.query(
            "SELECT setting FROM pg_catalog.pg_settings WHERE name = 'wal_sender_timeout'"
        )
        return int(_text(setting)) / 1000

    async def slot_state(self, slot: str) -> SlotState:
        """What an error of this slot is judged by."""
        query = sql.SQL(_STATE).format(sql.Literal(slot)).as_string(self.connection)
        ((wal_level, database, plugin, slot_database, wal_status, pid),) = await self.query(query)
        return SlotState(
            wal_level=_text(wal_level),
            database=_text(database),
            plugin=_maybe(plugin),
            slot_database=_maybe(slot_database),
            wal_status=_maybe(wal_status),
            active_pid=None if pid is None else int(pid),
        )

    # --- commands ---

    async def query(self, command: str) -> list[tuple[bytes | None, ...]]:
        """The rows of a command of the replication protocol or of SQL."""
        results = await self.execute(command)
        result = results[-1]
        if result.status != pq.ExecStatus.TUPLES_OK:
            raise translate(error_from_result(result), role=self.role)
        return [
            tuple(result.get_value(row, column) for column in range(result.nfields))
            for row in range(result.ntuples)
        ]

    async def execute(self, command: str) -> list[pq.abc.PGresult]:
        """Send a command and wait for all of its results, or until it becomes a stream."""
        try:
            # The simple protocol: a replication connection knows no other.
            self.pgconn.send_query(command.encode())
            async with asyncio.timeout(COMMAND_SECONDS):
                while self.pgconn.flush():
                    await self.readable(TLS_POLL_SECONDS)
            return await self.results()
        except psycopg.Error as error:
            raise translate(error) from error
        except TimeoutError as error:
            raise _no_answer() from error

    async def results(self) -> list[pq.abc.PGresult]:
        """The results that are due; never none. A connection that breaks behind one of them is for
        the next command to notice."""
        results: list[pq.abc.PGresult] = []
        try:
            async with asyncio.timeout(COMMAND_SECONDS):
                while (result := await self._result()) is not None:
                    results.append(result)
                    if result.status in _STREAMS:
                        break
        except psycopg.Error as error:
            if not results:
                raise translate(error) from error
        except TimeoutError as error:
            raise _no_answer() from error
        if not results:
            raise StopError("Postgres answered a command with nothing", code="PROTOCOL")
        return results

    async def _result(self) -> pq.abc.PGresult | None:
        while self.pgconn.is_busy():
            await self.readable(TLS_POLL_SECONDS)
            self.pgconn.consume_input()
        return self.pgconn.get_result()

    # --- waiting ---

    @property
    def waiting(self) -> bool:
        """Whether somebody waits for the server now."""
        return self._waiter is not None

    async def readable(self, seconds: float) -> None:
        """Return when the socket is readable, somebody calls `wake`, or time is up."""
        loop = asyncio.get_running_loop()
        waiter = self._waiter = loop.create_future()
        loop.add_reader(self.descriptor, _settle, waiter)
        limit = loop.call_later(seconds, _settle, waiter)
        try:
            await waiter
        finally:
            limit.cancel()
            loop.remove_reader(self.descriptor)
            self._waiter = None

    def wake(self) -> None:
        """Let who waits look again."""
        if self._waiter is not None:
            _settle(self._waiter)


def start_command(
    *,
    slot: str,
    publication_names: tuple[str, ...],
    start_lsn: Lsn,
    proto_version: int,
    binary: bool,
    messages: bool,
) -> str:
    """START_REPLICATION with every name quoted by the replication grammar's rules.

    Its strings know no backslash escapes. The option publication_names is itself a list of
    identifiers (SplitIdentifierString), so that those are quoted twice.
    """
    options = {
        "proto_version": str(proto_version),
        "publication_names": ",".join(_identifier(name) for name in publication_names),
        "binary": str(binary).lower(),
        "messages": str(messages).lower(),
    }
    listed = ", ".join(f"{name} {_string(value)}" for name, value in options.items())
    return f"START_REPLICATION SLOT {_identifier(slot)} LOGICAL {start_lsn} ({listed})"


def _identifier(name: str) -> str:
    if not name or "\0" in name:
        raise UsageError(f"{name!r} cannot be the name of a slot or publication")
    return '"' + name.replace('"', '""') + '"'


def _string(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _text(value: bytes | None) -> str:
    if value is None:
        raise StopError("Postgres answered NULL where a value is due", code="PROTOCOL")
    return value.decode()


def _maybe(value: bytes | None) -> str | None:
    return None if value is None else value.decode()


def _settle(future: asyncio.Future[bool]) -> None:
    if not future.done():
        future.set_result(True)


def _no_answer() -> Unreachable:
    return Unreachable(
        f"Postgres did not answer within {COMMAND_SECONDS:g} seconds",
        hint="check the network between here and the server",
    )


# --- errors of opening -------------------------------------------------------------------------

# "WAL sender" stays in the server's translations, as far as they are in Latin letters.
_WALSENDER = re.compile(r"wal[ -]?sender", re.IGNORECASE)


def _close_unused(opening: asyncio.Future[Connection]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


def _opening_error(error: Unreachable) -> BridgeError:
    """libpq has only a text for what goes wrong while a connection opens."""
    cause = error.__cause__
    text = str(cause or error)
    if "max_wal_senders" in text:
        return Unreachable(
            "all walsenders of the server are taken",
            hint="raise max_wal_senders (needs a restart), or see pg_stat_replication",
        )
    if _WALSENDER.search(text):
        pgconn = cause.pgconn if isinstance(cause, psycopg.OperationalError) else None
        return no_replication("<role>" if pgconn is None else pgconn.user.decode())
    return error
