"""The flags, each written once, and the configuration they make together with file and environment.

The names are those of qdrant/migration, so that its users change one word. That tool writes booleans as
`--flag=false`, which Click does not know: `normalize` rewrites these before parsing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from bridge.config import Effective, TableChoice, load
from bridge.errors import UsageError
from cli.help import GENERAL

_SOURCE, _TARGET, _RUN = "Postgres", "Qdrant", "Migration"
_BOOLEANS = (
    "--migration.restart",
    "--migration.create-collection",
    "-c",
    "--skip-tls-verification",
    "--allow-plaintext",
    "--debug",
    "--trace",
    "--json",
    "--prepare-sync",
    "--keep",
)
_TRUE, _FALSE = ("true", "1", "yes"), ("false", "0", "no")


def normalize(arguments: Sequence[str]) -> list[str]:
    """`--flag=true` -> `--flag`, `--flag=false` -> `--no-flag`; all else stays."""
    result: list[str] = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals or name not in _BOOLEANS:
            result.append(argument)
            continue
        name = "--migration.create-collection" if name == "-c" else name
        if value.lower() in _TRUE:
            result.append(name)
        elif value.lower() in _FALSE:
            result.append("--no-" + name.removeprefix("--"))
        else:
            raise UsageError(
                f"{name}: {value!r} is neither true nor false", hint=f"{name}, or {name}=false"
            )
    return result


def _flag(text: str, names: str, panel: str, **more: Any) -> Any:
    # A default of False or None says nothing; defaults that do are in the text.
    shown = {"show_default": False, **more}
    return typer.Option(*names.split(), help=text, rich_help_panel=panel, **shown)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"qdrant-bridge {version('qdrant-bridge')}")
        raise typer.Exit


Version = Annotated[
    bool,
    _flag("Print the version.", "--version", GENERAL, callback=_print_version, is_eager=True),
]
Config = Annotated[
    Path | None,
    _flag("A bridge.yaml; flags override it.", "--config", GENERAL, metavar="FILE"),
]
Json = Annotated[bool, _flag("Print one JSON object.", "--json/--no-json", GENERAL)]
Debug = Annotated[
    bool,
    _flag("Show where an error came from.", "--debug/--no-debug --trace/--no-trace", GENERAL),
]
AllowPlaintext = Annotated[
    bool | None,
    _flag(
        "Permit connections without TLS to other machines.",
        "--allow-plaintext/--no-allow-plaintext",
        GENERAL,
    ),
]
PgUrl = Annotated[
    str | None,
    _flag(
        "postgresql://user@host:5432/database. The password: in PGPASSWORD or .pgpass; or the "
        "whole url in a file (postgres.url_file).",
        "--pg.url",
        _SOURCE,
        metavar="URL",
    ),
]
PgTable = Annotated[
    str | None,
    _flag('docs, public.docs, app."Weird.Table".', "--pg.table", _SOURCE, metavar="NAME"),
]
PgKey = Annotated[
    list[str] | None,
    _flag(
        "Columns that identify a row. Default: the primary key.",
        "--pg.key-column",
        _SOURCE,
        metavar="A,B",
    ),
]
PgColumns = Annotated[
    list[str] | None,
    _flag("Columns to copy. Default: all.", "--pg.columns", _SOURCE, metavar="A,B"),
]
QdrantUrl = Annotated[
    str | None,
    _flag(
        "http(s)://host:6334 (the gRPC port), or edge:///directory (embedded). Default: "
        "http://localhost:6334.",
        "--qdrant.url",
        _TARGET,
        metavar="URL",
    ),
]
QdrantKey = Annotated[
    str | None,
    _flag(
        "Better in a file (qdrant.api_key_file), or in QDRANT_BRIDGE_QDRANT__API_KEY.",
        "--qdrant.api-key",
        _TARGET,
        metavar="KEY",
    ),
]
QdrantCollection = Annotated[
    str | None,
    _flag("Default: the table's name.", "--qdrant.collection", _TARGET, metavar="NAME"),
]
QdrantDistance = Annotated[
    list[str] | None,
    _flag(
        "'a=cosine;b=dot'; also euclid, manhattan. Default: from the column's index.",
        "--qdrant.distance-metric",
        _TARGET,
        metavar="MAP",
    ),
]
SkipTls = Annotated[
    bool | None,
    _flag(
        "Trust any certificate of Qdrant's.",
        "--skip-tls-verification/--no-skip-tls-verification",
        _TARGET,
    ),
]
Workers = Annotated[
    int | None,
    _flag("Worker processes. Default: the cores.", "--migration.num-workers", _RUN, metavar="N"),
]
BatchSize = Annotated[
    int | None,
    _flag("Points a request. Default: 256.", "--migration.batch-size -b", _RUN, metavar="N"),
]
BatchDelay = Annotated[
    int | None,
    _flag("Milliseconds after each request.", "--migration.batch-delay", _RUN, metavar="N"),
]
Restart = Annotated[
    bool | None,
    _flag(
        "Forget earlier progress and copy everything again.",
        "--migration.restart/--no-migration.restart",
        _RUN,
    ),
]
PrepareSync = Annotated[
    bool,
    _flag(
        "Make the replication slot first, so that qdrant-bridge sync postgres goes on afterwards.",
        "--prepare-sync/--no-prepare-sync",
        _RUN,
    ),
]
CreateCollection = Annotated[
    bool | None,
    _flag(
        "Create the collection if it is missing; so it is unless =false.",
        "--migration.create-collection/--no-migration.create-collection -c",
        _RUN,
    ),
]
OffsetsCollection = Annotated[
    str | None,
    _flag(
        "Taken, and not used: progress lies in _qdrant_bridge.",
        "--migration.offsets-collection",
        _RUN,
        metavar="NAME",
    ),
]
Shard = Annotated[
    str | None,
    _flag(
        "This machine copies part I (from 0) of N; /N takes I from JOB_COMPLETION_INDEX.",
        "--shard",
        _RUN,
        metavar="I/N",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """What was given on the command line; None where it was not."""

    config: Path | None = None
    pipeline: str | None = None
    pg_url: str | None = None
    pg_table: str | None = None
    pg_key: Sequence[str] | None = None
    pg_columns: Sequence[str] | None = None
    qdrant_url: str | None = None
    qdrant_key: str | None = None
    collection: str | None = None
    distance: Sequence[str] | None = None
    skip_tls: bool | None = None
    allow_plaintext: bool | None = None
    workers: int | None = None
    batch_size: int | None = None
    batch_delay: int | None = None
    restart: bool | None = None
    create_collection: bool | None = None
    offsets_collection: str | None = None
    shard: str | None = None

    def load(self, environ: Mapping[str, str] | None = None) -> Effective:
        """The configuration in force. UsageError if it is wrong, wherever it came from."""
        flags = {
            "pipeline": self.pipeline,
            "postgres.url": self.pg_url,
            "qdrant.url": self.qdrant_url,
            "qdrant.api_key": self.qdrant_key,
            "skip_tls_verification": self.skip_tls,
            "allow_plaintext": self.allow_plaintext,
            "migration.num_workers": self.workers,
            "migration.batch_size": self.batch_size,
            "migration.batch_delay_milliseconds": self.batch_delay,
            "migration.restart": self.restart,
            "migration.create_collection": self.create_collection,
            "migration.offsets_collection": self.offsets_collection,
            "migration.shard": self.shard,
        }
        choice = TableChoice(
            name=self.pg_table,
            key=split_names(self.pg_key, "--pg.key-column"),
            columns=split_names(self.pg_columns, "--pg.columns"),
            collection=self.collection,
            distances=parse_distances(self.distance or ()),
        )
        table = choice if choice.says_something else None
        return load(self.config, flags, os.environ if environ is None else environ, table=table)


def split_names(given: Sequence[str] | None, flag: str) -> tuple[str, ...] | None:
    """Names separated by commas, the flag repeated or not; a quoted name may hold a comma."""
    if not given:
        return None
    names: list[str] = []
    for text in given:
        names += _split_one(text, flag)
    return tuple(names)


_NAMES_HINT = """names with commas between them; one that holds a comma in quotes: 'a,"b,c"'"""


def _split_one(text: str, flag: str) -> list[str]:
    names: list[str] = []
    rest = text
    while True:
        rest = rest.strip()
        if rest.startswith('"'):
            end = 1
            while (end := rest.find('"', end)) >= 0 and rest[end : end + 2] == '""':
                end += 2
            if end < 0:
                raise UsageError(f"{flag}: a quote is not closed in {text!r}", hint=_NAMES_HINT)
            names.append(rest[1:end].replace('""', '"'))
            rest = rest[end + 1 :].strip()
            if rest and not rest.startswith(","):
                raise UsageError(f"{flag}: a comma is missing in {text!r}", hint=_NAMES_HINT)
            rest = rest[1:]
        else:
            name, _comma, rest = rest.partition(",")
            if not name.strip():
                raise UsageError(f"{flag}: a name is empty in {text!r}", hint=_NAMES_HINT)
            names.append(name.strip())
        if not rest.strip():
            return names


def parse_distances(given: Sequence[str]) -> dict[str, str]:
    """`a=dot;b=euclid`, the flag repeated or not -> {column: distance}."""
    distances: dict[str, str] = {}
    for text in given:
        for part in filter(None, (piece.strip() for piece in text.split(";"))):
            column, equals, distance = part.rpartition("=")
            if not equals or not column.strip():
                raise UsageError(
                    f"--qdrant.distance-metric: {part!r} is not column=distance",
                    hint="--qdrant.distance-metric 'embedding=cosine;image=dot'",
                )
            distances[column.strip()] = distance.strip().lower()
    return distances
