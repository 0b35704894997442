"""How a connector writes values down: the modes of its configuration, and what a message's schema says.

Without schemas nothing in a message tells milliseconds from microseconds, or the scale of a decimal
(Debezium documentation, PostgreSQL connector, "Data type mappings"): the connector's configuration has
to. With schemas each field names its own encoding, which then counts (`Encoding.of_schema`).
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, cast, get_args

from bridge.schema import PgType

Decimal = Literal["precise", "double", "string"]
Time = Literal[
    "adaptive",
    "adaptive_time_microseconds",
    "connect",
    "isostring",
    "microseconds",
    "nanoseconds",
]
Interval = Literal["numeric", "string"]
Binary = Literal["bytes", "base64", "base64-url-safe", "hex"]
Unit = Literal["milliseconds", "microseconds", "nanoseconds", "iso"]

PLACEHOLDER = "__debezium_unavailable_value"


@dataclass(frozen=True, slots=True, kw_only=True)
class Modes:
    """The settings of a connector that change what a value looks like; Debezium's defaults.

    `told`: somebody said so; else a column that depends on them cannot be read without schemas.
    """

    decimal: Decimal = "precise"
    time: Time = "adaptive"
    interval: Interval = "numeric"
    binary: Binary = "bytes"
    unknown_types: bool = False
    placeholder: str = PLACEHOLDER
    told: bool = False

    @classmethod
    def of_connector(cls, config: Mapping[str, str]) -> Modes:
        """From a connector's configuration, as Kafka Connect's REST interface gives it."""

        def chosen(setting: str, words: object, default: str) -> str:
            found = config.get(setting, default).lower()
            return found if found in get_args(words) else default

        return cls(
            decimal=cast(Decimal, chosen("decimal.handling.mode", Decimal, "precise")),
            time=cast(Time, chosen("time.precision.mode", Time, "adaptive")),
            interval=cast(Interval, chosen("interval.handling.mode", Interval, "numeric")),
            binary=cast(Binary, chosen("binary.handling.mode", Binary, "bytes")),
            unknown_types=config.get("include.unknown.datatypes", "false").lower() == "true",
            placeholder=config.get("unavailable.value.placeholder", PLACEHOLDER),
            told=True,
        )

    @property
    def unavailable(self) -> Unavailable:
        """What stands for an unchanged TOASTed value."""
        return Unavailable.of(self.placeholder)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unavailable:
    """The placeholder in the shapes that it takes: text, bytes, items of an array."""

    text: str
    raw: bytes
    numbers: tuple[int, ...]
    uuid: str

    @classmethod
    def of(cls, setting: str) -> Unavailable:
        """From `unavailable.value.placeholder`: a text, or bytes as `hex:..`."""
        raw = setting.encode()
        if setting.startswith("hex:"):
            try:
                raw = bytes.fromhex(setting.removeprefix("hex:"))
            except ValueError:
                raw = setting.encode()
        # Java's UUID.nameUUIDFromBytes: an MD5, marked as version 3.
        named = uuid.UUID(bytes=hashlib.md5(raw, usedforsecurity=False).digest(), version=3)
        return cls(
            text=raw.decode("utf-8", "replace"),
            raw=raw,
            numbers=tuple(raw),
            uuid=str(named),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """How one column's values are written. `scale` is that of a decimal without one of its own;
    `exact`: whether the unit holds all that Postgres does."""

    decimal: Decimal
    scale: int | None
    unit: Unit
    exact: bool
    interval: Interval
    binary: Binary
    unknown_types: bool

    @classmethod
    def of_modes(cls, type: PgType, modes: Modes) -> Encoding:
        """What the connector's modes make of a column of this type."""
        element = type.element if type.kind == "array" and type.element is not None else type
        modifier = element.modifier if element.modifier >= 0 else type.modifier
        unit, exact = _unit(element.name, modifier, modes.time)
        return cls(
            decimal=modes.decimal,
            scale=2 if element.name == "money" else numeric_scale(modifier),
            unit=unit,
            exact=exact,
            interval=modes.interval,
            binary=modes.binary,
            unknown_types=modes.unknown_types,
        )

    def of_schema(self, schema: Mapping[str, Any]) -> Encoding:
        """The same where the field's own schema says otherwise."""
        if schema.get("type") == "array" and isinstance(schema.get("items"), dict):
            schema = schema["items"]
        name, kind = schema.get("name"), schema.get("type")
        if name in _UNITS:
            # Milliseconds are all of a column with at most three digits; `exact` has looked at it.
            unit = _UNITS[name]
            return replace(self, unit=unit, exact=self.exact or unit != "milliseconds")
        if name == "org.apache.kafka.connect.data.Decimal":
            scale = int(schema.get("parameters", {}).get("scale", 0))
            return replace(self, decimal="precise", scale=scale)
        if name == "io.debezium.data.VariableScaleDecimal":
            return replace(self, decimal="precise", scale=None)
        if name in ("io.debezium.time.MicroDuration", "io.debezium.time.NanoDuration"):
            return replace(self, interval="numeric")
        if name == "io.debezium.time.Interval":
            return replace(self, interval="string")
        if name is None and kind == "bytes":
            return replace(self, binary="bytes")
        if name is None and kind in ("double", "string"):
            return replace(self, decimal="double" if kind == "double" else "string")
        return self


_UNITS: dict[str, Unit] = {
    "io.debezium.time.Timestamp": "milliseconds",
    "io.debezium.time.MicroTimestamp": "microseconds",
    "io.debezium.time.NanoTimestamp": "nanoseconds",
    "io.debezium.time.IsoTimestamp": "iso",
    "io.debezium.time.Time": "milliseconds",
    "io.debezium.time.MicroTime": "microseconds",
    "io.debezium.time.NanoTime": "nanoseconds",
    "io.debezium.time.IsoTime": "iso",
    "io.debezium.time.IsoDate": "iso",
    "org.apache.kafka.connect.data.Timestamp": "milliseconds",
    "org.apache.kafka.connect.data.Time": "milliseconds",
}


def numeric_scale(modifier: int) -> int | None:
    """The scale in a numeric's atttypmod, an 11-bit signed number since Postgres 15; None if none."""
    if modifier < 4:
        return None
    return (((modifier - 4) & 0x7FF) ^ 1024) - 1024


def _unit(name: str, modifier: int, time: Time) -> tuple[Unit, bool]:
    """The unit of a date or time, and whether it is as fine as the column."""
    short = 0 <= modifier <= 3
    if time == "isostring":
        return "iso", True
    if name in ("time", "timestamp"):
        if time == "connect":
            return "milliseconds", short
        if time == "nanoseconds":
            return "nanoseconds", True
        whole = time == "microseconds" or (name == "time" and time == "adaptive_time_microseconds")
        return ("milliseconds" if short and not whole else "microseconds"), True
    return "microseconds", True


def depends_on_modes(type: PgType) -> bool:
    """Whether a message without schema leaves open what a value of this type is."""
    element = type.element if type.kind == "array" and type.element is not None else type
    return element.name in ("numeric", "timestamp", "time", "date", "interval", "bytea")
