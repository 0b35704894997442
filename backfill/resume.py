"""Whether a stored plan may be gone on with: only where it still means the same rows and points."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict

from backfill.preflight import Inspection
from bridge.errors import StopError, UsageError
from bridge.state import Source, TablePlan


def require_same(plan: TablePlan, source: Source, fingerprint: str) -> None:
    """StopError if the table is another one, UsageError if its mapping is."""
    table = source.table
    if plan.source != source:
        raise StopError(
            f"{table} is not the table that this backfill began with (another server, database, or "
            "a table made anew)",
            code="SOURCE_CHANGED",
            hint="start with --migration.restart to copy everything again",
            table=table,
        )
    if plan.fingerprint != fingerprint:
        raise UsageError(
            f"the backfill of {table} began with another mapping (key, columns, vectors, payload "
            "or where)",
            hint="go on with the settings of that run, or start with --migration.restart",
            table=table,
        )


def fingerprint_of(inspection: Inspection) -> str:
    """A digest of all that decides which rows are read, and what they become."""
    mapping = inspection.mapping
    text = json.dumps(
        {
            "key": mapping.key_columns,
            "id": asdict(mapping.id_rule),
            "payload": [(item.column, item.path) for item in mapping.payload],
            "vectors": [(v.column, asdict(v.spec)) for v in mapping.vectors],
            "nulls": mapping.omit_nulls,
            "numeric": inspection.settings.model_dump(mode="json", include={"numeric", "geo"}),
            "where": inspection.settings.model_dump(mode="json", include={"where"}),
            "collection": mapping.collection.name,
        },
        sort_keys=True,
    )
    return hashlib.sha256(text.encode()).hexdigest()[:32]
