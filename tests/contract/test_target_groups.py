"""Patches that are confirmed together: on servers, which can; and what is no proof."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bridge.errors import BridgeError, Rejected, Unreachable
from bridge.plan import Patch, Point
from bridge.qdrant.patch_group import ServerPatchGroup
from tests.contract.places import (
    Place,
    buffer,
    dense,
    fake_server_place,
    fetch,
    numbers,
    servers_only,
)
from tests.support.qdrant_faults import lost_response, unavailable
from tests.support.qdrant_server import QdrantServer

NOTHING: frozenset[str] = frozenset()


def filled(place: Place, count: int = 3) -> str:
    name = place.create(dense("a"), dense("b"))
    points = [
        Point(number, {"a": buffer(1, 2, 3), "b": buffer(4, 5, 6)}, {"x": 0})
        for number in range(1, count + 1)
    ]
    place.target.upsert(name, points)
    return name


def group_of(place: Place, name: str) -> ServerPatchGroup:
    group = place.target.patch_group(name)
    assert isinstance(group, ServerPatchGroup)
    return group


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[QdrantServer]:
    """A server of its own: it is killed."""
    with QdrantServer(tmp_path / "server") as server:
        yield server


@pytest.fixture
def server_place(own_server: QdrantServer) -> Iterator[Place]:
    with fake_server_place(own_server) as opened:
        yield opened
        opened.target.close()


@servers_only
def test_a_group_that_is_confirmed_was_applied(place: Place) -> None:
    name = filled(place, 1000)
    group = group_of(place, name)
    for start in range(1, 1001, 100):
        group.add([Patch(n, {"x": n, "y": None}, {}, NOTHING) for n in range(start, start + 100)])
    group.confirm()
    for number in (1, 500, 1000):
        point = fetch(place.target, name, number)
        assert point.payload == {"x": number, "y": None}
        assert numbers(point.vectors["a"]) == [1, 2, 3]


@servers_only
def test_a_group_sets_and_clears_vectors(place: Place) -> None:
    name = filled(place)
    group = group_of(place, name)
    group.add(
        [
            Patch(1, {"x": 1}, {"a": buffer(7, 8, 9)}, frozenset({"b"})),
            Patch(2, {"x": 2}, {}, frozenset({"a"})),
        ]
    )
    group.confirm()
    first, second = (fetch(place.target, name, number).vectors for number in (1, 2))
    assert {n: numbers(v) for n, v in first.items()} == {"a": [7, 8, 9]}
    assert {n: numbers(v) for n, v in second.items()} == {"b": [4, 5, 6]}


@servers_only
def test_a_missing_point_is_found_out(place: Place) -> None:
    name = filled(place)
    group = group_of(place, name)
    group.add([Patch(number, {"x": 9}, {}, NOTHING) for number in (1, 2, 99)])
    with pytest.raises(Unreachable, match="some of the points are missing"):
        group.confirm()


@servers_only
def test_somebody_elses_write_in_between_is_no_proof(place: Place) -> None:
    name = filled(place)
    group = group_of(place, name)
    group.add([Patch(1, {"x": 9}, {}, NOTHING)])
    group.add([Patch(2, {"x": 9}, {}, NOTHING)])
    other = place.open()
    other.count(name)  # connected
    group.settle()
    other.patch(name, [Patch(3, {"x": 9}, {}, NOTHING)])
    other.close()
    with pytest.raises(Unreachable, match="numbered anew"):
        group.confirm()


def test_nothing_was_sent_nothing_is_asked(own_server: QdrantServer, server_place: Place) -> None:
    name = filled(server_place)
    group = group_of(server_place, name)
    asked: list[str] = []
    own_server.requests.recorder = lambda method, request: asked.append(method)
    group.confirm()
    assert asked == []


@servers_only
def test_a_collection_that_is_gone_cannot_be_confirmed(place: Place) -> None:
    name = filled(place)
    group = group_of(place, name)
    place.target.delete_collection(name)
    with pytest.raises(BridgeError):
        group.add([Patch(1, {"x": 9}, {}, NOTHING)])
        group.confirm()
    group.abandon()


def test_the_embedded_target_has_none(place: Place) -> None:
    name = filled(place)
    has_groups = place.target.label.startswith("http")
    assert (place.target.patch_group(name) is not None) == has_groups


Break = Callable[[QdrantServer], None]


def _killed(server: QdrantServer) -> None:
    server.kill()
    server.start()


def _fence_lost(server: QdrantServer) -> None:
    server.faults.add(method="DeletePayload", action=lost_response())


def _fence_unavailable(server: QdrantServer) -> None:
    server.faults.add(method="DeletePayload", action=unavailable())


@pytest.mark.parametrize("breaking", [_killed, _fence_lost, _fence_unavailable])
def test_what_comes_between_group_and_fence_is_found_out(
    breaking: Break, own_server: QdrantServer, server_place: Place
) -> None:
    name = filled(server_place)
    own_server.hold(name)
    group = group_of(server_place, name)
    group.add([Patch(number, {"x": 9}, {}, NOTHING) for number in (1, 2, 3)])
    group.settle()
    breaking(own_server)
    with pytest.raises((Unreachable, Rejected)):
        group.confirm()
    group.abandon()
    server_place.target.patch(name, [Patch(n, {"x": 9}, {}, NOTHING) for n in (1, 2, 3)])
    assert [fetch(server_place.target, name, n).payload for n in (1, 2, 3)] == [{"x": 9}] * 3


def test_a_held_group_is_lost_by_a_kill_and_kept_by_its_fence(
    own_server: QdrantServer, server_place: Place
) -> None:
    """The test server does what the proof is about: without the fence, the patches are not there."""
    name = filled(server_place)
    for confirmed in (False, True):
        own_server.hold(name)
        group = group_of(server_place, name)
        group.add([Patch(1, {"x": 9}, {}, NOTHING)])
        group.settle()
        if confirmed:
            group.confirm()
        _killed(own_server)
        assert fetch(server_place.target, name, 1).payload == {"x": 9 if confirmed else 0}
