"""Is a collection what its table says, value by value? The oracle of the backfill's tests.

What a value must be comes from Postgres itself (`to_char`, `encode`, output functions, casts) and from
Python's own parsers, by the rules of design.md sections 3 and 4. Nothing of `bridge` is used: an error
in its decoders or ids must not repeat itself here.

`differences` lists every deviation, one line each; an empty list is equality: the same ids, the same
payload fields of the same JSON types, the same vectors. Payload doubles may be 4 ulp off, which is
what Qdrant's own parser does to them (facts/qdrant.md). Vectors are exact, except for those that are
normalised: 1e-6 on the unit vector, and the last bit of a half under float16.
"""

from __future__ import annotations

import json
import math
import re
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

import numpy as np
import psycopg
from numpy.typing import NDArray

from tests.support.databases import Database

NAMESPACE: Final = uuid.UUID("b7c3a1d4-52f6-5e0b-9a47-3d2f8c61e095")
PAYLOAD_ULPS: Final = 4
UNIT_TOLERANCE: Final = 1e-6
SESSION: Final = """SET TimeZone = 'UTC'; SET DateStyle = 'ISO'; SET IntervalStyle = 'iso_8601';
SET extra_float_digits = 1; SET bytea_output = 'hex'"""

Floats = NDArray[np.float32]
PointId = int | str


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseVector:
    """Index -> value."""

    values: Mapping[int, float]


Vector = Floats | SparseVector  # one-dimensional: dense; two-dimensional: a multivector


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPoint:
    """A point as it was read back. The unnamed vector is ''."""

    payload: Mapping[str, Any]
    vectors: Mapping[str, Vector]


Stored = Mapping[PointId, StoredPoint]


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What is asked of a table beyond the defaults.

    `payload`: field (dots nest) -> column; None: every column under its own name. `numeric`,
    `distances` and `names` by column; float, cosine and the column's name where nothing is said.
    `where`: SQL of the rows that count. `without`: keys (their texts) of rows that must be missing.
    """

    key: Sequence[str] = ("id",)
    payload: Mapping[str, str] | None = None
    numeric: Mapping[str, str] = field(default_factory=dict)
    distances: Mapping[str, str] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    columns: Sequence[str] | None = None
    omit_nulls: bool = False
    where: str = "TRUE"
    without: Iterable[tuple[str, ...]] = ()


def differences(
    database: Database, table: str, stored: Stored, expected: Expectation | None = None
) -> list[str]:
    """Every deviation of `stored` from the table, whose name is given as in SQL."""
    wanted = expected or Expectation()
    found = dict(stored)
    lines: list[str] = []
    for aside in wanted.without:
        if found.pop(point_id(aside), None) is not None:
            lines.append(f"{list(aside)}: there, though it should have been set aside")
    for key, payload, vectors in _rows(database, table, wanted):
        identity = point_id(key)
        point = found.pop(identity, None)
        if point is None:
            lines.append(f"{key}: missing (point {identity})")
        else:
            lines += [f"{key}: {line}" for line in _payload_lines(payload, point.payload)]
            lines += [f"{key}: {line}" for line in _vector_lines(vectors, point.vectors)]
    return lines + [f"point {identity}: extra" for identity in found]


def point_id(key: Sequence[str]) -> PointId:
    """The public rule of ids, written again (design.md section 3)."""
    text = key[0] if len(key) == 1 else json.dumps(key, ensure_ascii=False, separators=(",", ":"))
    if re.fullmatch(r"0|[1-9][0-9]*", text, re.ASCII) and int(text) < 2**64:
        return int(text)
    if re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", text):
        return text
    return str(uuid.uuid5(NAMESPACE, text))


# --- reading the table --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Column:
    """A column, its type with domains resolved. `element` is an array's; `kind` is typtype."""

    name: str
    type: str
    kind: str
    element: str = ""
    element_kind: str = ""

    @property
    def is_vector(self) -> bool:
        """Whether it becomes a vector."""
        return self.type in ("vector", "halfvec", "sparsevec", "bit") or self.element in (
            "vector",
            "halfvec",
        )


