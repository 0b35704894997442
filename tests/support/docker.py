"""Docker for tests: whether an engine answers, which images are at hand, a project of the compose file.

Images are taken as they are here, or pulled where a registry can be reached. Nothing of another
project is looked at or touched: everything has this test's own names.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Final

from tests.support.ports import free_port

ROOT: Final = Path(__file__).resolve().parents[2]
PYTHON_IMAGES: Final = ("python:3.13-slim-trixie", "python:3.13-slim")
POSTGRES_IMAGES: Final = ("pgvector/pgvector:0.8.1-pg17", "pgvector/pgvector:pg17")
QDRANT_IMAGE: Final = "qdrant/qdrant:v1.18.3"
PROMETHEUS_IMAGES: Final = ("prom/prometheus:v3.5.0", "prom/prometheus:v2.53.3")
GRAFANA_IMAGE: Final = "grafana/grafana:12.0.0"
KAFKA_IMAGE: Final = "apache/kafka:4.3.1"
CONNECT_IMAGE: Final = "quay.io/debezium/connect:3.7.0.Final"
IMAGE_UNDER_TEST: Final = "qdrant-bridge:under-test"
STAND_IN: Final = "qdrant-bridge-stand-in:under-test"
_PULL_SECONDS: Final = 300.0
_LINE_SECONDS: Final = 120.0


def docker(
    *arguments: str, timeout_seconds: float = 300.0, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run it; the result, whatever its exit code."""
    return subprocess.run(
        ["docker", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_seconds,
        env={**os.environ, **(environment or {})},
        cwd=ROOT,
    )


def ran(*arguments: str, timeout_seconds: float = 300.0) -> str:
    """What it printed; AssertionError if it failed."""
    done = docker(*arguments, timeout_seconds=timeout_seconds)
    assert done.returncode == 0, f"docker {' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
    return done.stdout.strip()


@cache
def missing_engine() -> str:
    """Why no container can be run here; empty if one can."""
    if shutil.which("docker") is None:
        return "docker is not installed"
    if docker("info").returncode != 0:
        return "no Docker engine answers"
    if docker("compose", "version").returncode != 0:
        return "docker compose is not installed"
    return ""


@cache
def image(*names: str) -> str | None:
    """The first of these images that is here or can be pulled."""
    for name in names:
        if docker("image", "inspect", name).returncode == 0:
            return name
    return next(filter(_pulled, names), None)


def _pulled(name: str) -> bool:
    try:
        return docker("pull", "-q", name, timeout_seconds=_PULL_SECONDS).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def build_bridge() -> str | None:
    """The image, built from what is in the working tree; None if its base cannot be had."""
    base = image(*PYTHON_IMAGES)
    if base is None:
        return None
    arguments = ("--build-arg", f"PYTHON_IMAGE={base}", "--build-arg", "REVISION=abc123")
    ran("build", "-q", "-f", "deploy/Dockerfile", "-t", IMAGE_UNDER_TEST, *arguments, ".",
        timeout_seconds=540)  # fmt: skip
    return IMAGE_UNDER_TEST


def qdrant_or_stand_in(bridge_image: str) -> str:
    """Qdrant's image, else the test server in one."""
    found = image(QDRANT_IMAGE)
    if found is not None:
        return found
    file, argument = "tests/support/stand_in/Dockerfile", f"BRIDGE_IMAGE={bridge_image}"
    ran("build", "-q", "-f", file, "-t", STAND_IN, "--build-arg", argument, ".")
    return STAND_IN


class Compose:
    """The repository's compose file as a project of this test's own, on free ports."""

    def __init__(self, name: str, profile: str, images: Mapping[str, str]) -> None:
        self.ports = {
            variable: str(free_port())
            for variable in (
                "BRIDGE_PORT",
                "BRIDGE_DEBEZIUM_PORT",
                "POSTGRES_PORT",
                "QDRANT_PORT",
                "QDRANT_GRPC_PORT",
                "PROMETHEUS_PORT",
                "GRAFANA_PORT",
            )
        }
        self._environment = {**self.ports, **images}
        self._prefix = ("compose", "--project-name", name, "--profile", profile)

    def __call__(self, *arguments: str, timeout_seconds: float = 300.0) -> str:
        """Run a subcommand; what it printed on standard output."""
        done = docker(
            *self._prefix,
            *arguments,
            timeout_seconds=timeout_seconds,
            environment=self._environment,
        )
        assert done.returncode == 0, f"{' '.join(arguments)}\n{done.stdout}\n{done.stderr}\n" + (
            self.logs() if arguments[0] == "up" else ""
        )
        return done.stdout

    def logs(self) -> str:
        """The last lines of every container."""
        done = docker(
            *self._prefix, "logs", "--no-color", "--tail", "20", environment=self._environment
        )
        return done.stdout

    def wait_line(self, service: str, text: str, began: datetime) -> None:
        """Return once the service has said this since then; AssertionError after two minutes."""
        command = ("docker", *self._prefix, "logs", "--follow", "--no-color", "--since")
        with subprocess.Popen(
            [*command, began.isoformat(), service],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **self._environment},
            cwd=ROOT,
        ) as process:
            patience = threading.Timer(_LINE_SECONDS, process.kill)
            patience.start()
            try:
                assert process.stdout is not None
                assert any(text in line for line in process.stdout), self.logs()
            finally:
                patience.cancel()
                process.kill()

    def down(self) -> None:
        """Take everything away, data too."""
        self("--profile", "*", "down", "--volumes", "--timeout", "20", "--remove-orphans")

    def psql(self, *statements: str) -> str:
        """Run statements as the database's superuser, each in a transaction of its own."""
        commands: Sequence[str] = [part for text in statements for part in ("-c", text)]
        return self("exec", "-T", "postgres", "psql", "-qAtX", "-U", "postgres", "app", *commands)
