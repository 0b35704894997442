"""Where Postgres is, seen from outside of the stream: for `status` and metrics.

External specification: PostgreSQL documentation, section 9.28.3 (pg_current_wal_lsn,
pg_last_wal_replay_lsn).
"""

from __future__ import annotations

from dataclasses import dataclass

from bridge.errors import StopError
from bridge.positions import Lsn
from bridge.postgres.connection import Connection, translated
from bridge.postgres.slots import SlotStatus, inspect_slot

_NOW = """
SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
  ELSE pg_catalog.pg_current_wal_lsn() END::text,
  (extract(epoch FROM pg_catalog.clock_timestamp()) * 1000000)::bigint
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceProgress:
    """`lsn`: everything that a commit waited for lies before it. The time is the server's, since 1970."""

    lsn: Lsn
    now_microseconds: int
    slot: SlotStatus | None


def look(connection: Connection, slot: str | None = None) -> SourceProgress:
    """Position, time, and the slot if one is named."""
    with translated(connection=connection):
        row = connection.execute(_NOW).fetchone()
    if row is None or row[0] is None:
        raise StopError("Postgres does not say where its log ends", code="PROTOCOL")
    return SourceProgress(
        lsn=Lsn.parse(row[0]),
        now_microseconds=row[1],
        slot=None if slot is None else inspect_slot(connection, slot),
    )