_COLUMNS = """
WITH RECURSIVE resolved (attname, attnum, oid) AS (
  SELECT attname, attnum, atttypid FROM pg_attribute
  WHERE attrelid = '{table}'::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
  UNION ALL
  SELECT attname, attnum, typbasetype FROM resolved JOIN pg_type USING (oid) WHERE typtype = 'd'
)
SELECT attname, t.typname, t.typtype, coalesce(e.typname, ''), coalesce(e.typtype, '')
FROM resolved JOIN pg_type t USING (oid)
LEFT JOIN pg_type e ON e.oid = t.typelem AND t.typcategory = 'A'
WHERE t.typtype <> 'd' ORDER BY attnum
"""


def quoted(name: str) -> str:
    """An identifier for SQL."""
    return '"' + name.replace('"', '""') + '"'


def _rows(
    database: Database, table: str, wanted: Expectation
) -> list[tuple[list[str], dict[str, Any], dict[str, Vector]]]:
    """(key texts, payload, vectors) of every row that is to be there."""
    with database.connect(client_encoding="UTF8") as connection:
        connection.execute(SESSION)
        columns = [
            column
            for column in _columns(connection, table)
            if wanted.columns is None or column.name in wanted.columns
        ]
        texts = [_text_sql(column) for column in columns]
        keys = [f"format('%s', {quoted(name)})" for name in wanted.key]
        query = f"SELECT {', '.join(keys + texts)} FROM {table} WHERE {wanted.where}"
        records = connection.execute(query).fetchall()
    # Rows that were set aside may hold what no parser here takes either.
    without = set(wanted.without)
    width = len(keys)
    kept = [record for record in records if record[:width] not in without]
    return [_row(record, columns, wanted) for record in kept]


def _columns(connection: psycopg.Connection[Any], table: str) -> list[_Column]:
    query = _COLUMNS.format(table=table.replace("'", "''"))
    rows = connection.execute(query).fetchall()
    return [
        _Column(name=name, type=type_, kind=kind, element=element, element_kind=element_kind)
        for name, type_, kind, element, element_kind in rows
    ]


def _row(
    record: Sequence[str | None], columns: Sequence[_Column], wanted: Expectation
) -> tuple[list[str], dict[str, Any], dict[str, Vector]]:
    width = len(wanted.key)
    key = [text or "" for text in record[:width]]
    texts = dict(zip((column.name for column in columns), record[width:], strict=True))
    plain = {column.name: column for column in columns if not column.is_vector}
    payload: dict[str, Any] = {}
    fields = {name: name for name in plain} if wanted.payload is None else wanted.payload
    for path, name in fields.items():
        value = _payload_value(plain[name], texts[name], wanted.numeric.get(name, "float"))
        if value is None and wanted.omit_nulls:
            continue
        _put(payload, [path] if wanted.payload is None else path.split("."), value)
    vectors: dict[str, Vector] = {}
    for column in columns:
        text = texts[column.name]
        if column.is_vector and text is not None:
            vector = _vector(column, text, wanted.distances.get(column.name, "cosine"))
            if vector is not None:
                vectors[wanted.names.get(column.name, column.name)] = vector
    return key, payload, vectors


