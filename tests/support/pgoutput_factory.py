"""Builds replication wire input for tests, message by message, apart from the code that reads it.

External specification: PostgreSQL documentation, section 54.9 (messages) and 54.4 (frames). Nothing
is checked, so that wrong input can be built as well.
"""

from __future__ import annotations

from collections.abc import Sequence

from bridge.events import UNCHANGED, Relation, StreamField

EPOCH_MICROSECONDS = 946_684_800_000_000


def number(value: int, size: int) -> bytes:
    """IntN, N in bytes; negative values in two's complement."""
    return value.to_bytes(size, "big", signed=value < 0)


def string(text: str) -> bytes:
    """String."""
    return text.encode() + b"\0"


def column(value: StreamField, kind: str = "b") -> bytes:
    """One column of TupleData; `kind` of a value is `b` or `t`."""
    if value is None:
        return b"n"
    if value is UNCHANGED:
        return b"u"
    return kind.encode() + number(len(value), 4) + value


def row(values: Sequence[StreamField], kinds: str | None = None) -> bytes:
    """TupleData."""
    listed = kinds or "b" * len(values)
    columns = [column(value, kind) for value, kind in zip(values, listed, strict=True)]
    return number(len(values), 2) + b"".join(columns)


def begin(xid: int = 7, final_lsn: int = 100, time: int = EPOCH_MICROSECONDS) -> bytes:
    """Begin; `time` in microseconds since 1970."""
    return b"B" + number(final_lsn, 8) + number(time - EPOCH_MICROSECONDS, 8) + number(xid, 4)


def commit(
    commit_lsn: int = 100, end_lsn: int = 120, time: int = EPOCH_MICROSECONDS, flags: int = 0
) -> bytes:
    """Commit."""
    times = number(time - EPOCH_MICROSECONDS, 8)
    return b"C" + number(flags, 1) + number(commit_lsn, 8) + number(end_lsn, 8) + times


def relation(value: Relation) -> bytes:
    """Relation."""
    columns = b"".join(
        number(int(key), 1) + string(name) + number(oid, 4) + number(modifier, 4)
        for key, name, oid, modifier in zip(
            value.key, value.columns, value.type_oids, value.type_modifiers, strict=True
        )
    )
    schema = "" if value.schema == "pg_catalog" else value.schema
    return (
        b"R" + number(value.oid, 4) + string(schema) + string(value.name)
        + value.replica_identity.encode() + number(len(value.columns), 2) + columns
    )  # fmt: skip


def insert(oid: int, new: bytes) -> bytes:
    """Insert of a `row`."""
    return b"I" + number(oid, 4) + b"N" + new


def update(oid: int, new: bytes, old: bytes = b"", kind: str = "") -> bytes:
    """Update; with an `old` row, `kind` is `K` or `O`."""
    return b"U" + number(oid, 4) + kind.encode() + old + b"N" + new


def delete(oid: int, old: bytes, kind: str = "K") -> bytes:
    """Delete of a `row`."""
    return b"D" + number(oid, 4) + kind.encode() + old


def truncate(oids: Sequence[int], options: int = 0) -> bytes:
    """Truncate; options 1 CASCADE, 2 RESTART IDENTITY."""
    listed = b"".join(number(oid, 4) for oid in oids)
    return b"T" + number(len(oids), 4) + number(options, 1) + listed


def message(prefix: str, content: bytes, *, flags: int = 1, lsn: int = 90) -> bytes:
    """Message."""
    head = b"M" + number(flags, 1) + number(lsn, 8) + string(prefix)
    return head + number(len(content), 4) + content


def origin(name: str, lsn: int = 80) -> bytes:
    """Origin."""
    return b"O" + number(lsn, 8) + string(name)


def type_name(oid: int, schema: str, name: str) -> bytes:
    """Type."""
    return b"Y" + number(oid, 4) + string(schema) + string(name)


def xlog_data(
    payload: bytes, start: int = 90, end: int = 91, time: int = EPOCH_MICROSECONDS
) -> bytes:
    """The frame `w`."""
    times = number(time - EPOCH_MICROSECONDS, 8)
    return b"w" + number(start, 8) + number(end, 8) + times + payload


def keepalive(end: int = 91, time: int = EPOCH_MICROSECONDS, reply: int = 0) -> bytes:
    """The frame `k`."""
    return b"k" + number(end, 8) + number(time - EPOCH_MICROSECONDS, 8) + number(reply, 1)
