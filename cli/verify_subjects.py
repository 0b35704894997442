"""What `verify` compares: each table's mapping as the pipeline uses it, and what is known to lag behind."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from backfill.preflight import inspect
from bridge import recorded_schema
from bridge.config import Settings
from bridge.config_tables import TableSettings
from bridge.errors import UsageError
from bridge.findings import blockers
from bridge.mapping import TableMapping
from bridge.postgres import catalog, checks
from bridge.postgres.connection import Connection, connect
from bridge.postgres.predicate import where_sql
from bridge.qdrant.state import QdrantState
from bridge.qdrant.target import Target
from bridge.recorded_schema import RecordedSchema
from bridge.table_names import find_table, parse_table_name
from cli.places import postgres_url
from sync.checks import SourceChecks
from verify.comparison import Path
from verify.table import Subject


def chosen_tables(settings: Settings, named: str | None) -> dict[str, TableSettings]:
    """The tables to compare: the one that is named, or all."""
    if named is None:
        return dict(settings.tables)
    spelled = find_table(settings.tables, named)
    return {spelled: settings.tables[spelled]}


def subjects(
    settings: Settings,
    tables: Mapping[str, TableSettings],
    target: Target,
    store: QdrantState | None,
) -> list[Subject]:
    """A subject for each table. UsageError if one cannot be read, StopError if it is another one now."""
    copied = {} if store is None else recorded_schema.load(store)
    found: list[Subject] = []
    for name, table in tables.items():
        known = next((c for c in copied.values() if c.is_called(*parse_table_name(name))), None)
        with _connect(settings) as connection:
            if known is None:
                inspection = inspect(connection, name, table)
                inspection.require_sound()
                mapping = inspection.mapping
                unplaced: list[str] = []
            else:
                mapping = _followed(settings, name, table, target, copied)
                _require_readable(connection, mapping)
                now = catalog.read_table_by_oid(connection, known.oid)
                unplaced = [] if now is None else known.unplaced_vectors(now, table)
        changed = set[str]()
        if known is not None and store is not None:
            noted = recorded_schema.noted_changes(store).get(known.label, [])
            changed = {*noted, *known.changed_columns(mapping.table.columns)}
        label = mapping.table.label if known is None else known.label
        found.append(
            Subject(
                table=label,
                mapping=mapping,
                stale=frozenset(_paths(mapping, table, changed)),
                unplaced=tuple(unplaced),
                letters=partial(letters_of, store, label),
            )
        )
    return found


def _connect(settings: Settings) -> Connection:
    return connect(postgres_url(settings), allow_plaintext=settings.allow_plaintext)


def _followed(
    settings: Settings,
    name: str,
    table: TableSettings,
    target: Target,
    copied: Mapping[int, RecordedSchema],
) -> TableMapping:
    """The mapping of a table that a stream follows: as it was when it was copied, as far as may be."""
    looked = SourceChecks(_connect(settings), {name: table}, target, copied)
    try:
        again = looked.look_again(name)
    finally:
        looked.close()
    assert again is not None  # noqa: S101 - it was just named
    return again[0]


def _require_readable(connection: Connection, mapping: TableMapping) -> None:
    columns = sorted({item.column for item in mapping.selection if item.column != "tableoid"})
    findings = checks.check_table(
        connection,
        mapping.table,
        key=mapping.key_columns,
        columns=columns,
        where=where_sql(mapping.table, dict(mapping.where)),
    )
    found = blockers(findings)
    if found:
        raise UsageError(
            "; ".join(finding.message for finding in found),
            hint="; ".join(finding.remedy.rstrip(";") for finding in found if finding.remedy),
            table=mapping.table.label,
        )


def _paths(mapping: TableMapping, table: TableSettings, changed: set[str]) -> set[Path]:
    """The payload fields of these columns, also of those that are gone."""
    paths: set[Path] = {item.path for item in mapping.payload if item.column in changed}
    renamed = (
        {} if table.payload is None else {c: p for p, c in table.payload.items() if c in changed}
    )
    for column in changed - {item.column for item in mapping.payload}:
        paths.add(tuple(str(renamed[column]).split(".")) if column in renamed else (column,))
    return paths


def letters_of(store: QdrantState | None, label: str) -> Mapping[str, str]:
    """The reasons of a source's dead letters, by key."""
    if store is None:
        return {}
    return {
        record["key"]: record["reason"]
        for _name, record in store.records("dead_letter")
        if record["table"] == label
    }
