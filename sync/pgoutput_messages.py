"""The parts that pgoutput's messages are made of: strings, tuples, and messages without an event.

External specification: PostgreSQL documentation, section 54.9 "Logical Replication Message
Formats". Integers are big-endian; a String ends in a zero byte. Functions take the whole message
and where to begin, and return what they read and where it ends. Input that ends too early raises
IndexError, struct.error or Malformed, which `pgoutput.Decoder` turns into a StopError.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from bridge.events import UNCHANGED, Relation, StreamField, TupleData
from bridge.positions import Lsn

U16: Final = struct.Struct(">H").unpack_from
U32: Final = struct.Struct(">I").unpack_from
BEGIN: Final = struct.Struct(">cQqI")  # type, final LSN, commit time, xid
COMMIT: Final = struct.Struct(">cBQQq")  # type, flags, commit LSN, end LSN, commit time
TRUNCATE: Final = struct.Struct(">cIB").unpack_from  # type, number of relations, options
MESSAGE: Final = struct.Struct(">cBQ").unpack_from  # type, flags, LSN
U64: Final = struct.Struct(">Q").unpack_from

_COLUMN_TAIL = struct.Struct(">Ii")  # type OID, type modifier
_IDENTITIES = {b"d": "d", b"n": "n", b"f": "f", b"i": "i"}
_NULL, _TOASTED = b"nu"
_VALUED = b"tb"  # text, binary


class Malformed(Exception):
    """A message breaks the format; the text says what was found, without a row's values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The transaction came to this server from another, named so. Tells nothing about rows."""

    commit_lsn: Lsn
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeName:
    """The name of a type that is not built in, sent before a relation that uses it."""

    oid: int
    schema: str
    name: str


def read_string(data: bytes, at: int) -> tuple[str, int]:
    """String: UTF-8, because that is the connection's client_encoding."""
    end = data.find(0, at)
    if end < 0:
        raise Malformed("a text without its end")
    return data[at:end].decode(), end + 1


def read_tuple(data: bytes, at: int, relation: Relation) -> tuple[TupleData, int]:
    """TupleData: Int16 columns; each `n`, `u`, or `t`/`b` with Int32 length and the value."""
    (count,) = U16(data, at)
    if count != len(relation.columns):
        raise Malformed(f"a row of {count} columns for a table of {len(relation.columns)}")
    at += 2
    values: list[StreamField] = []
    append = values.append
    kinds = bytearray(count)
    for index in range(count):
        kinds[index] = kind = data[at]
        if kind in _VALUED:
            start = at + 5
            # Read as unsigned, a negative length runs past the end and is found out there.
            at = start + U32(data, at + 1)[0]
            append(data[start:at])
        elif kind == _NULL:
            append(None)
            at += 1
        elif kind == _TOASTED:
            append(UNCHANGED)
            at += 1
        else:
            raise Malformed(f"a column of kind 0x{kind:02x}")
    if at > len(data):
        raise Malformed("a value that is longer than its message")
    return TupleData(tuple(values), bytes(kinds)), at


def read_relation(data: bytes) -> Relation:
    """Relation (`R`): OID, namespace (empty for pg_catalog), name, identity, columns."""
    (oid,) = U32(data, 1)
    schema, at = read_string(data, 5)
    name, at = read_string(data, at)
    identity = _IDENTITIES.get(data[at : at + 1])
    if identity is None:
        raise Malformed("an unknown replica identity")
    (count,) = U16(data, at + 1)
    at += 3
    columns, oids, modifiers, key = [], [], [], []
    for _ in range(count):
        key.append(bool(data[at] & 1))
        column, at = read_string(data, at + 1)
        type_oid, modifier = _COLUMN_TAIL.unpack_from(data, at)
        at += _COLUMN_TAIL.size
        columns.append(column)
        oids.append(type_oid)
        modifiers.append(modifier)
    require_end(data, at)
    return Relation(
        oid=oid,
        schema=schema or "pg_catalog",
        name=name,
        replica_identity=identity,  # type: ignore[arg-type]
        columns=tuple(columns),
        type_oids=tuple(oids),
        type_modifiers=tuple(modifiers),
        key=tuple(key),
    )


def read_origin(data: bytes) -> Origin:
    """Origin (`O`): the commit's LSN on the server of origin, and that server's name here."""
    (lsn,) = U64(data, 1)
    name, at = read_string(data, 9)
    require_end(data, at)
    return Origin(commit_lsn=Lsn(lsn), name=name)


def read_type(data: bytes) -> TypeName:
    """Type (`Y`): OID, namespace (empty for pg_catalog), name."""
    (oid,) = U32(data, 1)
    schema, at = read_string(data, 5)
    name, at = read_string(data, at)
    require_end(data, at)
    return TypeName(oid=oid, schema=schema or "pg_catalog", name=name)


def require_end(data: bytes, at: int) -> None:
    """Everything up to the message's end was read, and nothing behind it."""
    if at != len(data):
        raise Malformed(f"{len(data)} bytes where its contents end at {at}")
