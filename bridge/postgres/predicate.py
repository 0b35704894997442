"""The configuration's `where` (design, section 10): one predicate, in SQL and in Python.

The scan uses the SQL, the stream the Python; a row that one keeps and the other drops would be
lost or left behind, so both are made from the same `Condition`s, and every comparison is one that
both sides can do exactly:

- boolean, integers: by value; uuid: by its 128 bits; enum: by its label.
- text, varchar, name: byte for byte (`COLLATE "C"`), whatever the column's collation.
- char(n): the same without trailing blanks. citext: the same with A-Z as a-z; a literal must be
  ASCII, for beyond it the folding depends on the server's locale.

The conditions of several columns are joined by AND. NULL equals nothing, as in SQL. Pure: nothing
here talks to a server.
"""

from __future__ import annotations

import difflib
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from psycopg import sql

from bridge.errors import UsageError
from bridge.schema import Column, PgType, Table, quote_identifier

Scalar: TypeAlias = bool | int | str
Wanted: TypeAlias = Scalar | Sequence[Scalar | None] | None

SqlCondition: TypeAlias = sql.Composed
"""A condition for WHERE, for those who only pass it on."""

NOT_NULL = "not null"

_Family = Literal["boolean", "integer", "text", "char", "citext", "uuid", "enum"]
_INTEGER_BITS: Mapping[str, int] = {"int2": 16, "int4": 32, "int8": 64}
_TEXT_FAMILIES: Mapping[str, _Family] = {
    "text": "text",
    "varchar": "text",
    "name": "text",
    "bpchar": "char",
}
_UUID = re.compile(
    r"\{([0-9a-f]{4}-?){7}[0-9a-f]{4}\}|([0-9a-f]{4}-?){7}[0-9a-f]{4}", re.IGNORECASE
)
_UPPER_TO_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """What one column must be: one of `literals`, or NULL if `null`; or anything but NULL.

    `literals` are normalised, so that comparing them needs no more than `==`.
    """

    column: Column
    family: _Family | None
    literals: frozenset[Scalar] = frozenset()
    null: bool = False
    not_null: bool = False

    def holds(self, value: object) -> bool:
        """Whether a value of the column, as payload or as Python has it, fulfils the condition."""
        if value is None:
            return self.null
        if self.not_null:
            return True
        return bool(self.literals) and _normalised(self.family, value) in self.literals

    def to_sql(self) -> sql.Composed:
        """The condition for WHERE, complete in itself."""
        name = sql.Identifier(self.column.name)
        if self.not_null:
            return sql.SQL("{} IS NOT NULL").format(name)
        parts = []
        if self.literals:
            literals = [self._literal(value) for value in sorted(self.literals)]
            parts.append(
                sql.SQL("{} IN ({})").format(self._operand(name), sql.SQL(", ").join(literals))
            )
        if self.null:
            parts.append(sql.SQL("{} IS NULL").format(name))
        return sql.SQL("({})").format(sql.SQL(" OR ").join(parts))

    def _operand(self, name: sql.Identifier) -> sql.Composed:
        if self.family in ("text", "char"):
            return sql.SQL('{}::pg_catalog.text COLLATE pg_catalog."C"').format(name)
        if self.family == "citext":
            return sql.SQL('pg_catalog.lower({}::pg_catalog.text COLLATE pg_catalog."C")').format(
                name
            )
        if self.family == "enum":  # the operators of enums take no domain
            return sql.SQL("{}::{}").format(name, self._type())
        return sql.Composed([name])

    def _type(self) -> sql.Identifier:
        return sql.Identifier(self.column.type.schema, self.column.type.name)

    def _literal(self, value: Scalar) -> sql.Composable:
        if isinstance(value, int):
            return sql.Literal(value)
        if self.family in ("uuid", "enum"):
            return sql.SQL("{}::{}").format(sql.Literal(value), self._type())
        return sql.SQL("{}::pg_catalog.text").format(sql.Literal(value))


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFilter:
    """A checked `where`; make it once, ask it for every row."""

    conditions: tuple[Condition, ...]

    def matches(self, values: Mapping[str, object]) -> bool:
        """Whether a row with these values is kept.

        A value is None, bool, int, str or UUID. An absent column is a KeyError and any other type
        a TypeError: then the row must be read again, a guess would lose it.
        """
        return all(condition.holds(values[condition.column.name]) for condition in self.conditions)

    def to_sql(self) -> sql.Composed:
        """The same for WHERE; literals are in it, so execute it without parameters."""
        return sql.SQL(" AND ").join(condition.to_sql() for condition in self.conditions)


