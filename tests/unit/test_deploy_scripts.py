"""The image's small programs, with a stand-in for `qdrant-bridge` that says what the test wants."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from sync.http import HttpServer, Response

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
STAND_IN = """#!/bin/sh
echo "$*" >>"$SAID/calls"
case $1 in
config) cat "$SAID/config" ;;
status)
    next=$(ls "$SAID" | grep '^status' | sort | head -1)
    [ -n "$next" ] || exit 2
    cat "$SAID/$next"
    rm "$SAID/$next"
    ;;
esac
"""


class Said:
    """What the stand-in prints, and what it was asked."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        program = directory / "bin" / "qdrant-bridge"
        program.parent.mkdir()
        program.write_text(STAND_IN)
        program.chmod(0o755)
        (directory / "bin" / "python").symlink_to(sys.executable)
        self._say = directory / "said"
        self._say.mkdir()
        tables: dict[str, dict[str, str]] = {"public.a": {}, "public.b": {}}
        (self._say / "config").write_text(json.dumps({"settings": {"tables": tables}}))

    def statuses(self, reports: Sequence[Mapping[str, Any]]) -> None:
        """What `status` prints, one after the other; then it fails."""
        for number, report in enumerate(reports):
            (self._say / f"status{number}").write_text(json.dumps(report))

    def run(self, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        path = f"{self.directory / 'bin'}:/usr/bin:/bin"
        return subprocess.run(
            ["sh", str(DEPLOY / script), *arguments],
            env={"PATH": path, "SAID": str(self._say), "WAIT_SECONDS": "0.01"},
            capture_output=True,
            text=True,
            timeout=60,
        )

    @property
    def calls(self) -> list[str]:
        return (self._say / "calls").read_text().splitlines()


@pytest.fixture
def said(tmp_path: Path) -> Said:
    return Said(tmp_path)


@pytest.mark.parametrize("statuses", [[], [{"phase": "backfill"}]], ids=["nothing yet", "copying"])
def test_it_copies_what_is_not_copied(said: Said, statuses: list[dict[str, Any]]) -> None:
    said.statuses(statuses)
    done = said.run("backfill-once.sh", "b.yaml", "--shard", "/4")
    assert done.returncode == 0
    assert said.calls[-1] == "backfill pgvector --config b.yaml --prepare-sync --shard /4"


@pytest.mark.parametrize("phase", ["catching_up", "streaming", "stopped"])
def test_it_leaves_a_stream_that_has_begun_alone(said: Said, phase: str) -> None:
    said.statuses([{"phase": phase}])
    done = said.run("backfill-once.sh", "b.yaml")
    assert (done.returncode, done.stdout) == (0, f"copied before; the stream is: {phase}\n")
    assert len(said.calls) == 1


def test_it_waits_until_every_table_is_known_and_complete(said: Said) -> None:
    copying = {"phase": "backfill", "complete": False, "tables": {"public.a": {}}}
    one = {"phase": "backfill", "complete": True, "tables": {"public.a": {}}}
    both = {"phase": "backfill", "complete": True, "tables": {"public.a": {}, "public.b": {}}}
    said.statuses([copying, one, both])
    assert said.run("wait-for-copy.sh", "b.yaml").returncode == 0
    assert len(said.calls) == 4


def test_it_does_not_wait_where_the_stream_has_begun(said: Said) -> None:
    said.statuses([{"phase": "streaming", "complete": False, "tables": {"public.a": {}}}])
    assert said.run("wait-for-copy.sh", "b.yaml").returncode == 0
    assert len(said.calls) == 2


@pytest.mark.parametrize(
    ("path", "code"), [("/healthz", 0), ("/readyz", 1), ("/nothing", 1)], ids=str
)
def test_the_health_check_tells_what_is_answered(path: str, code: int) -> None:
    routes = {
        "/healthz": lambda: Response.of_json({}),
        "/readyz": lambda: Response.of_json({}, HTTPStatus.SERVICE_UNAVAILABLE),
    }
    with HttpServer(("127.0.0.1", 0), routes) as server:
        assert _health(server.address, path).returncode == code
        everywhere = f"0.0.0.0:{server.address.rpartition(':')[2]}"
        assert _health(everywhere, path).returncode == code


def test_the_health_check_fails_where_nobody_listens() -> None:
    with HttpServer(("127.0.0.1", 0), {}) as server:
        address = server.address
    done = _health(address, "/healthz")
    assert done.returncode == 1
    assert "does not answer" in done.stderr


def _health(address: str, path: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-IS", str(DEPLOY / "healthcheck.py"), path],
        env={**os.environ, "QDRANT_BRIDGE_HTTP__LISTEN": address},
        capture_output=True,
        text=True,
    )
