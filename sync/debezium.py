"""Debezium's messages -> what happened to a row. Sans-IO.

A message is an envelope (Debezium documentation, PostgreSQL connector, "Data change events"), or a row
alone if ExtractNewRecordState stands behind the connector; with a schema beside it or without.

    r, c, u           the row as it is now
    d, a tombstone    the row of this key is gone
    t                 the table was emptied
    m, heartbeats,
    transactions      nothing happened to a row

A tombstone is taken as a delete wherever it comes: after a delete it repeats it, which changes nothing;
of a compacted or flattened topic it may be all that is left. What cannot be understood is `Unreadable`,
never passed over. Of a deleted row only the key counts: what `before` holds beside it may be invented.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import orjson

Row = Mapping[str, Any]
Kind = Literal["read", "create", "update", "row", "delete", "truncate"]

_KINDS: dict[str, Kind] = {
    "r": "read",
    "c": "create",
    "u": "update",
    "d": "delete",
    "t": "truncate",
}
_ENVELOPE = ("op", "source", "before", "after")
_TRANSACTION = frozenset({"status", "id", "event_count", "data_collections"})
_OLD_KEY = "__debezium.oldkey"
_OP_HEADER = "__op"
MARK = "__"
"""What ExtractNewRecordState adds to a row begins with it."""


class Unreadable(Exception):
    """A message that is none of Debezium's; the text says why, without its content."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A message as Kafka keeps it."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()


@dataclass(frozen=True, slots=True)
class Parsed:
    """A key or value, and the schema that came with it."""

    payload: Any
    schema: Mapping[str, Any] | None = None


class Messages(Protocol):
    """The format of a topic's bytes. ValueError if they are not in it."""

    def parse(self, raw: bytes) -> Parsed:
        """One key or value."""


