"""A million records: what is in memory at once does not depend on how many there are."""

from __future__ import annotations

import pytest

from benchmarks.pinecone import measure


@pytest.mark.long
def test_a_million_records_take_little_memory() -> None:
    figure = measure("unlimited", records=1_000_000, dimension=256, limits=False)
    assert figure["records"] == 1_000_000
    assert figure["peak_mib"] < 300
