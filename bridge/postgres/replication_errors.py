"""What Postgres' errors mean for a slot, a publication and the stream read from them.

External specification: "PostgreSQL Error Codes" (SQLSTATE); pg_replication_slots in "System Views".
SQLSTATEs decide, not texts, which come in the server's language; where one SQLSTATE has several
causes, the slot's state tells them apart. A slot that is gone stays gone: only a new copy, deletes
included, makes source and target equal again.
"""

from __future__ import annotations

from dataclasses import dataclass

import psycopg

from bridge.errors import BridgeError, StopError, Unreachable, UsageError
from bridge.postgres.connection import translate
from bridge.schema import quote_identifier

_LOST_HINT = "changes are missing for good: run `qdrant-bridge resync --all`"

UNDEFINED_OBJECT = "42704"
OBJECT_IN_USE = "55006"
NOT_IN_STATE = "55000"
UNDEFINED_FILE = "58P01"
NO_PRIVILEGE = "42501"
LIMIT_REACHED = "53400"
AMBIGUOUS = frozenset({OBJECT_IN_USE, NOT_IN_STATE})
"""SQLSTATEs that need the slot's state to be understood."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotState:
    """What is so when an error arises. `plugin` is None if there is no such slot."""

    wal_level: str
    database: str
    plugin: str | None
    slot_database: str | None
    wal_status: str | None
    active_pid: int | None


def slot_lost(slot: str, reason: str) -> StopError:
    """The slot cannot be read from any more."""
    return StopError(
        f"the replication slot {quote_identifier(slot)} {reason}",
        code="SLOT_LOST",
        hint=_LOST_HINT,
    )


def slot_in_use(slot: str, pid: int | None) -> Unreachable:
    """Somebody reads from it. A daemon that died is noticed by the server within moments."""
    who = "another process" if pid is None else f"PID {pid} of the server"
    end = "" if pid is None else f": SELECT pg_terminate_backend({pid});"
    return Unreachable(
        f"the replication slot {quote_identifier(slot)} is in use by {who}",
        code="SLOT_IN_USE",
        hint=f"if it is not another daemon, it ends by itself, or now{end}",
    )


def wal_level_wrong(found: str) -> UsageError:
    """Logical decoding is switched off."""
    return UsageError(
        f"wal_level is {found}, logical is needed",
        code="WAL_LEVEL",
        hint="ALTER SYSTEM SET wal_level = logical; then restart Postgres",
    )


def publication_missing(publication: str) -> StopError:
    """The publication does not exist, or did not where the stream has come to."""
    return StopError(
        f"the publication {quote_identifier(publication)} does not exist, or did not when the "
        "changes that are due were made",
        code="PUBLICATION_CHANGED",
        hint="changes may be missing: run `qdrant-bridge resync --all`",
    )


def no_replication(role: str) -> UsageError:
    """The role may not open a replication connection or use a slot."""
    return UsageError(
        f"the role {quote_identifier(role)} may not replicate",
        code="PRIVILEGE",
        hint=f"ALTER ROLE {quote_identifier(role)} REPLICATION;",
    )


def judge_slot(slot: str, state: SlotState) -> BridgeError | None:
    """Why this slot cannot be read from, by its state alone; None if nothing speaks against it."""
    if state.plugin is None:
        return slot_lost(slot, "does not exist")
    if state.wal_status == "lost":
        return slot_lost(slot, "was invalidated by the server")
    name = quote_identifier(slot)
    if state.plugin != "pgoutput":
        return UsageError(
            f"the replication slot {name} has the plugin {state.plugin}, not pgoutput",
            hint="name another slot in `sync.slot`",
        )
    if state.slot_database != state.database:
        return UsageError(
            f"the replication slot {name} belongs to the database {state.slot_database}",
            hint="name another slot in `sync.slot`, or the other database in the url",
        )
    if state.active_pid is not None:
        return slot_in_use(slot, state.active_pid)
    return None


def replication_error(
    error: psycopg.Error,
    *,
    slot: str,
    publication: str,
    role: str,
    started: bool,
    state: SlotState | None = None,
) -> BridgeError:
    """One of our errors for an error of START_REPLICATION or, if `started`, of its stream.

    `state` is asked for where the SQLSTATE is one of `AMBIGUOUS`; None if it is not to be had.
    """
    sqlstate = error.sqlstate or ""
    if sqlstate == UNDEFINED_OBJECT:
        return publication_missing(publication) if started else slot_lost(slot, "does not exist")
    if sqlstate == UNDEFINED_FILE:
        return slot_lost(slot, "needs log that the server has removed")
    if sqlstate == NO_PRIVILEGE:
        return no_replication(role)
    if sqlstate in AMBIGUOUS and state is not None:
        if state.wal_level != "logical":
            return wal_level_wrong(state.wal_level)
        judged = judge_slot(slot, state)
        if judged is not None:
            return judged
    if sqlstate == OBJECT_IN_USE:
        return slot_in_use(slot, None)
    if sqlstate == NOT_IN_STATE:
        return translate_without_hint(error)
    return translate(error, role=role)


def translate_without_hint(error: psycopg.Error) -> StopError:
    """`translate`'s hint for this SQLSTATE is about reading relations; here the server's words do."""
    return StopError(
        f"the stream cannot be read: {error.diag.message_primary} (SQLSTATE {error.sqlstate})",
        code="POSTGRES_ERROR",
        hint="see the server's log",
    )
