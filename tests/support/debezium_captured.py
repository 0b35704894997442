"""The messages in tests/data/debezium: read, and compared with a database in the state they tell of."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bridge.config_tables import TableSettings
from bridge.events import UNCHANGED, Read
from bridge.map_table import map_table
from bridge.mapping import TableMapping
from bridge.plan import Point
from bridge.postgres import catalog
from bridge.postgres.connection import Connection
from sync.debezium import Record
from sync.debezium_modes import Modes
from sync.debezium_rows import TableRows
from sync.source import RereadSource
from sync.tables import Row, StreamTable, known
from tests.support.kafka_debezium.runs import RUNS

DATA: Final = Path(__file__).resolve().parent.parent / "data" / "debezium"
FILES: Final = sorted(path.name.removesuffix(".jsonl") for path in DATA.glob("*.jsonl"))
TABLES: Final = {
    "kinds": TableSettings.model_validate({"vectors": {}}),
    "k_none": TableSettings.model_validate({"key": ["a"], "vectors": "none"}),
    "k_index": TableSettings.model_validate({"key": ["a"], "vectors": "none"}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A captured message and the step that made it; `failed` if the connector's task did instead."""

    step: str
    record: Record | None
    failed: str


def lines(name: str) -> Iterator[Line]:
    """A file's lines."""
    with (DATA / f"{name}.jsonl").open(encoding="utf-8") as file:
        for text in file:
            held = json.loads(text)
            failed = "\n".join(held.get("task_failed", ()))
            yield Line(step=held["step"], record=None if failed else record_of(held), failed=failed)


def record_of(held: dict[str, Any]) -> Record:
    """The message as Kafka held it."""
    return Record(
        topic=held["topic"],
        partition=0,
        offset=held["offset"],
        timestamp_ms=held["timestamp"],
        key=None if held["key"] is None else held["key"].encode(),
        value=None if held["value"] is None else held["value"].encode(),
        headers=[(name, (value or "").encode()) for name, value in held.get("headers", ())],
    )


def run_of(name: str) -> str:
    """The run that a file belongs to."""
    return name.removesuffix(".schemas")


def modes_of(name: str) -> Modes:
    """The modes of the run's connector."""
    return Modes.of_connector(RUNS[run_of(name)][2])


def mapping_of(connection: Connection, schema: str, name: str) -> TableMapping:
    """How a table of a run is mapped."""
    table = catalog.read_table(connection, schema, name)
    vectors = any(column.type.name == "vector" for column in table.columns)
    settings = TABLES.get(name) or TableSettings.model_validate(
        {} if vectors else {"vectors": "none"}
    )
    return map_table(table, settings, {"v_any": 3} if name == "kinds" else {})


def rows_of(connection: Connection, schema: str, name: str, modes: Modes) -> TableRows:
    """How the table's messages are read, as the table is now."""
    mapping = mapping_of(connection, schema, name)
    identity = connection.execute(
        "SELECT relreplident::text FROM pg_class WHERE oid = %s", (mapping.table.oid,)
    ).fetchone()
    return TableRows.of(mapping, modes, full=identity is not None and identity[0] == "f")


def stored(source: RereadSource, table: StreamTable, row: Row) -> Row | None:
    """The row of this key as Postgres has it; None if there is none."""
    found = source.read(table, range(len(row)), [table.key_texts(row)], frozenset())
    return found.rows[0] if found.rows else None


def filled(row: Row, now: Row) -> Row:
    """The row with what it does not tell taken from the one that is stored."""
    return tuple(old if new is UNCHANGED else new for new, old in zip(row, now, strict=True))


def point(table: StreamTable, row: Row) -> Point | str:
    """The row's point, or why it cannot be one."""
    read = Read(table=table.relation.label, rows=[known(row)], position="")
    points, letters = table.layout.points(read)
    return points[0] if points else letters[0].reason


def untold(table: StreamTable, row: Row) -> set[str]:
    """The columns that the message does not tell."""
    return {
        name for name, value in zip(table.relation.columns, row, strict=True) if value is UNCHANGED
    }
