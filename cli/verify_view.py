"""What `verify` shows to people: counts, an example a line, what a repair did, how searches fare."""

from __future__ import annotations

from typing import Any

from rich.text import Text

from cli.output import counted, note, out, print_table
from verify.report import COUNTS

LISTED = 10
"""So many keys that were written, and points that were removed, are listed; `--json` has all of them."""


def print_results(report: dict[str, Any]) -> None:
    """The counts as a table, then the examples."""
    numbers = ("source", "target", "compared", *COUNTS)
    kinds = [name.replace("_", "-") for name in COUNTS]
    print_table(
        out(),
        ["table", "rows", "points", "compared", *kinds],
        [
            [name, *(f"{found[number]:,}" for number in numbers)]
            for name, found in report["tables"].items()
        ],
        spare=kinds,
    )
    for name, found in report["tables"].items():
        for line in found["schema"]:
            out().print(Text(f"{name}: {line}"))
        _print_examples(name, found)
        for line in found["notes"]:
            note(f"{name}: {line}")
        if "repair" in found:
            print_repair(name, found["repair"])
    _print_recall(report)
    if report["equal"]:
        rows = sum(found["compared"] for found in report["tables"].values())
        out().print(Text(f"equal: {counted(rows, 'row')} compared"))


def _print_examples(name: str, found: dict[str, Any]) -> None:
    """Those of one kind together, and how many more there are."""
    for kind in COUNTS:
        examples = [one for one in found["examples"] if one["kind"] == kind]
        for example in examples:
            out().print(Text(f"{name}: {told_example(example)}"))
        more = found[kind] - len(examples)
        if more > 0:
            out().print(Text(f"{name}: {kind.replace('_', '-')}: … and {more:,} more"))


def _print_recall(report: dict[str, Any]) -> None:
    """A table a vector: its measures, found with the index and without."""
    for name, found in report["tables"].items():
        for vector, one in found.get("recall", {}).items():
            rows = [
                [
                    measure.replace("_", " "),
                    _measure(one["index"][measure]),
                    _measure(one["exact"][measure]),
                    f"{least:.2f}",
                ]
                for measure, least in one["thresholds"].items()
            ]
            asked = f"{one['k']} nearest, {one['queries']:,} times asked"
            out().print(Text(f"{name}, vector {vector}: {asked}"))
            print_table(out(), ["", "index", "exact", "at least"], rows)


def _measure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def print_repair(name: str, done: dict[str, Any]) -> None:
    """The first keys that were written and points that were removed."""
    would = "would be " if done["dry_run"] else ""
    for what, kept in (("written: key", done["written"]), ("removed: point", done["removed"])):
        for one in kept[:LISTED]:
            out().print(Text(f"{name}: {would}{what} {one}"))
        if len(kept) > LISTED:
            verb = what.partition(":")[0]
            out().print(Text(f"{name}: {would}{verb}: … and {len(kept) - LISTED:,} more"))
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
