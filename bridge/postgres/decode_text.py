"""Text loaders: a field as the output function prints it, to its payload value.

For columns without a binary loader, and for streams and readers that have text only. The session
has set TimeZone UTC, DateStyle ISO, IntervalStyle iso_8601, extra_float_digits 1 and bytea_output
hex; text in another style raises `Unstorable`, because guessing would change values silently.

What always holds: the value equals the one that `decode.binary_loader` gives for the same field.
Types that the payload keeps as Postgres' text (inet, money, ranges, composites and so on) pass
unchanged. Array syntax: Postgres documentation, section 8.15; hstore: appendix F.
"""

from __future__ import annotations

import functools
import re
import struct
from collections.abc import Callable

from bridge.postgres.decode import POSTGIS_TYPES, ewkb_point, malformed
from bridge.schema import PgType
from bridge.values import (
    PayloadValue,
    ValuePolicy,
    base64_value,
    float8_value,
    geo_value,
    json_value,
    numeric_value,
)

TextLoader = Callable[[str], PayloadValue]

# pg_type.typdelim of the types that do not have a comma; arrays of them are separated by it.
_DELIMITERS = {"box": ";", "geometry": ":", "geography": ":"}


def text_loader(type: PgType, policy: ValuePolicy) -> TextLoader:
    """From a non-null field in text format to its payload value."""
    if type.kind == "array" and type.element is not None:
        delimiter = _DELIMITERS.get(type.element.name, ",")
        return _checked(_array_loader(text_loader(type.element, policy), delimiter), type.name)
    if type.kind != "base":
        return _unchanged
    if type.name == "numeric":
        return _checked(lambda text: numeric_value(text, policy.numeric), type.name)
    if policy.geo and type.name == "point":
        return _checked(_geo_point, type.name)
    if policy.geo and type.name in POSTGIS_TYPES:
        return _checked(lambda text: ewkb_point(bytes.fromhex(text)), type.name)
    load = _LOADERS.get(type.name)
    return _unchanged if load is None else _checked(load, type.name)


def _unchanged(text: str) -> PayloadValue:
    return text


def _checked(load: TextLoader, name: str) -> TextLoader:
    def loader(text: str) -> PayloadValue:
        try:
            return load(text)
        except (ValueError, IndexError, struct.error):
            # Not chained: Python's conversion errors quote their input.
            fault = malformed(name)
        raise fault

    return loader


# --- scalars ------------------------------------------------------------------------------------


def _bool(text: str) -> PayloadValue:
    if text not in ("t", "f"):
        raise ValueError("neither t nor f")
    return text == "t"


def _float(text: str) -> PayloadValue:
    return float8_value(float(text))


def _bytea(text: str) -> PayloadValue:
    if not text.startswith("\\x"):
        raise ValueError("not bytea_output hex")
    return base64_value(bytes.fromhex(text[2:]))


def _geo_point(text: str) -> PayloadValue:
    longitude, latitude = text[1:-1].split(",")
    return geo_value(float(longitude), float(latitude))


# --- dates and times ----------------------------------------------------------------------------

_DATE = re.compile(r"[0-9]{4,}-[0-9]{2}-[0-9]{2}(?: BC)?|-?infinity")
_TIMESTAMP = re.compile(
    r"([0-9]{4,}-[0-9]{2}-[0-9]{2}) ([0-9]{2}:[0-9]{2}:[0-9]{2})(\.[0-9]{1,6})?(\+00)?( BC)?"
)
_TIME = re.compile(r"([0-9]{2}:[0-9]{2}:[0-9]{2})(\.[0-9]{1,6})?")
_TIMETZ = re.compile(_TIME.pattern + r"([+-][0-9]{2})(:[0-9]{2})?(:[0-9]{2})?")
_INTERVAL = re.compile(r"P[-0-9YMDTHS.]+|-?infinity")


def _matched(pattern: re.Pattern[str], text: str) -> re.Match[str]:
    match = pattern.fullmatch(text)
    if match is None:
        raise ValueError("another style")
    return match


def _date(text: str) -> PayloadValue:
    return _matched(_DATE, text)[0]


