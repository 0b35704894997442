"""The systemd units: what they start exists, and they give away nothing that is not needed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from typer.main import get_command

from cli.main import app

DIRECTORY = Path(__file__).resolve().parents[2] / "deploy" / "systemd"
DAEMON = DIRECTORY / "qdrant-bridge.service"


def settings(path: Path) -> dict[str, list[str]]:
    """Every setting, with all of its values."""
    found: dict[str, list[str]] = {}
    text = path.read_text().replace("\\\n", " ")
    for line in text.splitlines():
        if line and line[0] not in "#;[":
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


@pytest.mark.parametrize("path", sorted(DIRECTORY.glob("*.service")), ids=lambda path: path.name)
def test_a_unit_starts_a_command_that_is_there(path: Path) -> None:
    (started,) = settings(path)["ExecStart"]
    program, command, *_ = started.split()
    assert program == "/opt/qdrant-bridge/bin/qdrant-bridge"
    assert command in get_command(app).commands  # type: ignore[attr-defined]


def test_the_daemon_is_started_again_except_where_somebody_has_to_look() -> None:
    found = settings(DAEMON)
    assert found["Restart"] == ["always"]
    assert found["RestartPreventExitStatus"] == ["1 2 3"]
    assert int(found["TimeoutStopSec"][0]) > 30


def test_the_daemon_may_do_nothing_but_speak_to_others() -> None:
    found = settings(DAEMON)
    for name in ("NoNewPrivileges", "PrivateDevices", "PrivateTmp", "ProtectHome", "PrivateUsers"):
        assert found[name] == ["yes"], name
    assert found["ProtectSystem"] == ["strict"]
    assert found["CapabilityBoundingSet"] == [""]
    assert found["RestrictAddressFamilies"] == ["AF_INET AF_INET6 AF_UNIX"]
    assert not any("Environment" in name for name in found), "secrets are credentials"
    assert {value.partition(":")[0] for value in found["LoadCredential"]} == {
        "postgres_url",
        "qdrant_api_key",
    }


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)
@pytest.mark.parametrize("path", sorted(DIRECTORY.iterdir()), ids=lambda path: path.name)
def test_systemd_takes_the_unit(path: Path, tmp_path: Path) -> None:
    copied = tmp_path / path.name
    # The program that it starts is not installed where the tests run.
    copied.write_text(path.read_text().replace("/opt/qdrant-bridge/bin/qdrant-bridge", "/bin/true"))
    for other in DIRECTORY.iterdir():
        if other != path:
            (tmp_path / other.name).write_text(
                other.read_text().replace("/opt/qdrant-bridge/bin/qdrant-bridge", "/bin/true")
            )
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copied)], capture_output=True, text=True
    )
    wrong = [line for line in done.stderr.splitlines() if str(tmp_path) in line]
    assert not wrong, done.stderr
