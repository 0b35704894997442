"""Point ids: the pinned examples that the documentation quotes, and what holds of all of them.

A change of an id here is a change of the public contract: every collection filled before would get
each of its points a second time.
"""

from __future__ import annotations

import json
from uuid import NAMESPACE_URL, UUID, uuid5

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bridge.point_ids import (
    NAMESPACE,
    PointId,
    composite_text,
    hashed,
    key_point_id,
    point_id,
    qdrant_migration_point_id,
)

UUID_TEXT = "6f6c1f4e-9a3b-4d1c-8e7f-2a1b3c4d5e6f"
HEX = UUID_TEXT.replace("-", "")

PINNED: list[tuple[str, PointId]] = [
    ("42", 42),
    ("0", 0),
    (UUID_TEXT, UUID_TEXT),
    ("-1", "a72300ee-76d0-5701-81f0-daaa0d9ae748"),
    ("007", "ee346493-1dad-59d5-8656-38e126319ab1"),
    (UUID_TEXT.upper(), "aa1b1bea-fa19-5fea-810b-5d4dc8667bdc"),
    ('["a","b"]', "baa651ad-c07a-563a-974b-e2716b1f9961"),
    ("doc-7", "5962899f-6841-522a-9178-9d8a1187f836"),
    ("köln ☕", "6d185f81-1c94-5980-a497-4182a6fb4ec9"),
    ("", "a8a8d5ca-b4b3-5147-84d6-bc683f0f47e9"),
]

unicode_texts = st.text(st.characters(exclude_categories=["Cs"]))
uuids = st.uuids().map(str)
id_texts = st.one_of(
    unicode_texts,
    st.text("0123456789+- .eE_", max_size=24),
    st.integers(-(2**66), 2**66).map(str),
    uuids,
    uuids.map(str.upper),
    uuids.map(lambda text: "{" + text + "}"),
    uuids.map(lambda text: "urn:uuid:" + text),
    st.lists(unicode_texts, min_size=2, max_size=3).map(composite_text),
)


def test_the_namespace_is_the_published_one() -> None:
    assert str(NAMESPACE) == "b7c3a1d4-52f6-5e0b-9a47-3d2f8c61e095"


@pytest.mark.parametrize(("text", "expected"), PINNED)
def test_worked_examples(text: str, expected: PointId) -> None:
    found = point_id(text)
    assert found == expected
    assert type(found) is type(expected)


def test_an_id_is_an_integer_up_to_the_largest_unsigned_one() -> None:
    assert point_id("18446744073709551615") == 2**64 - 1
    assert point_id("18446744073709551616") == "28bf0fbc-2068-5d2b-94b7-a32fbeee9e16"
    assert isinstance(point_id("9" * 5000), str)  # beyond what int() converts at all


@pytest.mark.parametrize(
    "text", ["00", "+1", "1.0", "1 ", " 1", "1_000", "1e3", "٣", "４２", "²", "-0", "1\n"]
)
def test_other_spellings_of_numbers_are_hashed(text: str) -> None:
    assert point_id(text) == str(uuid5(NAMESPACE, text))


@pytest.mark.parametrize(
    "text",
    [
        UUID_TEXT.upper(),
        HEX,
        "{" + UUID_TEXT + "}",
        "urn:uuid:" + UUID_TEXT,
        UUID_TEXT + "\n",
        UUID_TEXT[:-1] + "g",
        UUID_TEXT[:-1],
        "6f6c1f4e9-a3b-4d1c-8e7f-2a1b3c4d5e6f",
    ],
)
def test_other_spellings_of_uuids_are_hashed(text: str) -> None:
    assert point_id(text) == str(uuid5(NAMESPACE, text))


@pytest.mark.parametrize(
    "text", ["00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"]
)
def test_uuids_of_no_known_version_pass(text: str) -> None:
    assert point_id(text) == text


@given(id_texts)
def test_a_hash_is_the_uuid5_of_rfc_9562(text: str) -> None:
    assert hashed(NAMESPACE, text) == str(uuid5(NAMESPACE, text))


@given(id_texts)
def test_an_id_is_what_qdrant_stores(text: str) -> None:
    found = point_id(text)
    if isinstance(found, int):
        assert 0 <= found < 2**64
    else:
        assert found == str(UUID(found))


@given(st.lists(id_texts, unique=True, min_size=2, max_size=30))
@example(["7", "007", "+7", "7.0", "٧"])
@example([UUID_TEXT, UUID_TEXT.upper(), HEX, "{" + UUID_TEXT + "}"])
def test_different_texts_have_different_ids(texts: list[str]) -> None:
    assert len({point_id(text) for text in texts}) == len(texts)


@given(st.integers(0, 2**64 - 1))
def test_every_unsigned_integer_is_itself(number: int) -> None:
    assert point_id(str(number)) == number


@given(st.uuids())
def test_every_canonical_uuid_is_itself(value: UUID) -> None:
    assert point_id(str(value)) == str(value)


# --- composite keys, and Pinecone's pairs ---------------------------------------------------------


def test_composite_keys_are_hashed_as_a_json_array() -> None:
    assert composite_text(["a", "b"]) == '["a","b"]'
    assert key_point_id(["a", "b"]) == "baa651ad-c07a-563a-974b-e2716b1f9961"


