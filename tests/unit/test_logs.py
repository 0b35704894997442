"""The daemon's log."""

from __future__ import annotations

import io
import json

import pytest

from cli.logs import log


class Written(io.StringIO):
    """Standard error that keeps each write apart."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[str] = []

    def write(self, text: str) -> int:
        self.writes.append(text)
        return len(text)


def test_a_line_is_one_write_so_that_no_thread_comes_in_between(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = Written()
    monkeypatch.setattr("sys.stderr", written)
    log("waiting", reason="for \N{SNOWMAN}", seconds=1.5)
    (line,) = written.writes
    assert line.endswith("\n")
    told = json.loads(line)
    assert told.pop("at").endswith("Z")
    assert told == {"event": "waiting", "reason": "for \N{SNOWMAN}", "seconds": 1.5}


def test_a_line_break_in_a_field_is_no_line_break_in_the_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = Written()
    monkeypatch.setattr("sys.stderr", written)
    log("failed", reason="first\nsecond")
    assert "".join(written.writes).count("\n") == 1
