"""Records of every kind, a fifth of all answers wrong, killed again and again: complete and exact."""

from __future__ import annotations

import random

import pytest

from tests.support.pinecone_runs import KILLED, standing
from tests.support.pinecone_variety import varied
from tests.support.places import ServerPlace

PLACES_TO_DIE = ("backfill.read", "backfill.mid_chunk", "backfill.before_checkpoint",
                 "backfill.after_checkpoint")  # fmt: skip


@pytest.mark.parametrize(
    ("records", "namespaces", "kills", "rate"),
    [(4000, 8, 2, 10), pytest.param(100_000, 30, 20, 25, marks=pytest.mark.long)],
)
def test_faults_and_kills_lose_nothing_and_change_nothing(
    place: ServerPlace, records: int, namespaces: int, kills: int, rate: int
) -> None:
    seed = 20_240_607
    chance = random.Random(seed)
    index = varied(records, namespaces, seed=seed)
    assert sum(not one.records for one in index.namespaces.values()) == 0
    with standing(index, place, "--pinecone.fetch-per-second", str(rate)) as job:
        job.server.requests.keep = False
        job.server.faults.at_random(0.2, seed=seed)
        killed = 0
        for number in range(kills):
            at = chance.choice(PLACES_TO_DIE)
            times = chance.randint(1, 15 if at == "backfill.read" else 2)
            with job.start(failpoints=f"{at}:kill@{times}") as running:
                code = running.finish(600).code
            assert code in (0, KILLED), (number, at, times)
            killed += code == KILLED
        assert killed >= kills // 2
        report = job.run("--pinecone.fetch-per-second", "0").require().report
        job.require_equal(float_fields=["fraction"])
    assert report["totals"]["records"] == len(index)
    assert report["totals"]["dead_letters"] == 0
