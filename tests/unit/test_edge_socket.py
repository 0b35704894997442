"""The socket in an edge directory, its server and its client, in threads of one process."""

from __future__ import annotations

import os
import select
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bridge.collection_spec import CollectionSpec
from bridge.config import load
from bridge.errors import RateLimited, StopError, Unreachable, UsageError
from bridge.plan import Multi, Patch, Point
from bridge.qdrant import edge_answers, edge_client, edge_line
from bridge.qdrant.edge import EdgeTarget
from bridge.qdrant.edge_claim import DirectoryInUse, claim
from bridge.qdrant.edge_client import EdgeClient, hold, hold_or_join
from bridge.qdrant.edge_codec import VERSION, encode
from bridge.qdrant.edge_line import NotServed
from bridge.qdrant.edge_socket import SOCKET_NAME, EdgeSocket
from bridge.qdrant.state import QdrantState
from bridge.qdrant.target import STATE_COLLECTION
from cli.places import look_at_target, open_target
from tests.support.fake_held import FakeHeld

PATIENCE_SECONDS = 20.0
VECTOR = np.array([1, 2], dtype="<f4").tobytes()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def held() -> FakeHeld:
    fake = FakeHeld()
    fake.put(*(Point(i, {"v": VECTOR}, {"n": i}) for i in range(250)))
    return fake


@contextmanager
def served(directory: Path, held: FakeHeld, **options: Any) -> Iterator[EdgeSocket]:
    with EdgeSocket(directory, held.held, **options) as server:
        yield server


@contextmanager
def client_of(directory: Path, **options: Any) -> Iterator[EdgeClient]:
    client = EdgeClient(directory, **options)
    try:
        yield client
    finally:
        client.close()


