"""Payload-only changes go out in groups that are proven afterwards: what comes in between loses nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import grpc
import pytest

from sync.patches import PATCHES_IN_GROUP
from tests.support.command import Running
from tests.support.daemons import wait_streaming
from tests.support.databases import Database
from tests.support.followed import Followed
from tests.support.places import ServerPlace
from tests.support.qdrant_faults import Action
from tests.support.qdrant_server import QdrantServer, delay, fail, lost_response, unavailable

ROWS: Final = 4 * PATCHES_IN_GROUP
FENCE: Final = "DeletePayload"


@pytest.fixture
def docs(database: Database, place: ServerPlace, tmp_path: Path) -> Followed:
    followed = Followed(database, place, tmp_path)
    followed.sql(
        f"INSERT INTO docs SELECT i, 'r' || i, i, vec(i) FROM generate_series(1, {ROWS}) i"
    )
    return followed


def server_of(docs: Followed) -> QdrantServer:
    assert docs.place.server is not None
    return docs.place.server


CHANGE: Final = "UPDATE docs SET title = 'changed ' || id, price = price + 1"


def test_a_server_killed_between_the_group_and_its_fence_loses_nothing(docs: Followed) -> None:
    server = server_of(docs)
    with docs.streaming():
        server.hold(docs.pipeline.name)
        fence = server.faults.add(
            method=FENCE, action=delay(60), collection=docs.pipeline.name, times=1
        )
        docs.sql(CHANGE)
        server.faults.wait_fired(fence)
        before = docs.pipeline.place.points(docs.pipeline.name)
        assert not any(str(p.payload["title"]).startswith("changed") for p in before.values())
        server.kill()
        server.start()
        docs.wait()
        docs.require_equal()


def test_a_daemon_killed_between_the_group_and_its_fence_sends_it_again(docs: Followed) -> None:
    server = server_of(docs)
    docs.prepare()
    server.hold(docs.pipeline.name)
    docs.sql(CHANGE)
    dying = "sync.before_fence:kill@1"
    with Running("run", "--config", docs.pipeline.config, failpoints=dying) as daemon:
        assert daemon.finish().code == -9
    server.kill()
    server.start()
    with docs.pipeline.run() as daemon:
        wait_streaming(daemon)
        docs.wait()
        docs.require_equal()


@pytest.mark.parametrize(
    "action",
    [unavailable(), lost_response(), fail(grpc.StatusCode.INTERNAL, "injected")],
    ids=["UNAVAILABLE", "response lost", "INTERNAL"],
)
def test_a_fence_that_fails_repeats_the_group(docs: Followed, action: Action) -> None:
    server = server_of(docs)
    with docs.streaming():
        server.hold(docs.pipeline.name)
        fence = server.faults.add(method=FENCE, action=action, collection=docs.pipeline.name)
        docs.sql(CHANGE)
        server.faults.wait_fired(fence)
        docs.wait()
        docs.require_equal()
        assert docs.pipeline.status()["dead_letters"] == 0
