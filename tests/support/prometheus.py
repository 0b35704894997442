"""Metrics as text, read; and Prometheus' own tool, where it is installed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

PROMTOOL: Final = shutil.which("promtool")
MISSING: Final = "promtool is not installed (Debian's package prometheus)"
RULES: Final = Path(__file__).resolve().parents[2] / "deploy" / "prometheus" / "rules.yml"
_LINE = re.compile(r"(\w+)(\{[^}]*\})? (\S+)")


def parsed(text: str) -> dict[str, float]:
    """Every series with its labels as written; none may be there twice."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        assert match is not None, line
        series = match[1] + (match[2] or "")
        assert series not in found, f"{series} is there twice"
        found[series] = float(match[3])
    return found


def names(text: str) -> set[str]:
    """The metrics, by their TYPE lines."""
    return set(re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE))


def promtool(*arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run it; what it found is in the result."""
    assert PROMTOOL is not None, MISSING
    return subprocess.run(
        [PROMTOOL, *arguments], input=text, capture_output=True, text=True, timeout=120
    )


def firing(
    first: Mapping[str, float],
    second: Mapping[str, float],
    seconds: float,
    directory: Path,
    minutes: Sequence[int] = (60,),
) -> set[str]:
    """The alerts that fire if it goes on for `minutes` as it did between two scrapes."""
    series = [
        {"series": _labelled(name), "values": _course(first.get(name, value), value, seconds)}
        for name, value in second.items()
    ]
    series.append({"series": _labelled("up"), "values": "1x120"})
    asked = [
        {"expr": _FIRING, "eval_time": f"{minute}m", "exp_samples": _NEVER} for minute in minutes
    ]
    tests = [{"interval": "1m", "input_series": series, "promql_expr_test": asked}]
    file = directory / "asked.json"  # JSON is YAML
    content: dict[str, Any] = {"rule_files": [str(RULES)], "evaluation_interval": "1m"}
    file.write_text(json.dumps({**content, "tests": tests}))
    found = promtool("test", "rules", str(file))
    told = found.stdout + found.stderr
    assert "got:" in told, told
    return set(re.findall(r'alertname="QdrantBridge(\w+)"', told.split("got:", 1)[1]))


_FIRING = 'count by (alertname) (ALERTS{alertstate="firing"})'
# promtool only compares, and says what it found instead.
_NEVER = [{"labels": '{alertname="never"}', "value": 1}]


def _labelled(name: str) -> str:
    labels = 'job="qdrant-bridge", instance="bridge:8080"'
    bare, brace, rest = name.partition("{")
    return f"{bare}{{{labels}, {rest}" if brace else f"{bare}{{{labels}}}"


def _course(first: float, second: float, seconds: float) -> str:
    slope = (second - first) / seconds * 60
    sign = "-" if slope < 0 else "+"
    return f"{second!r}{sign}{abs(slope):.6f}x120" if slope else f"{second!r}x120"
