"""What a person sees: one screen for an error, a table for findings, JSON for scripts.

Results go to standard output, everything about the run (progress, notes, errors) to standard error, so
that a report can be piped. Text of the source (names, messages) never is read as rich markup.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bridge.errors import BridgeError
from bridge.findings import Finding

_GAP = 2  # of rich's tables without lines, between two columns
_MARKS = {"blocker": ("✗", "red"), "warning": ("!", "yellow"), "ok": ("✓", "green")}


def out() -> Console:
    """Standard output. Made anew at each use: tests and pipes replace the stream."""
    return Console(file=sys.stdout, soft_wrap=True, highlight=False)


def err() -> Console:
    """Standard error."""
    return Console(file=sys.stderr, highlight=False)


def print_json(report: dict[str, Any]) -> None:
    """One object, as `--json` promises."""
    sys.stdout.write(json.dumps(report, ensure_ascii=False, indent=2) + "\n")


def print_error(error: BridgeError, *, debug: bool) -> None:
    """What, where, the remedy; with `debug`, how it came about as well."""
    console = err()
    if debug:
        console.print(Text("".join(traceback.format_exception(error))), style="dim")
    head = Text("error", style="bold red")
    if error.code:
        head.append(f" {error.code}", style="bold red")
    console.print(head + Text(f": {error.message}", style="not bold default"), soft_wrap=True)
    where = error.where()
    if where:
        console.print(Text(f"  where: {where}"), soft_wrap=True)
    if error.hint:
        hint = error.hint.replace("\n", "\n    ")  # several remedies, a line each
        console.print(Text(f"  remedy: {hint}"), soft_wrap=True)


def findings_table(findings: Iterable[Finding]) -> Table:
    """A row a finding: mark, check, message, remedy."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for _ in range(3):
        table.add_column(overflow="fold")
    for finding in findings:
        mark, style = _MARKS[finding.level]
        told = Text(finding.message)
        if finding.remedy:
            told.append(f"\n→ {finding.remedy}", style="dim" if finding.level == "ok" else style)
        table.add_row(Text(mark, style=style), Text(finding.check, style="dim"), told)
    return table


def print_table(
    console: Console,
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    names: int = 1,
    spare: Collection[str] = (),
) -> None:
    """A line a row, whose first `names` columns are texts and the others numbers. No cell is broken.

    On a terminal that is too narrow, `spare` columns that are 0 in every row are left out; if it still
    does not fit, each row is a block with a line a column. In a pipe nothing is too wide.
    """
    shown = list(range(len(headings)))
    if console.is_terminal and _width(headings, rows, shown) > console.width:
        shown = [
            n
            for n, heading in enumerate(headings)
            if heading not in spare or any(row[n] != "0" for row in rows)
        ]
    if console.is_terminal and _width(headings, rows, shown) > console.width:
        _print_blocks(console, headings, rows, shown)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for n in shown:
        table.add_column(headings[n], justify="left" if n < names else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(row[n]) for n in shown))
    console.width = max(console.width, _width(headings, rows, shown))
    console.print(table)


def _width(headings: Sequence[str], rows: Sequence[Sequence[str]], shown: Sequence[int]) -> int:
    return sum(max(cell_len(row[n]) for row in (headings, *rows)) for n in shown) + _GAP * (
        len(shown) - 1
    )


def _print_blocks(
    console: Console,
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    shown: Sequence[int],
) -> None:
    wide = max(cell_len(headings[n]) for n in shown)
    for row in rows:
        console.print(Text(row[shown[0]], style="bold"), soft_wrap=True)
        for n in shown[1:]:
            console.print(Text(f"  {headings[n]:<{wide}}  {row[n]}"), soft_wrap=True)


def counted(number: int, noun: str) -> str:
    """`1 row`, `3,000 rows`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def note(text: str, *, style: str = "") -> None:
    """A line about the run."""
    err().print(Text(text, style=style), soft_wrap=True)
