"""Failpoints: they fire at the occurrence asked for, in the process asked for, and never otherwise."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from bridge import failpoints
from bridge.errors import Unreachable, UsageError

# Comes by `a` three times and `b` once, telling of each place that it has passed.
PROGRAM = """
from bridge.errors import Unreachable
from bridge.failpoints import failpoint
for name in ("a", "b", "a", "a"):
    try:
        failpoint(name)
    except Unreachable as error:
        print("error:", error, flush=True)
    print(name, flush=True)
"""


def run(setting: str | None, program: str = PROGRAM) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != failpoints.VARIABLE}
    if setting is not None:
        environment[failpoints.VARIABLE] = setting
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    return subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("setting", [None, "", "other:kill@1", "a:kill@4,b:kill@2"])
def test_a_failpoint_that_is_not_due_does_nothing(setting: str | None) -> None:
    done = run(setting)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["a", "b", "a", "a"], "")


@pytest.mark.parametrize(("occurrence", "passed"), [(1, []), (2, ["a", "b"]), (3, ["a", "b", "a"])])
def test_kill_ends_the_process_at_that_occurrence(occurrence: int, passed: list[str]) -> None:
    done = run(f"a:kill@{occurrence}")
    assert done.returncode == -signal.SIGKILL
    assert done.stdout.split() == passed


def test_error_raises_once_and_the_program_may_go_on() -> None:
    done = run("a:error@2")
    assert done.returncode == 0
    assert done.stdout.splitlines() == ["a", "b", "error: failpoint a", "a", "a"]


def test_several_failpoints_in_one_setting() -> None:
    done = run(" a:error@1 , b:error@1,a:kill@3")
    assert done.returncode == -signal.SIGKILL
    assert done.stdout.splitlines() == [
        "error: failpoint a",
        "a",
        "error: failpoint b",
        "b",
        "a",
    ]


def test_delay_waits_a_second() -> None:
    measured = "import time; start = time.monotonic()\n" + PROGRAM
    done = run("b:delay@1", measured + "print(time.monotonic() - start >= 1.0)")
    assert done.stdout.split() == ["a", "b", "a", "a", "True"]


def test_a_program_with_a_malformed_setting_does_not_start() -> None:
    done = run("a:explode@1")
    assert done.returncode != 0
    assert done.stdout == ""
    assert "UsageError" in done.stderr


@pytest.mark.parametrize(
    "text",
    ["a", "a:kill", "a:kill@", "a:kill@x", "a:kill@-1", "a:explode@1", ":kill@1", "a:kill@1;b:kill@1",
     "a:kill@0", "a:kill@00", "a b:kill@1", "a:kill@٣"],
)  # fmt: skip
def test_a_setting_that_could_never_fire_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=failpoints.VARIABLE):
        failpoints.parse(text)


def test_a_setting_is_read_by_name_and_occurrence() -> None:
    assert failpoints.parse("backfill.after_checkpoint:kill@12,a:error@1,") == {
        ("backfill.after_checkpoint", 12): "kill",
        ("a", 1): "error",
    }
    assert failpoints.parse("") == {}


def test_a_failpoint_error_is_one_that_passes_by_itself() -> None:
    point = failpoints._make("x:error@1")
    with pytest.raises(Unreachable):
        point("x")
    point("x")
