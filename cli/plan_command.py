"""`qdrant-bridge plan`: what would be created and how each column maps. Changes nothing."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import typer
from rich.table import Table
from rich.text import Text

from backfill.preflight import Inspection, check_target, inspect
from bridge.config import Effective, Settings
from bridge.errors import Unreachable
from bridge.findings import Finding, as_reported
from bridge.map_forms import payload_form
from bridge.map_table import value_policy
from bridge.map_vectors import vector_kind
from bridge.postgres.connection import connect
from cli import options as o
from cli.help import Command
from cli.output import findings_table, note, out, print_json
from cli.pinecone_places import index_pipeline_name
from cli.pinecone_plan import Planned, index_report, names_index, plan_index, show_index
from cli.places import look_at_target, pipeline_name, postgres_url, require_tables

REPORT_VERSION = 1


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "plan",
        cls=Command,
        epilog="Example: qdrant-bridge plan --pg.url postgresql://me@db/app --pg.table docs",
    )(plan)


def plan(
    pg_url: o.PgUrl = None,
    pg_table: o.PgTable = None,
    pg_key: o.PgKey = None,
    pg_columns: o.PgColumns = None,
    index_name: o.PineconeIndexName = None,
    index_host: o.PineconeIndexHost = None,
    pinecone_key: o.PineconeKey = None,
    namespace: o.PineconeNamespace = None,
    namespaces: o.Namespaces = None,
    service_host: o.PineconeServiceHost = None,
    numbers: o.PineconeNumbers = None,
    ids_file: o.PineconeIdsFile = None,
    namespace_field: o.PineconeNamespaceField = None,
    qdrant_url: o.QdrantUrl = None,
    qdrant_key: o.QdrantKey = None,
    collection: o.QdrantCollection = None,
    id_field: o.QdrantIdField = None,
    sparse_vector: o.QdrantSparseVector = None,
    distance: o.QdrantDistance = None,
    skip_tls: o.SkipTls = None,
    config: o.Config = None,
    as_json: o.Json = False,
    allow_plaintext: o.AllowPlaintext = None,
    debug: o.Debug = False,
) -> None:
    """Show what would be created and how each column, or metadata field, maps; change nothing."""
    effective = o.Flags.of(locals()).load()
    settings = effective.settings
    planned = plan_index(settings) if names_index(settings) else None
    only_index = planned is not None and not settings.tables
    inspections = [] if only_index else inspect_tables(effective)
    lookups = [_look_up(settings, inspection) for inspection in inspections]
    if as_json:
        print_json(report(effective, inspections, lookups, planned))
        return
    if planned is not None:
        show_index(planned)
    for inspection, lookup in zip(inspections, lookups, strict=True):
        _show(inspection, lookup)


def inspect_tables(effective: Effective) -> list[Inspection]:
    """Every configured table, as it is and as it maps."""
    settings = effective.settings
    require_tables(settings)
    url = postgres_url(settings)
    with connect(url, allow_plaintext=settings.allow_plaintext) as connection:
        return [inspect(connection, name, table) for name, table in settings.tables.items()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """What Qdrant says of a table's collection; None where it does not answer."""

    exists: bool | None
    fits: bool | None
    finding: Finding


def _look_up(settings: Settings, inspection: Inspection) -> Lookup:
    create = settings.migration.create_collection
    try:
        with look_at_target(settings) as target:
            state, finding = check_target(target, inspection.mapping.collection, create=create)
    except Unreachable as error:
        # A plan is of use before Qdrant runs.
        away = Finding(
            level="warning",
            check="target.reachable",
            message=f"{error.message}; whether the collection is there is not known",
            remedy=error.hint,
        )
        return Lookup(exists=None, fits=None, finding=away)
    return Lookup(exists=state is not None, fits=finding.level == "ok", finding=finding)


