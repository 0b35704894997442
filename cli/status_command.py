"""`qdrant-bridge status`: how far a pipeline is."""

from __future__ import annotations

from typing import Any

import typer
from rich.table import Table
from rich.text import Text

from bridge.errors import UsageError
from bridge.qdrant.state import QdrantState
from bridge.state import ChunkDone, TablePlan
from cli import options as o
from cli.help import Command
from cli.output import out, print_json
from cli.places import begun_state, look_at_target

REPORT_VERSION = 1


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "status", cls=Command, epilog="Example: qdrant-bridge status --config bridge.yaml --json"
    )(status)


def status(
    qdrant_url: o.QdrantUrl = None,
    qdrant_key: o.QdrantKey = None,
    pg_table: o.PgTable = None,
    collection: o.QdrantCollection = None,
    skip_tls: o.SkipTls = None,
    config: o.Config = None,
    as_json: o.Json = False,
    allow_plaintext: o.AllowPlaintext = None,
    debug: o.Debug = False,
) -> None:
    """Show phase, counts and dead letters of a pipeline."""
    effective = o.Flags(
        config=config,
        pg_table=pg_table,
        collection=collection,
        qdrant_url=qdrant_url,
        qdrant_key=qdrant_key,
        skip_tls=skip_tls,
        allow_plaintext=allow_plaintext,
    ).load()
    with look_at_target(effective.settings) as target:
        report = status_report(begun_state(target, effective.settings))
    if as_json:
        print_json(report)
    else:
        _show(report)


def status_report(store: QdrantState) -> dict[str, Any]:
    """`status --json`. The parts of a stream are null: a backfill alone has no slot and no lag."""
    plans = {name: TablePlan.from_record(record) for name, record in store.records("plan")}
    if not plans:
        raise UsageError(
            f"pipeline {store.pipeline} has no backfill here",
            hint="is this the pipeline's name, and the Qdrant that it writes to?",
        )
    done: dict[str, list[ChunkDone]] = {name: [] for name in plans}
    for _name, record in store.records("chunk"):
        chunk = ChunkDone.from_record(record)
        done.setdefault(chunk.table, []).append(chunk)
    tables = {
        name: {
            "collection": plan.collection,
            "rows_read": sum(chunk.rows_read for chunk in done[name]),
            "upserts": sum(chunk.rows_written for chunk in done[name]),
            "patches": 0,
            "deletes": 0,
            "chunks": plan.chunks,
            "chunks_done": len(done[name]),
        }
        for name, plan in plans.items()
    }
    return {
        "version": REPORT_VERSION,
        "pipeline": store.pipeline,
        "phase": "backfill",
        "complete": all(table["chunks"] == table["chunks_done"] for table in tables.values()),
        "checkpoint_lsn": None,
        "source_lsn": None,
        "lag": None,
        "slot": None,
        "tables": tables,
        "dead_letters": sum(1 for _ in store.records("dead_letter")),
        "stop": None,
    }


def _show(report: dict[str, Any]) -> None:
    console = out()
    how = "complete" if report["complete"] else "under way or interrupted"
    console.print(Text(f"pipeline {report['pipeline']}: backfill {how}", style="bold"))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("table", "collection", "chunks", "rows read", "written"):
        table.add_column(heading, justify="left" if heading in ("table", "collection") else "right")
    for name, row in report["tables"].items():
        table.add_row(
            Text(name),
            Text(row["collection"]),
            f"{row['chunks_done']} of {row['chunks']}",
            f"{row['rows_read']:,}",
            f"{row['upserts']:,}",
        )
    console.print(table)
    console.print(f"dead letters: {report['dead_letters']:,}")
