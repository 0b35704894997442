"""The directory of an embedded target: one holder at a time, and what crashes leave in it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from bridge.collection_spec import CollectionSpec, HnswSpec, QuantizationSpec, VectorSpec
from bridge.errors import Rejected, StopError, UsageError
from bridge.plan import Point
from bridge.qdrant import edge, edge_space
from bridge.qdrant.edge import EdgeTarget
from bridge.qdrant.wire import encode_upsert

HOLDER = """
import sys
from pathlib import Path
from tests.integration.test_edge_directory import SPEC, point
from bridge.qdrant.edge import EdgeTarget

target = EdgeTarget(Path(sys.argv[1]))
target.create_collection(SPEC)
target.upsert("docs", [point(number) for number in range(100)])
print("ready", flush=True)
sys.stdin.read()
"""
SPEC = CollectionSpec(
    name="docs",
    vectors=(
        VectorSpec(
            name="v",
            shape="dense",
            distance="euclid",
            dimension=2,
            datatype="float16",
            on_disk=True,
            hnsw=HnswSpec(m=8, on_disk=True),
            quantization=QuantizationSpec(kind="scalar", quantile=0.9),
        ),
        VectorSpec(name="s", shape="sparse", distance="dot"),
    ),
    payload_indexes={"word": "keyword"},
)


def point(number: int) -> Point:
    vector = np.array([number, 1], dtype="<f4").tobytes()
    return Point(number, {"v": vector}, {"n": number})


@pytest.fixture(autouse=True)
def _disk_with_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests need less than a real run, whose reserve a test machine may not have."""
    monkeypatch.setattr(edge_space, "RESERVE_BYTES", 16 << 20)


@contextmanager
def opened(directory: Path) -> Iterator[EdgeTarget]:
    target = EdgeTarget(directory)
    try:
        yield target
    finally:
        target.close()


@contextmanager
def holder(directory: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the directory open, with 100 points that it has not flushed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(directory)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.kill()


# --- one holder -----------------------------------------------------------------------------------


def test_a_second_process_is_told_who_holds_the_directory(edge_directory: Path) -> None:
    with holder(edge_directory) as process, pytest.raises(UsageError) as caught:
        EdgeTarget(edge_directory)
    assert f"in use by process {process.pid}" in caught.value.message
    assert caught.value.hint


def test_a_second_opener_in_the_same_process_is_refused_too(edge_directory: Path) -> None:
    with opened(edge_directory), pytest.raises(UsageError, match=f"process {os.getpid()}"):
        EdgeTarget(edge_directory)


def test_a_closed_directory_may_be_opened_again(edge_directory: Path) -> None:
    for _ in range(3):
        with opened(edge_directory) as target:
            target.create_collection(SPEC)


def test_closing_twice_is_no_error_and_does_not_release_anothers_claim(
    edge_directory: Path,
) -> None:
    first = EdgeTarget(edge_directory)
    first.close()
    with opened(edge_directory) as second:
        first.close()
        with pytest.raises(UsageError, match="in use"):
            EdgeTarget(edge_directory)
        second.create_collection(SPEC)


def test_a_killed_holder_leaves_a_directory_that_opens_with_everything_written(
    edge_directory: Path,
) -> None:
    with holder(edge_directory) as process:
        process.kill()
        assert process.wait() == -signal.SIGKILL
    with opened(edge_directory) as target:
        assert target.count("docs") == 100
        points, _ = target.scroll("docs", limit=1000)
        assert [p.payload["n"] for p in points] == list(range(100))


def test_a_directory_is_made_with_its_parents(tmp_path: Path) -> None:
    with opened(tmp_path / "a" / "b") as target:
        assert target.label == f"edge://{tmp_path}/a/b"


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_place_that_cannot_be_a_directory_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(UsageError, match="cannot make"):
        EdgeTarget(tmp_path / place)


# --- what is kept beside a shard ------------------------------------------------------------------


def test_the_whole_spec_is_kept(edge_directory: Path) -> None:
    with opened(edge_directory) as target:
        target.create_collection(SPEC)
    with opened(edge_directory) as target:
        state = target.collection("docs")
    assert state is not None
    assert {vector.name: vector for vector in state.vectors} == {v.name: v for v in SPEC.vectors}
    assert dict(state.payload_indexes) == dict(SPEC.payload_indexes)


@pytest.mark.parametrize("name", ["..", ".", "../outside", "a/b", "/etc", "LOCK", "a\x1fb"])
def test_no_name_leads_out_of_the_directory(tmp_path: Path, name: str) -> None:
    directory = tmp_path / "edge"
    before = sorted(path.name for path in tmp_path.iterdir())
    with opened(directory) as target:
        target.create_collection(CollectionSpec(name=name, vectors=SPEC.vectors))
        target.upsert(name, [point(1)])
        assert target.collections() == [name]
        assert target.count(name) == 1
        target.delete_collection(name)
        assert target.collections() == []
        assert sorted(path.name for path in directory.iterdir()) == ["LOCK", "collections"]
        assert list((directory / "collections").iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*before, "edge"])


