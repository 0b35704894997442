"""Messages as Debezium writes them, made by hand, and a table that they are about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from bridge.map_table import map_table
from bridge.mapping import TableMapping
from sync.debezium import Record
from sync.debezium_modes import Modes
from sync.debezium_rows import TableRows
from tests.support.source_tables import table
from tests.support.table_mappings import settings

TOPIC: Final = "shop.public.t"
MODES: Final = Modes(decimal="string", told=True)


def mapping(**columns: Any) -> TableMapping:
    """Of a table `public.t` of these columns; by default an id, a title and a vector of three."""
    chosen = columns or {"id": "int8", "title": "text", "v": ("vector", 3)}
    vectors = {} if any("vector" in str(kind) for kind in chosen.values()) else {"vectors": "none"}
    return map_table(table(**chosen), settings(**vectors), {})


def rows(modes: Modes = MODES, *, full: bool = False, **columns: Any) -> TableRows:
    """How its messages are read."""
    return TableRows.of(mapping(**columns), modes, full=full)


def record(
    value: Any,
    key: Any = None,
    *,
    partition: int = 0,
    offset: int = 0,
    headers: Sequence[tuple[str, bytes]] = (),
) -> Record:
    """A message; what is no bytes is written as JSON, None is null."""
    return Record(
        topic=TOPIC,
        partition=partition,
        offset=offset,
        timestamp_ms=1_700_000_000_000,
        key=_raw(key),
        value=_raw(value),
        headers=headers,
    )


def _raw(value: Any) -> bytes | None:
    return value if value is None or isinstance(value, bytes) else orjson.dumps(value)


def envelope(
    op: str,
    after: Mapping[str, Any] | None = None,
    before: Mapping[str, Any] | None = None,
    **source: Any,
) -> dict[str, Any]:
    """An envelope of `public.t`."""
    place = {"schema": "public", "table": "t", "lsn": 100, "txId": 7, "ts_ms": 1}
    return {"before": before, "after": after, "source": {**place, **source}, "op": op}


class OneTable:
    """Every message is about this table."""

    def __init__(self, found: TableRows) -> None:
        self.found = found

    def rows(self, _topic: str, _told: object) -> TableRows:
        return self.found

    def table(self, _topic: str) -> TableRows:
        return self.found
