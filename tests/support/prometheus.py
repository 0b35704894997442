"""Metrics as text, read; and Prometheus' own tool and server, where they are installed."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

import yaml

from tests.support.ports import free_port

PROMTOOL: Final = shutil.which("promtool")
MISSING: Final = "promtool is not installed (Debian's package prometheus)"
SERVER: Final = shutil.which("prometheus")
MISSING_SERVER: Final = "the server of Prometheus is not installed (Debian's package prometheus)"
DIRECTORY: Final = Path(__file__).resolve().parents[2] / "deploy" / "prometheus"
RULES: Final = DIRECTORY / "rules.yml"
PATIENCE_SECONDS: Final = 60.0
_LINE = re.compile(r"(\w+)(\{[^}]*\})? (\S+)")


def alert_names() -> list[str]:
    """Those of the rules, without the prefix that all of them have."""
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    return [rule["alert"].removeprefix("QdrantBridge") for rule in group["rules"]]


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


# --- promtool -------------------------------------------------------------------------------------


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


# --- the server -----------------------------------------------------------------------------------


class Prometheus:
    """A server with the project's rules, which scrapes a target twice a second.

    How long a condition has to last is divided by `HASTE` (two minutes are 0.2 s); the conditions are
    the rules' own.
    """

    HASTE: Final = 600
    _INTERVAL: Final = "500ms"

    def __init__(self, directory: Path, target: str) -> None:
        self._directory = directory
        self._directory.mkdir()
        self._address = f"127.0.0.1:{free_port()}"
        (directory / "rules.yml").write_text(_hasty(self.HASTE))
        self._configure(target)
        self._process: subprocess.Popen[bytes] | None = None

    def _configure(self, *targets: str) -> None:
        """As the deployment's configuration, but for where the daemon is looked for, and how often."""
        config = yaml.safe_load((DIRECTORY / "prometheus.yml").read_text())
        (scrape,) = config["scrape_configs"]
        config["global"] = {
            "scrape_interval": self._INTERVAL,
            "scrape_timeout": self._INTERVAL,
            "evaluation_interval": self._INTERVAL,
        }
        config["rule_files"] = [str(self._directory / "rules.yml")]
        config["scrape_configs"] = [
            {"job_name": scrape["job_name"], "static_configs": [{"targets": list(targets)}]}
        ]
        (self._directory / "prometheus.yml").write_text(yaml.safe_dump(config))

    def __enter__(self) -> Self:
        assert SERVER is not None, MISSING_SERVER
        with (self._directory / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    SERVER,
                    f"--config.file={self._directory / 'prometheus.yml'}",
                    f"--storage.tsdb.path={self._directory / 'data'}",
                    f"--web.listen-address={self._address}",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(PATIENCE_SECONDS)

    def lose_target(self) -> None:
        """A configuration that has lost the daemon."""
        assert self._process is not None
        self._configure()
        self._process.send_signal(signal.SIGHUP)

    def ask(self, expression: str) -> list[float]:
        """What it evaluates to now, one value a series."""
        query = urllib.parse.urlencode({"query": expression})
        return [float(one["value"][1]) for one in self._get(f"query?{query}")["result"]]

    def firing(self) -> set[str]:
        """The alerts that fire."""
        alerts = self._get("alerts")["alerts"]
        return {
            one["labels"]["alertname"].removeprefix("QdrantBridge")
            for one in alerts
            if one["state"] == "firing"
        }

    def wait(self, condition: Callable[[Self], bool]) -> None:
        """Return once it holds. Prometheus tells nobody what it has seen, so it is asked."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                if condition(self):
                    return
            except OSError:
                pass  # it does not listen yet
            log = (self._directory / "log").read_text()
            assert time.monotonic() < deadline, log[-4000:]
            time.sleep(0.05)

    def _get(self, path: str) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://{self._address}/api/v1/{path}", timeout=10) as answer:
            found: dict[str, Any] = json.load(answer)["data"]
        return found


def _hasty(haste: int) -> str:
    """The rules, each of which fires that much sooner."""
    rules = yaml.safe_load(RULES.read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            match = re.fullmatch(r"(\d+)m", rule["for"])
            assert match is not None, rule["for"]
            rule["for"] = f"{int(match[1]) * 60_000 // haste}ms"
    return yaml.safe_dump(rules)
