"""Places where a test makes the program fail: `BRIDGE_FAILPOINTS=name:action@n[,...]`.

`kill` ends the process as SIGKILL would, `error` raises `Unreachable`, `delay` waits a second, each at
the n-th time (from 1) that this process comes by. Inactive unless the variable is set; then `failpoint` is a
function that does nothing.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable

from bridge.errors import Unreachable, UsageError

VARIABLE = "BRIDGE_FAILPOINTS"
_SPEC = re.compile(r"([a-z_.]+):(kill|error|delay)@([1-9][0-9]*)")
_DELAY_SECONDS = 1.0


def _kill(name: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _error(name: str) -> None:
    raise Unreachable(f"failpoint {name}")


def _delay(name: str) -> None:
    time.sleep(_DELAY_SECONDS)


_ACTIONS: dict[str, Callable[[str], None]] = {"kill": _kill, "error": _error, "delay": _delay}


def parse(text: str) -> dict[tuple[str, int], str]:
    """(name, occurrence) -> action. UsageError if it is written otherwise."""
    found: dict[tuple[str, int], str] = {}
    for part in filter(None, text.split(",")):
        match = _SPEC.fullmatch(part.strip())
        if match is None:
            raise UsageError(f"{VARIABLE}: {part!r} is not name:kill|error|delay@n")
        found[match[1], int(match[3])] = match[2]
    return found


def _make(text: str) -> Callable[[str], None]:
    if not text:
        return lambda name: None
    wanted = parse(text)
    passed: Counter[str] = Counter()

    def active(name: str) -> None:
        passed[name] += 1
        action = wanted.get((name, passed[name]))
        if action is not None:
            _ACTIONS[action](name)

    return active


failpoint = _make(os.environ.get(VARIABLE, ""))
"""Call it with the place's name; see the module."""
