"""What a command loads before it does anything."""

from __future__ import annotations

import subprocess
import sys

from tests.support.command import ROOT


def _python(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_command_loads_the_messages_without_the_rest_of_the_client() -> None:
    loaded = _python("import sys, cli.main; print(*sys.modules)").split()
    assert "qdrant_client.grpc" in loaded
    assert {"qdrant_client", "qdrant_client.http", "httpx", "pinecone", "kafka"} & set(
        loaded
    ) == set()


def test_the_whole_client_has_the_same_messages_whoever_comes_first() -> None:
    ours = "from bridge.qdrant.grpc_messages import q"
    theirs = "import qdrant_client; from qdrant_client import QdrantClient, grpc"
    for first, second in ((ours, theirs), (theirs, ours)):
        _python(f"{first}\n{second}\nassert q is grpc")