@contextmanager
def thread(action: Callable[[], None]) -> Iterator[list[BaseException]]:
    """Run it beside the body; what it raised."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            action()
        except BaseException as error:
            raised.append(error)

    running = threading.Thread(target=run)
    running.start()
    yield raised
    running.join(PATIENCE_SECONDS)
    assert not running.is_alive()


# --- asking -----------------------------------------------------------------------------------------


def test_a_client_reads_what_the_holder_has(directory: Path, held: FakeHeld) -> None:
    with served(directory, held), client_of(directory) as client:
        assert client.check() == "edge"
        assert client.label == f"edge://{directory}"
        assert client.collections() == [STATE_COLLECTION, "docs"]
        state = client.collection("docs")
        assert state is not None and state.points == client.count("docs") == 250
        assert client.collection("other") is None
        assert client.existing("docs", [*range(240, 2500)]) == {*range(240, 250)}
        points, following = client.scroll("docs", after=100, limit=120, with_vectors=True)
        assert points == [Point(i, {"v": VECTOR}, {"n": i}) for i in range(100, 220)]
        assert following == 220
        ids = [*range(249, -1, -1)]
        assert [point.id for point in client.retrieve("docs", ids)] == ids
        assert client.retrieve("docs", []) == []
        [hit] = client.search("docs", "v", VECTOR, limit=1)
        assert (hit.id, hit.score, hit.payload) == (0, 0.5, {"n": 0, "asked": VECTOR.hex()})
        assert client.scores("docs", "v", VECTOR, [*range(248, 2500)]) == {248: 0.25, 249: 0.25}
        with pytest.raises(StopError) as caught:
            client.count("gone")
        assert caught.value.code == "TARGET_CHANGED" and caught.value.hint == "why?"
        assert client.count("docs") == 250


def test_all_ids_are_answered_however_large_the_points(
    directory: Path, held: FakeHeld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge_answers, "ANSWER_BYTES", 100)
    with served(directory, held), client_of(directory) as client:
        points = client.retrieve("docs", [*range(250)], with_vectors=True)
        assert [point.id for point in points] == [*range(250)]


def test_records_are_kept_through_a_client(directory: Path, held: FakeHeld) -> None:
    with served(directory, held), client_of(directory) as client:
        store = QdrantState(client, "shop")
        assert store.exists()
        store.put("request", "a", {"n": 1, "text": "Grüße"})
        assert store.get("request", "a") == {"n": 1, "text": "Grüße"}
        assert store.put_new("request", "a", {"n": 2})["n"] == 1
        store.remove("request", ["a"])
        assert store.get("request", "a") is None


def test_a_client_writes_nothing_else(directory: Path, held: FakeHeld) -> None:
    point = Point(1, {}, {})
    with served(directory, held), client_of(directory) as client:
        client.check()
        for write in (
            lambda: client.upsert("docs", [point]),
            lambda: client.replace("docs", [point], matching={"n": "1"}),
            lambda: client.delete("docs", [1]),
            lambda: client.clear("docs"),
            lambda: client.patch("docs", [Patch(1, {}, {}, frozenset())]),
            lambda: client.send(b"").result(),
            lambda: client.send_fields(b"").result(),
            lambda: client.optimize("docs"),
            lambda: client.create_collection(CollectionSpec(name="x", vectors=())),
            lambda: client.create_payload_index("docs", "n", "integer"),
            lambda: client.delete_collection("docs"),
        ):
            with pytest.raises(UsageError, match=f"process {os.getpid()}, which alone writes"):
                write()
        client.patch_group("docs")
        client.set_indexing_threshold("docs", 0)
        client.flush()
    assert held.calls == []


def test_a_search_takes_a_dense_vector(directory: Path) -> None:
    with client_of(directory) as client:
        with pytest.raises(TypeError):
            client.search("docs", "v", Multi(2, VECTOR))
        with pytest.raises(TypeError):
            client.scores("docs", "v", Multi(2, VECTOR), [1])


def test_a_client_is_served_while_another_one_waits(directory: Path, held: FakeHeld) -> None:
    busy, go_on = threading.Event(), threading.Event()

    def block(method: str) -> None:
        if method == "scroll":
            busy.set()
            assert go_on.wait(PATIENCE_SECONDS)

    held.before = block
    with served(directory, held), client_of(directory) as one, client_of(directory) as other:
        pages: list[Any] = []
        with thread(lambda: pages.append(one.scroll("docs"))) as raised:
            assert busy.wait(PATIENCE_SECONDS)
            assert other.count("docs") == 250
            go_on.set()
        assert raised == [] and len(pages) == 1


def test_threads_share_a_client(directory: Path, held: FakeHeld) -> None:
    with served(directory, held), client_of(directory) as client:

        def read() -> None:
            for number in range(50):
                [point] = client.retrieve("docs", [number])
                assert point.id == number

        with thread(read) as one, thread(read) as other:
            read()
        assert one == other == []


# --- the file ---------------------------------------------------------------------------------------


def test_only_the_user_may_open_the_socket_and_it_goes_at_the_end(
    directory: Path, held: FakeHeld
) -> None:
    with served(directory, held):
        found = (directory / SOCKET_NAME).stat()
        assert stat.S_ISSOCK(found.st_mode) and stat.S_IMODE(found.st_mode) == 0o600
        assert [path.name for path in directory.iterdir()] == [SOCKET_NAME]
    assert list(directory.iterdir()) == []


def test_what_a_killed_holder_left_is_replaced(directory: Path, held: FakeHeld) -> None:
    for name in (SOCKET_NAME, f"{SOCKET_NAME}.new"):
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(directory / name))
    with client_of(directory) as client:
        with pytest.raises(NotServed) as caught:
            client.count("docs")
        assert "has ended" in caught.value.message and caught.value.exit_code == 4
        with served(directory, held):
            assert client.count("docs") == 250


def test_closing_twice_does_not_remove_the_next_holders_socket(
    directory: Path, held: FakeHeld
) -> None:
    with served(directory, held) as first:
        pass
    with served(directory, held):
        first.close()
        with client_of(directory) as client:
            assert client.count("docs") == 250


@pytest.mark.parametrize("length", [80, 120, 300])
def test_a_path_may_be_longer_than_an_address(tmp_path: Path, held: FakeHeld, length: int) -> None:
    directory = tmp_path
    while len(str(directory)) < length:
        directory = directory / "a directory"
    directory.mkdir(parents=True, exist_ok=True)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    with served(directory, held), client_of(directory) as client:
        assert client.count("docs") == 250
        assert (directory / SOCKET_NAME).is_socket()
    assert not before or len(os.listdir("/proc/self/fd")) == before


def test_a_long_path_without_proc_is_refused(
    tmp_path: Path, held: FakeHeld, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / ("long" * 30)
    directory.mkdir()
    monkeypatch.setattr(os.path, "isdir", lambda path: False)
    with pytest.raises(UsageError, match="too long") as caught:
        EdgeSocket(directory, held.held)
    assert caught.value.hint
    assert list(directory.iterdir()) == []


def test_a_place_without_sockets_is_told(tmp_path: Path, held: FakeHeld) -> None:
    with pytest.raises(UsageError, match="there can be no socket"):
        EdgeSocket(tmp_path / "gone", held.held)


# --- who may ask ------------------------------------------------------------------------------------


def test_another_user_is_refused(directory: Path, held: FakeHeld) -> None:
    with served(directory, held, peer=lambda connection: os.geteuid() + 1):
        with client_of(directory) as client, pytest.raises(UsageError) as caught:
            client.count("docs")
        assert "its own user" in caught.value.message and caught.value.hint
    assert held.calls == []


@pytest.mark.parametrize("uid", [None, 0])
def test_root_is_served_and_so_is_whoever_the_system_does_not_name(
    directory: Path, held: FakeHeld, uid: int | None
) -> None:
    with served(directory, held, peer=lambda connection: uid), client_of(directory) as client:
        assert client.count("docs") == 250


OTHER_USER = """
import os, socket, struct, sys
os.seteuid(65534)
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(sys.argv[1])
    asked = b'{"request":"count","collection":"docs"}'
    connection.sendall(struct.pack("!II", len(asked), 0) + asked)
    print(connection.makefile("rb").read())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_a_process_of_another_user_is_refused_even_if_the_mode_lets_it(held: FakeHeld) -> None:
    directory = Path(tempfile.mkdtemp(prefix="edge-"))
    try:
        directory.chmod(0o755)
        with served(directory, held):
            (directory / SOCKET_NAME).chmod(0o666)
            asked = subprocess.run(
                [sys.executable, "-I", "-c", OTHER_USER, str(directory / SOCKET_NAME)],
                capture_output=True,
                text=True,
                timeout=PATIENCE_SECONDS,
            )
    finally:
        shutil.rmtree(directory)
    assert "UsageError" in asked.stdout and "its own user" in asked.stdout, asked.stderr
    assert held.calls == []


