"""The decoder of pgoutput, Postgres' own output plugin. No I/O: bytes in, events out.

External specification: PostgreSQL documentation, section 54.9 "Logical Replication Message Formats",
under the same names as here. Protocol versions 1 to 4 have the same formats as long as neither
`streaming` nor `two_phase` is on, which is how `replication.py` starts a stream; their messages are
refused by name. Values are text or binary, column by column, as the server chose.

What always holds: a change lies between Begin and Commit, and refers to a relation that was
announced on this connection. Anything else, an unknown message, one that ends too early or has
bytes left is a StopError `PROTOCOL` that says what was found and at which LSN: a stream that is not
understood must not be acknowledged. A decoder serves one connection; the server announces all
relations again on the next.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, TypeAlias

from bridge.errors import StopError
from bridge.events import (
    Begin,
    Commit,
    Delete,
    Insert,
    LogicalMessage,
    Relation,
    Truncate,
    TupleData,
    Update,
)
from bridge.positions import Lsn
from sync.framing import POSTGRES_EPOCH_MICROSECONDS
from sync.pgoutput_messages import (
    BEGIN,
    COMMIT,
    MESSAGE,
    TRUNCATE,
    U32,
    Malformed,
    Origin,
    TypeName,
    read_origin,
    read_relation,
    read_string,
    read_tuple,
    read_type,
    require_end,
)

Message: TypeAlias = (
    Begin
    | Commit
    | Relation
    | Insert
    | Update
    | Delete
    | Truncate
    | LogicalMessage
    | Origin
    | TypeName
)
"""What a payload says: an event, or one of the two messages that concern no row."""

_NEW, _KEY, _OLD = b"NKO"
_CASCADE, _RESTART_IDENTITY = 1, 2
_TRANSACTIONAL = 1
# Messages of options that are off in our streams.
_NOT_ASKED_FOR: Final[Mapping[int, str]] = {
    ord("S"): "Stream Start, though streaming is off",
    ord("E"): "Stream Stop, though streaming is off",
    ord("c"): "Stream Commit, though streaming is off",
    ord("A"): "Stream Abort, though streaming is off",
    ord("b"): "Begin Prepare, though two_phase is off",
    ord("P"): "Prepare, though two_phase is off",
    ord("K"): "Commit Prepared, though two_phase is off",
    ord("r"): "Rollback Prepared, though two_phase is off",
    ord("p"): "Stream Prepare, though streaming and two_phase are off",
}


class Decoder:
    """Turns the payloads of one connection, in their order, into messages."""

    def __init__(self) -> None:
        self._relations: dict[int, Relation] = {}
        self._begun: Begin | None = None
        self._readers: Mapping[int, Callable[[bytes], Message]] = {
            ord("B"): self._begin,
            ord("C"): self._commit,
            ord("O"): self._origin,
            ord("R"): self._relation,
            ord("Y"): read_type,
            ord("I"): self._insert,
            ord("U"): self._update,
            ord("D"): self._delete,
            ord("T"): self._truncate,
            ord("M"): self._message,
        }

    @property
    def relations(self) -> Mapping[int, Relation]:
        """The relations announced so far, as they are now, by OID."""
        return MappingProxyType(self._relations)

    @property
    def in_transaction(self) -> bool:
        """Whether a Begin still waits for its Commit."""
        return self._begun is not None

    def decode(self, payload: bytes, lsn: int) -> Message:
        """The message in one XLogData's payload; `lsn` is that frame's start, for errors only."""
        try:
            reader = self._readers.get(payload[0])
            if reader is not None:
                return reader(payload)
            found = _NOT_ASKED_FOR.get(payload[0], f"message type 0x{payload[0]:02x}")
        except Malformed as error:
            found = f"in a message {chr(payload[0])!r}: {error}"
            raise _refused(found, lsn) from error
        except (IndexError, struct.error) as error:
            found = f"a message {payload[:1]!r} of {len(payload)} bytes, which is too short"
            raise _refused(found, lsn) from error
        except UnicodeDecodeError:
            # Without its cause, whose text would quote the bytes.
            raise _refused("a name that is not valid UTF-8", lsn) from None
        raise _refused(found, lsn)

    # --- transactions ---

    def _begin(self, data: bytes) -> Begin:
        """Begin: Int64 final LSN, Int64 commit time, Int32 xid."""
        require_end(data, BEGIN.size)
        _, final, time, xid = BEGIN.unpack(data)
        if self._begun is not None:
            raise Malformed("a transaction inside of another")
        self._begun = Begin(
            xid=xid,
            final_lsn=Lsn(final),
            commit_time_microseconds=time + POSTGRES_EPOCH_MICROSECONDS,
        )
        return self._begun

    def _commit(self, data: bytes) -> Commit:
        """Commit: Int8 flags (unused), Int64 commit LSN, Int64 end LSN, Int64 commit time."""
        require_end(data, COMMIT.size)
        _, flags, commit, end, time = COMMIT.unpack(data)
        begun = self._open_transaction()
        if flags:
            raise Malformed(f"flags 0x{flags:02x}")
        if commit != begun.final_lsn.value:
            raise Malformed(f"the commit of {Lsn(commit)} where that of {begun.final_lsn} is due")
        self._begun = None
        return Commit(
            commit_lsn=begun.final_lsn,
            end_lsn=Lsn(end),
            commit_time_microseconds=time + POSTGRES_EPOCH_MICROSECONDS,
        )

    def _origin(self, data: bytes) -> Origin:
        self._open_transaction()
        return read_origin(data)

    def _message(self, data: bytes) -> LogicalMessage:
        """Message: Int8 flags (1 transactional), Int64 LSN, String prefix, Int32 length, content."""
        _, flags, lsn = MESSAGE(data, 0)
        prefix, at = read_string(data, 10)
        (length,) = U32(data, at)
        require_end(data, at + 4 + length)
        if flags > _TRANSACTIONAL:
            raise Malformed(f"flags 0x{flags:02x}")
        transactional = bool(flags & _TRANSACTIONAL)
        if transactional:
            self._open_transaction()
        return LogicalMessage(
            transactional=transactional, lsn=Lsn(lsn), prefix=prefix, content=data[at + 4 :]
        )

    def _open_transaction(self) -> Begin:
        if self._begun is None:
            raise Malformed("it lies outside of a transaction")
        return self._begun

    # --- relations and rows ---

    def _relation(self, data: bytes) -> Relation:
        self._open_transaction()
        relation = read_relation(data)
        self._relations[relation.oid] = relation
        return relation

    def _insert(self, data: bytes) -> Insert:
        """Insert: Int32 relation OID, Byte1 `N`, TupleData."""
        relation = self._known(U32(data, 1)[0])
        return Insert(relation=relation, row=_new_row(data, 5, relation))

    def _update(self, data: bytes) -> Update:
        """Update: Int32 relation OID, then `K` or `O` with a tuple or neither, then `N` with one."""
        relation = self._known(U32(data, 1)[0])
        if data[5] == _NEW:
            row = _new_row(data, 5, relation)
            return Update(relation=relation, row=row, old=None, old_is_key=False)
        is_key = _old_kind(data[5])
        old, at = read_tuple(data, 6, relation)
        row = _new_row(data, at, relation)
        return Update(relation=relation, row=row, old=old, old_is_key=is_key)

    def _delete(self, data: bytes) -> Delete:
        """Delete: Int32 relation OID, `K` or `O`, TupleData."""
        relation = self._known(U32(data, 1)[0])
        is_key = _old_kind(data[5])
        old, at = read_tuple(data, 6, relation)
        require_end(data, at)
        return Delete(relation=relation, old=old, old_is_key=is_key)

    def _truncate(self, data: bytes) -> Truncate:
        """Truncate: Int32 number, Int8 options (1 CASCADE, 2 RESTART IDENTITY), Int32 OIDs."""
        _, count, options = TRUNCATE(data, 0)
        require_end(data, 6 + 4 * count)
        if options > _CASCADE | _RESTART_IDENTITY:
            raise Malformed(f"options 0x{options:02x}")
        oids = struct.unpack_from(f">{count}I", data, 6)
        return Truncate(
            relations=tuple(map(self._known, oids)),
            cascade=bool(options & _CASCADE),
            restart_identity=bool(options & _RESTART_IDENTITY),
        )

    def _known(self, oid: int) -> Relation:
        if self._begun is None:
            raise Malformed("it lies outside of a transaction")
        relation = self._relations.get(oid)
        if relation is None:
            raise Malformed(f"the relation with OID {oid} was not announced")
        return relation


def _new_row(data: bytes, at: int, relation: Relation) -> TupleData:
    if data[at] != _NEW:
        raise Malformed(f"0x{data[at]:02x} where a new row is due")
    row, end = read_tuple(data, at + 1, relation)
    require_end(data, end)
    return row


def _old_kind(kind: int) -> bool:
    """Whether the old tuple is a key."""
    if kind != _KEY and kind != _OLD:
        raise Malformed(f"0x{kind:02x} where an old row is due")
    return kind == _KEY


def _refused(found: str, lsn: int) -> StopError:
    position = str(Lsn(lsn))
    return StopError(
        f"the replication stream is not understood at {position}: {found}",
        code="PROTOCOL",
        position=position,
        hint="is the server's Postgres newer than this program? nothing was acknowledged",
    )
