"""Payload values: what a source value becomes, independent of the wire it came over.

Design, section 4: lossless by default, and the same JSON type for every row of a column. JSON has
no NaN and no infinities, so these become the strings `NaN`, `Infinity`, `-Infinity`, spelled as
Postgres spells them. A value that has no faithful payload form raises `Unstorable`, whose message
tells the reason and never the value; errors of parsers are therefore not chained, because they
carry their input.

Everything here is pure. Both loaders of a type, binary and text, end in these functions, which is
what keeps a value the same whichever format brought it.
"""

from __future__ import annotations

import binascii
import math
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, TypeAlias

import orjson

from bridge.errors import Unstorable

PayloadValue: TypeAlias = (
    "bool | int | float | str | list[PayloadValue] | dict[str, PayloadValue] | None"
)
Numeric = Literal["float", "string", "integer"]

INT64_MIN = -(2**63)
INT64_MAX = 2**63 - 1
# Digits in 2^63: no integer with more of them fits int64.
_INT64_DIGITS = 19


@dataclass(frozen=True, slots=True, kw_only=True)
class ValuePolicy:
    """What a user may choose per column: the form of `numeric`; points as `{lon, lat}`."""

    numeric: Numeric = "float"
    geo: bool = False


# --- JSON ---------------------------------------------------------------------------------------

_DIGIT_RUN = b"0" * _INT64_DIGITS
_DIGITS_TO_ZERO = bytes.maketrans(b"123456789", b"0" * 9)
_BACKSLASH = ord("\\")
_NUL_ESCAPE = b"\\u0000"
_ESCAPED_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_STRING_OR_NUMBER = re.compile(
    rb'"[^"\\]*(?:\\.[^"\\]*)*"|-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?', re.DOTALL
)


def json_value(document: bytes | str) -> PayloadValue:
    """The value of a JSON document that Postgres has accepted as `json` or `jsonb`.

    Integers stay integers within int64; beyond it they are floats, and numbers beyond double are
    strings of their digits. Of equal keys the last wins. Raises `Unstorable` for lone surrogates,
    U+0000, invalid UTF-8, and more than 1024 levels.

    orjson alone is right except for integers between 2^63 and 2^64, which it takes, U+0000, which
    it takes, and numbers beyond double, which it refuses. A document that may hold one of these is
    rewritten first, so that one parser decides every value.
    """
    data = _utf8(document) if isinstance(document, str) else document
    # One byte is found by memchr, at a fraction of the cost of finding six.
    suspect = (_BACKSLASH in data and _NUL_ESCAPE in data) or (
        _DIGIT_RUN in data.translate(_DIGITS_TO_ZERO)
    )
    if not suspect:
        try:
            value: PayloadValue = orjson.loads(data)
        except orjson.JSONDecodeError:
            pass
        else:
            return value
    return _rewritten_json_value(data)


def _rewritten_json_value(data: bytes) -> PayloadValue:
    rewritten = _STRING_OR_NUMBER.sub(_storable_token, data)
    try:
        value: PayloadValue = orjson.loads(rewritten)
    except orjson.JSONDecodeError as error:
        reason = _json_fault(data, error.msg)
    else:
        return value
    raise Unstorable(reason)


def _storable_token(match: re.Match[bytes]) -> bytes:
    token: bytes = match[0]
    if token.startswith(b'"'):
        if _NUL_ESCAPE in token and _ESCAPED_NUL.search(token):
            raise Unstorable("JSON with U+0000 in a string or key")
        return token
    number = float(token)
    if math.isinf(number):
        return b'"%b"' % token
    if token.lstrip(b"-").isdigit() and not _fits_int64(token.decode("ascii")):
        return repr(number).encode("ascii")
    return token


def _json_fault(data: bytes, parser_message: str) -> str:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return "JSON that is not valid UTF-8"
    if "surrogate" in parser_message:
        return "JSON with a lone surrogate"
    if "depth" in parser_message:
        return "JSON nested too deeply"
    return "malformed JSON"


