"""`qdrant-bridge demo`: the whole thing on this machine, with nothing to set up.

An embedded Postgres is filled with real data, copied to an embedded Qdrant, and both are asked the same
questions. Everything lies in one directory and is removed at the end, unless `--keep`.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from bridge.config import TableChoice, load
from bridge.errors import CheckFailed, UsageError
from bridge.postgres import sample
from bridge.postgres.connection import Connection, connect
from bridge.postgres.embedded import EmbeddedPostgres
from bridge.qdrant.target import Target
from cli import options as o
from cli.backfill_command import copy_tables, print_summary
from cli.help import GENERAL, Command
from cli.output import note, out
from cli.places import open_target

DATA = Path(__file__).parent / "data" / "packages"
_QUESTIONS = (
    "store passwords safely",
    "split a PDF into single pages",
    "control a telescope and photograph the night sky",
)
_HITS = 5
_PARTS = ("postgres", "qdrant")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("demo", cls=Command, epilog="Example: qdrant-bridge demo --keep")(demo)


def demo(
    directory: Annotated[
        Path | None,
        typer.Option(
            help="Where to put it all. Default: a temporary directory.",
            metavar="DIR",
            rich_help_panel=GENERAL,
        ),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep/--no-keep", help="Leave the data there.", show_default=False)
    ] = False,
    debug: o.Debug = False,
) -> None:
    """Copy 3,000 real rows from an embedded Postgres to an embedded Qdrant, and search both."""
    with _place(directory, keep=keep) as place:
        postgres = EmbeddedPostgres(place / "postgres", "18")
        with postgres:
            _run(postgres, place / "qdrant")
        if keep:
            note(f"kept: edge://{place / 'qdrant'} and the Postgres data in {place / 'postgres'}")


@contextmanager
def _place(directory: Path | None, *, keep: bool) -> Iterator[Path]:
    """A directory that Postgres' own account can reach; what is put there goes unless it is kept."""
    if directory is None:
        place = Path(tempfile.mkdtemp(prefix="qdrant-bridge-demo-"))
        place.chmod(0o755)
    else:
        place = _prepared(directory)
    try:
        yield place
    finally:
        if not keep:
            for part in _PARTS:
                shutil.rmtree(place / part, ignore_errors=True)
            if directory is None:
                place.rmdir()


def _prepared(directory: Path) -> Path:
    """The user's directory, made if it is missing; UsageError if an earlier demo lies there."""
    for part in _PARTS:
        if (directory / part).exists():
            raise UsageError(
                f"{directory / part} exists already", hint="name another --directory, or remove it"
            )
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"cannot make the directory {directory}: {error.strerror}",
            hint="name another --directory",
        ) from None
    return directory.absolute()


def _run(postgres: EmbeddedPostgres, qdrant: Path) -> None:
    url = postgres.url()
    note("1. Postgres with pgvector is running; loading 3,000 Debian packages with embeddings")
    started = time.monotonic()
    with connect(url, read_only=False) as connection:
        rows = sample.load(connection, DATA)
    note(f"   {rows:,} rows, 25 columns, {time.monotonic() - started:.1f} s")
    note("2. qdrant-bridge backfill pgvector --pg.table packages --qdrant.url edge://...")
    effective = load(
        None,
        {"postgres.url": url, "qdrant.url": f"edge://{qdrant}"},
        {},
        table=TableChoice(name=sample.TABLE),
    )
    reports = copy_tables(effective, quiet=False)
    print_summary(reports)
    if any(report.problems for report in reports):
        raise CheckFailed("the counts of both sides differ", code="COUNTS_DIFFER")
    note("3. The same questions to both")
    with connect(url) as connection, open_target(effective.settings) as place:
        agreed = sum(
            _ask(connection, place.target, question)
            for question in sample.read_queries(DATA)
            if question.text in _QUESTIONS
        )
    out().print(
        Text(f"{agreed} of {len(_QUESTIONS) * _HITS} hits are the same in both.", style="bold")
    )


def _ask(connection: Connection, target: Target, question: sample.Query) -> int:
    """Ask both, show the answers side by side; how many hits both have."""
    left = sample.nearest(connection, question, _HITS)
    right = target.search(sample.TABLE, "embedding", question.embedding, limit=_HITS)
    table = Table(
        title=f'"{question.text}"', title_justify="left", box=None, pad_edge=False, expand=True
    )
    for heading, width in (("pgvector", 16), ("cosine", 6), ("Qdrant", 16), ("cosine", 6)):
        table.add_column(heading, overflow="ellipsis", no_wrap=True, width=width)
    table.add_column("summary", overflow="ellipsis", no_wrap=True, ratio=1)  # what room is left
    for row, hit in zip(left, right, strict=True):
        table.add_row(
            Text(row[1]),
            f"{row[3]:.4f}",
            Text(str(hit.payload["package"])),
            f"{hit.score:.4f}",
            Text(str(hit.payload["summary"]), style="dim"),
        )
    out().print(table)
    return len({row[0] for row in left} & {hit.id for hit in right})
