"""The flags, each written once, and the configuration they make together with file and environment.

The names are those of qdrant/migration, so that its users change one word (`cli/arguments.py` for how it
writes booleans).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Self

import typer

from bridge.config import Effective, TableChoice, load
from bridge.errors import UsageError
from cli.help import GENERAL

_SOURCE, _INDEX, _TARGET, _RUN = "Postgres", "Pinecone", "Qdrant", "Migration"


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
PineconeIndexName = Annotated[
    str | None,
    _flag("The index's name.", "--pinecone.index-name", _INDEX, metavar="NAME"),
]
PineconeIndexHost = Annotated[
    str | None,
    _flag(
        "The index's own host. Default: asked for by name.",
        "--pinecone.index-host",
        _INDEX,
        metavar="HOST",
    ),
]
PineconeKey = Annotated[
    str | None,
    _flag(
        "Better in a file (pinecone.api_key_file), or in the environment.",
        "--pinecone.api-key",
        _INDEX,
        metavar="KEY",
    ),
]
PineconeNamespace = Annotated[
    str | None,
    _flag(
        "Only this namespace; '' is the default one. Default: all.",
        "--pinecone.namespace",
        _INDEX,
        metavar="NAME",
    ),
]
PineconeServiceHost = Annotated[
    str | None,
    _flag(
        "Another control plane than Pinecone's own.",
        "--pinecone.service-host",
        _INDEX,
        metavar="HOST",
    ),
]
Namespaces = Annotated[
    str | None,
    _flag(
        "all: into one collection; split: a collection each; or names with commas.",
        "--namespaces",
        _INDEX,
        metavar="WHICH",
    ),
]
PineconeNumbers = Annotated[
    str | None,
    _flag(
        "integer: whole numbers are integers, unless the field has fractions; float: none are.",
        "--pinecone.numbers",
        _INDEX,
        metavar="KIND",
    ),
]
PineconeIdsFile = Annotated[
    str | None,
    _flag(
        "A file of ids, one a line, for an index that cannot list them (pod-based).",
        "--pinecone.ids-file",
        _INDEX,
        metavar="FILE",
    ),
]
PineconeReconcile = Annotated[
    str | None,
    _flag(
        "The second pass. auto: list again where counts differ; full: read all again; none.",
        "--pinecone.reconcile",
        _INDEX,
        metavar="HOW",
    ),
]
PineconeNamespaceField = Annotated[
    str | None,
    _flag(
        "The payload field that keeps the namespace. Default: namespace.",
        "--pinecone.namespace-field",
        _INDEX,
        metavar="NAME",
    ),
]
PineconeListRate = Annotated[
    float | None,
    _flag(
        "Pages of ids a second; 0: no limit. Default: 200.",
        "--pinecone.list-per-second",
        _INDEX,
        metavar="N",
    ),
]
PineconeFetchRate = Annotated[
    float | None,
    _flag(
        "Fetches a second; 0: no limit. Default: 100.",
        "--pinecone.fetch-per-second",
        _INDEX,
        metavar="N",
    ),
]
QdrantIdField = Annotated[
    str | None,
    _flag(
        "The payload field that keeps Pinecone's id. Default: __id__.",
        "--qdrant.id-field",
        _TARGET,
        metavar="NAME",
    ),
]
QdrantSparseVector = Annotated[
    str | None,
    _flag(
        "The name of the sparse vector. Default: sparse_vector.",
        "--qdrant.sparse-vector",
        _TARGET,
        metavar="NAME",
    ),
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
class PineconeFlags:
    """What was given of Pinecone on the command line; None where it was not."""

    index: str | None = None
    host: str | None = None
    api_key: str | None = None
    namespace: str | None = None
    namespaces: str | None = None
    service_host: str | None = None
    numbers: str | None = None
    ids_file: str | None = None
    reconcile: str | None = None
    namespace_field: str | None = None
    list_per_second: float | None = None
    fetch_per_second: float | None = None
    collection: str | None = None
    id_field: str | None = None
    sparse_vector: str | None = None

    def values(self) -> dict[str, object]:
        """By dotted path. UsageError if both flags for namespaces are there."""
        if self.namespace is not None and self.namespaces is not None:
            raise UsageError(
                "--pinecone.namespace and --namespaces both say which ones",
                hint="one namespace, or --namespaces with all, split or names",
            )
        wanted: object = None
        if self.namespace is not None:
            wanted = [self.namespace]
        elif self.namespaces in ("all", "split"):
            wanted = self.namespaces
        elif self.namespaces is not None:
            wanted = list(split_names([self.namespaces], "--namespaces") or ())
        named = {
            name: getattr(self, name)
            for name in self.__slots__
            if name not in ("namespace", "namespaces")
        }
        return {
            f"pinecone.{name}": value for name, value in {**named, "namespaces": wanted}.items()
        }


_PINECONE_PARAMETERS = {"index": "index_name", "host": "index_host", "api_key": "pinecone_key"}
"""Fields of `PineconeFlags` that a command's parameters have another name for."""


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
    pinecone: PineconeFlags | None = None

    @classmethod
    def of(cls, parameters: Mapping[str, Any]) -> Self:
        """The flags among a command's parameters: `Flags.of(locals())`, before anything else.

        They go by their names, so that none is forgotten on the way; what is no name of the
        configuration's is the command's own. `--qdrant.collection` belongs to the index where one is
        named, or where the command takes no table.
        """
        given = {one.name: parameters[one.name] for one in fields(cls) if one.name in parameters}
        if "index_name" not in parameters:
            return cls(**given)
        index = {
            one.name: parameters[name]
            for one in fields(PineconeFlags)
            if (name := _PINECONE_PARAMETERS.get(one.name, one.name)) in parameters
        }
        named = index["index"] is not None or index["host"] is not None
        if named or "pg_table" not in parameters:
            given.pop("collection", None)
        else:
            index.pop("collection", None)
        return cls(**given, pinecone=PineconeFlags(**index))

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
            **(self.pinecone.values() if self.pinecone is not None else {}),
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