def test_a_pinecone_namespace_and_id_are_hashed_as_a_pair() -> None:
    assert composite_text(["docs", "42"]) == '["docs","42"]'
    assert key_point_id(["docs", "42"]) == "6e89365e-e3af-5f84-af20-686e1dba00f1"
    assert key_point_id(["", "42"]) != key_point_id(["42"])


def test_composite_texts_escape_only_what_json_must() -> None:
    assert composite_text(['k"', "\\", "é\n"]) == '["k\\"","\\\\","é\\n"]'
    assert key_point_id(['k"', "\\", "é\n"]) == "401e7d2f-3370-516a-a04a-78af1722b5e3"


def test_a_key_of_one_column_is_its_bare_text() -> None:
    assert key_point_id(["42"]) == 42
    assert key_point_id(["a"]) == point_id("a")


def test_the_order_of_a_composite_key_counts() -> None:
    assert key_point_id(["1", "2"]) != key_point_id(["2", "1"])


@given(st.lists(unicode_texts, min_size=2, max_size=4))
def test_a_composite_text_gives_its_parts_back(parts: list[str]) -> None:
    assert json.loads(composite_text(parts)) == parts


# --- ids of qdrant/migration ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        UUID_TEXT,
        UUID_TEXT.upper(),
        HEX,
        HEX.upper(),
        "{" + UUID_TEXT + "}",
        # Go looks at neither the first nor the last character of 38.
        "(" + UUID_TEXT + ")",
        "x" + UUID_TEXT + "\n",
        "urn:uuid:" + UUID_TEXT,
        "URN:UUID:" + UUID_TEXT.upper(),
        "uRn:UuId:" + UUID_TEXT,
    ],
)
def test_migration_ids_pass_what_go_parses_as_a_uuid(text: str) -> None:
    assert qdrant_migration_point_id(text) == UUID_TEXT


@pytest.mark.parametrize(
    "text",
    [
        "42",
        "0",
        "",
        "doc-7",
        "köln ☕",
        "6f6c1f4e9-a3b-4d1c-8e7f-2a1b3c4d5e6f",
        "6f6c1f4e_9a3b_4d1c_8e7f_2a1b3c4d5e6f",
        UUID_TEXT[:-1] + "g",
        UUID_TEXT[:-1],
        UUID_TEXT + " ",
        "{" + UUID_TEXT,
        "{" + HEX + "}",
        "{{" + UUID_TEXT[:-1] + "}}",
        HEX[:-1] + "g",
        HEX[:-1],
        "urn:guid:" + UUID_TEXT,
        "urn:uuid:" + HEX,
        "urn:uuid:{" + UUID_TEXT + "}",
        # 36 characters, but more bytes: Go counts bytes.
        UUID_TEXT[:-1] + "é",
        # 38 bytes that begin or end with half a character.
        "é" + UUID_TEXT,
        UUID_TEXT + "é",
        # Digits of other scripts are no hex digits.
        "٣" * 32,
        "٣" * 16,
    ],
)
def test_migration_ids_hash_everything_else_in_the_url_namespace(text: str) -> None:
    assert qdrant_migration_point_id(text) == str(uuid5(NAMESPACE_URL, text))


def test_migration_ids_are_pinned() -> None:
    assert qdrant_migration_point_id("42") == "5c2b23de-4bad-58ee-a4b3-f22f3b9cfd7d"
    assert qdrant_migration_point_id("doc-7") == "2383dfb5-0434-5b8e-b143-efd4995bdc4b"


def _go_parse(text: str) -> str | None:
    """uuid.Parse of github.com/google/uuid, byte by byte, as its documentation describes it."""
    raw = text.encode()
    if len(raw) == 45:
        if raw[:9].lower() != b"urn:uuid:":
            return None
        raw = raw[9:]
    elif len(raw) == 38:
        raw = raw[1:37]
    elif len(raw) == 32:
        raw = b"-".join((raw[:8], raw[8:12], raw[12:16], raw[16:20], raw[20:]))
    elif len(raw) != 36:
        return None
    if any(raw[place] != ord("-") for place in (8, 13, 18, 23)):
        return None
    digits = bytes(byte for place, byte in enumerate(raw) if place not in (8, 13, 18, 23))
    if any(byte not in b"0123456789abcdefABCDEF" for byte in digits):
        return None
    return raw.decode().lower()


_replacements = st.sampled_from([*"-{}0gGfF:u é٣", "\n", "\0"])


@given(
    st.sampled_from(["{}", "{{{}}}", "urn:uuid:{}", "URN:UUID:{}", "x{}y"]),
    st.sampled_from([UUID_TEXT, UUID_TEXT.upper(), HEX]),
    st.lists(st.tuples(st.integers(0, 50), _replacements), max_size=3),
)
def test_migration_ids_agree_with_gos_rules_on_damaged_spellings(
    frame: str, body: str, damages: list[tuple[int, str]]
) -> None:
    text = frame.format(body)
    for place, replacement in damages:
        text = text[:place] + replacement + text[place + 1 :]
    expected = _go_parse(text) or str(uuid5(NAMESPACE_URL, text))
    assert qdrant_migration_point_id(text) == expected
