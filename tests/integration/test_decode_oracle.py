"""Both loaders of every type against a real server, which is the oracle.

Each value is sent to Postgres, read back in both formats, and decoded from each: the two results
must be identical, down to 1 and 1.0. Where Postgres can state the expected value itself (to_char,
to_jsonb, encode, the text of a key), that is compared too.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bridge.errors import Unstorable
from bridge.postgres.decode import binary_loader, key_text_loader
from bridge.postgres.decode_text import text_loader
from bridge.schema import PgType, TypeKind
from bridge.values import PayloadValue, ValuePolicy
from tests.conftest import BOTH_VERSIONS, Database

Connection = psycopg.Connection[tuple[Any, ...]]
Unstored = tuple[str, str]  # "unstorable" and the reason

pytestmark = pytest.mark.parametrize("postgres_version", BOTH_VERSIONS, indirect=True)
# One round trip an example, and each holds dozens of values. Derandomised: the seed is fixed.
oracle = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
DEFAULT = ValuePolicy()
GEO = ValuePolicy(geo=True)
SESSION = """SET TimeZone = 'UTC'; SET DateStyle = 'ISO'; SET IntervalStyle = 'iso_8601';
SET extra_float_digits = 1; SET bytea_output = 'hex'"""


@pytest.fixture
def connection(database: Database) -> Iterator[Connection]:
    with database.connect(client_encoding="UTF8") as connection:
        connection.execute(SESSION)
        yield connection


# --- asking the server --------------------------------------------------------------------------


def read(
    connection: Connection, expression: str, inputs: Sequence[str], *, binary: bool
) -> list[bytes]:
    """`expression` of every input `v`, as raw fields in the order given."""
    cursor = connection.cursor(binary=binary)
    cursor.execute(
        f"SELECT {expression} FROM unnest(%s::text[]) WITH ORDINALITY AS u(v, n) ORDER BY n",
        (list(inputs),),
    )
    assert cursor.pgresult is not None
    values = [cursor.pgresult.get_value(row, 0) for row in range(cursor.pgresult.ntuples)]
    fields = [value for value in values if value is not None]
    assert len(fields) == len(inputs)
    return fields


def texts(connection: Connection, expression: str, inputs: Sequence[str]) -> list[str]:
    return [field.decode() for field in read(connection, expression, inputs, binary=False)]


KINDS: dict[str, TypeKind] = {"b": "base", "c": "composite", "e": "enum"}
KINDS |= {"r": "range", "m": "multirange"}


def type_named(connection: Connection, name: str) -> PgType:
    (row,) = connection.execute(
        "SELECT oid, typname, typtype, (SELECT e.oid::regtype::text FROM pg_type e"
        " WHERE e.typarray = t.oid) FROM pg_type t WHERE oid = %s::regtype",
        (name,),
    ).fetchall()
    oid, type_name, letter, element = row
    if element is None:
        return PgType(oid=oid, schema="pg_catalog", name=type_name, kind=KINDS[letter])
    inner = type_named(connection, element)
    return PgType(oid=oid, schema="pg_catalog", name=type_name, kind="array", element=inner)


def outcome(load: Callable[[Any], PayloadValue], field: bytes | str) -> PayloadValue | Unstored:
    try:
        return load(field)
    except Unstorable as error:
        return ("unstorable", error.message)


def decoded(
    connection: Connection,
    type_name: str,
    inputs: Sequence[str],
    *,
    expression: str = "",
    policy: ValuePolicy = DEFAULT,
) -> list[PayloadValue | Unstored]:
    """The values of `expression` (default: `v::type`), after both formats were found to agree."""
    type = type_named(connection, type_name)
    expression = expression or f"v::{type_name}"
    from_binary = binary_loader(type, policy)
    assert from_binary is not None
    from_text = text_loader(type, policy)
    printed = texts(connection, expression, inputs)
    fields = read(connection, expression, inputs, binary=True)
    by_text = [outcome(from_text, text) for text in printed]
    by_binary = [outcome(from_binary, field) for field in fields]
    assert list(map(repr, by_binary)) == list(map(repr, by_text))
    to_key = key_text_loader(type)
    if to_key is not None:
        assert [to_key(field) for field in fields] == printed
    return by_binary


# --- numbers ------------------------------------------------------------------------------------

INTEGER_BITS = {"int2": 16, "int4": 32, "int8": 64}


@pytest.mark.parametrize("name", INTEGER_BITS)
def test_integers_are_integers(connection: Connection, name: str) -> None:
    bits = INTEGER_BITS[name]
    numbers = [0, 1, -1, 2 ** (bits - 1) - 1, -(2 ** (bits - 1))]
    assert decoded(connection, name, [str(number) for number in numbers]) == numbers


def test_booleans_are_booleans(connection: Connection) -> None:
    assert decoded(connection, "bool", ["t", "f"]) == [True, False]


def float4_of(bits: int) -> float:
    return float(struct.unpack(">f", struct.pack(">I", bits))[0])


def float8_of(bits: int) -> float:
    return float(struct.unpack(">d", struct.pack(">Q", bits))[0])


# Every power of two, its neighbours, and the largest: where the rounding interval is lopsided.
FLOAT4_EDGES = [
    f"{float4_of(bits):.9g}"
    for exponent in range(256)
    for bits in (exponent << 23, (exponent << 23) + 1, max((exponent << 23) - 1, 0))
    if math.isfinite(float4_of(bits))
]
FLOAT8_EDGES = [
    f"{float8_of(bits):.17g}"
    for exponent in range(2047)
    for bits in (exponent << 52, (exponent << 52) + 1, max((exponent << 52) - 1, 0))
]


def expected_float(printed: str) -> float | str:
    number = float(printed)
    return number if math.isfinite(number) else printed


@oracle
@given(st.lists(st.integers(0, 2**32 - 1), min_size=400, max_size=500))
def test_float4_is_the_decimal_that_select_prints(connection: Connection, bits: list[int]) -> None:
    inputs = [f"{float4_of(pattern):.9g}" for pattern in bits]
    expected = [expected_float(text) for text in texts(connection, "v::float4", inputs)]
    assert decoded(connection, "float4", inputs) == expected


def test_float4_at_the_edges_of_its_rounding_intervals(connection: Connection) -> None:
    halfway = [str(67_108_900 + 8 * n) for n in range(0, 4000)] + [
        str(n * 10**e) for e in range(2, 30) for n in (671_089, 999_999, 123_456, 5, 7_654_321)
    ]
    decimals = [f"{n}e{e}" for e in range(-45, 38, 3) for n in (1, 1.1, 3.7, 9.99999, 1.17549)]
    inputs = FLOAT4_EDGES + halfway + decimals + ["NaN", "Infinity", "-Infinity", "-0"]
    expected = [expected_float(text) for text in texts(connection, "v::float4", inputs)]
    assert decoded(connection, "float4", inputs) == expected


@oracle
@given(st.lists(st.floats(), min_size=50, max_size=100))
def test_float8_is_kept_bit_by_bit(connection: Connection, numbers: list[float]) -> None:
    names = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
    inputs = [repr(number) for number in numbers]
    values = decoded(connection, "float8", inputs)
    assert list(map(str, values)) == [names.get(text, text) for text in inputs]


@oracle
@given(st.lists(st.integers(0, 2**64 - 1), min_size=200, max_size=300))
def test_points_print_doubles_as_postgres_does(connection: Connection, bits: list[int]) -> None:
    decoded(connection, "point", [f"({float8_of(a):.17g},{float8_of(a):.9g})" for a in bits])


def test_points_at_the_edges_of_rounding_intervals(connection: Connection) -> None:
    halfway = [str(n * 10**e) for e in range(1, 8) for n in range(2**53 - 50, 2**53 + 50)]
    mixed = ["1e14", "1e15", "999999999999999", "1e-4", "1e-5", "0.00012", "-0", "1", "1.5", "1e20"]
    inputs = FLOAT8_EDGES + halfway + mixed + ["NaN", "-Infinity", "4.9e-324"]
    decoded(connection, "point", [f"({text},1)" for text in inputs])


def test_points_under_geo_become_longitude_and_latitude(connection: Connection) -> None:
    assert decoded(connection, "point", ["(13.4,52.5)", "(NaN,1)"], policy=GEO) == [
        {"lon": 13.4, "lat": 52.5},
        ("unstorable", "empty or infinite point in a column configured as geo"),
    ]


NUMERICS = [
    "0", "0.00", "1.00", "5", "-5.000", "10000", "100000000", "0.0001", "0.00001", "-0.00010",
    "12345.6789", "99999999999999999999.5", "9223372036854775807", "9223372036854775808",
    "-9223372036854775808", "1e308", "-1.8e308", "1.7976931348623157e308", "1e400", "1e131071",
    "1e-16383", "1e-400", "NaN", "Infinity", "-Infinity", "0.1", "1234567890.12", "1e20", "1e15",
]  # fmt: skip
numeric_texts = st.one_of(
    st.decimals(allow_nan=False, allow_infinity=False).map(str),
    st.decimals(allow_nan=False, allow_infinity=False, places=2).map(str),
    st.from_regex(r"-?[0-9]{1,40}(\.[0-9]{1,40})?", fullmatch=True),
).filter(lambda text: "E" not in text or abs(int(text.partition("E")[2])) < 10_000)


@oracle
@given(st.lists(numeric_texts, max_size=50))
@example(NUMERICS)
def test_numeric_under_each_policy(connection: Connection, inputs: list[str]) -> None:
    printed = texts(connection, "v::numeric", inputs)
    assert printed == decoded(connection, "numeric", inputs, policy=ValuePolicy(numeric="string"))
    for text, value in zip(printed, decoded(connection, "numeric", inputs), strict=True):
        beyond = math.isinf(float(text)) and "Infinity" not in text
        assert isinstance(value, tuple) if beyond else value == expected_float(text)
    whole = decoded(connection, "numeric", inputs, policy=ValuePolicy(numeric="integer"))
    for text, value in zip(printed, whole, strict=True):
        number = Decimal(text)
        fits = number.is_finite() and -(2**63) <= number < 2**63 and number == int(number)
        refused = number.is_finite() and not fits
        assert isinstance(value, tuple) if refused else value == (int(number) if fits else text)


# --- text, bytes, json --------------------------------------------------------------------------

plain_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@oracle
@given(st.lists(plain_text, max_size=50))
def test_text_types_keep_their_text(connection: Connection, inputs: list[str]) -> None:
    for name in ("text", "varchar"):
        assert decoded(connection, name, inputs) == inputs
    padded = [text[:12].ljust(12) for text in inputs]
    assert decoded(connection, "bpchar", inputs, expression="v::char(12)") == padded


def test_names_enums_and_single_bytes(connection: Connection) -> None:
    connection.execute("CREATE TYPE mood AS ENUM ('sad', 'très ok')")
    assert decoded(connection, "mood", ["sad", "très ok"]) == ["sad", "très ok"]
    assert decoded(connection, "name", ["Käse", ""]) == ["Käse", ""]
    bytes_shown = ["a", "\\351", "", "\\"]
    assert decoded(connection, '"char"', bytes_shown) == bytes_shown


@oracle
@given(st.lists(st.uuids().map(str), max_size=20))
def test_uuids_are_lower_case_with_hyphens(connection: Connection, inputs: list[str]) -> None:
    assert decoded(connection, "uuid", [text.upper() for text in inputs]) == inputs


@oracle
@given(st.lists(st.binary(max_size=80), max_size=30))
def test_bytea_is_base64_with_padding(connection: Connection, inputs: list[bytes]) -> None:
    hexes = ["\\x" + data.hex() for data in inputs]
    expected = texts(connection, "translate(encode(v::bytea, 'base64'), E'\\n', '')", hexes)
    assert decoded(connection, "bytea", hexes) == expected


json_documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(-1e308, 1e308) | plain_text,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(plain_text, inner, max_size=5),
    max_leaves=30,
)
JSON_TEXTS = [
    "1e2", "1.0", "-0", "-0.0", "1E+2", "9223372036854775807", "-9223372036854775808", "[]", "null",
    r'{"a": 1, "a": [2], "\\u0000": "\\\\u0000"}', '"18446744073709551615"', " [ 1 , 2 ] ",
    "0.12345678901234567890123", "[1234567890123456789]", r'"\ud83d\ude00 é \" 1e999"',
]  # fmt: skip


@pytest.mark.parametrize("name", ["json", "jsonb"])
@oracle
@given(documents=st.lists(json_documents, max_size=20))
def test_json_keeps_its_values(connection: Connection, name: str, documents: list[Any]) -> None:
    inputs = [json.dumps(document, ensure_ascii=False) for document in documents]
    inputs = [text for text in inputs if name == "json" or "\u0000" not in text] + JSON_TEXTS
    expected = [
        json.loads(text, parse_int=int64_or_float)
        for text in texts(connection, f"v::{name}", inputs)
    ]
    assert list(map(repr, decoded(connection, name, inputs))) == list(map(repr, expected))


def int64_or_float(digits: str) -> int | float:
    return int(digits) if -(2**63) <= int(digits) < 2**63 else float(digits)


def test_json_numbers_beyond_double_are_their_text(connection: Connection) -> None:
    inputs = ["1e400", "-1.5e999", "1.7976931348623159e308", "18446744073709551615"]
    assert decoded(connection, "json", inputs) == [*inputs[:3], float(2**64)]
    printed = texts(connection, "v::jsonb", inputs[:3])
    assert decoded(connection, "jsonb", inputs) == [*printed, float(2**64)]


def test_json_that_cannot_be_stored(connection: Connection) -> None:
    inputs = [
        r'"\ud800"',
        r'{"\udc00": 1}',
        r'["a\u0000"]',
        r'{"\u0000": 1}',
        "[" * 1500 + "]" * 1500,
    ]
    reasons = ["with a lone surrogate"] * 2 + ["with U+0000 in a string or key"] * 2
    reasons += ["nested too deeply"]
    assert decoded(connection, "json", inputs) == [("unstorable", f"JSON {why}") for why in reasons]


# --- dates and times ----------------------------------------------------------------------------

FIRST = -211_813_488_000_000_000  # 4714-11-24 BC, the first timestamp that Postgres takes
END = 9_223_371_331_200_000_000  # 294277-01-01
COMMON_FIRST = -63_082_281_600_000_000  # 0001-01-01
COMMON_END = 252_455_616_000_000_000  # 10000-01-01
INSTANTS = [FIRST, END - 1, 0, -1, COMMON_FIRST, COMMON_FIRST - 1, COMMON_END, COMMON_END - 1]
instants = st.one_of(
    st.integers(FIRST, END - 1),
    st.integers(COMMON_FIRST, COMMON_END - 1),
    st.integers(FIRST // 10**6, END // 10**6 - 1).map(lambda seconds: seconds * 10**6),
)


@pytest.mark.parametrize(("name", "mark"), [("timestamptz", "Z"), ("timestamp", "")])
@oracle
@given(moments=st.lists(instants, max_size=100))
@example(moments=INSTANTS)
def test_timestamps_are_rfc_3339_or_postgres_text(
    connection: Connection, name: str, mark: str, moments: list[int]
) -> None:
    inputs = [str(moment) for moment in moments]
    zone = "+00" if mark else ""
    # Whole days apart: one interval of microseconds cannot reach the last year.
    value = (
        f"('2000-01-01 00:00:00{zone}'::{name}"
        " + make_interval(days => (v::int8 / 86400000000)::int)"
        " + ((v::int8 %% 86400000000) || ' microseconds')::interval)"
    )
    printed = texts(connection, value, inputs)
    iso = texts(connection, f"""to_char({value}, 'YYYY-MM-DD"T"HH24:MI:SS.US"{mark}"')""", inputs)
    expected = [
        iso_text if COMMON_FIRST <= moment < COMMON_END else text
        for moment, iso_text, text in zip(moments, iso, printed, strict=True)
    ]
    assert decoded(connection, name, inputs, expression=value) == expected


@pytest.mark.parametrize("name", ["timestamptz", "timestamp", "date"])
def test_infinite_moments_are_postgres_text(connection: Connection, name: str) -> None:
    infinities = ["infinity", "-infinity"]
    assert decoded(connection, name, infinities) == infinities


@oracle
@given(st.lists(st.integers(-2_451_545, 2_145_031_948), max_size=100))
@example([-730_119, -730_120, 2_921_939, 2_921_940, -2_451_545, 2_145_031_948, 0, 60])
def test_dates_are_iso_or_postgres_text(connection: Connection, days: list[int]) -> None:
    value = "('2000-01-01'::date + v::int)"
    inputs = [str(day) for day in days]
    assert decoded(connection, "date", inputs, expression=value) == texts(connection, value, inputs)


def clock(microseconds: int) -> str:
    seconds, fraction = divmod(microseconds, 10**6)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{fraction:06d}"


times = st.integers(0, 86_400_000_000).map(clock)
zones = st.integers(-57_599, 57_599)


@oracle
@given(st.lists(times, max_size=100))
@example(["24:00:00.000000", "00:00:00.000000", "23:59:59.999999"])
def test_times_have_six_digits(connection: Connection, inputs: list[str]) -> None:
    assert decoded(connection, "time", inputs) == inputs


@oracle
@given(st.lists(st.tuples(times, zones), max_size=100))
@example([("24:00:00.000000", 0), ("12:34:56.000000", -12_600), ("01:00:00.500000", 7201)])
def test_times_with_zone_have_six_digits_and_an_offset(
    connection: Connection, moments: list[tuple[str, int]]
) -> None:
    expected = []
    for time, zone in moments:
        offset = clock(abs(zone) * 10**6).partition(".")[0].removesuffix(":00")
        offset = offset if ":" in offset else f"{offset}:00"
        expected.append(f"{time}{'-' if zone < 0 else '+'}{offset}")
    assert decoded(connection, "timetz", expected) == expected


int32s = st.integers(-(2**31) + 1, 2**31 - 2)
intervals = st.tuples(int32s, int32s, st.integers(-(2**62), 2**62) | st.integers(-(10**8), 10**8))
INTERVALS = [(0, 0, 0), (0, 0, -1), (14, 3, 14_706_789_000), (-14, 3, -1_000_000), (0, 5, 0)]


@oracle
@given(st.lists(st.one_of(intervals, st.sampled_from(INTERVALS)), max_size=100))
@example(INTERVALS)
def test_intervals_are_what_postgres_prints(
    connection: Connection, fields: list[tuple[int, int, int]]
) -> None:
    inputs = [f"{months} months {days} days {us} microseconds" for months, days, us in fields]
    if connection.info.server_version >= 170_000:
        inputs += ["infinity", "-infinity"]
    assert decoded(connection, "interval", inputs) == texts(connection, "v::interval", inputs)


# --- arrays -------------------------------------------------------------------------------------

ARRAYS = {
    "int4[]": ["{}", "{1,NULL,-3}", "[2:3]={7,8}", "{{1,2},{3,4}}", "[0:0][-1:0]={{5,NULL}}"],
    "text[]": [r'{a,"b c","NULL",NULL,"","{\"\\,","ü"}', "{{{a},{b}},{{c},{null}}}", '{"\n"}'],
    "bool[]": ["{t,f,NULL}"],
    "float8[]": ["{1,2.5,1e300,NaN,-Infinity}"], "float4[]": ["{0.1,16777216,NaN}"],
    "numeric[]": ["{1.00,NULL,1e30}"],
    "uuid[]": ["{00000000-0000-0000-0000-00000000000a}"],
    "timestamptz[]": ["{2024-01-02 03:04:05.5+02,infinity,0044-03-15 BC}"],
    "timestamp[]": ["{2024-01-02 03:04:05}"], "date[]": ["{2024-01-02,-infinity}"],
    "time[]": ["{24:00}"], "timetz[]": ["{12:00+05:30}"], "interval[]": ["{1 day,-1 mon}"],
    "jsonb[]": [r'{"{\"a\": [1, 18446744073709551615]}",NULL,null,"null"}'],
    "json[]": [r'{"{\"a\": 1, \"a\": 2}"}'],
    "bytea[]": [r'{"\\x00ff",NULL}'], "point[]": ['{"(1,2)",NULL}'],
    "varchar[]": ["{a,b}"], "bpchar[]": ["{a,b}"], "name[]": ["{a,b}"], '"char"[]': ['{a,""}'],
    "int2[]": ["{1}"], "int8[]": ["{9223372036854775807}"],
}  # fmt: skip


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_of_every_element_are_lists(connection: Connection, name: str) -> None:
    values = decoded(connection, name, ARRAYS[name])
    documents = texts(connection, f"to_jsonb(v::{name})", ARRAYS[name])
    expected = [json.loads(document) for document in documents]
    assert list(map(shape, values)) == list(map(shape, expected))
    if name in ("int4[]", "text[]", "bool[]"):
        assert values == expected


def shape(value: Any) -> Any:
    """Lists and nulls only; what elements become is tested for each type."""
    return [shape(each) for each in value] if isinstance(value, list) else value is None


@oracle
@given(st.lists(st.lists(st.one_of(st.none(), plain_text), max_size=6), max_size=20))
def test_text_arrays_survive_any_text(
    connection: Connection, arrays: list[list[str | None]]
) -> None:
    inputs = [json.dumps(each) for each in arrays]
    elements = "ARRAY(SELECT jsonb_array_elements_text(v::jsonb))"
    assert decoded(connection, "text[]", inputs, expression=elements) == arrays


# --- types without a binary loader --------------------------------------------------------------

AS_TEXT = {
    "money": ["12.34"], "inet": ["10.0.0.1/8", "::1"], "cidr": ["10.0.0.0/8"],
    "macaddr": ["08:00:2b:01:02:03"], "oid": ["4294967295"], "xid": ["12"],
    "pg_lsn": ["16/B374D848"], "varbit": ["1010"], "tsvector": ["a:1 b:2"],
    "int4range": ["[1,5)", "empty"], "int4multirange": ["{[1,2),[5,7)}"], "box": ["(1,1),(0,0)"],
    "int2vector": ["1 2 3"], "pair": ['(1,"a b")'], "vector": ["[1,2]"],
}  # fmt: skip


@pytest.mark.parametrize("name", AS_TEXT)
def test_other_types_are_read_as_postgres_text(connection: Connection, name: str) -> None:
    connection.execute("CREATE TYPE pair AS (a int, b text)")
    type, array = type_named(connection, name), type_named(connection, f"{name}[]")
    assert binary_loader(type, DEFAULT) is None
    assert binary_loader(array, DEFAULT) is None
    assert key_text_loader(type) is None
    printed = texts(connection, f"v::{name}", AS_TEXT[name])
    assert [text_loader(type, DEFAULT)(text) for text in printed] == printed
    # Not array_agg, which takes no int2vector.
    for text, literal in zip(
        printed, texts(connection, f"ARRAY[v::{name}, NULL]::{name}[]", AS_TEXT[name]), strict=True
    ):
        assert text_loader(array, DEFAULT)(literal) == [text, None]
