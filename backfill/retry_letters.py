"""Dead letters once more: their rows read again by key, written, and forgotten where that worked."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from backfill.preflight import Inspection, inspect
from bridge.config_tables import TableSettings
from bridge.errors import Rejected, Unstorable, UsageError
from bridge.events import Read
from bridge.mapping import TableMapping
from bridge.payload_fields import fields_rule, owns_whole_points
from bridge.plan import DeadLetter, Point
from bridge.postgres import scan
from bridge.postgres.connection import Connection, connect
from bridge.qdrant.state import QdrantState
from bridge.qdrant.target import Target
from bridge.qdrant.wire import encode_upsert
from bridge.qdrant.wire_fields import encode_field_updates
from bridge.state import Record, letter_from_record, letter_name

_ROWS_A_TIME = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Rows written, rows that Postgres does not have any more, rows that stay set aside."""

    written: int = 0
    gone: int = 0
    kept: int = 0

    def to_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return asdict(self)

    def __add__(self, other: Outcome) -> Outcome:
        return Outcome(
            written=self.written + other.written,
            gone=self.gone + other.gone,
            kept=self.kept + other.kept,
        )


def retry_letters(
    postgres_url: str,
    tables: Mapping[str, TableSettings],
    records: Iterable[Record],
    *,
    target: Target,
    store: QdrantState,
    allow_plaintext: bool = False,
) -> Outcome:
    """Write the rows of these dead letters as they are now. A letter goes once its row is durable."""
    by_table: dict[str, list[DeadLetter]] = {}
    for record in records:
        by_table.setdefault(record["table"], []).append(letter_from_record(record))
    outcome = Outcome()
    with connect(postgres_url, allow_plaintext=allow_plaintext) as connection:
        inspections = {
            found.table.label: found
            for found in (inspect(connection, name, table) for name, table in tables.items())
        }
        for table, letters in by_table.items():
            inspection = inspections.get(table)
            if inspection is None:
                raise UsageError(
                    f"table {table} is not in the configuration",
                    hint="name it with --pg.table, or in bridge.yaml",
                )
            for start in range(0, len(letters), _ROWS_A_TIME):
                part = letters[start : start + _ROWS_A_TIME]
                outcome += _retry_some(connection, inspection, part, target, store)
    return outcome


def _retry_some(
    connection: Connection,
    inspection: Inspection,
    letters: Sequence[DeadLetter],
    target: Target,
    store: QdrantState,
) -> Outcome:
    mapping = inspection.mapping
    single = len(mapping.key) == 1
    keys = [[letter.key] if single else json.loads(letter.key) for letter in letters]
    rows = scan.read_by_key(
        connection,
        inspection.table,
        mapping.selection,
        mapping.key_columns,
        keys,
        dict(mapping.where),
    )
    points, bad = mapping.points(Read(table=inspection.table.label, rows=rows, position="retry"))
    refused = {letter.key: letter for letter in bad}
    present = {mapping.dead_letter(mapping.key_texts(row), "", "").key for row in rows}
    by_id = {mapping.id_rule.of(key): letter for key, letter in zip(keys, letters, strict=True)}
    for point in points:
        flaw = _write_one(target, mapping, point)
        if flaw is not None:
            letter = by_id[point.id]
            refused[letter.key] = DeadLetter(
                table=letter.table, key=letter.key, reason=flaw, position="retry"
            )
    target.flush()
    settled = [letter for letter in letters if letter.key not in refused]
    store.remove("dead_letter", [letter_name(letter) for letter in settled])
    gone = sum(letter.key not in present for letter in settled)
    return Outcome(written=len(settled) - gone, gone=gone, kept=len(refused))


def _write_one(target: Target, mapping: TableMapping, point: Point) -> str | None:
    collection = mapping.collection.name
    try:
        if not owns_whole_points(mapping):
            update = fields_rule(mapping)(point)
            target.send_fields(encode_field_updates(collection, [update])).result()
            return None
        # An embedded target would take what the messages of Qdrant cannot carry, and a server none.
        encode_upsert(collection, [point])
        target.upsert(collection, [point])
    except (Rejected, Unstorable) as error:
        return error.message
    return None