def row_filter(table: Table, where: Mapping[str, Wanted]) -> RowFilter | None:
    """The predicate of a `where`, None if it is empty: every row.

    Per column: a value, a list of values (None among them for NULL), None for NULL, or the text
    `not null`; a list holds even that as plain text. Raises UsageError, naming column and types.
    """
    if not where:
        return None
    return RowFilter(conditions=tuple(_condition(table, *item) for item in where.items()))


def where_sql(table: Table, where: Mapping[str, Wanted]) -> sql.Composed | None:
    """The SQL of a `where`, None if it is empty; UsageError as in `row_filter`."""
    found = row_filter(table, where)
    return found.to_sql() if found else None


def matches(table: Table, where: Mapping[str, Wanted], values: Mapping[str, object]) -> bool:
    """Whether a row with these values is kept; for single rows, see `row_filter` for many."""
    found = row_filter(table, where)
    return found is None or found.matches(values)


# --- checking ----------------------------------------------------------------------------------


def _condition(table: Table, name: str, wanted: Wanted) -> Condition:
    column = _column(table, name)
    family = _family(column.type)
    if wanted is None:
        return Condition(column=column, family=family, null=True)
    if isinstance(wanted, str) and wanted.strip().lower() == NOT_NULL:
        return Condition(column=column, family=family, not_null=True)
    listed = [wanted] if isinstance(wanted, (bool, int, str)) else wanted
    if not isinstance(listed, Sequence) or not listed:
        raise _refused(table, column, "" if listed else "an empty list would keep no row")
    literals = frozenset(
        _literal(table, column, family, value) for value in listed if value is not None
    )
    return Condition(column=column, family=family, literals=literals, null=None in listed)


def _column(table: Table, name: str) -> Column:
    try:
        return table.column(name)
    except KeyError:
        near = difflib.get_close_matches(name, [column.name for column in table.columns], n=3)
        raise UsageError(
            f"`where` names the column {quote_identifier(name) or repr(name)}, "
            f"which {table.label} does not have",
            hint="did you mean " + " or ".join(near) + "?" if near else "",
            table=table.label,
        ) from None


def _family(pg_type: PgType) -> _Family | None:
    """How literals compare with the type; None if only NULL and `not null` are possible."""
    if pg_type.kind == "enum":
        return "enum"
    if pg_type.kind != "base":
        return None
    if pg_type.name == "citext":
        return "citext"
    if pg_type.schema != "pg_catalog":
        return None
    if pg_type.name in _INTEGER_BITS:
        return "integer"
    if pg_type.name == "bool":
        return "boolean"
    return "uuid" if pg_type.name == "uuid" else _TEXT_FAMILIES.get(pg_type.name)


def _literal(table: Table, column: Column, family: _Family | None, value: Scalar) -> Scalar:
    """The literal normalised, or UsageError."""
    if family is None or not _fits(family, value):
        raise _refused(table, column)
    if isinstance(value, str):
        if "\0" in value:
            raise _refused(table, column, "a text cannot hold U+0000")
        if family == "citext" and not value.isascii():
            raise _refused(table, column, "beyond ASCII, case depends on the server's locale")
        if family == "uuid" and not _UUID.fullmatch(value):
            raise _refused(table, column, "the literal is no uuid")
    elif family == "integer":
        bound = 1 << (_INTEGER_BITS[column.type.name] - 1)
        if not -bound <= value < bound:
            raise _refused(table, column, "the literal is out of the type's range")
    return _normalised(family, value)


def _fits(family: _Family, value: object) -> bool:
    if family == "boolean":
        return isinstance(value, bool)
    if family == "integer":
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, str)


def _normalised(family: _Family | None, value: object) -> Scalar:
    """The form in which two values of the family are equal exactly if SQL holds them equal."""
    if family == "uuid" and isinstance(value, uuid.UUID):
        return str(value)
    if family is None or not _fits(family, value) or not isinstance(value, (bool, int, str)):
        raise TypeError(f"a value of type {type(value).__name__} for a column of kind {family}")
    if not isinstance(value, str):
        return value
    if family == "char":
        return value.rstrip(" ")
    if family == "citext":
        return value.translate(_UPPER_TO_LOWER)
    if family == "uuid":
        return str(uuid.UUID(value))
    return value


def _refused(table: Table, column: Column, reason: str = "") -> UsageError:
    family = _family(column.type)
    allowed = {
        "boolean": "true or false",
        "integer": "an integer",
        "text": "a text",
        "char": "a text",
        "citext": "an ASCII text",
        "uuid": "a uuid as text",
        "enum": "a label of the enum",
    }
    what = f"{allowed[family]}, a list of these, null" if family else "null"
    return UsageError(
        f"`where` on {quote_identifier(column.name)} ({column.declared}): "
        + (reason or "the literal does not suit the column's type"),
        hint=f"possible for this column: {what} or {NOT_NULL!r}; literals exist for boolean, "
        "integer, text, uuid and enum columns",
        table=table.label,
    )
