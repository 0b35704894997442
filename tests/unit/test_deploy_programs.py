"""`.ci/programs`, with stand-ins for what it calls: it fetches what is missing, and never fails."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).resolve().parents[2] / ".ci" / "programs"
# All that it looks for, but for helm, which only a stand-in's success brings.
FETCHED = ("helm", "kubernetes-validate", "hadolint", "checkov", "chromium", "promtool")
FETCHERS = ("go", "python3", "apt-get", "docker")


def programs(directory: Path, code: int, *present: str) -> subprocess.CompletedProcess[str]:
    """Run it where these are present, and all that it calls ends with this code."""
    stand_ins = directory / "bin"
    stand_ins.mkdir()
    for name in ("bash", "sh", "mkdir", "timeout", "nice", "ln"):
        found = next(p for p in ("/bin", "/usr/bin") if (Path(p) / name).exists())
        (stand_ins / name).symlink_to(Path(found) / name)
    for name, body in (
        *((name, f'echo "{name} $*" >>"{directory}/log"; exit {code}') for name in FETCHERS),
        *((name, "exit 0") for name in present),
    ):
        (stand_ins / name).write_text(f"#!/bin/sh\n{body}\n")
        (stand_ins / name).chmod(0o755)
    return subprocess.run(
        [str(PROGRAMS), str(directory / "made")],
        env={"PATH": str(stand_ins)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def calls(directory: Path) -> list[str]:
    return sorted(line.split()[0] for line in (directory / "log").read_text().splitlines())


@pytest.mark.parametrize("code", [0, 1])
def test_what_is_there_is_not_fetched(tmp_path: Path, code: int) -> None:
    done = programs(tmp_path, code, *FETCHED)
    assert (done.returncode, done.stderr) == (0, "")
    assert calls(tmp_path) == ["docker"]
    assert ("Docker" in done.stdout) is (code != 0)


def test_what_cannot_be_had_is_named_and_fails_nothing(tmp_path: Path) -> None:
    done = programs(tmp_path, 1)
    assert (done.returncode, done.stderr) == (0, "")
    assert calls(tmp_path) == ["apt-get", "docker", "go", "python3"]
    for name in FETCHED:
        assert name in done.stdout
    assert "no Docker engine answers" in done.stdout


def test_what_can_be_had_is_fetched_without_a_word(tmp_path: Path) -> None:
    (tmp_path / "made" / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "made" / "venv" / "bin" / "pip").symlink_to("/bin/true")
    done = programs(tmp_path, 0)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    log = (tmp_path / "log").read_text()
    assert "go install helm.sh/helm/v3" in log
    assert {path.name for path in (tmp_path / "made").iterdir()} == {
        "venv",
        "kubernetes-validate",
        "hadolint",
        "checkov",
    }