def _put(payload: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for step in path[:-1]:
        payload = payload.setdefault(step, {})
    payload[path[-1]] = value


# --- what a payload value must be ---------------------------------------------------------------

_RFC_YEARS = "isfinite({0}) AND {0} >= '0001-01-01' AND {0} < '10000-01-01'"
_ZONE_SECONDS = "extract(timezone FROM {0})::int"
_SQL: Final[Mapping[str, str]] = {
    "timestamptz": f"CASE WHEN {_RFC_YEARS} THEN "
    'to_char({0}, \'YYYY-MM-DD"T"HH24:MI:SS.US"Z"\') ELSE {0}::text END',
    "timestamp": f"CASE WHEN {_RFC_YEARS} THEN "
    "to_char({0}, 'YYYY-MM-DD\"T\"HH24:MI:SS.US') ELSE {0}::text END",
    "date": f"CASE WHEN {_RFC_YEARS} THEN to_char({{0}}, 'YYYY-MM-DD') ELSE {{0}}::text END",
    "time": "to_char({0}, 'HH24:MI:SS.US')",
    "timetz": "to_char({0}::time, 'HH24:MI:SS.US') "
    f"|| CASE WHEN {_ZONE_SECONDS} < 0 THEN '-' ELSE '+' END "
    f"|| to_char(make_interval(secs => abs({_ZONE_SECONDS})), 'HH24:MI') "
    f"|| CASE WHEN {_ZONE_SECONDS} % 60 = 0 THEN '' "
    f"ELSE to_char(make_interval(secs => abs({_ZONE_SECONDS})), ':SS') END",
    "bytea": "translate(encode({0}, 'base64'), E'\\n', '')",
}
_ITEMS = (
    "CASE WHEN {column} IS NULL THEN NULL ELSE json_build_object("
    "'sizes', (SELECT json_agg(array_length({column}, d) ORDER BY d)"
    " FROM generate_series(1, array_ndims({column})) d),"
    " 'items', (SELECT json_agg({item} ORDER BY n)"
    " FROM unnest({column}) WITH ORDINALITY AS u(e, n)))::text END"
)


def _text_sql(column: _Column) -> str:
    """SQL of the text that the expected value is parsed from."""
    name = quoted(column.name)
    if column.element:
        return _ITEMS.format(column=name, item=_scalar_sql(column.element, "e"))
    return _scalar_sql(column.type, name)


def _scalar_sql(type_name: str, operand: str) -> str:
    # format(), not a cast: that loses char(n)'s padding and spells out booleans.
    whole = _SQL.get(type_name, "format('%s', {0})").format(operand)
    return f"CASE WHEN {operand} IS NULL THEN NULL ELSE {whole} END"


def _payload_value(column: _Column, text: str | None, numeric: str) -> Any:
    if text is None:
        return None
    if not column.element:
        return _scalar(column.type, text, numeric)
    array = json.loads(text)
    items = [
        None if item is None else _scalar(column.element, item, numeric)
        for item in array["items"] or []
    ]
    for size in reversed((array["sizes"] or [0])[1:]):
        items = [items[at : at + size] for at in range(0, len(items), size)]
    return items


def _scalar(type_name: str, text: str, numeric: str) -> Any:
    return _PARSERS.get(f"numeric {numeric}" if type_name == "numeric" else type_name, str)(text)


def _number(text: str) -> float | str:
    number = float(text)
    return number if math.isfinite(number) else text


def _json(text: str) -> Any:
    return json.loads(text, parse_int=_json_integer, parse_float=_number)


def _json_integer(digits: str) -> int | float | str:
    return int(digits) if -(2**63) <= int(digits) < 2**63 else _number(digits)


_PARSERS: Final[Mapping[str, Callable[[str], Any]]] = {
    **dict.fromkeys(("int2", "int4", "int8"), int),
    **dict.fromkeys(("float4", "float8"), _number),
    **dict.fromkeys(("json", "jsonb"), _json),
    "bool": {"t": True, "f": False}.__getitem__,
    "numeric float": _number,
    "numeric integer": lambda text: int(Decimal(text)),
}


def _payload_lines(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    return [
        f"payload {name}: wanted {wanted.get(name, 'nothing')!r}, found {found.get(name, 'nothing')!r}"
        for name in sorted(wanted.keys() | found.keys())
        if (name in wanted) != (name in found) or not _same(wanted[name], found[name])
    ]


def _same(wanted: Any, found: Any) -> bool:
    """Equal in value and JSON type: 1, 1.0 and True are three values."""
    if type(wanted) is not type(found):
        return False
    if isinstance(wanted, float):
        return abs(wanted - found) <= PAYLOAD_ULPS * math.ulp(wanted) and math.copysign(
            1, wanted
        ) == math.copysign(1, found)
    if isinstance(wanted, list):
        return len(wanted) == len(found) and all(map(_same, wanted, found))
    if isinstance(wanted, dict):
        return wanted.keys() == found.keys() and all(_same(wanted[k], found[k]) for k in wanted)
    return bool(wanted == found)


# --- what a vector must be ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Normalised:
    """Stored as a unit vector; `half`: of 16-bit floats."""

    vector: Floats
    half: bool


def _vector(column: _Column, text: str, distance: str) -> Any:
    cosine = distance == "cosine"
    if column.type == "sparsevec":
        return _sparse(text, cosine)
    if column.type == "bit":
        return np.array(list(map(int, text)), dtype=np.float32)
    kind = column.element or column.type
    if not column.element:
        return _dense(kind, text, cosine)
    items = json.loads(text)["items"]
    if not items:
        return None
    rows = np.array([_floats(kind, item) for item in items], dtype=np.float32)
    return _Normalised(vector=rows, half=kind == "halfvec") if cosine else rows


def _dense(kind: str, text: str, cosine: bool) -> Any:
    vector = _floats(kind, text)
    return _Normalised(vector=vector, half=kind == "halfvec") if cosine else vector


def _floats(kind: str, text: str) -> Floats:
    numbers = np.array(text.strip("[]").split(","), dtype=np.float32)
    return numbers.astype(np.float16).astype(np.float32) if kind == "halfvec" else numbers


def _sparse(text: str, cosine: bool) -> SparseVector | None:
    pairs = [pair.split(":") for pair in text.partition("}")[0].lstrip("{").split(",") if pair]
    values = {int(index) - 1: float(np.float32(value)) for index, value in pairs}
    norm = math.sqrt(sum(value * value for value in values.values())) if cosine else 1.0
    return SparseVector(values={i: v / norm for i, v in values.items()}) if values else None


def _vector_lines(wanted: Mapping[str, Any], found: Mapping[str, Vector]) -> list[str]:
    lines = [f"vector {name!r}: missing" for name in wanted.keys() - found.keys()]
    lines += [f"vector {name!r}: extra" for name in found.keys() - wanted.keys()]
    for name in wanted.keys() & found.keys():
        flaw = _vector_flaw(wanted[name], found[name])
        if flaw:
            lines.append(f"vector {name!r}: {flaw}")
    return lines


def _vector_flaw(wanted: Any, found: Vector) -> str | None:
    if isinstance(wanted, SparseVector) or isinstance(found, SparseVector):
        return _sparse_flaw(wanted, found)
    target = wanted.vector if isinstance(wanted, _Normalised) else wanted
    if target.shape != found.shape:
        return f"shape {found.shape} instead of {target.shape}"
    if not isinstance(wanted, _Normalised):
        return None if np.array_equal(target, found) else "components differ"
    return None if _normalised_equal(wanted, found) else "direction or length differs"


def _sparse_flaw(wanted: Any, found: Any) -> str | None:
    if not (isinstance(wanted, SparseVector) and isinstance(found, SparseVector)):
        return "one is sparse, the other is not"
    if wanted.values.keys() != found.values.keys():
        return "indices differ"
    off = max(abs(wanted.values[i] - found.values[i]) for i in wanted.values)
    # Without normalisation the values are float32 as they came; with it they are at most 1.
    exact = all(float(np.float32(value)) == value for value in wanted.values.values())
    return None if off <= (0.0 if exact else UNIT_TOLERANCE) else "values differ"


def _normalised_equal(wanted: _Normalised, found: Floats) -> bool:
    vectors = np.atleast_2d(wanted.vector).astype(np.float64)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    units = np.divide(vectors, norms, out=vectors, where=norms > 0)
    # Half an ulp of a half is 2^-11 of the component, 2^-25 among its subnormals.
    room = np.abs(units) * 2.0**-11 + 2.0**-25 if wanted.half else 0.0
    return bool(np.all(np.abs(units - np.atleast_2d(found)) <= UNIT_TOLERANCE + room))
