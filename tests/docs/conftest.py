"""A stage for each document; see `stage.py`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.postgres.embedded import EmbeddedPostgres
from tests.docs.stage import Stage, open_stage
from tests.support.databases import SETTINGS


@pytest.fixture(scope="session")
def documented_postgres() -> Iterator[EmbeddedPostgres]:
    """A server of its own: the documents make roles, which belong to a whole server."""
    with EmbeddedPostgres.temporary("18", SETTINGS) as server:
        yield server


@pytest.fixture
def stage(documented_postgres: EmbeddedPostgres, tmp_path: Path) -> Iterator[Stage]:
    """Fresh places for one document."""
    with open_stage(tmp_path, documented_postgres) as fresh:
        yield fresh
