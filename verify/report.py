"""What a comparison says at its end (design.md section 10). Pure.

The report is public and stable: names and types are not changed within a `version`. Values are in it only
if they were asked for; keys always are.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from bridge.point_ids import PointId
from verify.comparison import Difference
from verify.looks import Verdict
from verify.payloads import ABSENT

REPORT_VERSION = 1
EXAMPLES_A_KIND = 10
FIELDS_AN_EXAMPLE = 10
KEPT_KEYS = 100_000
"""So many differing rows are remembered by key, for a repair; beyond it the whole table is read again."""

COUNTS = ("missing", "extra", "stale", "altered", "unsettled", "dead_lettered")


@dataclass(slots=True, kw_only=True)
class Findings:
    """What was found so far of one table; bounded, however much differs."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: list[dict[str, Any]] = field(default_factory=list)
    keys: list[tuple[str, ...]] = field(default_factory=list)
    extras: list[PointId] = field(default_factory=list)
    overflowed: bool = False

    def add(self, verdict: Verdict) -> None:
        """A row's verdict."""
        self.counts[verdict.kind] += 1
        if verdict.kind in ("missing", "stale", "altered"):
            self._keep(self.keys, verdict.key)
        if self.counts[verdict.kind] <= EXAMPLES_A_KIND:
            self.examples.append(
                {
                    "kind": verdict.kind,
                    "key": key_text(verdict.key),
                    "id": verdict.id,
                    "fields": [_field(one) for one in verdict.differences[:FIELDS_AN_EXAMPLE]],
                    **({"reason": verdict.reason} if verdict.reason else {}),
                }
            )

    def add_extra(self, identity: PointId) -> None:
        """A point without a row."""
        self.counts["extra"] += 1
        self._keep(self.extras, identity)
        if self.counts["extra"] <= EXAMPLES_A_KIND:
            self.examples.append({"kind": "extra", "key": None, "id": identity, "fields": []})

    def _keep(self, kept: list[Any], one: Any) -> None:
        if len(kept) < KEPT_KEYS:
            kept.append(one)
        else:
            self.overflowed = True


def _field(one: Difference) -> dict[str, Any]:
    told: dict[str, Any] = {"field": one.field, "what": one.what}
    for name, value in (("source", one.wanted), ("target", one.found)):
        if value is not ABSENT:
            told[name] = value
    return told


def key_text(key: tuple[str, ...]) -> str:
    """A key as it is shown, and as --from and dead letters take it."""
    if len(key) == 1:
        return key[0]
    return json.dumps(key, ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True, slots=True, kw_only=True)
class TableResult:
    """One table. `source` rows and `target` points were counted; `schema` lists how the collection does
    not fit, and then no points were compared, unless all that it lacks are `unplaced` vector columns,
    which came after the copy. `absent`: there is no collection. `compared`: rows whose points were looked
    at; `vectors`: by their components or their scores."""

    table: str
    collection: str
    source: int
    target: int
    compared: int
    findings: Findings
    schema: tuple[str, ...] = ()
    absent: bool = False
    unplaced: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    extras_searched: bool = True
    sampled: bool = False
    vectors: str = "components"
    seconds: float = 0.0

    @property
    def equal(self) -> bool:
        """Whether nothing was found, of what was looked for."""
        return not self.schema and not any(self.findings.counts[name] for name in COUNTS)

    def to_json(self, *, show_values: bool = False) -> dict[str, Any]:
        """As `--json` prints it."""
        return {
            "collection": self.collection,
            "equal": self.equal,
            "source": self.source,
            "target": self.target,
            "compared": self.compared,
            **{name: self.findings.counts[name] for name in COUNTS},
            "schema": list(self.schema),
            "sampled": self.sampled,
            "vectors": self.vectors,
            "extras_searched": self.extras_searched,
            "seconds": round(self.seconds, 3),
            "notes": list(self.notes),
            "examples": [_shown(one, show_values) for one in self.findings.examples],
        }


def _shown(example: dict[str, Any], show_values: bool) -> dict[str, Any]:
    if show_values:
        return example
    fields = [{"field": one["field"], "what": one["what"]} for one in example["fields"]]
    return {**example, "fields": fields}


def to_json(
    pipeline: str, results: Iterable[TableResult], *, show_values: bool = False, **more: Any
) -> dict[str, Any]:
    """The whole report."""
    found = list(results)
    return {
        "version": REPORT_VERSION,
        "pipeline": pipeline,
        "equal": bool(found) and all(result.equal for result in found),
        "tables": {result.table: result.to_json(show_values=show_values) for result in found},
        **more,
    }
