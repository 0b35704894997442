"""The decoder of pgoutput: every message, from a factory and as real servers sent it.

The captured streams in tests/data/pgoutput are described in its README.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import StopError
from bridge.events import (
    UNCHANGED,
    Begin,
    Commit,
    Delete,
    Insert,
    LogicalMessage,
    Relation,
    StreamField,
    Truncate,
    TupleData,
    Update,
)
from bridge.positions import Lsn
from sync.pgoutput import Decoder, Message
from sync.pgoutput_messages import Origin, TypeName
from tests.support import pgoutput_factory as wire

CAPTURED = Path(__file__).parents[1] / "data" / "pgoutput"
LSN = 0x16B374D848

DOCS = Relation(
    oid=16400,
    schema="public",
    name="docs",
    replica_identity="d",
    columns=("id", "title", "embedding"),
    type_oids=(20, 25, 16388),
    type_modifiers=(-1, -1, 384),
    key=(True, False, False),
)
ROW = TupleData((b"12345678", None, UNCHANGED), b"bnu")
KEY = TupleData((b"12345678", None, None), b"bnn")
NEW, OLD_KEY = wire.row(ROW.values), wire.row(KEY.values)


def started(*relations: Relation) -> Decoder:
    """A decoder within a transaction, to which these relations have been announced."""
    decoder = Decoder()
    decoder.decode(wire.begin(), LSN)
    for relation in relations or (DOCS,):
        decoder.decode(wire.relation(relation), LSN)
    return decoder


# --- each message --------------------------------------------------------------------------------

MESSAGES: dict[str, tuple[bytes, Message]] = {
    "relation": (wire.relation(DOCS), DOCS),
    "insert": (wire.insert(16400, NEW), Insert(relation=DOCS, row=ROW)),
    "update": (
        wire.update(16400, NEW),
        Update(relation=DOCS, row=ROW, old=None, old_is_key=False),
    ),
    "update with key": (
        wire.update(16400, NEW, OLD_KEY, "K"),
        Update(relation=DOCS, row=ROW, old=KEY, old_is_key=True),
    ),
    "update with old row": (
        wire.update(16400, NEW, NEW, "O"),
        Update(relation=DOCS, row=ROW, old=ROW, old_is_key=False),
    ),
    "delete by key": (
        wire.delete(16400, OLD_KEY, "K"),
        Delete(relation=DOCS, old=KEY, old_is_key=True),
    ),
    "delete with old row": (
        wire.delete(16400, NEW, "O"),
        Delete(relation=DOCS, old=ROW, old_is_key=False),
    ),
    "truncate": (
        wire.truncate([16400], 3),
        Truncate(relations=(DOCS,), cascade=True, restart_identity=True),
    ),
    "message": (
        wire.message("prefix", b"\x00\xff"),
        LogicalMessage(transactional=True, lsn=Lsn(90), prefix="prefix", content=b"\x00\xff"),
    ),
    "origin": (wire.origin("elsewhere"), Origin(commit_lsn=Lsn(80), name="elsewhere")),
    "type": (
        wire.type_name(16388, "", "vector"),
        TypeName(oid=16388, schema="pg_catalog", name="vector"),
    ),
    "commit": (
        wire.commit(100, 120, 5),
        Commit(commit_lsn=Lsn(100), end_lsn=Lsn(120), commit_time_microseconds=5),
    ),
}


@pytest.mark.parametrize(("data", "expected"), MESSAGES.values(), ids=MESSAGES)
def test_each_message_is_decoded(data: bytes, expected: Message) -> None:
    assert started().decode(data, LSN) == expected


@pytest.mark.parametrize(("data", "expected"), MESSAGES.values(), ids=MESSAGES)
def test_a_message_that_ends_too_early_stops_at_every_length(
    data: bytes, expected: Message
) -> None:
    for length in range(len(data)):
        with pytest.raises(StopError) as caught:
            started().decode(data[:length], LSN)
        assert caught.value.code == "PROTOCOL"
        assert "16/B374D848" in caught.value.message == caught.value.message


@pytest.mark.parametrize(("data", "expected"), MESSAGES.values(), ids=MESSAGES)
def test_bytes_behind_a_message_stop(data: bytes, expected: Message) -> None:
    with pytest.raises(StopError) as caught:
        started().decode(data + b"\0", LSN)
    assert caught.value.code == "PROTOCOL"


def test_a_transaction_has_its_xid_and_times_since_1970() -> None:
    decoder = Decoder()
    begun = decoder.decode(wire.begin(2**32 - 1, 100, 1_700_000_000_000_001), LSN)
    assert begun == Begin(
        xid=2**32 - 1, final_lsn=Lsn(100), commit_time_microseconds=1_700_000_000_000_001
    )
    assert decoder.in_transaction
    decoder.decode(wire.commit(100), LSN)
    assert not decoder.in_transaction


def test_a_begin_that_ends_too_early_stops() -> None:
    for length in range(len(wire.begin())):
        with pytest.raises(StopError):
            Decoder().decode(wire.begin()[:length], LSN)


def test_a_message_outside_of_a_transaction_is_one_of_its_own() -> None:
    told = Decoder().decode(wire.message("p", b"c", flags=0), LSN)
    assert told == LogicalMessage(transactional=False, lsn=Lsn(90), prefix="p", content=b"c")


def test_a_relation_that_is_announced_again_replaces_the_first() -> None:
    renamed = Relation(
        oid=16400,
        schema="pg_catalog",
        name='we"ird ü',
        replica_identity="f",
        columns=("id",),
        type_oids=(20,),
        type_modifiers=(-1,),
        key=(True,),
    )
    decoder = started(DOCS, renamed)
    assert decoder.relations == {16400: renamed}
    event = decoder.decode(wire.insert(16400, wire.row([b"x"], "t")), LSN)
    assert event == Insert(relation=renamed, row=TupleData((b"x",), b"t"))
    assert renamed.label == 'pg_catalog."we""ird ü"'


def test_truncate_names_all_its_tables_in_their_order() -> None:
    other = Relation(
        oid=16500,
        schema="public",
        name="more",
        replica_identity="n",
        columns=(),
        type_oids=(),
        type_modifiers=(),
        key=(),
    )
    event = started(DOCS, other).decode(wire.truncate([16500, 16400]), LSN)
    assert event == Truncate(relations=(other, DOCS))


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("S", "Stream Start, though streaming is off"),
        ("E", "Stream Stop"),
        ("c", "Stream Commit"),
        ("A", "Stream Abort"),
        ("b", "Begin Prepare, though two_phase is off"),
        ("P", "Prepare"),
        ("K", "Commit Prepared"),
        ("r", "Rollback Prepared"),
        ("p", "Stream Prepare"),
        ("z", "message type 0x7a"),
        ("\0", "message type 0x00"),
    ],
)
def test_messages_that_were_not_asked_for_stop_by_name(kind: str, told: str) -> None:
    with pytest.raises(StopError, match=told) as caught:
        started().decode(kind.encode() + bytes(40), LSN)
    assert caught.value.code == "PROTOCOL"
    assert caught.value.position == "16/B374D848"
    assert caught.value.hint


LONG = b"I" + wire.number(16400, 4) + b"N" + wire.number(3, 2) + b"b"


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "too short"),
        (wire.insert(4711, NEW), "OID 4711 was not announced"),
        (wire.truncate([4711]), "OID 4711 was not announced"),
        (wire.truncate([16400], 4), "options 0x04"),
        (b"T" + wire.number(2**31, 4) + b"\0", "bytes where its contents end"),
        (wire.insert(16400, wire.row([b"1"])), "a row of 1 columns for a table of 3"),
        (wire.insert(16400, b"\x00\x03bnx"), "too short"),
        (wire.insert(16400, b"\x00\x03nnx"), "a column of kind 0x78"),
        (LONG + wire.number(-1, 4) + b"nn", "too short"),
        (LONG + wire.number(2**31 - 1, 4) + b"nn", "too short"),
        (wire.update(16400, NEW, NEW, "X"), "0x58 where an old row is due"),
        (wire.delete(16400, NEW, "N"), "0x4e where an old row is due"),
        (b"I" + wire.number(16400, 4) + b"O" + NEW, "0x4f where a new row is due"),
        (wire.begin(), "a transaction inside of another"),
        (wire.commit(flags=1), "flags 0x01"),
        (wire.commit(101), "the commit of 0/65 where that of 0/64 is due"),
        (wire.message("p", b"c", flags=2), "flags 0x02"),
        (b"M\1" + bytes(8) + b"p\0" + wire.number(-1, 4), "bytes where its contents end"),
        (b"O" + bytes(8) + b"no end", "a text without its end"),
        (b"O" + bytes(8) + b"\xff\0", "not valid UTF-8"),
        (b"R" + bytes(4) + b"s\0t\0q\0\0", "an unknown replica identity"),
    ],
)
def test_malformed_messages_stop_and_say_what_was_found(data: bytes, told: str) -> None:
    with pytest.raises(StopError, match=told) as caught:
        started().decode(data, LSN)
    assert caught.value.code == "PROTOCOL"


@pytest.mark.parametrize(
    "data",
    [
        wire.commit(),
        wire.relation(DOCS),
        wire.insert(16400, NEW),
        wire.truncate([16400]),
        wire.origin("o"),
        wire.message("p", b"c", flags=1),
    ],
)
def test_what_belongs_into_a_transaction_is_refused_outside(data: bytes) -> None:
    decoder = started()
    decoder.decode(wire.commit(), LSN)
    with pytest.raises(StopError, match="outside of a transaction"):
        decoder.decode(data, LSN)


def test_no_error_shows_a_value() -> None:
    secret = wire.row([b"canary", b"canary", b"canary"])
    for data in (wire.insert(16400, secret)[:-1], wire.insert(16400, secret) + b"canary"):
        with pytest.raises(StopError) as caught:
            started().decode(data, LSN)
        assert "canary" not in f"{caught.value.message} {caught.value.__cause__}"


# --- properties ----------------------------------------------------------------------------------

names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
fields: st.SearchStrategy[StreamField] = st.one_of(
    st.none(), st.just(UNCHANGED), st.binary(max_size=300)
)


@st.composite
def rows_of_a_relation(draw: st.DrawFn) -> tuple[Relation, list[TupleData]]:
    """A relation and two rows that fit it."""
    width = draw(st.integers(0, 8))
    sized: Callable[[Any], Any] = lambda of: st.lists(of, min_size=width, max_size=width)  # noqa: E731
    relation = Relation(
        oid=draw(st.integers(0, 2**32 - 1)),
        schema=draw(names.filter(bool)),
        name=draw(names),
        replica_identity=draw(st.sampled_from(["d", "n", "f", "i"])),
        columns=tuple(draw(sized(names))),
        type_oids=tuple(draw(sized(st.integers(0, 2**32 - 1)))),
        type_modifiers=tuple(draw(sized(st.integers(-(2**31), 2**31 - 1)))),
        key=tuple(draw(sized(st.booleans()))),
    )
    rows = []
    for _ in range(2):
        values = tuple(draw(sized(fields)))
        kinds = "".join(
            "n" if value is None else "u" if value is UNCHANGED else draw(st.sampled_from("tb"))
            for value in values
        )
        rows.append(TupleData(values, kinds.encode()))
    return relation, rows


@given(rows_of_a_relation())
def test_whatever_is_written_is_read(given_rows: tuple[Relation, list[TupleData]]) -> None:
    relation, (new, old) = given_rows
    decoder = Decoder()
    decoder.decode(wire.begin(), LSN)
    assert decoder.decode(wire.relation(relation), LSN) == relation
    after = wire.row(new.values, new.kinds.decode())
    before = wire.row(old.values, old.kinds.decode())
    oid = relation.oid
    assert decoder.decode(wire.insert(oid, after), LSN) == Insert(relation=relation, row=new)
    for kind in "KO":
        assert decoder.decode(wire.update(oid, after, before, kind), LSN) == Update(
            relation=relation, row=new, old=old, old_is_key=kind == "K"
        )
        assert decoder.decode(wire.delete(oid, before, kind), LSN) == Delete(
            relation=relation, old=old, old_is_key=kind == "K"
        )


@given(st.binary(max_size=120))
def test_noise_stops_or_is_a_message_but_never_another_error(noise: bytes) -> None:
    for head in "BCORYIUDTM":
        for prefix in (b"", wire.number(16400, 4), wire.number(16400, 4) + b"N\0\3"):
            try:
                started().decode(head.encode() + prefix + noise, LSN)
            except StopError as error:
                assert error.code == "PROTOCOL"


# --- as servers sent it --------------------------------------------------------------------------


def captured(name: str) -> Iterator[tuple[int, bytes]]:
    """LSN and payload of each message of a captured stream."""
    for line in (CAPTURED / name).read_text().splitlines():
        message = json.loads(line)
        yield Lsn.parse(message["lsn"]).value, bytes.fromhex(message["payload"])


def told(row: TupleData | None, relation: Relation) -> str:
    """A row in words: integers and texts as they are, vectors by their length."""
    if row is None:
        return "-"
    words = []
    for value, kind, oid in zip(row.values, row.kinds.decode(), relation.type_oids, strict=True):
        if value is None or value is UNCHANGED:
            words.append(kind)
        elif oid == 23:
            words.append(str(struct.unpack(">i", value)[0]) if kind == "b" else value.decode())
        elif oid == 25:
            words.append(repr(value.decode()))
        else:
            count = struct.unpack(">H", value[:2])[0] if kind == "b" else value.count(b",") + 1
            words.append(f"vector({count})")
    return " ".join(words)


def summary(event: Message) -> str | None:
    """A message in words that are the same for both versions and both formats."""
    match event:
        case Insert(relation=relation, row=row):
            return f"insert {relation.label}: {told(row, relation)}"
        case Update(relation=relation, row=row, old=old, old_is_key=is_key):
            kind = "" if old is None else " key" if is_key else " old"
            return f"update {relation.label}: {told(old, relation)}{kind} -> {told(row, relation)}"
        case Delete(relation=relation, old=old, old_is_key=is_key):
            kind = "key" if is_key else "old"
            return f"delete {relation.label}: {told(old, relation)} {kind}"
        case Truncate(relations=relations, cascade=cascade, restart_identity=restart):
            listed = " ".join(sorted(relation.label for relation in relations))
            return f"truncate {listed}{' cascade' * cascade}{' restart' * restart}"
        case Relation():
            key = " ".join(name for name, key in zip(event.columns, event.key, strict=True) if key)
            columns = " ".join(event.columns)
            return f"relation {event.label} {event.replica_identity} ({columns}) key ({key})"
        case LogicalMessage(transactional=transactional, prefix=prefix, content=content):
            return f"message {transactional} {prefix} {content.decode()}"
        case TypeName(schema=schema, name=name):
            return f"type {schema}.{name}"
        case Begin():
            return "begin"
        case Commit():
            return "commit"
        case Origin(name=name):
            return f"origin {name}"


@pytest.mark.parametrize("version", ["16", "18"])
@pytest.mark.parametrize("form", ["binary", "text"])
@pytest.mark.parametrize("protocol", [1, 2, 4])
def test_a_captured_stream_tells_what_was_done(version: str, form: str, protocol: int) -> None:
    decoder = Decoder()
    name = f"pg{version}-{form}-v{protocol}.jsonl"
    events = [decoder.decode(payload, lsn) for lsn, payload in captured(name)]
    expected = (CAPTURED / "expected.txt").read_text().splitlines()
    assert [summary(event) for event in events] == expected
    kinds = {
        kind
        for event in events
        if isinstance(event, Insert | Update)
        for kind in event.row.kinds.decode()
    }
    assert kinds == {"b" if form == "binary" else "t", "n", "u"}


@pytest.mark.parametrize("version", ["16", "18"])
def test_a_captured_message_cut_anywhere_stops(version: str) -> None:
    decoder = Decoder()
    for lsn, payload in captured(f"pg{version}-binary-v1.jsonl"):
        step = 1 if len(payload) < 200 else 97
        for length in range(0, len(payload), step):
            with pytest.raises(StopError):
                decoder.decode(payload[:length], lsn)
        decoder.decode(payload, lsn)


def test_a_captured_relation_has_the_dimension_of_its_vector() -> None:
    decoder = Decoder()
    relations = [
        event
        for lsn, payload in captured("pg18-binary-v1.jsonl")
        if isinstance(event := decoder.decode(payload, lsn), Relation)
    ]
    first = relations[0]
    assert first.type_modifiers[first.columns.index("embedding")] == 600
