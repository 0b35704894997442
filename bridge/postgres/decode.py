"""Binary loaders: the bytes of one field, as COPY binary and binary pgoutput send it, to payload.

The layout of each type is that of its send function (`*_send` in src/backend/utils/adt; hstore and
PostGIS bring their own). Integers are big-endian; timestamps are microseconds and dates days since
2000-01-01.

What always holds: `binary_loader` gives exactly what `decode_text.text_loader` gives for the
output function's text of the same value. A type without a binary loader must be read as text. NULL
never reaches a loader. Bytes that do not have the type's layout raise `Unstorable`, as do values
that cannot be stored; messages never hold a value, which is why errors that carry their input
(UnicodeDecodeError) are not chained.

Integers, booleans, text, doubles, timestamps, uuid and jsonb are the backfill's inner loop: their
loaders do without a wrapper and without a second call where that is possible.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable
from datetime import date
from typing import TypeVar

from bridge.errors import Unstorable
from bridge.schema import PgType
from bridge.values import (
    INT64_MAX,
    INT64_MIN,
    PayloadValue,
    ValuePolicy,
    base64_value,
    float4_value,
    float8_text,
    float8_value,
    geo_value,
    interval_text,
    json_value,
    numeric_value,
)

Loader = Callable[[bytes], PayloadValue]
Value = TypeVar("Value")

POSTGIS_TYPES = frozenset({"geometry", "geography"})

_INT32_MAX = 2**31 - 1
_INT32_MIN = -(2**31)
_INT32 = struct.Struct(">i")
_INT64 = struct.Struct(">q")
_FLOAT32 = struct.Struct(">f")
_FLOAT64 = struct.Struct(">d")
_TIMETZ = struct.Struct(">qi")
_INTERVAL = struct.Struct(">qii")
_POINT = struct.Struct(">dd")
_NUMERIC_HEADER = struct.Struct(">HhHH")
_ARRAY_HEADER = struct.Struct(">iii")
_ARRAY_DIMENSION = struct.Struct(">ii")


def binary_loader(type: PgType, policy: ValuePolicy) -> Loader | None:
    """From a non-null field in binary format to its payload value; None: read it as text."""
    if type.kind == "array":
        element = binary_loader(type.element, policy) if type.element is not None else None
        return None if element is None else _checked(_array_loader(element), type.name)
    if type.kind == "enum":
        return _text
    if type.kind != "base":
        return None
    if type.name == "numeric":
        return _checked(_numeric_loader(policy), type.name)
    if type.name == "point":
        return _checked(_geo_point if policy.geo else _point_text, type.name)
    if type.name in POSTGIS_TYPES:
        return _checked(ewkb_point, type.name) if policy.geo else _hex_text
    return _LOADERS.get(type.name)


def is_text(type: PgType) -> bool:
    """Whether a field of this type is its value: text in the encoding of the session."""
    return type.kind == "enum" or (type.kind == "base" and _LOADERS.get(type.name) is _text)


def key_text_loader(type: PgType) -> Callable[[bytes], str] | None:
    """From a key's binary field to the output function's text (design, section 3).

    The text is the one under TimeZone UTC, DateStyle ISO and bytea_output hex. None where a type's
    text is not cheap to build exactly: ask the server for it.
    """
    if type.kind == "enum":
        return _text
    return _KEY_LOADERS.get(type.name) if type.kind == "base" else None


# --- malformed input ----------------------------------------------------------------------------


def malformed(name: str) -> Unstorable:
    """The field is not what the catalog says: the type changed, or the stream is damaged."""
    return Unstorable(
        f"the field does not have the format of type {name}",
        hint="if the column's type was changed meanwhile, start again so that it is read anew",
    )


def _checked(load: Callable[[bytes], Value], name: str) -> Callable[[bytes], Value]:
    def loader(data: bytes) -> Value:
        try:
            return load(data)
        except (struct.error, IndexError, ValueError):
            fault = malformed(name)
        raise fault

    return loader


# --- numbers, booleans --------------------------------------------------------------------------


def _integer_loader(layout: str, name: str) -> Callable[[bytes], int]:
    unpack = struct.Struct(layout).unpack

    def loader(data: bytes) -> int:
        try:
            return unpack(data)[0]  # type: ignore[no-any-return]
        except struct.error as error:
            raise malformed(name) from error

    return loader


def _bool(data: bytes) -> bool:
    if data == b"\x01":
        return True
    if data == b"\x00":
        return False
    raise malformed("bool")


def _bool_key(data: bytes) -> str:
    return "t" if _bool(data) else "f"


def _float8(data: bytes, unpack: Callable[[bytes], tuple[float]] = _FLOAT64.unpack) -> float | str:
    try:
        (number,) = unpack(data)
    except struct.error as error:
        raise malformed("float8") from error
    # False for NaN and the infinities alone: cheaper than a call.
    return number if number - number == 0 else float8_value(number)


def _float4(data: bytes) -> float | str:
    return float4_value(_FLOAT32.unpack(data)[0])


_NUMERIC_NEGATIVE = 0x4000
_NUMERIC_SPECIAL = {0xC000: "NaN", 0xD000: "Infinity", 0xF000: "-Infinity"}


def _numeric_loader(policy: ValuePolicy) -> Loader:
    form = policy.numeric

    def loader(data: bytes) -> PayloadValue:
        return numeric_value(_numeric_text(data), form)

    return _numeric_float if form == "float" else loader


def _numeric_float(data: bytes) -> PayloadValue:
    """Short numerics without a detour over text: Python divides integers correctly rounded."""
    groups, weight, sign, _ = _NUMERIC_HEADER.unpack_from(data)
    scale = 4 * (groups - 1 - weight)
    if not (groups <= 4 and sign in (0, _NUMERIC_NEGATIVE) and 0 <= scale <= 32):
        return numeric_value(_numeric_text(data), "float")
    number: int = 0
    for group in struct.unpack_from(f">{groups}H", data, 8):
        number = number * 10000 + group
    value: float = (-number if sign else number) / 10**scale
    return value


def _numeric_text(data: bytes) -> str:
    """`numeric_out`: base-10000 groups, the first one weighing 10000^weight, cut to the scale."""
    groups, weight, sign, scale = _NUMERIC_HEADER.unpack_from(data)
    if sign in _NUMERIC_SPECIAL:
        return _NUMERIC_SPECIAL[sign]
    if sign not in (0, _NUMERIC_NEGATIVE) or len(data) != 8 + 2 * groups:
        raise malformed("numeric")
    digits = ("%04d" * groups) % struct.unpack_from(f">{groups}H", data, 8)
    whole_length = 4 * (weight + 1)
    if whole_length > 0:
        whole = digits[:whole_length].ljust(whole_length, "0").lstrip("0")
        fraction = digits[whole_length:]
    else:
        whole, fraction = "", "0" * -whole_length + digits
    text = f"{'-' if sign else ''}{whole or '0'}"
    return f"{text}.{fraction[:scale].ljust(scale, '0')}" if scale else text


# --- text, json, uuid, bytea --------------------------------------------------------------------


def _text(data: bytes) -> str:
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError:
        pass
    raise Unstorable(
        "text that is not valid UTF-8",
        hint="the database's encoding is SQL_ASCII: correct the value, or leave the column out",
    )


def _char(data: bytes) -> str:
    """`"char"`, one byte: NUL is the empty text, a byte above 127 is printed in octal (PG16)."""
    (byte,) = data
    if byte > 127:
        return f"\\{byte:03o}"
    return chr(byte) if byte else ""


def _jsonb(data: bytes) -> PayloadValue:
    if data[:1] != b"\x01":
        raise malformed("jsonb")
    return json_value(data[1:])


def _uuid(data: bytes) -> str:
    if len(data) != 16:
        raise malformed("uuid")
    digits = data.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _bytea_key(data: bytes) -> str:
    return f"\\x{data.hex()}"


# --- dates and times ----------------------------------------------------------------------------

_DAY_MICROSECONDS = 86_400_000_000
_MINUTE_MICROSECONDS = 60_000_000
# date.toordinal() of 2000-01-01.
_EPOCH_ORDINAL = 730_120
_LAST_ORDINAL = date.max.toordinal()
_CYCLE_DAYS = 146_097  # days in 400 Gregorian years
# Microseconds of 0001-01-01 and 10000-01-01: what `datetime` can name, and RFC 3339 can write.
_FIRST_INSTANT = (1 - _EPOCH_ORDINAL) * _DAY_MICROSECONDS
_END_INSTANT = (_LAST_ORDINAL + 1 - _EPOCH_ORDINAL) * _DAY_MICROSECONDS
# `HH:MM:` of each minute of a day, and 24:00.
_MINUTES = [f"{minute // 60:02d}:{minute % 60:02d}:" for minute in range(24 * 60 + 1)]


@functools.lru_cache(maxsize=8192)
def _common_day(days: int) -> str:
    return date.fromordinal(days + _EPOCH_ORDINAL).isoformat()


def _any_day(days: int) -> tuple[str, str]:
    """Postgres' ISO date of any day, and ` BC` or nothing, which goes to the end of the text."""
    cycles, rest = divmod(days + _EPOCH_ORDINAL - 1, _CYCLE_DAYS)
    day = date.fromordinal(rest + 1)
    year = day.year + 400 * cycles
    era = "" if year > 0 else " BC"
    return f"{year if year > 0 else 1 - year:04d}-{day.month:02d}-{day.day:02d}", era


