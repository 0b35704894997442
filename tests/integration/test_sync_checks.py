"""The checks of a stream, made while it goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bridge.config import load
from bridge.errors import StopError
from bridge.positions import Lsn
from bridge.postgres.connection import connect
from bridge.status import read_stream
from bridge.stream_state import StreamState
from cli.places import open_target, state_of
from sync.checks import SourceChecks
from tests.support.databases import Database
from tests.support.followed import Followed
from tests.support.places import ServerPlace


@contextmanager
def checks_of(docs: Followed) -> Iterator[tuple[SourceChecks, StreamState]]:
    """What a daemon would look with, and the state that it would look at."""
    settings = load(Path(docs.pipeline.config), {}, {}).settings
    with open_target(settings) as opened:
        stream = read_stream(state_of(opened, settings))
        assert stream is not None
        checks = SourceChecks(connect(docs.database.url), settings.tables, opened.target)
        try:
            yield checks, stream
        finally:
            checks.close()


def advance(docs: Followed) -> Lsn:
    """The slot stands at the end of the log, as after an acknowledgement."""
    docs.sql("SELECT pg_logical_emit_message(true, 'something', 'else')")
    ((lsn,),) = docs.database.execute(
        "SELECT end_lsn::text FROM pg_replication_slot_advance(%s, pg_current_wal_lsn())",
        (docs.pipeline.slot,),
    )
    return Lsn.parse(lsn)


def test_a_checkpoint_that_moves_while_it_is_looked_at_is_no_gap(
    database: Database, place: ServerPlace, tmp_path: Path
) -> None:
    docs = Followed(database, place, tmp_path)
    docs.prepare()
    with checks_of(docs) as (checks, stream):
        states = [stream]

        def now() -> StreamState:
            """The state; right after it was asked for, the stream goes on and acknowledges."""
            found = states[-1]
            states.append(found.at(advance(docs)))
            return found

        checks.require_sound(now)
        assert len(states) == 3  # asked before the slot was looked at, and after


def test_a_slot_beyond_the_checkpoint_of_a_later_moment_is_a_gap(
    database: Database, place: ServerPlace, tmp_path: Path
) -> None:
    docs = Followed(database, place, tmp_path)
    docs.prepare()
    with checks_of(docs) as (checks, stream):
        checks.require_sound(lambda: stream)
        advance(docs)
        with pytest.raises(StopError) as caught:
            checks.require_sound(lambda: stream)
        assert caught.value.code == "GAP"
