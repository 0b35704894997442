"""Table names are read by SQL's rules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import UsageError
from bridge.table_names import find_table, format_table_name, parse_table_name

# What a Postgres name may be: 1 to 63 bytes of UTF-8, no NUL.
NAMES = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=63
).filter(lambda name: len(name.encode()) <= 63)


@pytest.mark.parametrize(
    ("text", "schema", "name"),
    [
        ("docs", None, "docs"),
        ("public.docs", "public", "docs"),
        ("Public.DOCS", "public", "docs"),
        ('app."Weird.Table"', "app", "Weird.Table"),
        ('"App"."T"', "App", "T"),
        ('"say ""hi"""', None, 'say "hi"'),
        ('""""', None, '"'),
        ("  public . docs ", "public", "docs"),
        ("_a$1", None, "_a$1"),
        ("ÄRGER", None, "Ärger"),
        ("İstanbul", None, "İstanbul"),
        ('"my-table"', None, "my-table"),
        ("order", None, "order"),
        ("x" * 63, None, "x" * 63),
    ],
)
def test_a_name_is_read_as_sql_reads_it(text: str, schema: str | None, name: str) -> None:
    assert parse_table_name(text) == (schema, name)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("   ", "empty"),
        ("public.", "missing at its end"),
        (".docs", "unexpected '.' at character 1"),
        ("a..b", "unexpected '.' at character 3"),
        ("my-table", "unexpected '-' at character 3"),
        ("1docs", "unexpected '1' at character 1"),
        ("a b", "unexpected 'b' at character 3"),
        ('"open', "not closed"),
        ('"a"b', "unexpected 'b' at character 4"),
        ('""', "a quoted name is empty"),
        ('"a\0b"', "NUL"),
        ("db.public.docs", "has 3 parts"),
        ("x" * 64, "longer than 63 bytes"),
        ('"' + "ü" * 32 + '"', "longer than 63 bytes"),
    ],
)
def test_what_is_no_name_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason) as caught:
        parse_table_name(text)
    assert caught.value.hint


@given(schema=st.none() | NAMES, name=NAMES)
def test_every_name_survives_formatting_and_parsing(schema: str | None, name: str) -> None:
    assert parse_table_name(format_table_name(schema, name)) == (schema, name)


@given(schema=NAMES, name=NAMES)
def test_every_name_survives_full_quoting(schema: str, name: str) -> None:
    quoted = ".".join('"' + part.replace('"', '""') + '"' for part in (schema, name))
    assert parse_table_name(quoted) == (schema, name)


@given(text=st.text())
def test_any_text_is_a_name_or_a_usage_error(text: str) -> None:
    try:
        parsed = parse_table_name(text)
    except UsageError:
        return
    assert parse_table_name(format_table_name(*parsed)) == parsed


# --- finding one ----------------------------------------------------------------------------------

CONFIGURED = ("public.items", "public.docs", "app.docs", 'app."Weird.Table"', "plain")


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("public.items", "public.items"),
        ("items", "public.items"),
        (" Items ", "public.items"),
        ("app.docs", "app.docs"),
        ('"Weird.Table"', 'app."Weird.Table"'),
        ("plain", "plain"),
        ("public.plain", "plain"),
    ],
)
def test_a_table_is_found_with_or_without_its_schema(wanted: str, found: str) -> None:
    assert find_table(CONFIGURED, wanted) == found


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ("docs", "may be public.docs or app.docs"),
        ("app.items", "is not in the configuration"),
        ("nowhere", "is not in the configuration"),
    ],
)
def test_what_is_not_one_table_is_refused(wanted: str, told: str) -> None:
    with pytest.raises(UsageError) as refused:
        find_table(CONFIGURED, wanted)
    assert told in refused.value.message and refused.value.hint
