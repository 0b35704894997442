"""Whether texts that a user gave can be keys of a table: Postgres' own input functions decide."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg
from psycopg import sql

from bridge.errors import UsageError
from bridge.postgres.chunks import type_name
from bridge.postgres.connection import Connection, translated
from bridge.schema import Table, quote_identifier


def require_key(
    connection: Connection, table: Table, columns: Sequence[str], texts: Sequence[str], what: str
) -> None:
    """UsageError, naming `what` (a flag) and the column, unless each text is a value of its type."""
    for name, text in zip(columns, texts, strict=True):
        column = table.column(name)
        query = sql.SQL("SELECT {}::{}").format(sql.Literal(text), type_name(column.type))
        with translated(connection=connection):
            try:
                connection.execute(query)
            except psycopg.DataError as error:
                raise UsageError(
                    f"{what}: {text!r} is no {column.declared}, which the key column "
                    f"{quote_identifier(name)} is",
                    table=table.label,
                    hint="a key is written as SELECT prints it",
                ) from error
