"""What a check found: one value, whoever checks and whoever prints.

`doctor` shows all of them; a run refuses to start while one of them blocks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Level = Literal["blocker", "warning", "ok"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The outcome of one check.

    `check` is a stable word for scripts (`table.privilege`), `message` says what is so, `remedy`
    what mends it (a statement to run where there is one; empty when nothing needs mending).
    Neither carries a row's values or a secret. `code`: what a run that meets it ends with, if that has
    a code of its own.
    """

    level: Level
    check: str
    message: str
    remedy: str = ""
    code: str = ""


def as_reported(finding: Finding) -> dict[str, str]:
    """As in `--json`, whose fields stay as they are."""
    return {
        "level": finding.level,
        "check": finding.check,
        "message": finding.message,
        "remedy": finding.remedy,
    }


def blockers(findings: Iterable[Finding]) -> list[Finding]:
    """Those that forbid a run."""
    return [finding for finding in findings if finding.level == "blocker"]