def _timestamp_loader(zone: str | None, mark: str) -> TextLoader:
    def loader(text: str) -> PayloadValue:
        if text in ("infinity", "-infinity"):
            return text
        day, clock, fraction, found_zone, era = _matched(_TIMESTAMP, text).groups()
        if found_zone != zone:
            raise ValueError("another time zone")
        if era or len(day) > len("9999-12-31"):
            return text
        return f"{day}T{clock}{_six_digits(fraction)}{mark}"

    return loader


def _time(text: str) -> PayloadValue:
    clock, fraction = _matched(_TIME, text).groups()
    return f"{clock}{_six_digits(fraction)}"


def _timetz(text: str) -> PayloadValue:
    clock, fraction, hours, minutes, seconds = _matched(_TIMETZ, text).groups()
    return f"{clock}{_six_digits(fraction)}{hours}{minutes or ':00'}{seconds or ''}"


def _interval(text: str) -> PayloadValue:
    return _matched(_INTERVAL, text)[0]


def _six_digits(fraction: str | None) -> str:
    return (fraction or ".").ljust(7, "0")


# --- hstore, arrays -----------------------------------------------------------------------------

_QUOTED = r'"([^"\\]*(?:\\.[^"\\]*)*)"'
_HSTORE_PAIR = re.compile(rf"{_QUOTED}=>(?:NULL|{_QUOTED})(?:, |$)", re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)


def parse_hstore(text: str) -> dict[str, PayloadValue]:
    """`"a"=>"1", "b"=>NULL`, as hstore_out prints it: keys and values always quoted."""
    pairs: dict[str, PayloadValue] = {}
    position = 0
    while position < len(text):
        match = _HSTORE_PAIR.match(text, position)
        if match is None:
            raise ValueError("not an hstore literal")
        key, value = match.groups()
        pairs[_unescaped(key)] = None if value is None else _unescaped(value)
        position = match.end()
    return pairs


def _unescaped(quoted: str) -> str:
    return _ESCAPE.sub(r"\1", quoted) if "\\" in quoted else quoted


def _array_loader(element: TextLoader, delimiter: str) -> TextLoader:
    def loader(text: str) -> PayloadValue:
        return parse_array(text, delimiter, element)

    return loader


def parse_array(text: str, delimiter: str, element: TextLoader) -> list[PayloadValue]:
    """An array literal as array_out prints it: nested lists, lower bounds (`[2:3]={..}`) dropped.

    An unquoted NULL is None; everything else goes through `element`. Raises ValueError or
    IndexError if the braces do not match.
    """
    token = _array_token(delimiter)
    position = text.index("=") + 1 if text.startswith("[") else 0
    outermost: list[PayloadValue] = []
    open_lists = [outermost]
    while position < len(text):
        match = token.match(text, position)
        if match is None:
            raise ValueError("not an array literal")
        position = match.end()
        brace, quoted, plain = match.groups()
        if brace == "{":
            inner: list[PayloadValue] = []
            open_lists[-1].append(inner)
            open_lists.append(inner)
        elif brace == "}":
            open_lists.pop()
        elif quoted is not None:
            open_lists[-1].append(element(_unescaped(quoted)))
        else:
            open_lists[-1].append(None if plain == "NULL" else element(plain))
    if open_lists != [outermost] or len(outermost) != 1:
        raise ValueError("not one array literal")
    (value,) = outermost
    if not isinstance(value, list):
        raise ValueError("not an array literal")
    return value


@functools.lru_cache(maxsize=len(set(_DELIMITERS.values())) + 1)
def _array_token(delimiter: str) -> re.Pattern[str]:
    """One brace or element, and the delimiter behind it. array_out quotes whatever is special."""
    plain = rf'[^"{{}}\\{delimiter}]+'
    return re.compile(rf"(?:([{{}}])|{_QUOTED}|({plain})){delimiter}?", re.DOTALL)


# --- which type has which loader ----------------------------------------------------------------

_LOADERS: dict[str, TextLoader] = {
    "int2": int,
    "int4": int,
    "int8": int,
    "bool": _bool,
    "float4": _float,
    "float8": _float,
    "json": json_value,
    "jsonb": json_value,
    "bytea": _bytea,
    "timestamp": _timestamp_loader(None, ""),
    "timestamptz": _timestamp_loader("+00", "Z"),
    "date": _date,
    "time": _time,
    "timetz": _timetz,
    "interval": _interval,
    "hstore": parse_hstore,
}
