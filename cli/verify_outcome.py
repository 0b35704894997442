"""How `verify` ends: exit code 1 with what differs, and the remedy of just that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bridge.errors import CheckFailed
from bridge.recorded_schema import UNPLACED_HINT
from verify.ranking import missed
from verify.report import COUNTS, TableResult


def require_passed(
    report: Mapping[str, Any],
    results: Sequence[TableResult],
    *,
    follows: bool,
    repaired: bool,
) -> None:
    """CheckFailed, and exit code 1, naming what differs in which table, and what searches miss.

    `follows`: a stream keeps the tables' collections; `repaired`: what is left, a repair has left.
    """
    different = [
        f"{name}: {', '.join([*found['schema'], *told_counts(found)])}"
        for name, found in report["tables"].items()
        if not found["equal"]
    ]
    searched = [
        (f"{name}, vector {vector}", one)
        for name, found in report["tables"].items()
        for vector, one in found.get("recall", {}).items()
        if not one["passed"]
    ]
    lines = ["not equal: " + "; ".join(different)] if different else []
    lines += [f"{where}: {', '.join(one['missed'])}" for where, one in searched]
    if not lines:
        return
    hints = remedies(results, follows=follows, repaired=repaired)
    hints += _search_remedies([one for _where, one in searched])
    raise CheckFailed("; ".join(lines), hint="; ".join(hints))


def remedies(results: Sequence[TableResult], *, follows: bool, repaired: bool) -> list[str]:
    """What mends what was found, each once."""
    found = dict.fromkeys(
        hint for result in results for hint in _remedies(result, follows=follows, repaired=repaired)
    )
    return list(found)


def _remedies(result: TableResult, *, follows: bool, repaired: bool) -> list[str]:
    counts = result.findings.counts
    hints: list[str] = []
    if result.schema:
        hints += _schema_remedies(result, follows=follows)
    if counts["stale"]:
        hints.append(
            f"qdrant-bridge resync {result.table} writes every row as it is since the schema changed"
        )
    if counts["missing"] or counts["altered"] or counts["extra"]:
        hints.append(
            "what the repair has left is told above or changed meanwhile: qdrant-bridge verify looks "
            "again"
            if repaired
            else "qdrant-bridge verify --repair writes what is missing or differs and removes what is "
            "too much"
        )
    if counts["unsettled"]:
        hints.append("compare unsettled rows again when less is written to them")
    if counts["dead_lettered"]:
        hints.append(
            "qdrant-bridge dead-letters list tells of rows that were set aside, and dead-letters retry "
            "writes them once they are corrected"
        )
    return hints


def _schema_remedies(result: TableResult, *, follows: bool) -> list[str]:
    source = "pinecone" if result.table.startswith("pinecone:") else "pgvector"
    again = f"qdrant-bridge backfill {source} --migration.restart"
    if result.absent:
        copies = "qdrant-bridge resync --all" if follows and source == "pgvector" else again
        return [f"{copies} makes the collection and copies everything; a repair does not"]
    hints = [UNPLACED_HINT] if result.unplaced else []
    if len(result.schema) > len(hints) and source == "pgvector":
        copies = "qdrant-bridge resync --all" if follows else "qdrant-bridge backfill pgvector"
        hints.append(f"make the vectors fit, or copy into another `collection`: {copies}")
    return hints


def _search_remedies(searched: Sequence[Mapping[str, Any]]) -> list[str]:
    hints: list[str] = []
    if any(missed(one["exact"]) for one in searched):
        hints.append(
            "where exact = true misses the thresholds as well, the vectors differ: qdrant-bridge verify "
            "says in which rows"
        )
    if any(not missed(one["exact"]) for one in searched):
        hints.append(
            "where exact = true reaches the thresholds, the index is what misses: raise hnsw m or "
            "ef_construct, or search with a larger hnsw_ef"
        )
    return hints


def told_counts(found: Mapping[str, Any]) -> list[str]:
    """`3 missing`, `1 dead-lettered`: the counts that are not 0."""
    return [f"{found[name]:,} {name.replace('_', '-')}" for name in COUNTS if found[name]]
