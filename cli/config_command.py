"""`qdrant-bridge config`: the configuration in force and where each value came from.

Output only; `bridge/config.py` has hidden the secrets already. Values go into rich as `Text`, since
a list such as `[id]` would else be read as markup.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from bridge.config import Effective, json_schema
from cli import options as o
from cli.help import Command
from cli.output import out, print_json

REPORT_VERSION = 1


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("config", cls=Command, epilog="Example: qdrant-bridge config --config bridge.yaml")(
        config
    )


def config(
    file: o.Config = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON schema of a bridge.yaml.")
    ] = False,
    pg_url: o.PgUrl = None,
    pg_table: o.PgTable = None,
    qdrant_url: o.QdrantUrl = None,
    qdrant_key: o.QdrantKey = None,
    as_json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Print the configuration in force, secrets hidden, and where each value came from."""
    if schema:
        typer.echo(schema_text())
        return
    effective = o.Flags.of({**locals(), "config": file}).load()
    if as_json:
        print_json(config_report(effective))
    elif out().is_terminal:
        out().print(render_config(effective))
    else:
        typer.echo("\n".join(config_lines(effective)))


def render_config(effective: Effective) -> RenderableType:
    """A table for a terminal: setting, value, origin. What is neither set nor has a default is left
    out."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("setting", overflow="fold")
    table.add_column("value", overflow="fold")
    table.add_column("from", overflow="fold")
    for path, value, origin in _entries(effective):
        dim = "dim" if origin == "default" else ""
        table.add_row(Text(path, style=dim), Text(value, style=dim), Text(origin, style=dim))
    return table


def config_lines(effective: Effective) -> list[str]:
    """The same as plain lines, for pipes and logs: `qdrant.url: "edge:///data"  # flag`."""
    return [f"{path}: {value}  # {origin}" for path, value, origin in _entries(effective)]


def config_report(effective: Effective) -> dict[str, Any]:
    """`config --json`: `{version, file, settings, origins}`; `origins` has what is not default."""
    return {
        "version": REPORT_VERSION,
        "file": None if effective.file is None else str(effective.file),
        "settings": effective.redacted(),
        "origins": dict(effective.origins),
    }


def schema_text() -> str:
    """`config --schema`: the JSON schema of bridge.yaml."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False)


def _entries(effective: Effective) -> Iterator[tuple[str, str, str]]:
    for path, value, origin in effective.entries():
        if origin == "default" and (value is None or value in ([], {})):
            continue
        yield path, json.dumps(value, ensure_ascii=False), origin