def _clock(microseconds: int) -> str:
    minute, rest = divmod(microseconds, _MINUTE_MICROSECONDS)
    if not 0 <= minute < len(_MINUTES):
        raise malformed("time")
    seconds = str(rest + 100_000_000)
    return f"{_MINUTES[minute]}{seconds[1:3]}.{seconds[3:]}"


def _trimmed_clock(microseconds: int) -> str:
    """As Postgres prints it: the fraction without its zeros, and left out if it is nought."""
    clock, _, fraction = _clock(microseconds).partition(".")
    digits = fraction.rstrip("0")
    return f"{clock}.{digits}" if digits else clock


def _timestamp_loader(name: str, mark: str, text_mark: str) -> Callable[[bytes], str]:
    unpack = _INT64.unpack

    def loader(data: bytes) -> str:
        try:
            (instant,) = unpack(data)
        except struct.error as error:
            raise malformed(name) from error
        if not _FIRST_INSTANT <= instant < _END_INSTANT:
            return _timestamp_text(instant, text_mark)
        day, rest = divmod(instant, _DAY_MICROSECONDS)
        minute, rest = divmod(rest, _MINUTE_MICROSECONDS)
        # The leading 1 keeps the zeros.
        seconds = str(rest + 100_000_000)
        return f"{_common_day(day)}T{_MINUTES[minute]}{seconds[1:3]}.{seconds[3:]}{mark}"

    return loader


