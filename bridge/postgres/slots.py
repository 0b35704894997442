"""The replication slot: made before the first row is read, looked at again and again, dropped at the end.

External specification: PostgreSQL documentation, section 9.28.6 "Replication Management Functions"
(pg_create_logical_replication_slot), 53.20 "pg_replication_slots", 9.27.4 "Transaction ID and
Snapshot Information Functions", and design.md, section 5.

What always holds: a slot exists from before the first read until `drop`; it is never made again in
silence, since what happened between two slots is lost. What a crash leaves: a publication without a
slot, or both without a record of them; `prepare(adopt=True)` goes on from there. An orphaned slot
keeps log for ever and fills the disk; `drop` is what a teardown calls.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import ClientCursor, sql

from bridge.errors import StopError, UsageError
from bridge.positions import Lsn
from bridge.postgres.catalog import server_facts
from bridge.postgres.connection import Connection, translated
from bridge.postgres.publications import (
    Publication,
    create_publication,
    inspect_publication,
    require_fitting,
)
from bridge.postgres.replication_errors import (
    LIMIT_REACHED,
    NO_PRIVILEGE,
    OBJECT_IN_USE,
    SlotState,
    judge_slot,
    no_replication,
    slot_in_use,
    wal_level_wrong,
)
from bridge.schema import Table, quote_identifier

_SLOT_NAME = re.compile("[a-z0-9_]{1,63}")
_FIRST_LOOK_SECONDS = 0.05
_LAST_LOOK_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocker:
    """An open transaction that is waited for: a backend's, or a prepared one (then no PID)."""

    xid: int
    pid: int | None
    prepared: str | None = None

    def __str__(self) -> str:
        if self.prepared is not None:
            return f"prepared transaction {self.prepared!r}"
        return f"transaction {self.xid}" if self.pid is None else f"PID {self.pid}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotFacts:
    """What the pipeline remembers of its source, from the moment that the slot was made.

    `start_lsn`: every change that commits behind it is in the stream. `tables`: OIDs by label.
    `snapshot` is a pg_snapshot's text taken after the slot was made, for `wait_for_transactions`.
    """

    system_id: str
    timeline: int
    slot: str
    start_lsn: Lsn
    publication: Publication
    tables: Mapping[str, int]
    snapshot: str
    created: bool

    def to_record(self) -> dict[str, Any]:
        """As it is stored with the pipeline."""
        return {
            "system_id": self.system_id,
            "timeline": self.timeline,
            "slot": self.slot,
            "start_lsn": str(self.start_lsn),
            "publication": self.publication.to_record(),
            "tables": dict(self.tables),
            "snapshot": self.snapshot,
            "created": self.created,
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> SlotFacts:
        """The inverse of `to_record`."""
        return cls(
            **{
                **record,
                "start_lsn": Lsn.parse(record["start_lsn"]),
                "publication": Publication.from_record(record["publication"]),
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotStatus:
    """pg_replication_slots' row. `retained_bytes`: log kept for it, None on a standby or if lost.

    `wal_status`: `reserved`, `extended`, `unreserved` (about to be lost), `lost`.
    """

    name: str
    plugin: str | None
    database: str | None
    active_pid: int | None
    restart_lsn: Lsn | None
    confirmed_flush_lsn: Lsn | None
    wal_status: str | None
    retained_bytes: int | None
    invalidation_reason: str | None
    failover: bool

    @property
    def active(self) -> bool:
        """Whether somebody reads from it."""
        return self.active_pid is not None

    @property
    def lost(self) -> bool:
        """Whether the server has given it up."""
        return self.wal_status == "lost" or self.invalidation_reason is not None


# --- making ------------------------------------------------------------------------------------


def prepare(
    connection: Connection,
    *,
    slot: str,
    publication: str,
    tables: Sequence[Table],
    pipeline: str,
    adopt: bool = False,
    failover: bool = False,
    on_wait: Callable[[Sequence[Blocker]], None] = lambda blockers: None,
    sleep: Callable[[float], None] = time.sleep,
) -> SlotFacts:
    """Publication and slot, both there before it returns; then call `wait_for_transactions`.

    `connection` must lead to the primary and be opened with `read_only=False`. A publication that
    exists is used if it fits. A slot that exists is refused, unless `adopt`: an earlier start made
    it and died before it could say so; it may only be older than wanted, which repeats changes.
    `failover` (Postgres 17+) has standbys keep it. The server waits for every transaction that
    is open; `on_wait` hears of those that are beforehand.

    UsageError for what has to be mended first, with the statement.
    """
    if _SLOT_NAME.fullmatch(slot) is None:
        raise UsageError(
            f"{slot!r} cannot be a slot's name",
            hint="set `sync.slot` to at most 63 lower-case letters, digits and underscores",
        )
    facts = server_facts(connection)
    if facts.in_recovery:
        raise UsageError("this is a standby", hint="make slot and copy on the primary")
    if facts.wal_level != "logical":
        raise wal_level_wrong(facts.wal_level)
    if not (facts.replication or facts.superuser):
        raise no_replication(facts.role)
    if facts.system_identifier is None or facts.timeline is None:
        raise UsageError(
            f"the role {quote_identifier(facts.role)} may not ask which cluster this is",
            code="PRIVILEGE",
            hint="GRANT EXECUTE ON FUNCTION pg_control_system(), pg_control_checkpoint() TO "
            f"{quote_identifier(facts.role)};",
        )
    found = inspect_publication(connection, publication)
    if found is None:
        # A slot that is older cannot read what was written before its publication was there.
        existing = inspect_slot(connection, slot)
        if existing is not None:
            require_readable(connection, slot, existing)
            raise slot_exists(slot)
        found = create_publication(connection, publication, tables, pipeline=pipeline)
    else:
        require_fitting(found, tables, pipeline=pipeline)
    start_lsn, created = _make_slot(
        connection, slot, adopt=adopt, failover=failover, on_wait=on_wait, sleep=sleep
    )
    return SlotFacts(
        system_id=str(facts.system_identifier),
        timeline=facts.timeline,
        slot=slot,
        start_lsn=start_lsn,
        publication=found,
        tables={table.label: table.oid for table in tables},
        snapshot=current_snapshot(connection),
        created=created,
    )


def _make_slot(
    connection: Connection,
    slot: str,
    *,
    adopt: bool,
    failover: bool,
    on_wait: Callable[[Sequence[Blocker]], None],
    sleep: Callable[[float], None],
) -> tuple[Lsn, bool]:
    """Where the slot starts, and whether it was made now."""
    existing = inspect_slot(connection, slot)
    if existing is not None:
        if not adopt:
            raise slot_exists(slot)
        require_readable(connection, slot, existing)
        if existing.confirmed_flush_lsn is None:
            raise UsageError(
                f"the replication slot {slot} was never finished", hint=_dropping_statement(slot)
            )
        return existing.confirmed_flush_lsn, False
    # Postgres would wait for them too, but could not say for whom.
    wait_for_transactions(connection, on_wait=on_wait, sleep=sleep)
    options = sql.SQL(", failover => true" if failover else "")
    statement = sql.SQL(
        "SELECT lsn::text FROM pg_catalog.pg_create_logical_replication_slot({}, 'pgoutput'{})"
    ).format(sql.Literal(slot), options)
    with _slot_errors(connection, slot):
        row = connection.execute(statement).fetchone()
    if row is None:
        raise StopError("Postgres made a slot and did not say where", code="PROTOCOL")
    return Lsn.parse(row[0]), True


def current_snapshot(connection: Connection) -> str:
    """pg_current_snapshot() as text, in whose list is every transaction that is in progress now.

    A snapshot lists only what is older than the last transaction that ended; the rest is beyond its
    xmax, as if it were still to come. So one is ended first, rolled back because a commit might
    wait for a standby.
    """
    with translated(connection=connection):
        with connection.transaction(force_rollback=True):
            connection.execute("SELECT pg_catalog.pg_current_xact_id()")
        row = connection.execute("SELECT pg_catalog.pg_current_snapshot()::text").fetchone()
    if row is None:
        raise StopError("Postgres gave no snapshot", code="PROTOCOL")
    return str(row[0])


def wait_for_transactions(
    connection: Connection,
    snapshot: str | None = None,
    *,
    on_wait: Callable[[Sequence[Blocker]], None] = lambda blockers: None,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Return when every transaction that `snapshot` shows in progress has ended.

    `snapshot` is a text of `current_snapshot`, by default of now.

    A commit's record may precede a slot and still be invisible to a scan; behind this wait every
    such row is visible. Ended means visible as such to a new snapshot, not merely committed.
    `on_wait` is called before each wait with who is waited for; it may raise to give up.
    """
    snapshot = current_snapshot(connection) if snapshot is None else snapshot
    seconds = _FIRST_LOOK_SECONDS
    while blockers := in_progress(connection, snapshot):
        on_wait(blockers)
        sleep(seconds)
        seconds = min(2 * seconds, _LAST_LOOK_SECONDS)


# Every role sees all of pg_locks; a transaction holds its own id's lock until it is out of the list
# of running ones. Ids there are 32 bits wide.
_IN_PROGRESS = """
SELECT x.xid::text::bigint, l.pid, p.gid
FROM pg_catalog.pg_snapshot_xip(%s::pg_catalog.pg_snapshot) AS x(xid)
LEFT JOIN pg_catalog.pg_locks l ON l.locktype = 'transactionid' AND l.granted
  AND l.mode = 'ExclusiveLock'
  AND l.transactionid::text::bigint = x.xid::text::bigint & 4294967295
LEFT JOIN pg_catalog.pg_prepared_xacts p
  ON p.transaction::text::bigint = x.xid::text::bigint & 4294967295
WHERE NOT pg_catalog.pg_visible_in_snapshot(x.xid, pg_catalog.pg_current_snapshot())
ORDER BY 1
"""


def in_progress(connection: Connection, snapshot: str) -> list[Blocker]:
    """Transactions that the snapshot shows in progress and that have not ended since."""
    with translated(connection=connection):
        rows = connection.execute(_IN_PROGRESS, (snapshot,)).fetchall()
    return [Blocker(xid=xid, pid=pid, prepared=gid) for xid, pid, gid in rows]


# --- looking -----------------------------------------------------------------------------------

_STATUS = """
SELECT plugin, database, active_pid, restart_lsn::text, confirmed_flush_lsn::text, wal_status,
  CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN
    pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), restart_lsn)::bigint END,
  {reason}, {failover}
FROM pg_catalog.pg_replication_slots WHERE slot_name = %s
"""


def inspect_slot(connection: Connection, slot: str) -> SlotStatus | None:
    """The slot as it is now, or None. Works on a replication connection too."""
    since_17 = connection.info.server_version >= 170000
    query = _STATUS.format(
        reason="invalidation_reason" if since_17 else "NULL::text",
        failover="failover" if since_17 else "false",
    )
    with translated(connection=connection):
        row = ClientCursor(connection).execute(query.encode(), (slot,)).fetchone()
    if row is None:
        return None
    plugin, database, pid, restart, confirmed, wal_status, retained, reason, failover = row
    return SlotStatus(
        name=slot,
        plugin=plugin,
        database=database,
        active_pid=pid,
        restart_lsn=Lsn.parse(restart) if restart else None,
        confirmed_flush_lsn=Lsn.parse(confirmed) if confirmed else None,
        wal_status=wal_status,
        retained_bytes=retained,
        invalidation_reason=reason,
        failover=failover,
    )


def require_readable(
    connection: Connection, slot: str, found: SlotStatus | None, *, own_pid: int | None = None
) -> None:
    """Raise why a stream cannot be read from this slot.

    StopError `SLOT_LOST`; UsageError for another plugin or database; Unreachable `SLOT_IN_USE`,
    unless the reader is `own_pid`.
    """
    state = SlotState(
        wal_level="logical",
        database=connection.info.dbname,
        plugin=None if found is None else (found.plugin or "none (physical)"),
        slot_database=None if found is None else found.database,
        wal_status=None if found is None else ("lost" if found.lost else found.wal_status),
        active_pid=None if found is None or found.active_pid == own_pid else found.active_pid,
    )
    error = judge_slot(slot, state)
    if error is not None:
        raise error


def require_not_ahead(found: SlotStatus, checkpoint: Lsn) -> None:
    """StopError `GAP` if the slot was confirmed beyond the checkpoint: what lies between is lost to
    us, and Postgres would go on behind it without an error."""
    confirmed = found.confirmed_flush_lsn
    if confirmed is not None and checkpoint < confirmed:
        raise StopError(
            f"the replication slot {found.name} stands at {confirmed}, the checkpoint at "
            f"{checkpoint}: the changes in between cannot be read any more",
            code="GAP",
            position=str(checkpoint),
            hint="was the state restored from a backup? run `qdrant-bridge resync --all`",
        )


# --- dropping ----------------------------------------------------------------------------------


def drop(connection: Connection, *, slot: str, publication: str, pipeline: str) -> tuple[str, ...]:
    """Drop the slot, and the publication if `prepare` made it for this pipeline; names what went.

    Safe to repeat. The slot goes first: it is what keeps log. Unreachable `SLOT_IN_USE` while it is
    read from. A slot of another plugin or database is not ours and stays (UsageError).
    """
    dropped = []
    found = inspect_slot(connection, slot)
    if found is not None:
        if (found.plugin, found.database) != ("pgoutput", connection.info.dbname):
            require_readable(connection, slot, found)
        with _slot_errors(connection, slot):
            connection.execute("SELECT pg_catalog.pg_drop_replication_slot(%s)", (slot,))
        dropped.append(f"slot {slot}")
    existing = inspect_publication(connection, publication)
    if existing is not None and existing.pipeline == pipeline:
        with translated(connection=connection):
            connection.execute(
                sql.SQL("DROP PUBLICATION IF EXISTS {}").format(sql.Identifier(publication))
            )
        dropped.append(f"publication {quote_identifier(publication)}")
    return tuple(dropped)


# --- errors ------------------------------------------------------------------------------------


@contextmanager
def _slot_errors(connection: Connection, slot: str) -> Iterator[None]:
    """Errors of making and dropping a slot, whose SQLSTATEs mean something of their own here."""
    with translated(connection=connection):
        try:
            yield
        except psycopg.Error as error:
            if error.sqlstate == LIMIT_REACHED:
                raise UsageError(
                    "all replication slots of the server are in use",
                    hint="raise max_replication_slots (needs a restart), or drop a slot that "
                    "nobody reads: SELECT * FROM pg_replication_slots WHERE NOT active;",
                ) from error
            if error.sqlstate == NO_PRIVILEGE:
                raise no_replication(connection.info.user) from error
            if error.sqlstate == OBJECT_IN_USE:
                found = inspect_slot(connection, slot)
                raise slot_in_use(slot, found.active_pid if found else None) from error
            raise


def slot_exists(slot: str) -> UsageError:
    """The slot is there, and not by our making."""
    return UsageError(
        f"the replication slot {slot} exists, and this pipeline did not make it",
        code="SLOT_EXISTS",
        hint=f"name another one in `sync.slot`; if it is a leftover: {_dropping_statement(slot)}",
    )


def _dropping_statement(slot: str) -> str:
    return f"SELECT pg_drop_replication_slot('{slot}');"
