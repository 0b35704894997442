"""Every promise names tests that exist; and what is said of the comparison's numbers is so."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from cli import verify_view
from tests.docs.markdown import ROOT, read
from tests.support.command import bridge
from verify import digests, extras, projections, recall, report, stream
from verify.ranking import THRESHOLDS, TIE
from verify.stored_vectors import UNIT_TOLERANCE

_TEST = re.compile(r"tests/\w+/(test_\w+)\.py(?:::(test_\w+))?")
GUARANTEES = read("docs/guarantees.md")


def _promises() -> Iterator[tuple[str, str]]:
    for line in GUARANTEES.text.splitlines():
        if line.startswith("| ") and not line.startswith("| promise"):
            promise, tests = line.strip("| ").rsplit(" | ", 1)
            yield promise, tests


@pytest.mark.parametrize(("promise", "tests"), list(_promises()))
def test_a_promise_names_tests_that_exist(promise: str, tests: str) -> None:
    named = re.findall(r"`([^`]+)`", tests)
    assert named, f"{promise}: no test"
    for name in named:
        match = _TEST.fullmatch(name)
        assert match is not None, f"{promise}: {name!r} is no test"
        path, _, function = name.partition("::")
        assert (ROOT / path).exists(), f"{promise}: {path} is not there"
        if function:
            assert function in _functions(path), f"{promise}: {path} has no {function}"


def _functions(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_there_are_promises_and_limits() -> None:
    assert len(list(_promises())) >= 20
    assert "## What is not promised" in GUARANTEES.text


FIGURES = [
    ("docs/verification.md", "within {} a component", f"{UNIT_TOLERANCE:.0e}".replace("e-0", "e-")),
    ("docs/verification.md", "found by {} sums of hashes", f"{2**digests.BUCKET_BITS:,}"),
    ("docs/verification.md", "more than {} rows of a table", f"{report.KEPT_KEYS:,}"),
    ("docs/verification.md", "up to {} of each kind", {10: "ten"}[report.EXAMPLES_A_KIND]),
    ("docs/verification.md", "{} of each are printed", {10: "ten"}[verify_view.LISTED]),
    ("docs/verification.md", "more than {} equals", f"{recall.MOST_EQUALS:,}"),
    (
        "docs/verification.md",
        "by the score that its row has in Postgres (to {})",
        f"{TIE:.0e}".replace("e-0", "e-"),
    ),
    ("docs/verification.md", "{} times in a row", {8: "eight"}[extras.ROUNDS]),
    ("docs/verification.md", "of {} dimensions and more", str(projections.SMALLEST)),
    ("docs/verification.md", "against {} random vectors", {2: "two"}[projections.COUNT]),
    (
        "docs/verification.md",
        "stood still for {} minutes",
        {120: "two"}[int(stream.STALLED_SECONDS)],
    ),
]


@pytest.mark.parametrize(("path", "phrase", "figure"), FIGURES)
def test_a_figure_is_the_one_in_the_code(path: str, phrase: str, figure: str) -> None:
    text = " ".join(read(path).text.split())
    assert phrase.format(figure) in text


def test_the_thresholds_are_those_of_the_code() -> None:
    cells = [row[1] for row in read("docs/verification.md").table("thresholds")]
    least = [float(number) for cell in cells for number in cell.split(",")]
    assert sorted(least) == sorted(THRESHOLDS.values())


def test_the_unit_of_every_night_uses_flags_that_there_are() -> None:
    unit = (ROOT / "deploy/systemd/qdrant-bridge-verify.service").read_text()
    timer = (ROOT / "deploy/systemd/qdrant-bridge-verify.timer").read_text()
    (command,) = re.findall(r"ExecStart=(.*)", unit.replace("\\\n", " "))
    flags = set(re.findall(r"--[a-z.-]+", command))
    assert {"--config", "--resume", "--textfile"} <= flags
    told = bridge("verify", "--help").require(0).out
    assert [flag for flag in flags if flag not in told] == []
    assert "OnCalendar=" in timer and "WantedBy=timers.target" in timer
