"""`qdrant-bridge init`: looks at a database and writes a bridge.yaml to begin with."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
import yaml

from bridge.collection_spec import check_name
from bridge.config import (
    PineconeSettings,
    Settings,
    TableSettings,
    VectorSettings,
    format_table_name,
)
from bridge.errors import BridgeError, UsageError
from bridge.map_vectors import (
    MappedVector,
    map_vectors,
    undimensioned_columns,
    vector_columns,
)
from bridge.postgres import catalog, checks
from bridge.postgres.connection import Connection, connect, display, without_secrets
from bridge.schema import Table
from cli import options as o
from cli.help import GENERAL, Command
from cli.output import counted, note
from cli.pinecone_plan import index_lines, names_index, propose
from cli.places import postgres_url

_NAME_LIMIT = 60  # characters; at most 4 bytes each, and Qdrant takes 200 and some
_HEAD = """\
# Written by `qdrant-bridge init`. Every setting: qdrant-bridge config --schema
# Next: qdrant-bridge doctor --config {path}
#       qdrant-bridge backfill pgvector --config {path}
"""
_INDEX_HEAD = """\
# Written by `qdrant-bridge init`. Every setting: qdrant-bridge config --schema
# Next: qdrant-bridge plan --config {path}
#       qdrant-bridge backfill pinecone --config {path}
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "init",
        cls=Command,
        epilog="Example: qdrant-bridge init bridge.yaml --pg.url postgresql://me@db/app",
    )(init)


def init(
    path: Annotated[
        Path, typer.Argument(help="The file to write; - for standard output.", metavar="FILE")
    ] = Path("bridge.yaml"),
    pg_url: o.PgUrl = None,
    index_name: o.PineconeIndexName = None,
    index_host: o.PineconeIndexHost = None,
    pinecone_key: o.PineconeKey = None,
    namespaces: o.Namespaces = None,
    service_host: o.PineconeServiceHost = None,
    qdrant_url: o.QdrantUrl = None,
    collection: o.QdrantCollection = None,
    pipeline: Annotated[
        str,
        typer.Option(
            help="The pipeline's name: it keeps its records apart from others' in one Qdrant.",
            metavar="NAME",
            rich_help_panel=GENERAL,
        ),
    ] = "main",
    allow_plaintext: o.AllowPlaintext = None,
    debug: o.Debug = False,
) -> None:
    """Inspect a Postgres database, or a Pinecone index, and write a bridge.yaml that copies it."""
    effective = o.Flags.of(locals()).load()
    settings = effective.settings
    if str(path) != "-" and path.exists():
        raise UsageError(f"{path} exists already", hint="name another file, or move that one away")
    text, found = _of_index(settings, path) if names_index(settings) else _of_tables(settings, path)
    if str(path) == "-":
        typer.echo(text, nl=False)
        return
    try:
        path.write_text(text)
    except OSError as error:
        raise UsageError(
            f"cannot write {path}: {error.strerror}",
            hint="name another file, or - for standard output",
        ) from None
    note(f"wrote {path}: {found} --config {path}")


def _shown(path: Path) -> str:
    return "bridge.yaml" if str(path) == "-" else str(path)


def _of_index(settings: Settings, path: Path) -> tuple[str, str]:
    """(the file's text, what it has and the next command)."""
    proposal = propose(settings, None)
    lines = [
        f"pipeline: {_scalar(settings.pipeline or 'main')}",
        *index_lines(settings.pinecone or PineconeSettings(), proposal),
        "qdrant:",
        f"  url: {_scalar(settings.qdrant.url)}",
        "  # api_key_file: /run/secrets/qdrant",
    ]
    head = _INDEX_HEAD.format(path=_shown(path))
    count = counted(len(proposal.plan.counts), "namespace")
    return head + "\n".join(lines) + "\n", f"{count}; next: qdrant-bridge plan"


def _of_tables(settings: Settings, path: Path) -> tuple[str, str]:
    """(the file's text, what it has and the next command)."""
    url = postgres_url(settings)
    with connect(url, allow_plaintext=settings.allow_plaintext) as connection:
        tables = catalog.list_tables(connection)
        if not tables:
            raise UsageError(
                f"no table with a vector column is visible in {display(url)}",
                hint="is this the right database, and may this role see the schema?",
            )
        text = _HEAD.format(path=_shown(path)) + document(
            connection,
            tables,
            pipeline=settings.pipeline or "main",
            postgres_url=without_secrets(url),
            qdrant_url=settings.qdrant.url,
        )
    return text, f"{counted(len(tables), 'table')}; next: qdrant-bridge doctor"


