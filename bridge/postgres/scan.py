"""Reading a key range in bulk: COPY binary, row by row, as raw fields.

COPY's binary format (PostgreSQL documentation, COPY, "Binary Format"): a header of 19 bytes and its
extension, then per tuple an int16 number of fields and for each an int32 length (-1: NULL) and its
bytes; an int16 -1 ends the data. The server sends each tuple as one CopyData message (section
54.7), the header in front of the first.

`psycopg.Cursor.copy` makes a generator step of every row; at 1536 dimensions that is a fifth of all
the time, so rows are taken from libpq directly, through `psycopg.pq`.
"""

from __future__ import annotations

import select
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import psycopg
from psycopg import pq, sql

from bridge.errors import StopError, Unreachable
from bridge.events import Field
from bridge.mapping import Selected
from bridge.postgres.chunks import KeyRange, keys_condition, range_condition, relation
from bridge.postgres.connection import Connection, translated
from bridge.postgres.predicate import where_sql
from bridge.schema import Table

_SIGNATURE = b"PGCOPY\n\xff\r\n\0"
_HEADER = struct.Struct(">11sii")
_INT16 = struct.Struct(">h").unpack_from
_INT32 = struct.Struct(">i").unpack_from

Row = list[Field]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Rows in the order of the selection; `size_bytes` as they came over the wire."""

    rows: list[Row]
    size_bytes: int


def prepare(connection: Connection) -> None:
    """Set a connection up for scans, once.

    A database in SQL_ASCII holds bytes of no known encoding. Asked for UTF-8, the server would end
    the whole COPY at the first text that is none; unconverted, that row alone is set aside.
    """
    if connection.pgconn.parameter_status(b"server_encoding") == b"SQL_ASCII":
        with translated(connection=connection):
            connection.execute("SET client_encoding TO 'SQL_ASCII'")


def copy_statement(
    table: Table,
    selection: Sequence[Selected],
    key: Sequence[str],
    bounds: KeyRange,
    where: dict[str, object],
) -> sql.Composed:
    """The COPY of one key range. Literals are in it: COPY takes no parameters."""
    return _copy(table, selection, range_condition(table, key, bounds), where)


def page_statement(
    table: Table,
    selection: Sequence[Selected],
    key: Sequence[str],
    condition: sql.Composed,
    where: dict[str, object],
    *,
    limit: int,
) -> sql.Composed:
    """The COPY of the first `limit` rows in the key's order that fulfil the condition."""
    order = sql.SQL(" ORDER BY {} LIMIT {}").format(
        # With its table, or the name would mean an output column first.
        sql.SQL(", ").join(sql.Identifier(table.schema, table.name, name) for name in key),
        sql.Literal(limit),
    )
    return _copy(table, selection, condition, where, order)


def condition_statement(
    table: Table,
    selection: Sequence[Selected],
    condition: sql.Composed,
    where: dict[str, object],
) -> sql.Composed:
    """The COPY of all rows that fulfil the condition."""
    return _copy(table, selection, condition, where)


def read_by_key(
    connection: Connection,
    table: Table,
    selection: Sequence[Selected],
    key: Sequence[str],
    keys: Sequence[Sequence[str]],
    where: dict[str, object],
) -> list[Row]:
    """The rows with these keys (text forms) that there are, as a scan would give them."""
    statement = _copy(table, selection, keys_condition(table, key, keys), where)
    batches = read_batches(
        connection,
        statement,
        fields=len(selection),
        table=table.label,
        batch_rows=len(keys) + 1,
        batch_bytes=2**62,
    )
    return [row for batch in batches for row in batch.rows]


def _copy(
    table: Table,
    selection: Sequence[Selected],
    condition: sql.Composed,
    where: dict[str, object],
    order: sql.Composable = sql.SQL(""),  # noqa: B008 - it is a constant
) -> sql.Composed:
    conditions = [condition]
    row_filter = where_sql(table, where)  # type: ignore[arg-type]
    if row_filter is not None:
        conditions.append(row_filter)
    return sql.SQL("COPY (SELECT {} FROM {} WHERE {}{}) TO STDOUT (FORMAT binary)").format(
        sql.SQL(", ").join(map(_expression, selection)),
        relation(table),
        sql.SQL(" AND ").join(conditions),
        order,
    )


