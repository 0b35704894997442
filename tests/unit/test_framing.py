"""Frames of the replication stream: what is read is what was sent, and nothing else passes."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import StopError
from bridge.positions import Lsn
from sync.framing import Keepalive, XLogData, parse_frame, status_update
from tests.support import pgoutput_factory as wire

lsns = st.integers(0, 2**64 - 1)
times = st.integers(wire.EPOCH_MICROSECONDS - 2**62, wire.EPOCH_MICROSECONDS + 2**62)


@given(payload=st.binary(max_size=50), start=lsns, end=lsns, time=times)
def test_xlog_data_comes_back(payload: bytes, start: int, end: int, time: int) -> None:
    data = wire.xlog_data(payload, start, end, time)
    frame = parse_frame(memoryview(data))
    assert frame == XLogData(start, end, time, payload)
    assert isinstance(frame, XLogData) and frame.start_lsn == Lsn(start)
    assert type(frame.payload) is bytes


@given(end=lsns, time=times, reply=st.booleans())
def test_keepalives_come_back(end: int, time: int, reply: bool) -> None:
    assert parse_frame(wire.keepalive(end, time, int(reply))) == Keepalive(
        end_lsn=Lsn(end), sent_microseconds=time, reply_requested=reply
    )


@pytest.mark.parametrize("frame", [wire.xlog_data(b""), wire.keepalive()], ids=["w", "k"])
def test_a_frame_that_ends_too_early_stops(frame: bytes) -> None:
    for length in range(len(frame)):
        with pytest.raises(StopError) as caught:
            parse_frame(frame[:length])
        assert caught.value.code == "PROTOCOL"


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "an empty message"),
        (b"x" + bytes(30), "0x78 and 31 bytes"),
        (wire.keepalive() + b"\0", "0x6b and 19 bytes"),
        (wire.keepalive(reply=2), "0x6b and 18 bytes"),
        (b"r" + bytes(33), "0x72"),
    ],
)
def test_unknown_frames_stop_and_say_what_was_found(data: bytes, told: str) -> None:
    with pytest.raises(StopError, match=told) as caught:
        parse_frame(data)
    assert caught.value.code == "PROTOCOL" and caught.value.hint


@given(written=lsns, flushed=lsns, applied=lsns, time=times, reply=st.booleans())
def test_a_status_update_has_the_fields_in_the_servers_order(
    written: int, flushed: int, applied: int, time: int, reply: bool
) -> None:
    data = status_update(
        written=Lsn(written),
        flushed=Lsn(flushed),
        applied=Lsn(applied),
        now_microseconds=time,
        reply_requested=reply,
    )
    since_2000 = time - wire.EPOCH_MICROSECONDS
    assert data[:1] == b"r"
    assert struct.unpack(">QQQq?", data[1:]) == (written, flushed, applied, since_2000, reply)