def _timestamp_key_loader(text_mark: str) -> Callable[[bytes], str]:
    def loader(data: bytes) -> str:
        return _timestamp_text(_INT64.unpack(data)[0], text_mark)

    return loader


def _timestamp_text(instant: int, text_mark: str) -> str:
    if instant in (INT64_MIN, INT64_MAX):
        return "infinity" if instant > 0 else "-infinity"
    days, rest = divmod(instant, _DAY_MICROSECONDS)
    day, era = _any_day(days)
    return f"{day} {_trimmed_clock(rest)}{text_mark}{era}"


def _date(data: bytes) -> str:
    """ISO 8601; Postgres' text beyond it. The text of a key is the same."""
    (days,) = _INT32.unpack(data)
    if 1 <= days + _EPOCH_ORDINAL <= _LAST_ORDINAL:
        return _common_day(days)
    if days in (_INT32_MIN, _INT32_MAX):
        return "infinity" if days > 0 else "-infinity"
    return "".join(_any_day(days))


def _time(data: bytes) -> str:
    return _clock(_INT64.unpack(data)[0])


def _timetz(data: bytes) -> str:
    """The zone is in seconds west of UTC; its seconds are written only if it has some."""
    microseconds, west = _TIMETZ.unpack(data)
    minutes, seconds = divmod(abs(west), 60)
    tail = f":{seconds:02d}" if seconds else ""
    sign = "-" if west > 0 else "+"
    return f"{_clock(microseconds)}{sign}{minutes // 60:02d}:{minutes % 60:02d}{tail}"


def _interval(data: bytes) -> str:
    microseconds, days, months = _INTERVAL.unpack(data)
    return interval_text(months, days, microseconds)


# --- points, hstore, arrays ---------------------------------------------------------------------


def _point_text(data: bytes) -> str:
    x, y = _POINT.unpack(data)
    return f"({float8_text(x)},{float8_text(y)})"


def _geo_point(data: bytes) -> PayloadValue:
    return geo_value(*_POINT.unpack(data))


def _hex_text(data: bytes) -> str:
    return data.hex().upper()


_EWKB_HAS_SRID = 0x20000000
_EWKB_FLAGS = 0xE0000000
_WKB_POINT = 1