def _expression(item: Selected) -> sql.Composable:
    column = sql.Identifier(item.column)
    if item.form == "binary":
        return column
    # format('%s') calls the output function, where a cast to text may not (bool, char(n), inet);
    # it turns NULL into '', hence the CASE. IS NOT NULL would misjudge a row value of NULLs.
    return sql.SQL(
        "CASE WHEN {0} IS DISTINCT FROM NULL THEN pg_catalog.format('%s', {0}) END"
    ).format(column)


def read_batches(
    connection: Connection,
    statement: sql.Composed,
    *,
    fields: int,
    table: str,
    batch_rows: int,
    batch_bytes: int,
) -> Iterator[Batch]:
    """Run the COPY and give its rows in batches, each ended by the first limit reached.

    Leaving the iterator early leaves the connection inside the COPY: close it then.
    """
    rows: list[Row] = []
    size = 0
    with translated(table=table, connection=connection):
        query = statement.as_string(connection).encode()
        first = True
        for message in copy_messages(connection.pgconn, query):
            if first:
                message = _without_header(message)
                first = False
            if message[:2] == b"\xff\xff":
                break
            rows.append(split_tuple(message, fields))
            size += len(message)
            if len(rows) >= batch_rows or size >= batch_bytes:
                yield Batch(rows=rows, size_bytes=size)
                rows, size = [], 0
        else:
            raise Unreachable("Postgres ended a COPY in the middle", hint="see the server's log")
        _finish(connection.pgconn)
    if rows:
        yield Batch(rows=rows, size_bytes=size)


def split_tuple(message: bytes, fields: int) -> Row:
    """The raw fields of one tuple. StopError if it is not laid out as documented."""
    try:
        (count,) = _INT16(message, 0)
        if count != fields:
            raise ValueError(f"{count} fields instead of {fields}")
        row: Row = []
        position = 2
        for _ in range(fields):
            (length,) = _INT32(message, position)
            position += 4
            if length < 0:
                row.append(None)
            else:
                end = position + length
                row.append(message[position:end])
                position = end
        if position != len(message):
            raise ValueError(f"{len(message) - position} bytes beyond the last field")
        return row
    except (ValueError, struct.error) as error:
        raise StopError(
            f"COPY sent a tuple that is not in binary format: {error}",
            code="PROTOCOL",
            hint="is there a proxy between this program and Postgres that rewrites results?",
        ) from None


def _without_header(message: bytes) -> bytes:
    """The first message without the file header in front of its tuple."""
    if len(message) < _HEADER.size or not message.startswith(_SIGNATURE):
        raise StopError("COPY did not begin with its signature", code="PROTOCOL")
    _signature, _flags, extension = _HEADER.unpack_from(message)
    return message[_HEADER.size + extension :]


def copy_messages(pgconn: pq.abc.PGconn, query: bytes) -> Iterator[bytes]:
    """Each CopyData of the query's answer. Waits on the socket, so that signals are seen."""
    result = pgconn.exec_(query)
    if result.status != pq.ExecStatus.COPY_OUT:
        raise psycopg.errors.error_from_result(result)
    poll = select.poll()
    poll.register(pgconn.socket, select.POLLIN)
    take = pgconn.get_copy_data
    while True:
        length, data = take(1)
        if length > 0:
            yield bytes(data) if not isinstance(data, bytes) else data
        elif length == 0:
            poll.poll()
            pgconn.consume_input()
        else:
            _finish(pgconn)
            return


def _finish(pgconn: pq.abc.PGconn) -> None:
    """Take what is left of the answer; raises the error that ended the COPY, if one did."""
    while True:
        if pgconn.transaction_status == pq.TransactionStatus.UNKNOWN:
            raise psycopg.OperationalError("the connection was lost in the middle of a COPY")
        result = pgconn.get_result()
        if result is None:
            return
        if result.status == pq.ExecStatus.COPY_OUT:
            while pgconn.get_copy_data(0)[0] > 0:
                pass
        elif result.status not in (pq.ExecStatus.COMMAND_OK,):
            raise psycopg.errors.error_from_result(result)
