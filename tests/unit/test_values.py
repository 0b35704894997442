"""Payload policies: JSON, numeric, floats, bytes, points. Against Postgres itself: integration."""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.errors import Unstorable
from bridge.values import (
    base64_value,
    float4_value,
    float8_text,
    float8_value,
    geo_value,
    json_value,
    numeric_value,
)

steady = settings(derandomize=True, database=None, deadline=None)


def same(value: Any, expected: Any) -> bool:
    """Equal down to the type of every number and the sign of zero."""
    return repr(value) == repr(expected)


# --- JSON ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ("9223372036854775807", 2**63 - 1),
        ("-9223372036854775808", -(2**63)),
        ("9223372036854775808", float(2**63)),
        ("-9223372036854775809", -float(2**63)),
        ("18446744073709551615", float(2**64)),
        ("1" + "0" * 400, "1" + "0" * 400),
        ("-1" + "0" * 5000, "-1" + "0" * 5000),
        ("1e400", "1e400"),
        ("[-1.5E+999]", ["-1.5E+999"]),
        ("1.0", 1.0),
        ("1e2", 100.0),
        ("-0", 0),
        ("-0.0", -0.0),
        ("1e-400", 0.0),
        ('{"a": 1, "b": 2, "a": 3}', {"a": 3, "b": 2}),
        ('["18446744073709551615", "1e400", 18446744073709551615]',
         ["18446744073709551615", "1e400", float(2**64)]),
        (r'["\\u0000", "\\\\u0000", "\ud83d\ude00"]', [r"\u0000", r"\\u0000", "😀"]),
        (r'{"quote \" 1e400": 1e400}', {'quote " 1e400': "1e400"}),
        ("0.1234567890123456789", 0.12345678901234568),
    ],
)  # fmt: skip
def test_json_values_keep_what_payload_can_hold(document: str, expected: Any) -> None:
    assert same(json_value(document), expected)
    assert same(json_value(document.encode()), expected)


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (rb'"\ud800"', "lone surrogate"),
        (rb'["\udc00", 18446744073709551615]', "lone surrogate"),
        (rb'"\u0000"', r"U\+0000"),
        (rb'{"\\\u0000": 1}', r"U\+0000"),
        (b'"\xff"', "UTF-8"),
        (b"[" * 1025 + b"]" * 1025, "deep"),
        (b"[" * 100_000, "deep"),
        (b"NaN", "malformed"),
        (b"", "malformed"),
        ('"\udcff"', "surrogate"),
    ],
)
def test_json_that_no_payload_can_hold_is_unstorable(document: bytes | str, reason: str) -> None:
    with pytest.raises(Unstorable, match=reason) as caught:
        json_value(document)
    # The parser's error holds the whole document.
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_json_a_thousand_levels_deep_is_kept() -> None:
    value = json_value("[" * 1024 + "]" * 1024)
    for _ in range(1023):
        assert isinstance(value, list)
        (value,) = value
    assert value == []


storable_text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
json_numbers = st.one_of(
    st.integers(),
    st.integers(2**63 - 3, 2**64 + 3),
    st.integers(-(2**64) - 3, -(2**63) + 3),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([10**400, -(10**309), 0]),
)
json_documents = st.recursive(
    st.one_of(st.none(), st.booleans(), json_numbers, storable_text),
    lambda inner: st.lists(inner) | st.dictionaries(storable_text, inner),
)


def reference_json(document: str) -> Any:
    """Another parser, told the same rules for numbers."""

    def fraction(digits: str) -> float | str:
        return digits if math.isinf(float(digits)) else float(digits)

    def integer(digits: str) -> int | float | str:
        return int(digits) if -(2**63) <= int(digits) < 2**63 else fraction(digits)

    return json.loads(document, parse_int=integer, parse_float=fraction)


