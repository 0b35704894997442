"""The map of faults names tests that are there, and every test of a stream's faults is in it."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
_NAMED: Final = re.compile(r"`([\w./]+\.py)::(\w+)`")


def named() -> set[tuple[Path, str]]:
    """(file, function) of every test in the map."""
    text = (HERE / "README.md").read_text()
    return {((HERE / path).resolve(), name) for path, name in _NAMED.findall(text)}


def found_in(path: Path) -> set[str]:
    """The test functions of a file."""
    body = ast.parse(path.read_text()).body
    return {
        node.name
        for node in body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def test_every_test_that_is_named_is_there() -> None:
    assert len(named()) > 40
    missing = [f"{path.name}::{name}" for path, name in named() if name not in found_in(path)]
    assert missing == []


def test_every_row_names_a_test() -> None:
    rows = [line for line in (HERE / "README.md").read_text().splitlines() if line.startswith("|")]
    assert [row for row in rows[2:] if not _NAMED.search(row)] == []
