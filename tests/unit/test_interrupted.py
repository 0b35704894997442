"""What is said of a command that was interrupted."""

from __future__ import annotations

import pytest

from cli.help import _interrupted


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("backfill pgvector --config f", "the same command goes on from there"),
        ("backfill pgvector --migration.restart", "without --migration.restart it is gone on from"),
        ("run --config f", "the same command goes on from there"),
    ],
)
def test_how_it_is_gone_on_with(arguments: str, said: str) -> None:
    assert said in _interrupted(arguments.split())


def test_what_leaves_nothing_behind_is_only_interrupted() -> None:
    assert _interrupted(["status", "--watch"]) == "interrupted"