def test_a_server_of_another_user_is_not_believed(
    directory: Path, held: FakeHeld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge_line, "peer_uid", lambda connection: os.geteuid() + 1)
    with (
        served(directory, held),
        client_of(directory) as client,
        pytest.raises(UsageError, match="another user's process"),
    ):
        client.count("docs")
    assert held.calls == []


def test_more_clients_than_can_be_served_are_told(directory: Path, held: FakeHeld) -> None:
    with served(directory, held, clients=1), client_of(directory) as one:
        assert one.count("docs") == 250
        with client_of(directory) as other:
            with pytest.raises(RateLimited, match="serves 1 others already"):
                other.count("docs")
            one.close()
            _until(lambda: other.count("docs") == 250)


def _until(true: Callable[[], bool]) -> None:
    """Wait until it is so: nothing tells when the server has noticed that a client is gone."""
    silent = threading.Event()
    for _ in range(1000):
        with suppress(RateLimited):
            if true():
                return
        silent.wait(0.01)
    raise AssertionError("it is not so yet")


# --- ends in the middle -----------------------------------------------------------------------------


def test_an_answer_under_way_is_given_before_the_end(directory: Path, held: FakeHeld) -> None:
    busy, closing = threading.Event(), threading.Event()

    def block(method: str) -> None:
        busy.set()
        assert closing.wait(PATIENCE_SECONDS)

    held.before = block
    counts: list[int] = []
    with client_of(directory) as client:
        with (
            served(directory, held) as server,
            thread(lambda: counts.append(client.count("docs"))) as raised,
        ):
            assert busy.wait(PATIENCE_SECONDS)
            with thread(server.close):
                _until(lambda: not (directory / SOCKET_NAME).exists())
                closing.set()
        assert (raised, counts) == ([], [250])
        with pytest.raises(NotServed, match=f"process {os.getpid()}, which had"):
            client.count("docs")


