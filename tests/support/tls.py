"""Certificates for test servers on 127.0.0.1 (`tests/data/tls/make.sh` says how they were made)."""

from __future__ import annotations

from pathlib import Path
from typing import Final

DIRECTORY: Final = Path(__file__).parent.parent / "data" / "tls"

# What a client trusts: a path, as an SSL library and an environment variable want it.
AUTHORITY: Final = DIRECTORY / "authority.pem"


def server_pair() -> tuple[bytes, bytes]:
    """Private key and certificate, PEM, as `QdrantServer(tls=...)` takes them."""
    return (DIRECTORY / "server.key").read_bytes(), (DIRECTORY / "server.pem").read_bytes()