def report(
    effective: Effective,
    inspections: list[Inspection],
    lookups: list[Lookup],
    planned: Planned | None = None,
) -> dict[str, Any]:
    """`plan --json`."""
    tables: dict[str, Any] = {}
    for inspection, lookup in zip(inspections, lookups, strict=True):
        spec = asdict(inspection.mapping.collection)
        findings = (*inspection.findings, lookup.finding)
        tables[inspection.table.label] = {
            "collection": {**spec, "exists": lookup.exists, "fits": lookup.fits},
            "key": list(inspection.mapping.key_columns),
            "id": asdict(inspection.mapping.id_rule),
            "columns": column_rows(inspection),
            "warnings": list(inspection.mapping.warnings),
            "findings": [as_reported(found) for found in findings],
        }
    settings = effective.settings
    indexes = {} if planned is None else {planned.proposal.plan.label: index_report(planned)}
    more = {"indexes": indexes} if indexes else {}
    return {
        "version": REPORT_VERSION,
        "pipeline": pipeline_name(settings) if tables else index_pipeline_name(settings),
        "tables": tables,
        **more,
    }


def column_rows(inspection: Inspection) -> list[dict[str, Any]]:
    """For each column: source type, destination, conversion, warning."""
    mapping = inspection.mapping
    paths = {item.column: ".".join(item.path) for item in mapping.payload}
    vectors = {item.column: item.spec for item in mapping.vectors}
    rows: list[dict[str, Any]] = []
    for column in inspection.table.columns:
        warnings = [w for w in mapping.warnings if w.startswith(f"{column.name}: ")]
        if column.name in vectors:
            spec = vectors[column.name]
            destination = f"vector {spec.name!r}"
            size = "sparse" if spec.shape == "sparse" else f"{spec.dimension} x {spec.datatype}"
            conversion = f"{size}, {spec.distance}" + (
                ", multivector" if spec.shape == "multi" else ""
            )
        elif column.name in paths:
            destination = f"payload {paths[column.name]}"
            conversion = _conversion(inspection, column.name)
        else:
            destination = "not copied"
            conversion = _why_not(inspection, column.name)
        rows.append(
            {
                "column": column.name,
                "type": column.declared,
                "key": column.name in mapping.key_columns,
                "destination": destination,
                "conversion": conversion,
                "warning": "; ".join(w.removeprefix(f"{column.name}: ") for w in warnings),
            }
        )
    return rows


def _conversion(inspection: Inspection, name: str) -> str:
    column = inspection.table.column(name)
    return payload_form(column.type, value_policy(column, inspection.settings))


def _why_not(inspection: Inspection, name: str) -> str:
    column = inspection.table.column(name)
    if column.generated:
        return "generated: logical replication does not carry it"
    if vector_kind(column) is not None:
        return "vectors: none, or not among the columns asked for"
    return "not among the columns asked for"


def _show(inspection: Inspection, lookup: Lookup) -> None:
    console, mapping = out(), inspection.mapping
    spec = mapping.collection
    key = ", ".join(mapping.key_columns)
    console.print(
        Text(f"{inspection.table.label} -> collection {spec.name}, key ({key})", style="bold")
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("column", "type", "destination", "conversion"):
        table.add_column(heading, overflow="fold")
    for row in column_rows(inspection):
        style = "dim" if row["destination"] == "not copied" else ""
        cells = (row["column"], row["type"], row["destination"], row["conversion"])
        table.add_row(*(Text(str(cell), style=style) for cell in cells))
    console.print(table)
    for vector in spec.vectors:
        extras = {
            "hnsw": vector.hnsw,
            "quantization": vector.quantization,
            "on_disk": vector.on_disk,
        }
        told = ", ".join(
            f"{name} {_brief(value)}" for name, value in extras.items() if value is not None
        )
        if told:
            console.print(Text(f"vector {vector.name!r}: {told}"))
    if spec.payload_indexes:
        told = ", ".join(f"{path} ({kind})" for path, kind in spec.payload_indexes.items())
        console.print(Text(f"payload indexes: {told}"))
    for warning in mapping.warnings:
        note(f"warning: {warning}", style="yellow")
    blocking = [finding for finding in inspection.findings if finding.level != "ok"]
    console.print(findings_table([*blocking, lookup.finding]))


def _brief(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return " ".join(f"{k}={v}" for k, v in asdict(value).items() if v is not None)