class JsonMessages:
    """Kafka Connect's JsonConverter, `schemas.enable` or not."""

    def parse(self, raw: bytes) -> Parsed:
        """One key or value."""
        value = orjson.loads(raw)
        if isinstance(value, dict) and value.keys() == {"schema", "payload"}:
            schema = value["schema"]
            if schema is None or (isinstance(schema, dict) and "type" in schema):
                return Parsed(value["payload"], schema)
        return Parsed(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Happened:
    """What a message tells.

    `schema_name`, `table_name`: where it happened, None if the message does not say. `row`: as it is
    now. `old`: as it was, as far as it was sent. `moved`: its key was another one before, so that
    what was not changed may be missing. `fields`, `key_fields`: schemas by field name. `xid` and `lsn`
    are None where the message does not state them; `kind` is `row` if it does not say which it is.
    """

    kind: Kind
    key: Row | None
    row: Row | None = None
    old: Row | None = None
    schema_name: str | None = None
    table_name: str | None = None
    lsn: int | None = None
    xid: int | None = None
    changed_at_ms: int = 0
    moved: bool = False
    fields: Mapping[str, Mapping[str, Any]] | None = None
    key_fields: Mapping[str, Mapping[str, Any]] | None = None


class Reader:
    """Reads the messages of one format."""

    def __init__(self, messages: Messages | None = None) -> None:
        self._parse = (messages or JsonMessages()).parse

    def read(self, record: Record) -> Happened | None:
        """What the message tells; None if it is not about a row. Unreadable if it is not Debezium's."""
        try:
            return self._read(record)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise Unreadable("the message is not one of Debezium's") from error

    def read_key(self, record: Record) -> Happened | None:
        """The key alone, of a message whose value cannot be read."""
        key = self._parsed(record.key, "key")
        return _gone(key) if isinstance(key.payload, dict) else None

    def _read(self, record: Record) -> Happened | None:
        key = self._parsed(record.key, "key")
        if key.payload is not None and not isinstance(key.payload, dict):
            raise Unreadable("the key is not an object of columns")
        value = self._parsed(record.value, "value")
        if value.payload is None:
            return _gone(key) if key.payload is not None else None
        if not isinstance(value.payload, dict):
            raise Unreadable("the value is neither an envelope nor a row")
        if _is_no_row(value.payload, key.payload):
            return None
        if all(name in value.payload for name in _ENVELOPE):
            return _enveloped(value, key, record)
        if isinstance(value.payload.get("source"), dict) and "op" in value.payload:
            return _enveloped(value, key, record)
        return _flattened(value, key, record)

    def _parsed(self, raw: bytes | None, what: str) -> Parsed:
        if raw is None:
            return Parsed(None)
        try:
            return self._parse(raw)
        except ValueError:
            raise Unreadable(f"the {what} is not in the topic's format") from None


def _is_no_row(value: Row, key: Row | None) -> bool:
    """Heartbeats, ends of transactions, logical messages."""
    if key is not None and key.keys() == {"serverName"}:
        return True
    return value.get("op") == "m" or (value.keys() >= _TRANSACTION and "op" not in value)


def _gone(key: Parsed) -> Happened:
    return Happened(kind="delete", key=key.payload, key_fields=_fields(key.schema))


def _enveloped(value: Parsed, key: Parsed, record: Record) -> Happened:
    envelope = value.payload
    kind, source = _KINDS.get(envelope["op"]), envelope.get("source")
    if kind is None or not isinstance(source, dict):
        raise Unreadable("an envelope with an unknown operation, or without its source")
    row, old = envelope.get("after"), envelope.get("before")
    if kind in ("read", "create", "update") and not isinstance(row, dict):
        raise Unreadable("an envelope without its row")
    if kind == "delete" and key.payload is None and not isinstance(old, dict):
        raise Unreadable("a delete that does not say of what")
    return Happened(
        kind=kind,
        key=key.payload,
        row=row if kind != "delete" else None,
        old=old,
        schema_name=source.get("schema"),
        table_name=source.get("table"),
        lsn=source.get("lsn"),
        xid=source.get("txId"),
        changed_at_ms=source.get("ts_ms") or record.timestamp_ms,
        moved=_moved(record),
        fields=None if value.schema is None else _fields_of_row(value.schema),
        key_fields=_fields(key.schema),
    )


def _flattened(value: Parsed, key: Parsed, record: Record) -> Happened:
    row = value.payload
    op = row.get("__op") or _op_header(record)
    kind: Kind = "row" if op is None else _KINDS.get(op, "row")
    if str(row.get("__deleted", "false")).lower() == "true":
        kind = "delete"
    if kind == "delete" and key.payload is None:
        raise Unreadable("a delete without a key")
    return Happened(
        kind=kind,
        key=key.payload,
        row=None if kind == "delete" else row,
        schema_name=_added(row, "schema"),
        table_name=_added(row, "table"),
        lsn=_added(row, "lsn"),
        xid=_added(row, "txId"),
        changed_at_ms=_added(row, "ts_ms") or record.timestamp_ms,
        moved=_moved(record),
        fields=_fields(value.schema),
        key_fields=_fields(key.schema),
    )


def _added(row: Row, name: str) -> Any:
    """A field of the source that was asked for with `add.fields`."""
    found = row.get(f"{MARK}{name}")
    return row.get(f"{MARK}source_{name}") if found is None else found


def _op_header(record: Record) -> str | None:
    for name, raw in record.headers:
        if name == _OP_HEADER:
            return raw.decode("utf-8", "replace").strip('"')
    return None


def _moved(record: Record) -> bool:
    return any(name == _OLD_KEY for name, _raw in record.headers)


def _fields(schema: Mapping[str, Any] | None) -> dict[str, Mapping[str, Any]] | None:
    """A struct's schemas by field name."""
    if schema is None:
        return None
    return {field["field"]: field for field in schema.get("fields", ())}


def _fields_of_row(schema: Mapping[str, Any]) -> dict[str, Mapping[str, Any]] | None:
    """The same of `after`, in an envelope's schema."""
    return _fields((_fields(schema) or {}).get("after"))
