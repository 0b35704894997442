"""A minute of everything at once; hours of it by hand: `python -m tests.faults.soak`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.soak import soak


@pytest.mark.parametrize(
    ("seconds", "seed"),
    [(50, 20_241_124), pytest.param(900, 20_241_125, marks=pytest.mark.long)],
)
def test_everything_at_once(tmp_path: Path, seconds: float, seed: int) -> None:
    report = soak(seconds, seed, tmp_path)
    print(report)
    assert report.problems == []
    assert report.looks > 10, "nobody looked"
    assert report.streamed > 0, "it never streamed"
    assert report.done and report.statements, "nothing was done"