@contextmanager
def fake_server(directory: Path, *replies: bytes | None) -> Iterator[None]:
    """Greets each client, then sends one reply to each request; None: keeps silent."""
    ended = threading.Event()

    def serve(listener: socket.socket) -> None:
        for reply in replies:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(encode({"version": VERSION, "pid": 4711}))
                connection.recv(4096)
                if reply is None:
                    assert ended.wait(PATIENCE_SECONDS)
                else:
                    connection.sendall(reply)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(directory / SOCKET_NAME))
        listener.listen()
        with thread(lambda: serve(listener)) as raised:
            try:
                yield
            finally:
                ended.set()
        assert raised == []


WHOLE = encode({"count": 250})


@pytest.mark.parametrize("reply", [b"", WHOLE[:4], WHOLE[:8], WHOLE[:-1]])
def test_a_holder_that_ends_in_the_middle_is_unreachable(directory: Path, reply: bytes) -> None:
    with fake_server(directory, reply, WHOLE), client_of(directory) as client:
        with pytest.raises(
            Unreachable, match=r"process 4711, which had .* in the middle"
        ) as caught:
            client.count("docs")
        assert caught.value.exit_code == 4 and caught.value.hint
        assert client.count("docs") == 250, "asked again, it connects again"


def test_a_connection_that_ended_while_nothing_was_asked_is_made_anew(directory: Path) -> None:
    with fake_server(directory, WHOLE, WHOLE), client_of(directory) as client:
        assert client.count("docs") == 250
        # What is looked at before a request: whether the other side has ended by now.
        connection = client._line._connection
        assert connection is not None
        select.select([connection], [], [], 30)
        assert client.count("docs") == 250


def test_a_holder_that_does_not_answer_is_not_waited_for_without_end(directory: Path) -> None:
    with fake_server(directory, None), client_of(directory, timeout_seconds=0.2) as client:
        with pytest.raises(Unreachable, match=r"process 4711.* within 0\.2 s") as caught:
            client.count("docs")
        assert "index" in caught.value.hint


@pytest.mark.parametrize(
    "reply",
    [b"\xff" * 64, encode({}), encode({"count": "1"}), encode({"error": {"kind": "SystemExit"}})],
)
def test_an_answer_that_does_not_fit_is_no_answer(directory: Path, reply: bytes) -> None:
    with fake_server(directory, reply), client_of(directory) as client:
        with pytest.raises(StopError) as caught:
            client.count("docs")
        assert caught.value.code == "PROTOCOL"


def test_a_client_that_keeps_to_nothing_loses_its_connection(
    directory: Path, held: FakeHeld
) -> None:
    with served(directory, held, frame_seconds=0.1), client_of(directory) as client:
        for sent, told in (
            (b"\0\0", b""),
            (b"\xff" * 8, b"PROTOCOL"),
            (b"\0\0\0\x09\0\0\0\0{", b""),
        ):
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(PATIENCE_SECONDS)
                connection.connect(str(directory / SOCKET_NAME))
                connection.sendall(sent)
                answered = connection.makefile("rb").read()
            assert told in answered and bool(told) == bool(answered)
        assert client.count("docs") == 250


# --- opening ----------------------------------------------------------------------------------------


def test_a_free_directory_is_opened(edge_directory: Path) -> None:
    for opener in (hold, hold_or_join):
        opened = opener(edge_directory)
        assert isinstance(opened, EdgeTarget)
        opened.close()


@contextmanager
def claimed(directory: Path) -> Iterator[None]:
    handle = claim(directory)
    try:
        yield
    finally:
        os.close(handle)


