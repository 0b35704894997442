"""Positions: parsed, printed, compared; anything malformed raises."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.positions import KafkaPosition, Lsn, PostgresPosition

lsns = st.integers(0, 2**64 - 1).map(Lsn)
timelines = st.integers(1, 2**31)


# --- LSN ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0/0", 0),
        ("16/B374D848", 0x16_B374D848),
        ("16/b374d848", 0x16_B374D848),
        ("00000001/00000000", 2**32),
        ("FFFFFFFF/FFFFFFFF", 2**64 - 1),
    ],
)
def test_an_lsn_is_two_hexadecimal_halves(text: str, value: int) -> None:
    assert Lsn.parse(text) == Lsn(value)


def test_an_lsn_prints_as_postgres_prints_it() -> None:
    assert str(Lsn(0x16_B374D848)) == "16/B374D848"
    assert str(Lsn(2**32)) == "1/0"
    assert str(Lsn(0)) == "0/0"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "0/",
        "/0",
        "0/0/0",
        "0/0 ",
        " 0/0",
        "0/0\n",
        "0x1/0",
        "-1/0",
        "+1/0",
        "1_0/0",
        "G/0",
        "123456789/0",
        "0/123456789",
        "٣/0",
    ],
)
def test_malformed_lsns_raise(text: str) -> None:
    with pytest.raises(ValueError, match="not an LSN"):
        Lsn.parse(text)


@pytest.mark.parametrize("value", [-1, 2**64])
def test_an_lsn_is_an_unsigned_64_bit_number(value: int) -> None:
    with pytest.raises(ValueError, match="unsigned 64-bit"):
        Lsn(value)


@given(lsns)
def test_lsns_survive_printing(lsn: Lsn) -> None:
    assert Lsn.parse(str(lsn)) == lsn


@given(lsns, lsns)
def test_lsns_are_ordered_by_their_number_not_their_text(one: Lsn, other: Lsn) -> None:
    assert (one < other) == (one.value < other.value)
    assert (one - other) == -(other - one) == one.value - other.value


def test_lsns_do_not_compare_as_text() -> None:
    assert Lsn.parse("9/0") < Lsn.parse("A/0") < Lsn.parse("10/0")


# --- Postgres position ----------------------------------------------------------------------------


def _position(system_id: str = "73", timeline: int = 1, lsn: int = 16) -> PostgresPosition:
    return PostgresPosition(system_id=system_id, timeline=timeline, lsn=Lsn(lsn))


def test_a_postgres_position_prints_its_parts() -> None:
    position = _position("7301234567890123456", 2, 0x16_B374D848)
    assert str(position) == "7301234567890123456:2@16/B374D848"


@given(st.integers(0, 2**64 - 1).map(str), timelines, lsns)
def test_postgres_positions_survive_printing(system_id: str, timeline: int, lsn: Lsn) -> None:
    position = PostgresPosition(system_id=system_id, timeline=timeline, lsn=lsn)
    assert PostgresPosition.parse(str(position)) == position


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0/10",
        "73@0/10",
        "73:1",
        "73:1@",
        "73:1@0/10@0/10",
        "73:1:2@0/10",
        ":1@0/10",
        "73:@0/10",
        "73:one@0/10",
        "73:-1@0/10",
        "73:+1@0/10",
        "73: 1@0/10",
        "73:1_0@0/10",
        "73:1@0/1G",
        "73:1@0/10\n",
        "x:1@0/10",
    ],
)
def test_malformed_postgres_positions_raise(text: str) -> None:
    with pytest.raises(ValueError, match="not a Postgres position"):
        PostgresPosition.parse(text)


def test_a_position_passes_those_before_it_and_itself() -> None:
    assert _position(lsn=17).passed(_position(lsn=16))
    assert _position(lsn=16).passed(_position(lsn=16))
    assert not _position(lsn=15).passed(_position(lsn=16))


@pytest.mark.parametrize("other", [_position(system_id="74"), _position(timeline=2)])
def test_positions_of_different_histories_have_no_order(other: PostgresPosition) -> None:
    with pytest.raises(ValueError, match="no order"):
        _position().passed(other)


# --- Kafka position -------------------------------------------------------------------------------


def _offset(topic: str = "shop.public.products", partition: int = 0, at: int = 5) -> KafkaPosition:
    return KafkaPosition(topic=topic, partition=partition, offset=at)


def test_a_kafka_position_prints_its_parts() -> None:
    assert str(_offset(partition=12, at=345)) == "shop.public.products[12]@345"


@given(st.text("abcXYZ019._-", min_size=1), st.integers(0, 2**31 - 1), st.integers(0, 2**63 - 1))
def test_kafka_positions_survive_printing(topic: str, partition: int, at: int) -> None:
    position = KafkaPosition(topic=topic, partition=partition, offset=at)
    assert KafkaPosition.parse(str(position)) == position


@pytest.mark.parametrize(
    "text",
    ["", "t", "t[0]", "t@1", "[0]@1", "t[]@1", "t[0]@", "t[-1]@1", "t[0]@-1", "t[0]@1 ", "a b[0]@1",
     "t[0][1]@1", "t[0]@1\n", "t[٣]@1", "t[0]@٣"],
)  # fmt: skip
def test_malformed_kafka_positions_raise(text: str) -> None:
    with pytest.raises(ValueError, match="not a Kafka position"):
        KafkaPosition.parse(text)


def test_an_offset_passes_those_before_it_and_itself() -> None:
    assert _offset(at=6).passed(_offset(at=5))
    assert _offset(at=5).passed(_offset(at=5))
    assert not _offset(at=4).passed(_offset(at=5))


@pytest.mark.parametrize("other", [_offset(partition=1), _offset(topic="other")])
def test_offsets_of_different_partitions_have_no_order(other: KafkaPosition) -> None:
    with pytest.raises(ValueError, match="no order"):
        _offset().passed(other)
