"""What a pipeline remembers of its stream, as it is stored."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bridge.errors import StopError
from bridge.positions import Lsn
from bridge.stream_state import StreamState, TableCounts

STATE = StreamState(
    facts={"slot": "s", "timeline": 1},
    checkpoint=Lsn(100),
    phase="streaming",
    tables={"public.docs": TableCounts(upserts=1, patches=2, deletes=3)},
    commit_time_microseconds=5,
    written=Lsn(120),
)


def test_it_is_read_as_it_was_stored() -> None:
    stopped = STATE.stopped_by(StopError("it is gone", code="SLOT_LOST", hint="resync"))
    for state in (STATE, stopped):
        assert StreamState.from_record(state.to_record()) == state
    assert stopped.phase == "stopped"


def test_a_record_of_before_says_nothing_of_what_was_written() -> None:
    record = STATE.to_record()
    del record["written"]
    assert StreamState.from_record(record).reached == STATE.checkpoint


def test_what_may_have_been_written_counts_until_the_checkpoint_has_passed_it() -> None:
    assert STATE.reached == Lsn(120)
    assert replace(STATE, checkpoint=Lsn(130)).reached == Lsn(130)


def test_a_checkpoint_does_not_go_back() -> None:
    with pytest.raises(ValueError, match="does not go back"):
        STATE.at(Lsn(99))
