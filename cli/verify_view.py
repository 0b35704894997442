"""What `verify` shows to people: counts, an example a line, what a repair did, how searches fare."""

from __future__ import annotations

from typing import Any

from rich.table import Table
from rich.text import Text

from cli.output import counted, note, out
from verify.report import COUNTS


def print_results(report: dict[str, Any]) -> None:
    """The counts as a table, then the examples."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    headings = ("table", "rows", "points", "compared", *COUNTS)
    for heading in headings:
        left = heading == "table"
        shown.add_column(
            heading.replace("_", "-"), justify="left" if left else "right", overflow="fold"
        )
    for name, found in report["tables"].items():
        numbers = ("source", "target", "compared", *COUNTS)
        shown.add_row(Text(name), *(Text(f"{found[number]:,}") for number in numbers))
    out().print(shown)
    for name, found in report["tables"].items():
        for line in found["schema"]:
            out().print(Text(f"{name}: {line}"))
        for example in found["examples"]:
            out().print(Text(f"{name}: {told_example(example)}"))
        for line in found["notes"]:
            note(f"{name}: {line}")
        if "repair" in found:
            print_repair(name, found["repair"])
    _print_recall(report)
    if report["equal"]:
        rows = sum(found["compared"] for found in report["tables"].values())
        out().print(Text(f"equal: {counted(rows, 'row')} compared"))


def _print_recall(report: dict[str, Any]) -> None:
    lines = [
        (name, vector, one)
        for name, found in report["tables"].items()
        for vector, one in found.get("recall", {}).items()
    ]
    if not lines:
        return
    shown = Table(box=None, pad_edge=False, header_style="bold")
    measures = list(lines[0][2]["index"])
    for heading in ("table", "vector", "asked", *(name.replace("_", " ") for name in measures)):
        shown.add_column(heading, overflow="fold")
    for name, vector, one in lines:
        for how in ("index", "exact"):
            cells = [f"{one[how][measure]:.3f}" for measure in measures]
            shown.add_row(*map(Text, (name, vector, how, *cells)))
    out().print(shown)


def print_repair(name: str, done: dict[str, Any]) -> None:
    """Every key that was written and every point that was removed."""
    would = "would be " if done["dry_run"] else ""
    for key in done["written"]:
        out().print(Text(f"{name}: {would}written: key {key}"))
    for identity in done["removed"]:
        out().print(Text(f"{name}: {would}removed: point {identity}"))
    for problem in done["problems"]:
        out().print(Text(f"{name}: not done: {problem}"))
    if done["extras_kept"]:
        note(
            f"{name}: the collection also holds points of other origin, so none were removed; "
            "owns_collection: true lets all of them go"
        )


def told_example(example: dict[str, Any]) -> str:
    """One line: the kind, the row, what differs."""
    kind = example["kind"].replace("_", "-")
    if example["kind"] == "extra":
        return f"{kind}: point {example['id']} has no row"
    told = f"{kind}: key {example['key']} (point {example['id']})"
    fields = [_told_field(field) for field in example["fields"]]
    reasons = [example["reason"]] if "reason" in example else []
    return ": ".join([told, *reasons, *(["; ".join(fields)] if fields else [])])


def _told_field(field: dict[str, Any]) -> str:
    values = [f"{side} {field[side]!r}" for side in ("source", "target") if side in field]
    return f"{field['field']}: {field['what']}" + (f" ({', '.join(values)})" if values else "")
