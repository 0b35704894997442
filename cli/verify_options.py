"""The flags of `qdrant-bridge verify`, each written once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from bridge.errors import UsageError

_WHAT, _SEARCH, _REPORT, _REPAIR = "What to compare", "Searches", "Report", "Repair"

TableName = Annotated[
    str | None,
    typer.Argument(
        help="A table of the configuration, or pinecone:INDEX. Default: all.", metavar="TABLE"
    ),
]
Sample = Annotated[
    str | None,
    typer.Option(
        "--sample",
        help="About N rows, or P% of them, instead of all.",
        metavar="N|P%",
        rich_help_panel=_WHAT,
    ),
]
Seed = Annotated[
    int,
    typer.Option(
        "--seed",
        help="Which rows a sample has; the same number chooses the same rows.",
        metavar="NUMBER",
        rich_help_panel=_WHAT,
    ),
]
Shard = Annotated[
    str | None,
    typer.Option(
        "--shard",
        help="Part I (from 0) of N, for several machines; /N takes I from JOB_COMPLETION_INDEX.",
        metavar="I/N",
        rich_help_panel=_WHAT,
    ),
]
Resume = Annotated[
    Path | None,
    typer.Option(
        "--resume",
        help="Keep the progress in this directory, and go on where an earlier run was interrupted.",
        metavar="DIRECTORY",
        rich_help_panel=_WHAT,
    ),
]
ExactVectors = Annotated[
    bool,
    typer.Option(
        "--exact-vectors/--no-exact-vectors",
        help="Read every vector, instead of comparing its scores against random vectors.",
        rich_help_panel=_WHAT,
    ),
]
ShowValues = Annotated[
    bool,
    typer.Option(
        "--show-values/--no-show-values",
        help="Show both values of fields that differ.",
        rich_help_panel=_REPORT,
    ),
]


Repair = Annotated[
    bool,
    typer.Option(
        "--repair/--no-repair",
        help="Write what is missing or differs, remove what is too much, and look again.",
        rich_help_panel=_REPAIR,
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run/--no-dry-run",
        help="With --repair: list what it would write and remove.",
        rich_help_panel=_REPAIR,
    ),
]


Recall = Annotated[
    int | None,
    typer.Option(
        "--recall",
        help="Compare the K nearest neighbours as well: exact ones from pgvector, and Qdrant's.",
        metavar="[K]",
        rich_help_panel=_SEARCH,
    ),
]
Queries = Annotated[
    str | None,
    typer.Option(
        "--queries",
        help="With --recall: so many rows ask (default 100), or the vectors of a file: a JSON array "
        "a line.",
        metavar="N|FILE",
        rich_help_panel=_SEARCH,
    ),
]
Html = Annotated[
    Path | None,
    typer.Option(
        "--html",
        help="With --recall: a page with plots and the worst queries, readable offline.",
        metavar="FILE",
        rich_help_panel=_SEARCH,
    ),
]
Textfile = Annotated[
    Path | None,
    typer.Option(
        "--textfile",
        help="Metrics for the textfile collector of Prometheus' node_exporter.",
        metavar="FILE",
        rich_help_panel=_REPORT,
    ),
]


def parse_sample(text: str | None) -> tuple[int | None, float]:
    """`1000` -> (1000, 1.0); `1.5%` -> (None, 0.015); nothing: all rows."""
    if text is None:
        return None, 1.0
    match = re.fullmatch(r"(\d+)|(\d+(?:\.\d+)?)%", text.strip())
    if match is not None and match[1] and int(match[1]) > 0:
        return int(match[1]), 1.0
    if match is not None and match[2] and 0 < float(match[2]) <= 100:
        return None, float(match[2]) / 100
    raise UsageError(
        f"--sample: {text!r} is neither a number of rows nor a percentage",
        hint="--sample 1000, or --sample 1%",
    )


def parse_queries(text: str | None) -> tuple[int | None, Path | None]:
    """`200` -> (200, None); anything else is a file."""
    if text is None:
        return None, None
    return (int(text), None) if text.isdigit() and int(text) > 0 else (None, Path(text))