def _utf8(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        pass
    raise Unstorable("text with a lone surrogate")


def _fits_int64(digits: str) -> bool:
    # Python refuses to convert beyond 4300 digits; the length settles these.
    return len(digits) <= _INT64_DIGITS + 1 and INT64_MIN <= int(digits) <= INT64_MAX


# --- numeric ------------------------------------------------------------------------------------

_NOT_FINITE = frozenset({"NaN", "Infinity", "-Infinity"})


def numeric_value(text: str, form: Numeric) -> float | int | str:
    """A `numeric` from Postgres' text; NaN and the infinities are strings under every form.

    `string` keeps the scale (`1.00`), `float` is the nearest double. Raises `Unstorable` beyond
    double under `float`, and for a fraction or beyond int64 under `integer`.
    """
    if form == "string" or text in _NOT_FINITE:
        return text
    if form == "integer":
        return _whole(text)
    number = float(text)
    if math.isinf(number):
        raise Unstorable("numeric beyond the range of a double")
    return number


def _whole(text: str) -> int:
    whole, _, fraction = text.partition(".")
    if fraction.strip("0"):
        raise Unstorable("numeric with a fraction in a column declared integer")
    if not _fits_int64(whole):
        raise Unstorable("numeric beyond int64 in a column declared integer")
    return int(whole)


# --- binary floats ------------------------------------------------------------------------------


def float8_value(number: float) -> float | str:
    """A double as it is; NaN and the infinities as strings."""
    if math.isfinite(number):
        return number
    return _not_finite(number)


def float4_value(number: float) -> float | str:
    """The shortest decimal that SELECT prints for a float4, as a double. `number`: its value.

    0.1::float4 is the double 0.1, not 0.10000000149. At most one decimal of six digits lies in a
    float4's rounding interval, so the nearest one decides; seven to nine digits likewise, except
    at powers of two, among subnormals and on the interval's very edge, where exact arithmetic does.
    """
    if not math.isfinite(number):
        return _not_finite(number)
    mantissa, exponent = math.frexp(number)
    # 2^-126 is the smallest normal float4; frexp gives it the exponent -125.
    if exponent < -125:
        return _exact_float4(number) if number else number
    half_step = math.ldexp(1.0, exponent - 25)
    if mantissa in (0.5, -0.5):
        half_step /= 2
    for form in ("%.6g", "%.7g", "%.8g", "%.9g"):
        candidate = float(form % number)
        distance = abs(candidate - number)
        if distance < half_step:
            return candidate
        if distance == half_step or mantissa in (0.5, -0.5):
            break
    return _exact_float4(number)


def _exact_float4(number: float) -> float:
    exponent = math.frexp(number)[1]
    step = Fraction(2) ** max(exponent - 24, -149)
    digits, scale = _shortest(abs(number), step, smallest_normal=2.0**-126)
    return math.copysign(float(f"{digits}e{scale}"), number)


def float8_text(number: float) -> str:
    """What Postgres prints for a double with extra_float_digits 1: `1`, `0.1`, `1e+20`, `1e-05`."""
    if not math.isfinite(number):
        return _not_finite(number)
    if number == 0:
        return "-0" if math.copysign(1.0, number) < 0 else "0"
    digits, scale = _shortest_float8(abs(number))
    sign = "-" if number < 0 else ""
    point = len(digits) + scale
    # Postgres prints an exponent below 1e-4 and from 1e15 (DBL_DIG) on.
    if not -4 <= point - 1 < 15:
        tail = f".{digits[1:]}" if len(digits) > 1 else ""
        return f"{sign}{digits[0]}{tail}e{point - 1:+03d}"
    if point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    if scale >= 0:
        return f"{sign}{digits}{'0' * scale}"
    return f"{sign}{digits[:point]}.{digits[point:]}"


def _shortest_float8(number: float) -> tuple[str, int]:
    mantissa, _, exponent = repr(number).partition("e")
    whole, _, fraction = mantissa.partition(".")
    fraction = fraction.rstrip("0")
    digits = f"{whole}{fraction}".lstrip("0")
    scale = int(exponent or 0) - len(fraction)
    # repr accepts a decimal halfway to the neighbour (it rounds to even and back), Postgres does
    # not. Halfway points have 54 significant bits: no short decimal is one below 2^52.
    if number >= 2.0**52:
        value, step = Fraction(int(digits)) * Fraction(10) ** scale, Fraction(math.ulp(number))
        if abs(value - Fraction(number)) * 2 == step:
            return _shortest(number, step, smallest_normal=2.0**-1022)
    stripped = digits.rstrip("0")
    return stripped, scale + len(digits) - len(stripped)


def _shortest(number: float, step: Fraction, *, smallest_normal: float) -> tuple[str, int]:
    """Digits and power of ten of the shortest decimal strictly inside a float's rounding interval.

    `number` is positive, `step` the distance to the float above. As Postgres' Ryu does it: the
    nearest of the shortest, ties to the even digit, the ends of the interval excluded.
    """
    exact = Fraction(number)
    at_power_of_two = math.frexp(number)[0] == 0.5 and number > smallest_normal
    low = exact - (step / 4 if at_power_of_two else step / 2)
    high = exact + step / 2
    power = int(f"{number:.16e}".partition("e")[2])
    for length in range(1, 18):
        unit = Fraction(10) ** (power - length + 1)
        floor = exact // unit
        inside = [digits for digits in (floor, floor + 1) if low < digits * unit < high]
        if inside:
            best = min(inside, key=lambda digits: (abs(digits * unit - exact), digits % 2))
            text = str(best)
            stripped = text.rstrip("0")
            return stripped, power - length + 1 + len(text) - len(stripped)
    raise AssertionError("seventeen digits identify every double")


def _not_finite(number: float) -> str:
    if math.isnan(number):
        return "NaN"
    return "Infinity" if number > 0 else "-Infinity"


# --- intervals ----------------------------------------------------------------------------------

_INTERVAL_INFINITY = {
    (2**31 - 1, 2**31 - 1, INT64_MAX): "infinity",
    (-(2**31), -(2**31), INT64_MIN): "-infinity",
}


def interval_text(months: int, days: int, microseconds: int) -> str:
    """Postgres' iso_8601 text: every field with its own sign, fields of zero left out.

    The infinities are those of PG17; before, the same bits were the longest finite interval.
    """
    if (months, days, microseconds) in _INTERVAL_INFINITY:
        return _INTERVAL_INFINITY[months, days, microseconds]
    years, months = _toward_zero(months, 12)
    hours, rest = _toward_zero(microseconds, 3_600_000_000)
    minutes, rest = _toward_zero(rest, 60_000_000)
    calendar = "".join(f"{n}{unit}" for n, unit in ((years, "Y"), (months, "M"), (days, "D")) if n)
    clock = "".join(f"{n}{unit}" for n, unit in ((hours, "H"), (minutes, "M")) if n)
    if rest:
        seconds, fraction = divmod(abs(rest), 1_000_000)
        tail = f".{fraction:06d}".rstrip("0") if fraction else ""
        clock += f"{'-' if rest < 0 else ''}{seconds}{tail}S"
    if not (calendar or clock):
        return "PT0S"
    return f"P{calendar}T{clock}" if clock else f"P{calendar}"


def _toward_zero(value: int, unit: int) -> tuple[int, int]:
    """C's division: both parts carry the sign of `value`."""
    quotient, rest = divmod(abs(value), unit)
    return (-quotient, -rest) if value < 0 else (quotient, rest)


# --- bytes, points ------------------------------------------------------------------------------


def base64_value(data: bytes) -> str:
    """Base64 with padding, on one line (RFC 4648, section 4)."""
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def geo_value(longitude: float, latitude: float) -> PayloadValue:
    """Qdrant's geo form of a point. NaN (an empty PostGIS point has it) and infinities have none.

    The range is not checked: an index passes over a point outside it, the payload keeps it.
    """
    if math.isfinite(longitude) and math.isfinite(latitude):
        return {"lon": longitude, "lat": latitude}
    raise Unstorable("empty or infinite point in a column configured as geo")
