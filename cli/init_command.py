"""`qdrant-bridge init`: looks at a database and writes a bridge.yaml to begin with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
import yaml

from bridge.config import TableSettings, format_table_name
from bridge.errors import BridgeError, UsageError
from bridge.map_vectors import map_vectors, undimensioned_columns
from bridge.postgres import catalog, checks
from bridge.postgres.connection import Connection, connect, display
from bridge.schema import Table
from cli import options as o
from cli.help import GENERAL, Command
from cli.output import note
from cli.places import postgres_url

_HEAD = """\
# Written by `qdrant-bridge init`. Every setting: qdrant-bridge config --schema
# Next: qdrant-bridge doctor --config {path}
#       qdrant-bridge backfill pgvector --config {path}
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
    qdrant_url: o.QdrantUrl = None,
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
    """Inspect a Postgres database and write a bridge.yaml that copies every table with vectors."""
    effective = o.Flags(
        pg_url=pg_url, qdrant_url=qdrant_url, allow_plaintext=allow_plaintext
    ).load()
    settings = effective.settings
    if str(path) != "-" and path.exists():
        raise UsageError(f"{path} exists already", hint="name another file, or move that one away")
    url = postgres_url(settings)
    with connect(url, allow_plaintext=settings.allow_plaintext) as connection:
        tables = catalog.list_tables(connection)
        if not tables:
            raise UsageError(
                f"no table with a vector column is visible in {display(url)}",
                hint="is this the right database, and may this role see the schema?",
            )
        text = _HEAD.format(path=path) + document(connection, tables, pipeline, settings.qdrant.url)
    if str(path) == "-":
        typer.echo(text, nl=False)
        return
    try:
        path.write_text(text)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None
    note(f"wrote {path}: {len(tables)} tables; next: qdrant-bridge doctor --config {path}")


def document(
    connection: Connection, tables: tuple[Table, ...], pipeline: str, qdrant_url: str
) -> str:
    """The YAML. The url's password is left to PGPASSWORD, .pgpass or a file."""
    lines = [
        f"pipeline: {pipeline}",
        "postgres:",
        "  # the url, with its password, in a file; or set QDRANT_BRIDGE_POSTGRES__URL",
        "  # url_file: /run/secrets/postgres_url",
        "qdrant:",
        f"  url: {_scalar(qdrant_url)}",
        "  # api_key_file: /run/secrets/qdrant",
        "tables:",
    ]
    names = [table.name for table in tables]
    for table in tables:
        lines += _table_lines(connection, table, unique=names.count(table.name) == 1)
    return "\n".join(lines) + "\n"


def _table_lines(connection: Connection, table: Table, *, unique: bool) -> list[str]:
    head = f"  {_scalar(format_table_name(table.schema, table.name))}:"
    about = f"    # {table.kind}, about {max(0, table.estimated_rows):,} rows"
    collection = table.name if unique else f"{table.schema}_{table.name}"
    lines = [head, about, f"    collection: {_scalar(collection)}"]
    if table.primary_key:
        lines.append(f"    key: {_flow(list(table.primary_key))}")
    else:
        lines.append("    # no primary key: name the columns that identify a row")
        lines.append("    # key: [id]")
    try:
        settings = TableSettings()
        dimensions = {}
        for column in undimensioned_columns(table, settings):
            found = checks.vector_dimensions(connection, table, column.name)
            if len(found) == 1:
                dimensions[column.name] = next(iter(found))
        vectors = map_vectors(table, settings, dimensions)
    except BridgeError as error:
        return [*lines, f"    # to be decided: {error.message}; {error.hint}"]
    lines.append("    vectors:")
    for vector in vectors:
        entry = {"distance": vector.spec.distance}
        comment = "  # assumed: no index tells" if vector.warnings else ""
        lines.append(f"      {_scalar(vector.column)}: {_flow(entry)}{comment}")
    return lines


def _scalar(text: str) -> str:
    """A YAML scalar, quoted where it must be."""
    return yaml.safe_dump(text, default_style=None, allow_unicode=True).splitlines()[0]


def _flow(value: object) -> str:
    return yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000).strip()
