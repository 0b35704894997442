"""`qdrant-bridge plan`: what would be created and how each column maps. Changes nothing."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import typer
from rich.table import Table
from rich.text import Text

from backfill.preflight import Inspection, check_target, inspect
from bridge.config import Effective
from bridge.map_vectors import vector_kind
from bridge.postgres.connection import connect
from cli import options as o
from cli.output import findings_table, note, out, print_json
from cli.places import open_target, pipeline_name, postgres_url, require_tables

REPORT_VERSION = 1


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "plan",
        epilog="Example: qdrant-bridge plan --pg.url postgresql://me@db/app --pg.table docs",
    )(plan)


def plan(
    pg_url: o.PgUrl = None,
    pg_table: o.PgTable = None,
    pg_key: o.PgKey = None,
    pg_columns: o.PgColumns = None,
    qdrant_url: o.QdrantUrl = None,
    qdrant_key: o.QdrantKey = None,
    collection: o.QdrantCollection = None,
    distance: o.QdrantDistance = None,
    skip_tls: o.SkipTls = None,
    config: o.Config = None,
    as_json: o.Json = False,
    allow_plaintext: o.AllowPlaintext = None,
    debug: o.Debug = False,
) -> None:
    """Show what would be created and how each column maps; change nothing."""
    effective = o.Flags(
        config=config,
        pg_url=pg_url,
        pg_table=pg_table,
        pg_key=pg_key,
        pg_columns=pg_columns,
        qdrant_url=qdrant_url,
        qdrant_key=qdrant_key,
        collection=collection,
        distance=distance,
        skip_tls=skip_tls,
        allow_plaintext=allow_plaintext,
    ).load()
    inspections = inspect_tables(effective)
    if as_json:
        print_json(report(effective, inspections))
        return
    for inspection in inspections:
        _show(inspection)


def inspect_tables(effective: Effective) -> list[Inspection]:
    """Every configured table, as it is and as it maps."""
    settings = effective.settings
    require_tables(settings)
    url = postgres_url(settings)
    with connect(url, allow_plaintext=settings.allow_plaintext) as connection:
        return [inspect(connection, name, table) for name, table in settings.tables.items()]


def report(effective: Effective, inspections: list[Inspection]) -> dict[str, Any]:
    """`plan --json`."""
    with open_target(effective.settings) as place:
        tables: dict[str, Any] = {}
        for inspection in inspections:
            spec = inspection.mapping.collection
            state, finding = check_target(place.target, spec, create=True)
            tables[inspection.table.label] = {
                "collection": dict[str, Any](asdict(spec))
                | {
                    "exists": state is not None,
                    "fits": finding.level == "ok",
                },
                "key": list(inspection.mapping.key_columns),
                "id": asdict(inspection.mapping.id_rule),
                "columns": column_rows(inspection),
                "warnings": list(inspection.mapping.warnings),
                "findings": [asdict(found) for found in (*inspection.findings, finding)],
            }
    return {
        "version": REPORT_VERSION,
        "pipeline": pipeline_name(effective.settings),
        "tables": tables,
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
    if column.type.name == "numeric":
        return f"as {inspection.settings.numeric_form(name)}"
    if name in inspection.settings.geo:
        return "as {lon, lat}"
    forms = {item.form for item in inspection.mapping.selection if item.column == name}
    return "as Postgres' text" if forms == {"text"} else "as it is"


def _why_not(inspection: Inspection, name: str) -> str:
    column = inspection.table.column(name)
    if column.generated:
        return "generated: logical replication does not carry it"
    if vector_kind(column) is not None:
        return "vectors: none, or not among the columns asked for"
    return "not among the columns asked for"


def _show(inspection: Inspection) -> None:
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
    console.print(findings_table(f for f in inspection.findings if f.level != "ok"))


def _brief(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return " ".join(f"{k}={v}" for k, v in asdict(value).items() if v is not None)