@steady
@given(json_documents)
def test_json_of_any_shape_means_what_another_parser_says(document: Any) -> None:
    for ascii_only in (True, False):
        text = json.dumps(document, ensure_ascii=ascii_only)
        assert same(json_value(text), reference_json(text))


# --- numeric ------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["float", "string", "integer"])
@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity"])
def test_numeric_without_a_finite_value_is_a_string_under_every_policy(
    text: str, form: Any
) -> None:
    assert numeric_value(text, form) == text


@pytest.mark.parametrize(
    ("text", "form", "expected"),
    [
        ("1.00", "string", "1.00"),
        ("1.00", "float", 1.0),
        ("1.00", "integer", 1),
        ("-5", "integer", -5),
        ("0.1", "float", 0.1),
        ("9223372036854775807.000", "integer", 2**63 - 1),
        ("-9223372036854775808", "integer", -(2**63)),
        ("0." + "0" * 400 + "1", "float", 0.0),
    ],
)
def test_numeric_takes_the_form_of_its_policy(text: str, form: Any, expected: Any) -> None:
    assert same(numeric_value(text, form), expected)


@pytest.mark.parametrize(
    ("text", "form", "reason"),
    [
        ("0.5", "integer", "fraction"),
        ("9223372036854775808", "integer", "int64"),
        ("1" + "0" * 5000, "integer", "int64"),
        ("1" + "0" * 400, "float", "double"),
        ("-1" + "0" * 400, "float", "double"),
    ],
)
def test_numeric_that_its_policy_cannot_hold_is_unstorable(
    text: str, form: Any, reason: str
) -> None:
    with pytest.raises(Unstorable, match=reason) as caught:
        numeric_value(text, form)
    assert text not in caught.value.message


# --- floats -------------------------------------------------------------------------------------


def test_doubles_that_are_not_finite_are_strings() -> None:
    assert float8_value(math.nan) == "NaN"
    assert float8_value(math.inf) == "Infinity"
    assert float4_value(-math.inf) == "-Infinity"
    assert same(float8_value(-0.0), -0.0)


@steady
@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_float4_names_the_same_float4(number: float) -> None:
    value = float4_value(number)
    assert isinstance(value, float)
    assert struct.pack(">f", value) == struct.pack(">f", number)
    assert len(f"{value!r}".partition("e")[0].strip("-0.").replace(".", "")) <= 9


@pytest.mark.parametrize(
    ("decimal", "expected"),
    [(0.1, 0.1), (16777216.0, 16777216.0), (1e-45, 1e-45), (3.4028235e38, 3.4028235e38), (0, 0.0)],
)
def test_float4_is_the_short_decimal(decimal: float, expected: float) -> None:
    (number,) = struct.unpack(">f", struct.pack(">f", decimal))
    assert same(float4_value(number), expected)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (1.0, "1"),
        (0.1, "0.1"),
        (-0.0, "-0"),
        (1e20, "1e+20"),
        (1e-5, "1e-05"),
        (0.0001, "0.0001"),
        (123456789012345.0, "123456789012345"),
        (1e15, "1e+15"),
        (-1.25e100, "-1.25e+100"),
        (5e-324, "5e-324"),
        (math.nan, "NaN"),
    ],
)
def test_doubles_print_as_in_postgres(number: float, text: str) -> None:
    assert float8_text(number) == text


@steady
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_printed_doubles_name_the_same_double(number: float) -> None:
    assert same(float(float8_text(number)), number)


# --- bytes, points ------------------------------------------------------------------------------


def test_bytes_are_base64_with_padding_on_one_line() -> None:
    assert base64_value(b"\x00") == "AA=="
    assert "\n" not in base64_value(b"x" * 500)


def test_a_point_without_coordinates_has_no_geo_form() -> None:
    assert geo_value(13.4, 52.5) == {"lon": 13.4, "lat": 52.5}
    for longitude, latitude in ((math.nan, math.nan), (1.0, math.inf)):
        with pytest.raises(Unstorable, match="geo"):
            geo_value(longitude, latitude)
