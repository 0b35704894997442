"""`qdrant-bridge demo`: the whole thing on this machine, with nothing to set up.

An embedded Postgres is filled with real data, copied to an embedded Qdrant, and both are asked the same
questions. Then the rows change through SQL while the daemon follows, is killed and starts again, and
at the end both sides are compared, row by row. Everything lies in one directory and is removed at the
end, unless `--keep`, which leaves Postgres and the daemon running.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from bridge.config import Effective, load
from bridge.errors import CheckFailed, UsageError
from bridge.postgres import sample
from bridge.postgres.connection import Connection, connect
from bridge.postgres.embedded import EmbeddedPostgres, installation
from bridge.qdrant.target import Target
from cli import options as o
from cli.backfill_command import copy_all, print_summary
from cli.copied import require_equal
from cli.demo_live import DaemonProcess, Scene
from cli.demo_proof import compare
from cli.handoff import prepare
from cli.help import GENERAL, Command
from cli.output import counted, note, out
from cli.places import open_target

DATA = Path(__file__).parent / "data" / "packages"
_QUESTIONS = (
    "store passwords safely",
    "split a PDF into single pages",
    "control a telescope and photograph the night sky",
)
_HITS = 5
_CONFIG, _LOG = "bridge.yaml", "daemon.log"
_PARTS = ("postgres", "qdrant", _CONFIG, _LOG)
_KEPT = """
kept: edge://{qdrant}, with Postgres and the daemon (process {daemon}) running

Change a row, search in Postgres, and see what the daemon does:
  {psql} -c "UPDATE packages SET summary = 'changed' WHERE id = {row}"
  {psql} -c "SELECT b.package, b.summary FROM packages a, packages b WHERE a.id = {row}
    ORDER BY a.embedding <=> b.embedding LIMIT 5"
  tail -f {log}
Search in Qdrant: the daemon, which has the directory open, serves it to others.
  {python} -c "
from pathlib import Path
from bridge.qdrant.edge_client import EdgeClient
edge = EdgeClient(Path('{qdrant}'))
[point] = edge.retrieve('packages', [{row}], with_vectors=True)
for hit in edge.search('packages', 'embedding', point.vectors['embedding'], limit=5):
    print(hit.payload['package'], hit.payload['summary'])"
Look how far it is; stop it, and let it go on where it stopped:
  {bridge} status --config {config}
  kill {daemon}
  {bridge} sync postgres --config {config}
Stop everything, then remove it:
  kill {daemon}; kill -INT {postgres}
  rm -r {remove}"""


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
        bool,
        typer.Option(
            "--keep/--no-keep", help="Leave everything there, running.", show_default=False
        ),
    ] = False,
    debug: o.Debug = False,
) -> None:
    """Copy 3,000 real rows from an embedded Postgres to an embedded Qdrant, search both, then keep
    them equal while the rows change and the daemon is killed."""
    with _place(directory, keep=keep) as place:
        postgres = EmbeddedPostgres(place / "postgres", "18")
        with postgres:
            effective = _configure(postgres, place)
            _copy_and_search(postgres, effective)
            with DaemonProcess(place / _CONFIG, place / _LOG) as daemon:
                row = _follow(postgres, effective, daemon)
                if keep:
                    daemon.start()
                    # In a directory of the user's there may be more than this demo's.
                    ours = [place] if directory is None else [place / part for part in _PARTS]
                    _tell_what_to_try(postgres, place, daemon, row, ours)
                    daemon.leave()
                    postgres.leave()


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
                with suppress(FileNotFoundError):
                    (place / part).unlink()
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


def _configure(postgres: EmbeddedPostgres, place: Path) -> Effective:
    """The configuration that the copy here and the daemon share; JSON is YAML."""
    settings = {
        "pipeline": sample.TABLE,
        "postgres": {"url": postgres.url()},
        "qdrant": {"url": f"edge://{place / 'qdrant'}"},
        "tables": {sample.TABLE: {}},
        "sync": {"source": "postgres"},
        "http": {"listen": "127.0.0.1:0"},
    }
    (place / _CONFIG).write_text(json.dumps(settings, indent=1) + "\n")
    return load(place / _CONFIG, {}, {})


def _copy_and_search(postgres: EmbeddedPostgres, effective: Effective) -> None:
    url = postgres.url()
    note("1. Postgres with pgvector is running; loading 3,000 Debian packages with embeddings")
    started = time.monotonic()
    with connect(url, read_only=False) as connection:
        rows = sample.load(connection, DATA)
    note(f"   {rows:,} rows, {len(sample.COLUMNS)} columns, {time.monotonic() - started:.1f} s")
    note("2. qdrant-bridge backfill pgvector --prepare-sync: a slot first, then the copy")
    with open_target(effective.settings) as place:
        prepare(effective, place)
        reports = copy_all(effective, place, quiet=False)
        print_summary(reports)
        require_equal(reports)
        note("3. The same questions to both")
        with connect(url) as connection:
            agreed = sum(
                _ask(connection, place.target, question)
                for question in sample.read_queries(DATA)
                if question.text in _QUESTIONS
            )
    out().print(
        Text(f"{agreed} of {len(_QUESTIONS) * _HITS} hits are the same in both.", style="bold")
    )


def _follow(postgres: EmbeddedPostgres, effective: Effective, daemon: DaemonProcess) -> int:
    """Change rows while the daemon runs, dies and runs again; then compare everything. A row's id."""
    note("4. qdrant-bridge sync postgres: the rows change through SQL, the daemon follows")
    with connect(postgres.url(), read_only=False) as connection:
        scene = Scene(connection, daemon, effective.settings.slot)
        scene.play()
    daemon.stop()
    note("5. Both sides, row by row")
    with connect(postgres.url()) as connection, open_target(effective.settings) as place:
        proof = compare(connection, place.target, sample.TABLE)
    if not proof.equal:
        raise CheckFailed(
            f"{counted(len(proof.differing), 'row')} of {proof.rows:,} differ, among them "
            f"{', '.join(map(str, proof.differing[:5]))}",
            code="DIFFERENT",
            hint="please report it",
        )
    changes = scene.ledger.applied.total()
    told = (
        f"{changes:,} changes and a kill -9 later: {proof.rows:,} rows in Postgres, "
        f"{proof.points:,} points.\nAll {proof.columns} columns of every row are the same."
    )
    out().print(Text(told, style="bold"))
    return scene.changes.first_id


def _tell_what_to_try(
    postgres: EmbeddedPostgres, place: Path, daemon: DaemonProcess, row: int, ours: list[Path]
) -> None:
    """What is left running, what to do with it, how to end it. Plain text, to be copied."""
    told = _KEPT.format(
        qdrant=place / "qdrant",
        row=row,
        daemon=daemon.pid,
        postgres=postgres.pid,
        psql=f"{installation(postgres.version) / 'bin' / 'psql'} '{postgres.url()}'",
        python=sys.executable,
        log=place / _LOG,
        config=place / _CONFIG,
        bridge=_own_command(),
        remove=" ".join(map(str, ours)),
    )
    note(told)


def _own_command() -> str:
    """How this program is called from the user's shell, whose PATH may not have it."""
    beside = Path(sys.executable).with_name("qdrant-bridge")
    found = shutil.which("qdrant-bridge")
    if not beside.exists():
        return "qdrant-bridge" if found else f"{sys.executable} -m cli.main"
    return "qdrant-bridge" if found and Path(found).samefile(beside) else str(beside)


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
