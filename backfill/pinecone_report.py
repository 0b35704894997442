"""What a Pinecone backfill says at its end: counts of both sides, and whether they agree. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from backfill.pinecone_state import NamespaceProgress
from bridge.pinecone.index import shown
from bridge.pinecone.plan import Layout

REPORT_VERSION = 1
NOT_A_SNAPSHOT = (
    "a read of Pinecone is no snapshot: a record that was changed while it was read may be here as it "
    "was before; --pinecone.reconcile full reads everything once more"
)
_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceReport:
    """One namespace. `source_count`: what Pinecone says that it holds, at the end."""

    collection: str
    records: int
    written: int
    dead_letters: int
    missing: int
    read_units: int
    source_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondPass:
    """What looking again has found: records that came meanwhile, and points whose records are gone.

    `updated` is None unless everything was read again.
    """

    namespaces: int
    added: int
    removed: int
    kept_extras: int = 0
    read_again: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexReport:
    """An index's outcome. `problems` make the command fail, `notes` do not. Times in seconds."""

    label: str
    layout: Layout
    namespaces: Mapping[str, NamespaceReport]
    collections: Mapping[str, int]
    copied_now: int
    copy_seconds: float
    index_seconds: float | None = None
    second_pass: SecondPass | None = None
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def total(self, name: str) -> int:
        """The sum of a count over all namespaces."""
        return sum(getattr(one, name) for one in self.namespaces.values())

    def to_json(self, pipeline: str) -> dict[str, Any]:
        """As `--json` prints it."""
        names = ("records", "written", "dead_letters", "missing", "read_units", "source_count")
        return {
            "version": REPORT_VERSION,
            "pipeline": pipeline,
            "ok": not self.problems,
            "index": self.label,
            "layout": self.layout,
            "totals": {name: self.total(name) for name in names},
            "namespaces": {name: asdict(one) for name, one in self.namespaces.items()},
            "collections": dict(self.collections),
            "copied_now": self.copied_now,
            "copy_seconds": round(self.copy_seconds, 3),
            "index_seconds": self.index_seconds,
            "second_pass": None if self.second_pass is None else asdict(self.second_pass),
            "problems": list(self.problems),
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class EndCounts:
    """Exact counts at the end. `source` by namespace, as Pinecone tells; `target` by collection;
    `found`: what the collection held before. `letters_settled`: retried or dropped since."""

    source: Mapping[str, int]
    target: Mapping[str, int]
    found: Mapping[str, int] = field(default_factory=dict)
    letters_settled: int = 0


def judge(
    progress: Sequence[NamespaceProgress],
    collections: Mapping[str, str],
    counts: EndCounts,
    late_fractions: Sequence[str] = (),
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(problems, notes) of an index whose namespaces are all read."""
    problems = _source_problems(progress, counts)
    notes: list[str] = []
    written: dict[str, int] = {name: 0 for name in counts.target}
    for one in progress:
        written[collections[one.namespace]] += one.written
    for name, points in written.items():
        held, found = counts.target[name], counts.found.get(name, 0)
        if held < points:
            problems.append(f"{points} points were written to {name}, which holds {held}")
        elif found:
            notes.append(
                f"{name} held {found} points before it was filled, and holds {held} now; only verify "
                "can tell these apart"
            )
        elif held > points + counts.letters_settled:
            problems.append(
                f"{points} points were written to {name}, which holds {held}: points of records that "
                "are gone, or of somebody else"
            )
    letters = sum(one.dead_letters for one in progress) - counts.letters_settled
    if letters > 0:
        notes.append(f"{letters} records were set aside: qdrant-bridge dead-letters list")
    if late_fractions:
        notes.append(
            f"fields of whole numbers turned out to have fractions: {', '.join(late_fractions)}; "
            "their whole numbers are integers here; --pinecone.numbers float with "
            "--migration.restart makes them floats"
        )
    notes.append(NOT_A_SNAPSHOT)
    return tuple(problems), tuple(notes)


def _source_problems(progress: Sequence[NamespaceProgress], counts: EndCounts) -> list[str]:
    differ = [one for one in progress if one.records != counts.source.get(one.namespace, 0)]
    lines = [
        f"namespace {shown(one.namespace)}: {one.records} records were read, Pinecone counts "
        f"{counts.source.get(one.namespace, 0)}"
        for one in differ[:_SHOWN]
    ]
    if len(differ) > _SHOWN:
        lines.append(f"{len(differ) - _SHOWN} more namespaces differ")
    for one in progress:
        if one.records != one.written + one.dead_letters:
            lines.append(
                f"namespace {shown(one.namespace)}: of {one.records} records {one.written} were "
                f"written and {one.dead_letters} set aside"
            )
    return lines
