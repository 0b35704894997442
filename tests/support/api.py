"""A backfill through the package instead of the command: for what has no flag."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from backfill.pgvector import Options, TableBackfill
from backfill.report import TableReport
from bridge.config_tables import TableSettings
from bridge.qdrant.channel import endpoint
from bridge.qdrant.server import ServerTarget
from bridge.qdrant.state import QdrantState
from tests.support.databases import Database
from tests.support.places import ServerPlace


def backfill_with(
    database: Database,
    place: ServerPlace,
    table: str,
    *,
    settings: TableSettings | None = None,
    tell: Callable[[Any], None] = lambda event: None,
    **options: Any,
) -> TableReport:
    """Copy the table with these `Options`, one worker by default; the pipeline has its name."""
    where = endpoint(place.url, api_key=None)
    target = ServerTarget(where)
    try:
        return TableBackfill(
            table,
            settings or TableSettings(),
            target=target,
            store=QdrantState(target, table),
            options=Options(postgres_url=database.url, endpoint=where, **{"workers": 1, **options}),
            tell=tell,
        ).run()
    finally:
        target.close()
