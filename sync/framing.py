"""The outer layer of a replication stream: what each CopyData message is. No I/O.

External specification: PostgreSQL documentation, section 54.4 "Streaming Replication Protocol"
(START_REPLICATION): from the server XLogData (`w`) and primary keepalive (`k`), to the server the
standby status update (`r`). Integers are big-endian; times are microseconds since 2000-01-01 on the
wire and since 1970-01-01 UTC here. Every length is checked; what is unknown stops.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from bridge.errors import StopError
from bridge.positions import Lsn

# 2000-01-01 as microseconds since 1970-01-01 (POSTGRES_EPOCH_JDATE, 10,957 days).
POSTGRES_EPOCH_MICROSECONDS: Final = 946_684_800_000_000

_XLOG_DATA = struct.Struct(">BQQq")
_KEEPALIVE = struct.Struct(">BQqB")
_STATUS = struct.Struct(">BQQQqB")

_W, _K, _R = b"wkr"


@dataclass(frozen=True, slots=True)
class XLogData:
    """One message of the output plugin. `start` and `end` are LSNs as plain numbers: an object for
    each would cost as much as the rest of this message."""

    start: int
    end: int
    sent_microseconds: int
    payload: bytes

    @property
    def start_lsn(self) -> Lsn:
        """Where in the log the message comes from. Not unique: rows of one COPY may share it."""
        return Lsn(self.start)


@dataclass(frozen=True, slots=True, kw_only=True)
class Keepalive:
    """The server has read its log up to `end_lsn`; everything of ours before it has been sent.

    `reply_requested`: without an answer the server ends the connection soon.
    """

    end_lsn: Lsn
    sent_microseconds: int
    reply_requested: bool


Frame = XLogData | Keepalive


def parse_frame(data: bytes | memoryview) -> Frame:
    """One CopyData message of the server. StopError `PROTOCOL` if it is neither of the two."""
    kind = data[0] if len(data) else None
    if kind == _W and len(data) >= _XLOG_DATA.size:
        _, start, end, sent = _XLOG_DATA.unpack_from(data)
        payload = bytes(data[_XLOG_DATA.size :])
        return XLogData(start, end, sent + POSTGRES_EPOCH_MICROSECONDS, payload)
    if kind == _K and len(data) == _KEEPALIVE.size:
        _, end, sent, reply = _KEEPALIVE.unpack(data)
        if reply <= 1:
            return Keepalive(
                end_lsn=Lsn(end),
                sent_microseconds=sent + POSTGRES_EPOCH_MICROSECONDS,
                reply_requested=bool(reply),
            )
    raise StopError(
        f"the replication stream holds something unknown: {_described(data)}",
        code="PROTOCOL",
        hint="is there a proxy that changes the stream, or a Postgres newer than this program?",
    )


def status_update(
    *,
    written: Lsn,
    flushed: Lsn,
    applied: Lsn,
    now_microseconds: int,
    reply_requested: bool = False,
) -> bytes:
    """Standby status update: a slot keeps no log before `flushed`, which must be durable."""
    return _STATUS.pack(
        _R,
        written.value,
        flushed.value,
        applied.value,
        now_microseconds - POSTGRES_EPOCH_MICROSECONDS,
        reply_requested,
    )


def _described(data: bytes | memoryview) -> str:
    if not len(data):
        return "an empty message"
    return f"a message of type 0x{data[0]:02x} and {len(data)} bytes"
