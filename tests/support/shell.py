"""A user's shell: the command in a known environment, and how much of a screen its errors take."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Final

import pytest

from tests.support.command import Outcome, bridge

COLUMNS: Final = 100
LINES: Final = 24

# What the shell that started the tests may hold, and no test may depend on.
_FOREIGN: Final = ("QDRANT_BRIDGE_", "PG", "JOB_COMPLETION_INDEX", "BRIDGE_FAILPOINTS")


def command(*arguments: str, environ: Mapping[str, str] | None = None) -> Outcome:
    """Run `qdrant-bridge ARGUMENTS` in this process, with these variables and no other of ours."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(_FOREIGN)]:
            patch.delenv(name)
        for name, value in {"COLUMNS": str(COLUMNS), **(environ or {})}.items():
            patch.setenv(name, value)
        return bridge(*arguments)


def screen_lines(text: str) -> int:
    """The lines that a text takes on a terminal of `COLUMNS` columns."""
    return sum(max(1, math.ceil(len(line) / COLUMNS)) for line in text.splitlines())
