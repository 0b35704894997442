"""What has to hold of a copy before changes are applied on top of it."""

from __future__ import annotations

from collections.abc import Sequence

from backfill.report import TableReport
from bridge.errors import CheckFailed

COUNTS_DIFFER_HINT = (
    "qdrant-bridge verify tells which rows; with --repair it writes what is missing and removes points "
    "without a row"
)


def require_equal(reports: Sequence[TableReport]) -> None:
    """CheckFailed if a copy lost rows: a stream on top of it would hide that."""
    problems = [f"{r.table}: {problem}" for r in reports for problem in r.problems]
    if problems:
        raise CheckFailed("; ".join(problems), code="COUNTS_DIFFER", hint=COUNTS_DIFFER_HINT)