def test_a_directory_that_is_served_is_joined_or_refused(
    edge_directory: Path, held: FakeHeld
) -> None:
    with claimed(edge_directory), served(edge_directory, held):
        with pytest.raises(DirectoryInUse, match=f"in use by process {os.getpid()}"):
            hold(edge_directory)
        joined = hold_or_join(edge_directory)
        assert isinstance(joined, EdgeClient)
        assert joined.count("docs") == 250
        joined.close()


def test_a_directory_that_is_kept_and_not_served_is_refused_after_a_while(
    edge_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (edge_client, edge_line):
        monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.1)
    visitor = EdgeClient(edge_directory, visits=True)
    with claimed(edge_directory):
        for open_it in (hold, hold_or_join, lambda directory: visitor.check()):
            with pytest.raises(DirectoryInUse, match="in use"):
                open_it(edge_directory)
    assert visitor.check() == "edge"


@pytest.mark.parametrize("opener", [hold, hold_or_join])
def test_a_visitor_is_waited_for(
    edge_directory: Path, opener: Callable[[Path], EdgeTarget | EdgeClient]
) -> None:
    opened: list[EdgeTarget | EdgeClient] = []
    handle = claim(edge_directory)
    with thread(lambda: opened.append(opener(edge_directory))) as raised:
        threading.Event().wait(0.1)  # so that it has found the directory in use
        assert opened == []
        os.close(handle)
    assert raised == []
    assert isinstance(opened[0], EdgeTarget)
    opened[0].close()


def test_a_visit_leaves_the_directory_to_others(edge_directory: Path) -> None:
    holder = EdgeTarget(edge_directory)
    QdrantState(holder, "shop").prepare()
    holder.close()
    visitor = EdgeClient(edge_directory, visits=True)
    store = QdrantState(visitor, "shop")
    store.put("chunk", "a", {"n": 1})
    with pytest.raises(UsageError, match="alone writes"):
        visitor.clear("docs")
    holder = EdgeTarget(edge_directory)
    assert QdrantState(holder, "shop").get("chunk", "a") == {"n": 1}
    with EdgeSocket(edge_directory, holder):
        store.put("chunk", "a", {"n": 2})
        assert QdrantState(holder, "shop").get("chunk", "a") == {"n": 2}
    holder.close()
    assert store.get("chunk", "a") == {"n": 2}
    visitor.close()


def test_a_target_that_was_closed_opens_nothing_any_more(edge_directory: Path) -> None:
    target = EdgeTarget(edge_directory)
    QdrantState(target, "shop").prepare()
    target.close()
    with pytest.raises(Unreachable, match="was closed"):
        target.count(STATE_COLLECTION)
    with pytest.raises(Unreachable), claimed(edge_directory):
        target.upsert(STATE_COLLECTION, [Point(1, {}, {})])


def test_a_command_works_without_a_socket_and_says_so(
    edge_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (edge_directory / SOCKET_NAME / "in the way").mkdir(parents=True)
    settings = load(None, {}, {"QDRANT_BRIDGE_QDRANT__URL": f"edge://{edge_directory}"}).settings
    with open_target(settings) as place:
        assert isinstance(place.target, EdgeTarget) and not place.beside
        assert place.target.collections() == []
    assert "socket_unavailable" in capsys.readouterr().err
    assert (edge_directory / SOCKET_NAME / "in the way").exists()


def test_a_command_is_beside_another_that_serves(edge_directory: Path) -> None:
    settings = load(None, {}, {"QDRANT_BRIDGE_QDRANT__URL": f"edge://{edge_directory}"}).settings
    with open_target(settings, beside=True) as first:
        assert not first.beside
        with open_target(settings, beside=True) as second:
            assert second.beside and isinstance(second.target, EdgeClient)
        with pytest.raises(DirectoryInUse), open_target(settings):
            raise AssertionError("opened twice")
        with look_at_target(settings) as looked, look_at_target(settings, writes=True) as joined:
            assert isinstance(looked, EdgeClient) and isinstance(joined, EdgeClient)
            assert looked.collections() == joined.collections() == []
