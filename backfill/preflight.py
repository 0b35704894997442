"""Everything that is looked at before a table is copied; nothing is written.

`inspect` reads the catalog and makes the mapping (what `plan` shows); `check_target` compares it with
the collection. Both are what `doctor` runs, and what a backfill runs first.
"""

from __future__ import annotations

from dataclasses import dataclass

from bridge.collection_spec import CollectionSpec
from bridge.config_tables import TableSettings
from bridge.errors import StopError, UsageError
from bridge.findings import Finding, blockers
from bridge.map_table import map_table
from bridge.map_vectors import undimensioned_columns
from bridge.mapping import TableMapping
from bridge.postgres import catalog, checks, id_checks
from bridge.postgres.connection import Connection
from bridge.postgres.predicate import SqlCondition, where_sql
from bridge.qdrant.collections import compare
from bridge.qdrant.target import STATE_COLLECTION, CollectionState, Target
from bridge.schema import Table
from bridge.table_names import parse_table_name


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """A table as it is, how it maps, and what the checks found."""

    table: Table
    settings: TableSettings
    mapping: TableMapping
    where: SqlCondition | None
    findings: tuple[Finding, ...]

    def require_sound(self) -> None:
        """UsageError with everything that blocks, if anything does."""
        found = blockers(self.findings)
        if found:
            remedies = [finding.remedy.rstrip(";") for finding in found if finding.remedy]
            raise UsageError(
                "; ".join(finding.message for finding in found),
                hint="; ".join(remedies),
                table=self.table.label,
            )


def inspect(connection: Connection, name: str, settings: TableSettings) -> Inspection:
    """Read the catalog, make the mapping, check key, privileges and row security."""
    table = catalog.read_table(connection, *parse_table_name(name))
    condition = where_sql(table, settings.where)
    undimensioned = undimensioned_columns(table, settings)
    if undimensioned:
        _require_readable(connection, table, [column.name for column in undimensioned])
    dimensions = {
        column.name: _one_dimension(connection, table, column.name, condition)
        for column in undimensioned
    }
    mapping = map_table(table, settings, {k: v for k, v in dimensions.items() if v is not None})
    columns = sorted({item.column for item in mapping.selection if item.column != "tableoid"})
    findings = checks.check_table(
        connection, table, key=mapping.key_columns, columns=columns, where=condition
    )
    if settings.id is not None and settings.id.scheme == "qdrant-migration":
        findings = [
            *findings,
            id_checks.check_equal_uuids(connection, table, mapping.key_columns[0]),
        ]
    return Inspection(
        table=table,
        settings=settings,
        mapping=mapping,
        where=condition,
        findings=tuple(findings),
    )


def _require_readable(connection: Connection, table: Table, columns: list[str]) -> None:
    findings = [
        *checks.check_privileges(connection, table, columns=columns),
        checks.check_row_security(table, role=connection.info.user),
    ]
    found = blockers(findings)
    if found:
        raise UsageError(
            found[0].message,
            code="PRIVILEGE" if found[0].check == "table.privilege" else "",
            hint=found[0].remedy,
            table=table.label,
        )


def _one_dimension(
    connection: Connection, table: Table, column: str, condition: SqlCondition | None
) -> int | None:
    found = checks.vector_dimensions(connection, table, column, condition)
    if len(found) > 1:
        counts = ", ".join(
            f"{size} ({count} row{'s' if count > 1 else ''})" for size, count in found.items()
        )
        most = max(found, key=lambda size: found[size])
        raise UsageError(
            f"column {column} of {table.label} holds vectors of several dimensions: {counts}",
            hint=f"most have {most}: look at those with vector_dims({column}) <> {most}, "
            "or copy the rows of one dimension with where: in the configuration",
            table=table.label,
        )
    return next(iter(found), None)


def check_target(
    target: Target | None, spec: CollectionSpec, *, create: bool
) -> tuple[CollectionState | None, Finding]:
    """The collection as it is, and whether the points can go there. No target: nothing is there yet."""
    if spec.name == STATE_COLLECTION:
        raise UsageError(
            f"the collection {STATE_COLLECTION} is reserved", hint="choose --qdrant.collection"
        )
    state = None if target is None else target.collection(spec.name)
    if state is None:
        if create:
            return None, Finding(
                level="ok", check="target.collection", message=f"{spec.name} will be created"
            )
        return None, Finding(
            level="blocker",
            check="target.collection",
            message=f"collection {spec.name} does not exist",
            remedy="create it, or leave out --migration.create-collection=false",
        )
    differences = compare(spec, state)
    if differences:
        return state, Finding(
            level="blocker",
            check="target.collection",
            message=f"collection {spec.name} does not fit: {'; '.join(differences)}",
            remedy="choose another one with --qdrant.collection, or make the mapping agree "
            "(qdrant-bridge plan shows it)",
        )
    return state, Finding(
        level="ok", check="target.collection", message=f"{spec.name} exists and fits"
    )


def require_fit(finding: Finding) -> None:
    """StopError TARGET_MISMATCH if the points would damage the collection; UsageError if it is missing."""
    if finding.level != "blocker":
        return
    if "does not exist" in finding.message:
        raise UsageError(finding.message, hint=finding.remedy)
    raise StopError(finding.message, code="TARGET_MISMATCH", hint=finding.remedy)