def ewkb_point(data: bytes) -> PayloadValue:
    """`{lon, lat}` of a PostGIS point in EWKB; Z and M are dropped, as the geo form has no place.

    Anything but a point, or an empty point, is `Unstorable`.
    """
    order = "<" if data[0] == 1 else ">"
    (code,) = struct.unpack_from(f"{order}I", data, 1)
    if code & ~_EWKB_FLAGS != _WKB_POINT:
        raise Unstorable("geometry that is not a point in a column configured as geo")
    offset = 9 if code & _EWKB_HAS_SRID else 5
    return geo_value(*struct.unpack_from(f"{order}dd", data, offset))


def _hstore(data: bytes) -> PayloadValue:
    """`hstore_send`: the number of pairs, then key and value, each behind its length."""
    (pairs,) = _INT32.unpack_from(data)
    value: dict[str, PayloadValue] = {}
    offset = 4
    for _ in range(pairs):
        key, offset = _counted(data, offset)
        item, offset = _counted(data, offset)
        if key is None:
            raise malformed("hstore")
        value[_text(key)] = None if item is None else _text(item)
    if offset != len(data):
        raise malformed("hstore")
    return value


def _counted(data: bytes, offset: int) -> tuple[bytes | None, int]:
    (size,) = _INT32.unpack_from(data, offset)
    start = offset + 4
    if size < 0:
        return None, start
    return data[start : start + size], start + size


def _array_loader(element: Loader) -> Loader:
    """`array_send`: each dimension's size and lower bound, then the elements in row-major order."""
    length_of = _INT32.unpack_from

    def loader(data: bytes) -> PayloadValue:
        dimensions, _, _ = _ARRAY_HEADER.unpack_from(data)
        offset = 12 + 8 * dimensions
        sizes = [_ARRAY_DIMENSION.unpack_from(data, at)[0] for at in range(12, offset, 8)]
        items: list[PayloadValue] = []
        # `_counted` written out: one call less for each element.
        while offset < len(data):
            (length,) = length_of(data, offset)
            offset += 4
            if length < 0:
                items.append(None)
            else:
                items.append(element(data[offset : offset + length]))
                offset += length
        if offset != len(data):
            raise malformed("array")
        return _nested(items, sizes)

    return loader


def _nested(items: list[PayloadValue], sizes: list[int]) -> list[PayloadValue]:
    expected = 1 if sizes else 0
    for size in sizes:
        expected *= size
    if len(items) != expected:
        raise malformed("array")
    for size in reversed(sizes[1:]):
        items = [items[at : at + size] for at in range(0, len(items), size)]
    return items


# --- which type has which loader ----------------------------------------------------------------

_INTEGERS = {
    "int2": _integer_loader(">h", "int2"),
    "int4": _integer_loader(">i", "int4"),
    "int8": _integer_loader(">q", "int8"),
}
_TEXTS = {name: _text for name in ("text", "varchar", "bpchar", "name", "citext")} | {
    "char": _checked(_char, "char")
}

_LOADERS: dict[str, Loader] = {
    **_INTEGERS,
    **_TEXTS,
    "bool": _bool,
    "float4": _checked(_float4, "float4"),
    "float8": _float8,
    "json": json_value,
    "jsonb": _jsonb,
    "uuid": _uuid,
    "bytea": base64_value,
    "timestamp": _timestamp_loader("timestamp", "", ""),
    "timestamptz": _timestamp_loader("timestamptz", "Z", "+00"),
    "date": _checked(_date, "date"),
    "time": _checked(_time, "time"),
    "timetz": _checked(_timetz, "timetz"),
    "interval": _checked(_interval, "interval"),
    "hstore": _checked(_hstore, "hstore"),
}


def _integer_key_loader(load: Callable[[bytes], int]) -> Callable[[bytes], str]:
    return lambda data: str(load(data))


_KEY_LOADERS: dict[str, Callable[[bytes], str]] = {
    **{name: _integer_key_loader(load) for name, load in _INTEGERS.items()},
    **_TEXTS,
    "bool": _bool_key,
    "uuid": _uuid,
    "bytea": _bytea_key,
    "numeric": _checked(_numeric_text, "numeric"),
    "date": _checked(_date, "date"),
    "timestamp": _checked(_timestamp_key_loader(""), "timestamp"),
    "timestamptz": _checked(_timestamp_key_loader("+00"), "timestamptz"),
}
