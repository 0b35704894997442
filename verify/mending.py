"""What a repair is to do, and what a table's result is after it. Pure.

A repair writes rows anew as they are by then, and removes points that have no row by then; what it was
that differed is nothing to it. Rows that were set aside stay set aside, and rows that never held still
are the stream's to bring.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from bridge.point_ids import PointId
from verify.looks import Verdict
from verify.messages import Key
from verify.report import COUNTS, Findings, TableResult, key_text

MENDED = ("missing", "stale", "altered", "extra")


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """What is to be done for a table. `whole`: so much differs that all of it is read again."""

    table: str
    keys: tuple[Key, ...]
    extras: tuple[PointId, ...]
    whole: bool

    @classmethod
    def of(cls, result: TableResult) -> Repair | None:
        """What the result asks for; None if nothing of it can be mended."""
        found = result.findings
        if not found.keys and not found.extras:
            return None
        return cls(
            table=result.table,
            keys=tuple(found.keys),
            extras=tuple(found.extras),
            whole=found.overflowed,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Repaired:
    """What was done. `extras_kept`: the collection also holds points of other origin, so none were
    removed; `problems` are reasons of what failed."""

    repair: Repair
    extras_kept: bool = False
    problems: tuple[str, ...] = ()

    def to_json(self, found: Counter[str]) -> dict[str, Any]:
        """As it is told in the table's report; `found` are the counts before."""
        return {
            "found": {name: found[name] for name in COUNTS},
            "whole_table": self.repair.whole,
            "written": [key_text(key) for key in self.repair.keys],
            "removed": [] if self.extras_kept else list(self.repair.extras),
            "extras_kept": self.extras_kept,
            "problems": list(self.problems),
        }


def mended(
    result: TableResult, verdicts: Sequence[Verdict], extras: Sequence[PointId], target: int
) -> TableResult:
    """The result after a repair, with so many points: what is left of the rows and points that it was
    about, and all that no repair is about."""
    left = Findings()
    for name in ("unsettled", "dead_lettered"):
        left.counts[name] = result.findings.counts[name]
    left.examples = [one for one in result.findings.examples if one["kind"] not in MENDED]
    for verdict in verdicts:
        left.add(verdict)
    for identity in extras:
        left.add_extra(identity)
    return replace(result, findings=left, target=target)