def document(
    connection: Connection,
    tables: tuple[Table, ...],
    *,
    pipeline: str,
    postgres_url: str,
    qdrant_url: str,
) -> str:
    """The YAML. `postgres_url` holds no password: that is left to PGPASSWORD, .pgpass or a file."""
    lines = [
        f"pipeline: {_scalar(pipeline)}",
        "postgres:",
        f"  url: {_scalar(postgres_url)}",
        "  # the password: PGPASSWORD or ~/.pgpass; or, instead of url, a file with all of it:",
        "  # url_file: /run/secrets/postgres_url",
        "qdrant:",
        f"  url: {_scalar(qdrant_url)}",
        "  # api_key_file: /run/secrets/qdrant",
        "tables:",
    ]
    for table, collection in zip(tables, collection_names(tables), strict=True):
        lines += _table_lines(connection, table, collection)
    return "\n".join(lines) + "\n"


def collection_names(tables: Sequence[Table]) -> list[str]:
    """A name for each table's collection: distinct, and without characters that Qdrant refuses."""
    names: list[str] = []
    for table in tables:
        alike = sum(1 for other in tables if other.name == table.name) > 1
        wanted = _accepted(f"{table.schema}_{table.name}" if alike else table.name)
        free = (f"{wanted}_{number}" for number in itertools.count(2))
        names.append(wanted if wanted not in names else next(n for n in free if n not in names))
    return names


def _accepted(name: str) -> str:
    """The name itself if Qdrant takes it, else one like it."""
    try:
        check_name(name, what="the name", hint="")
    except UsageError:
        return re.sub(r"[^\w.-]", "_", name)[:_NAME_LIMIT]
    return name


def _table_lines(connection: Connection, table: Table, collection: str) -> list[str]:
    head = f"  {_scalar(format_table_name(table.schema, table.name))}:"
    rows = f"about {table.estimated_rows:,} rows" if table.estimated_rows >= 0 else "never analysed"
    lines = [head, f"    # {table.kind}, {rows}", f"    collection: {_scalar(collection)}"]
    if table.primary_key:
        lines.append(f"    key: {_flow(list(table.primary_key))}")
    else:
        lines.append("    # no primary key: name the columns that identify a row")
        lines.append("    # key: [id]")
    try:
        vectors = _proposed_vectors(connection, table)
    except BridgeError as error:
        return [*lines, f"    # to be decided: {error.message}; {error.hint}"]
    lines.append("    vectors:")
    for vector in vectors:
        entry: dict[str, str] = {"distance": vector.spec.distance}
        if vector.spec.name != vector.column:
            entry = {"name": vector.spec.name, **entry}
        comment = "  # assumed: no index tells" if _is_assumed(vector) else ""
        lines.append(f"      {_scalar(vector.column)}: {_flow(entry)}{comment}")
    return lines


def _proposed_vectors(connection: Connection, table: Table) -> list[MappedVector]:
    renamed = {
        column.name: VectorSettings(name=_accepted(column.name))
        for column in vector_columns(table, TableSettings())
        if _accepted(column.name) != column.name
    }
    settings = TableSettings(vectors=renamed)
    dimensions: dict[str, int] = {}
    for column in undimensioned_columns(table, settings):
        found = checks.vector_dimensions(connection, table, column.name)
        if len(found) > 1:
            sizes = ", ".join(map(str, found))
            raise UsageError(
                f"column {column.name} holds vectors of several dimensions ({sizes})",
                hint="leave it out with columns:, or take the rows of one dimension with where:",
            )
        if found:
            dimensions[column.name] = next(iter(found))
    return map_vectors(table, settings, dimensions)


def _is_assumed(vector: MappedVector) -> bool:
    return any("assumed" in warning for warning in vector.warnings)


def _scalar(text: str) -> str:
    """A YAML scalar, quoted where it must be."""
    return yaml.safe_dump(text, default_style=None, allow_unicode=True).splitlines()[0]


def _flow(value: object) -> str:
    return yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000).strip()