def test_a_creation_that_was_cut_after_the_spec_is_completed(edge_directory: Path) -> None:
    with opened(edge_directory) as target:
        target.create_collection(SPEC)
    edge._remove_tree(edge_directory / "collections" / "docs")
    with opened(edge_directory) as target:
        assert target.collection("docs") is not None
        target.create_collection(SPEC)
        target.upsert("docs", [point(1)])
        assert target.count("docs") == 1


def test_a_creation_that_was_cut_in_the_shard_is_completed(edge_directory: Path) -> None:
    with opened(edge_directory) as target:
        target.create_collection(SPEC)
    (edge_directory / "collections" / "docs" / "edge_config.json").unlink()
    with opened(edge_directory) as target:
        target.create_collection(SPEC)
        assert target.count("docs") == 0


def test_a_deletion_that_was_cut_does_not_bring_old_points_back(edge_directory: Path) -> None:
    with opened(edge_directory) as target:
        target.create_collection(SPEC)
        target.upsert("docs", [point(1)])
    (edge_directory / "collections" / "docs.json").unlink()
    with opened(edge_directory) as target:
        assert target.collection("docs") is None
        target.create_collection(SPEC)
        assert target.count("docs") == 0


def test_a_draft_of_a_spec_is_no_collection(edge_directory: Path) -> None:
    with opened(edge_directory) as target:
        (edge_directory / "collections" / "docs.draft").write_text("{")
        assert target.collections() == []
        assert target.collection("docs") is None
        target.create_collection(SPEC)
        assert target.collections() == ["docs"]


# --- what it refuses ------------------------------------------------------------------------------


def test_bytes_that_are_no_request_are_rejected(edge_directory: Path) -> None:
    with opened(edge_directory) as target:
        target.create_collection(SPEC)
        pending = target.send(encode_upsert("docs", [point(1)])[:-1])
        with pytest.raises(Rejected):
            pending.result()


def test_a_disk_that_fills_up_stops_before_anything_is_damaged(
    edge_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine writes through mapped memory: on a full disk the process would die of SIGBUS."""
    with opened(edge_directory) as target:
        target.create_collection(SPEC)
        target.upsert("docs", [point(1)])
        monkeypatch.setattr(edge_space, "free_bytes", lambda directory: 1024 * 1024)
        pending = target.send(encode_upsert("docs", [point(2)]))
        with pytest.raises(StopError) as caught:
            pending.result()
        assert caught.value.code == "DISK_FULL"
        assert caught.value.hint
        with pytest.raises(StopError, match="full"):
            target.optimize("docs")
        with pytest.raises(StopError, match="full"):
            target.create_collection(CollectionSpec(name="more", vectors=SPEC.vectors))
        assert target.count("docs") == 1
    monkeypatch.undo()
    with opened(edge_directory) as target:
        target.upsert("docs", [point(2)])
        assert target.count("docs") == 2
        assert target.collections() == ["docs"]
