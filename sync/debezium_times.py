"""Debezium's dates and times -> Postgres' text of them (ISO style, UTC). Pure.

Years are proleptic ISO years in Debezium (44 BC is `-0043`) and eras in Postgres; infinity is what is
left of Postgres' limits on the way through Java's types, a different number in each unit
(facts: tests/data/debezium, runs `edges*`). What does not fit raises ValueError.
"""

from __future__ import annotations

import re
from datetime import date

from bridge.values import interval_text
from sync.debezium_modes import Encoding

_DAY_MICROSECONDS = 86_400_000_000
_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()
_CYCLE_DAYS, _CYCLE_YEARS = 146_097, 400

# Days, and instants by unit, that stand for the infinities.
_DATES = {2146033979: "infinity", -2147472691: "-infinity"}
_INSTANTS = {
    2**63 - 1: "infinity",
    -(2**63): "-infinity",
    9223372036825200000: "infinity",
    -9223372036832400000: "-infinity",
}
_ISO_INFINITY = {
    "+292278994-08-16T23:00:00Z": "infinity",
    "-292275055-05-16T23:00:00Z": "-infinity",
    "+5877611-06-21Z": "infinity",
    "-5877611-06-22Z": "-infinity",
}
_PER_MICROSECOND = {"milliseconds": (1000, 1), "microseconds": (1, 1), "nanoseconds": (1, 1000)}

_ISO_DAY = r"([+-]?)([0-9]{4,})-([0-9]{2})-([0-9]{2})"
_ISO_CLOCK = r"([0-9]{2}:[0-9]{2})(:[0-9]{2})?(?:\.([0-9]{1,9}))?"
_ISO_INSTANT = re.compile(rf"{_ISO_DAY}T{_ISO_CLOCK}Z")
_ISO_DATE = re.compile(rf"{_ISO_DAY}Z?")
_ISO_TIME = re.compile(rf"{_ISO_CLOCK}Z?")
_INTERVAL = re.compile(
    r"P(?:(-?\d+)Y)?(?:(-?\d+)M)?(?:(-?\d+)D)?"
    r"(?:T(?:(-?\d+)H)?(?:(-?\d+)M)?(?:(-?)(\d+)(?:\.(\d{1,9}))?S)?)?"
)


def timestamptz(value: object) -> str:
    """`2024-02-29T21:59:59.123456Z`, or an infinity."""
    if not isinstance(value, str):
        raise ValueError("not a text")
    if value in ("infinity", "-infinity"):
        return value
    return _iso_instant(value, "+00")


def timestamp(value: object, encoding: Encoding) -> str:
    """A number in the encoding's unit since 1970, or ISO text."""
    if encoding.unit == "iso":
        if not isinstance(value, str):
            raise ValueError("not a text")
        return _ISO_INFINITY.get(value) or _iso_instant(value, "")
    number = _integer(value)
    if number in _INSTANTS:
        return _INSTANTS[number]
    return _instant(_microseconds(number, encoding.unit), "")


def day(value: object, encoding: Encoding) -> str:
    """Days since 1970, or ISO text."""
    if isinstance(value, str) and encoding.unit == "iso":
        return _ISO_INFINITY.get(value) or _iso_date(value)
    number = _integer(value)
    if number in _DATES:
        return _DATES[number]
    text, era = _day(number)
    return text + era


def time(value: object, encoding: Encoding) -> str:
    """A number in the encoding's unit since midnight, or ISO text; 24:00 stays.

    As ISO text, 24:00 has become 00:00, so that midnight raises ValueError: it may be either.
    """
    if encoding.unit == "iso":
        match = _ISO_TIME.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            raise ValueError("not a time")
        text = _clock_text(match[1], match[2], match[3])
        if text == "00:00:00":
            raise ValueError("midnight or 24:00")
        return text
    microseconds = _microseconds(_integer(value), encoding.unit)
    if not 0 <= microseconds <= _DAY_MICROSECONDS:
        raise ValueError("not a time of a day")
    return _clock(microseconds)


def interval(value: object) -> str:
    """ISO 8601 as Debezium writes it under `interval.handling.mode=string`."""
    match = _INTERVAL.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("not an interval")
    years, months, days, hours, minutes = (int(part or 0) for part in match.groups()[:5])
    fraction = (match[8] or "").ljust(9, "0")
    if fraction[6:] != "000":
        raise ValueError("finer than microseconds")
    seconds = int(match[7] or 0) * 1_000_000 + int(fraction[:6])
    clock = hours * 3_600_000_000 + minutes * 60_000_000 + (-seconds if match[6] else seconds)
    return interval_text(12 * years + months, days, clock)


def _integer(value: object) -> int:
    if type(value) is not int:
        raise ValueError("not a whole number")
    return value


def _microseconds(number: int, unit: str) -> int:
    times, divided = _PER_MICROSECOND[unit]
    whole, rest = divmod(number * times, divided)
    if rest:
        raise ValueError("finer than microseconds")
    return whole


def _instant(microseconds: int, zone: str) -> str:
    days, rest = divmod(microseconds, _DAY_MICROSECONDS)
    text, era = _day(days)
    return f"{text} {_clock(rest)}{zone}{era}"


def _clock(microseconds: int) -> str:
    seconds, fraction = divmod(microseconds, 1_000_000)
    minutes, second = divmod(seconds, 60)
    hours, minute = divmod(minutes, 60)
    text = f"{hours:02d}:{minute:02d}:{second:02d}"
    return f"{text}.{fraction:06d}".rstrip("0") if fraction else text


def _day(days: int) -> tuple[str, str]:
    """Postgres' ISO date of a day since 1970, and ` BC` or nothing."""
    cycles, rest = divmod(days + _EPOCH_ORDINAL - 1, _CYCLE_DAYS)
    found = date.fromordinal(rest + 1)
    return _dated(found.year + _CYCLE_YEARS * cycles, f"{found.month:02d}", f"{found.day:02d}")


def _dated(year: int, month: str, day_of_month: str) -> tuple[str, str]:
    era = "" if year > 0 else " BC"
    return f"{year if year > 0 else 1 - year:04d}-{month}-{day_of_month}", era


def _iso_date(text: str) -> str:
    match = _ISO_DATE.fullmatch(text)
    if match is None:
        raise ValueError("not a date")
    written, era = _dated(int(match[1] + match[2]), match[3], match[4])
    return written + era


def _iso_instant(text: str, zone: str) -> str:
    match = _ISO_INSTANT.fullmatch(text)
    if match is None:
        raise ValueError("not an instant")
    written, era = _dated(int(match[1] + match[2]), match[3], match[4])
    return f"{written} {_clock_text(match[5], match[6], match[7])}{zone}{era}"


def _clock_text(minutes: str, seconds: str | None, fraction: str | None) -> str:
    digits = (fraction or "").rstrip("0")
    if len(digits) > 6:
        raise ValueError("finer than microseconds")
    text = f"{minutes}{seconds or ':00'}"
    return f"{text}.{digits}" if digits else text
