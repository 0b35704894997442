"""The connection to a Qdrant server: how every failure of it is told, keys, wrong ports."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest

from bridge.errors import (
    BridgeError,
    RateLimited,
    Rejected,
    StopError,
    Unreachable,
    UsageError,
)
from bridge.plan import Point
from bridge.qdrant import channel
from bridge.qdrant.channel import Endpoint, Sender, endpoint, is_loopback, parse_url
from bridge.qdrant.server import ServerTarget
from bridge.qdrant.wire import encode_upsert
from bridge.retry import Retry
from bridge.writer import Writer
from tests.support.ports import free_port
from tests.support.qdrant_server import (
    QdrantServer,
    Status,
    contains_point,
    delay,
    fail,
    lost_response,
    rate_limited,
    reject,
    unavailable,
    wait_timeout,
)
from tests.support.server_connections import SPEC, check_fails, connected, point


@pytest.fixture
def target(qdrant_server: QdrantServer) -> Iterator[ServerTarget]:
    """A target with the collection `docs`."""
    with connected(qdrant_server.url) as opened:
        opened.create_collection(SPEC)
        yield opened


# --- urls -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://localhost:6334", ("localhost", 6334, False)),
        ("https://qdrant.internal:6334", ("qdrant.internal", 6334, True)),
        ("https://qdrant.internal", ("qdrant.internal", 6334, True)),
        ("http://localhost/", ("localhost", 6334, False)),
        ("localhost:7000", ("localhost", 7000, False)),
        ("http://[::1]:6334", ("::1", 6334, False)),
        ("HTTPS://Qdrant.Internal:1", ("qdrant.internal", 1, True)),
    ],
)
def test_a_url_is_read(url: str, expected: tuple[str, int, bool]) -> None:
    assert parse_url(url) == expected


@pytest.mark.parametrize(
    "url",
    ["", "http://", "ftp://localhost:6334", "http://localhost:port", "http://localhost:70000",
     "http://[::1", "edge:///var/lib", "grpc://localhost"],
)  # fmt: skip
def test_what_is_no_url_of_a_server_is_refused(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_url(url)
    assert "6334" in caught.value.hint


@pytest.mark.parametrize(
    "url",
    [
        "http://user:hunter2@localhost:6334",
        "https://hunter2@localhost",
        "ftp://user:hunter2@localhost",
        "http://user:hunter2@localhost:port",
        "http://example.com:6334?api-key=hunter2",
        "qdrant://x?api_key=hunter2",
    ],
)
def test_a_refused_url_does_not_tell_its_secret(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        endpoint(url, api_key="hunter2")
    assert "hunter2" not in caught.value.message + caught.value.hint


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "::1"])
def test_this_machine_is_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    ["example.com", "localhost.example.com", "127.0.0.1.example.com", "10.0.0.1", "0.0.0.1", "::2",
     "128.0.0.1", "fe80::1", ""],
)  # fmt: skip
def test_other_machines_are_not(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize("url", ["http://example.com:6334", "10.0.0.1", "http://[fe80::1]:6334"])
@pytest.mark.parametrize("api_key", [None, "a secret"])
def test_plaintext_to_another_machine_is_refused(url: str, api_key: str | None) -> None:
    with pytest.raises(UsageError) as caught:
        endpoint(url, api_key=api_key)
    assert "plaintext" in caught.value.message
    assert ("API key" in caught.value.message) == (api_key is not None)
    assert "--allow-plaintext" in caught.value.hint
    assert endpoint(url, api_key=api_key, allow_plaintext=True).tls is False


def test_plaintext_to_this_machine_and_tls_to_any_are_fine() -> None:
    assert endpoint("http://127.0.0.1:6334", api_key="a secret").label == "http://127.0.0.1:6334"
    assert endpoint("https://example.com", api_key="a secret").label == "https://example.com:6334"
    assert endpoint("http://[::1]:6334", api_key=None).label == "http://[::1]:6334"


def test_an_endpoint_is_sent_to_workers_and_never_printed_with_its_key() -> None:
    place = endpoint("http://localhost:6334", api_key="hunter2")
    assert pickle.loads(pickle.dumps(place)) == place
    for text in (repr(place), str(place), f"{place}", repr([place])):
        assert "hunter2" not in text


# --- statuses -------------------------------------------------------------------------------------

CODES: list[tuple[grpc.StatusCode, type[BridgeError]]] = [
    (grpc.StatusCode.UNAVAILABLE, Unreachable),
    (grpc.StatusCode.DEADLINE_EXCEEDED, Unreachable),
    (grpc.StatusCode.ABORTED, Unreachable),
    (grpc.StatusCode.INTERNAL, Unreachable),
    (grpc.StatusCode.UNKNOWN, Unreachable),
    (grpc.StatusCode.CANCELLED, Unreachable),
    (grpc.StatusCode.DATA_LOSS, Unreachable),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, RateLimited),
    (grpc.StatusCode.INVALID_ARGUMENT, Rejected),
    (grpc.StatusCode.OUT_OF_RANGE, Rejected),
    (grpc.StatusCode.FAILED_PRECONDITION, Rejected),
    (grpc.StatusCode.UNAUTHENTICATED, UsageError),
    (grpc.StatusCode.PERMISSION_DENIED, UsageError),
    (grpc.StatusCode.UNIMPLEMENTED, UsageError),
]

CALLS: dict[str, tuple[str, Callable[[ServerTarget], object]]] = {
    "send": ("Upsert", lambda target: target.send(encode_upsert("docs", [point(1)])).result()),
    "delete": ("Delete", lambda target: target.delete("docs", [1])),
    "count": ("Count", lambda target: target.count("docs")),
}


@pytest.mark.parametrize("call", CALLS)
def test_every_status_has_its_error(
    qdrant_server: QdrantServer, target: ServerTarget, call: str
) -> None:
    method, act = CALLS[call]
    for code, kind in CODES:
        qdrant_server.faults.add(method=method, action=fail(code, f"what {code.name} says"))
        with pytest.raises(BridgeError) as caught:
            act(target)
        assert type(caught.value) is kind, code
        assert f"what {code.name} says" in caught.value.message
        assert isinstance(caught.value.__cause__, grpc.RpcError | grpc.FutureCancelledError)


def test_a_collection_that_is_gone_stops(target: ServerTarget) -> None:
    target.delete_collection("docs")
    with pytest.raises(StopError) as caught:
        target.upsert("docs", [point(1)])
    assert caught.value.code == "TARGET_CHANGED"


def test_another_thing_that_is_not_found_is_rejected(
    qdrant_server: QdrantServer, target: ServerTarget
) -> None:
    missing = fail(grpc.StatusCode.NOT_FOUND, "Not found: No point with id 7 found")
    qdrant_server.faults.add(method="Upsert", action=missing)
    with pytest.raises(Rejected):
        target.upsert("docs", [point(1)])


@pytest.mark.parametrize(("seconds", "told"), [(7, 7.0), (0.2, 1.0), (None, None)])
def test_a_rate_limit_tells_how_long_to_wait(
    qdrant_server: QdrantServer, target: ServerTarget, seconds: float | None, told: float | None
) -> None:
    qdrant_server.faults.add(method="Upsert", action=rate_limited(seconds))
    with pytest.raises(RateLimited) as caught:
        target.upsert("docs", [point(1)])
    assert caught.value.retry_after_seconds == told


@pytest.mark.parametrize(
    ("text", "told"), [("soon", None), ("-5", 0.0), ("0.5", 0.5), ("nan", None), ("inf", None)]
)
def test_a_strange_retry_after_does_no_harm(
    qdrant_server: QdrantServer, target: ServerTarget, text: str, told: float | None
) -> None:
    def action(request: Any, proceed: Any, stopping: threading.Event) -> Any:
        raise Status(grpc.StatusCode.RESOURCE_EXHAUSTED, "slower", (("retry-after", text),))

    qdrant_server.faults.add(method="Upsert", action=action)
    with pytest.raises(RateLimited) as caught:
        target.upsert("docs", [point(1)])
    assert caught.value.retry_after_seconds == told


def test_a_long_message_of_many_lines_becomes_one_line(
    qdrant_server: QdrantServer, target: ServerTarget
) -> None:
    qdrant_server.faults.add(
        method="Count", action=fail(grpc.StatusCode.INTERNAL, "first\nsecond\n" + "x" * 5000)
    )
    with pytest.raises(Unreachable) as caught:
        target.count("docs")
    assert "first second" in caught.value.message
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 500


# --- answers that do not mean success -------------------------------------------------------------


def test_a_lost_response_is_unreachable_and_its_repetition_changes_nothing(
    qdrant_server: QdrantServer, target: ServerTarget
) -> None:
    qdrant_server.faults.add(method="Upsert", action=lost_response())
    with pytest.raises(Unreachable):
        target.upsert("docs", [point(1, n=1)])
    assert target.count("docs") == 1
    target.upsert("docs", [point(1, n=1)])
    assert target.count("docs") == 1


@pytest.mark.parametrize("call", ["Upsert", "Delete", "CreateFieldIndex"])
def test_accepted_is_not_applied(
    qdrant_server: QdrantServer, target: ServerTarget, call: str
) -> None:
    acts: dict[str, Callable[[], object]] = {
        "Upsert": lambda: target.upsert("docs", [point(1)]),
        "Delete": lambda: target.delete("docs", [1]),
        "CreateFieldIndex": lambda: target.create_payload_index("docs", "word", "keyword"),
    }
    qdrant_server.faults.add(method=call, action=wait_timeout())
    with pytest.raises(Unreachable, match="had not applied it in time"):
        acts[call]()
    acts[call]()


def test_a_request_that_takes_too_long_is_unreachable(qdrant_server: QdrantServer) -> None:
    held = threading.Event()
    with connected(qdrant_server.url) as slow:
        slow.create_collection(SPEC)
    qdrant_server.faults.add(method="Upsert", action=delay(held))
    with connected(qdrant_server.url, timeout_seconds=0.3) as hasty:
        with pytest.raises(Unreachable, match="Deadline"):
            hasty.upsert("docs", [point(1)])
        held.set()


def test_a_request_in_flight_when_the_connection_is_closed_is_unreachable(
    qdrant_server: QdrantServer, target: ServerTarget
) -> None:
    held = threading.Event()
    rule = qdrant_server.faults.add(method="Upsert", action=delay(held))
    sender = Sender(endpoint(qdrant_server.url, api_key=None))
    pending = sender.send(encode_upsert("docs", [point(1)]))
    qdrant_server.faults.wait_fired(rule)
    assert not pending.done()
    sender.close()
    with pytest.raises(Unreachable):
        pending.result()
    assert pending.done()
    held.set()


def test_creation_whose_answer_was_lost_succeeds(qdrant_server: QdrantServer) -> None:
    qdrant_server.faults.add(method="Collections.Create", action=lost_response())
    with connected(qdrant_server.url) as target:
        target.create_collection(SPEC)
        assert target.collection("docs") is not None


def test_creation_that_fails_says_why(qdrant_server: QdrantServer) -> None:
    qdrant_server.faults.add(method="Collections.Create", action=unavailable())
    with connected(qdrant_server.url) as target:
        with pytest.raises(Unreachable):
            target.create_collection(SPEC)
        assert target.collection("docs") is None


# --- reaching it ----------------------------------------------------------------------------------


def test_nobody_listens() -> None:
    error = check_fails(f"http://127.0.0.1:{free_port()}")
    assert isinstance(error, Unreachable)
    assert "does not answer" in error.message
    assert "6334" in error.hint


@pytest.mark.parametrize("skip", [True, False])
def test_nobody_listens_for_tls(skip: bool) -> None:
    error = check_fails(f"https://127.0.0.1:{free_port()}", skip_tls_verification=skip)
    assert isinstance(error, Unreachable)


def test_a_server_that_comes_back_is_reached_by_the_same_connection(
    qdrant_server: QdrantServer, target: ServerTarget
) -> None:
    target.upsert("docs", [point(1)])
    qdrant_server.stop()
    with pytest.raises(Unreachable):
        target.upsert("docs", [point(2)])
    qdrant_server.start()
    Retry(patience_seconds=30.0).call(lambda: target.upsert("docs", [point(2)]))
    assert target.count("docs") == 2


class _Rest(BaseHTTPRequestHandler):
    """Answers as an HTTP/1 server does that knows nothing of HTTP/2."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def rest_port() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Rest)
    thread = threading.Thread(target=server.serve_forever, name="rest", daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _is_told_as_a_rest_port(error: BridgeError, port: int) -> None:
    assert isinstance(error, UsageError)
    assert f"127.0.0.1:{port} does not speak Qdrant's gRPC" in error.message
    assert "http://127.0.0.1:6334" in error.hint


def test_a_rest_port_is_told_naming_the_grpc_port(rest_port: int) -> None:
    _is_told_as_a_rest_port(check_fails(f"http://127.0.0.1:{rest_port}"), rest_port)


def test_what_is_not_qdrant_at_the_usual_port_is_not_told_to_use_that_port(
    rest_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "GRPC_PORT", rest_port)
    error = check_fails(f"http://127.0.0.1:{rest_port}")
    assert "does not speak Qdrant's gRPC" in error.message
    assert "not Qdrant" in error.hint and "give the gRPC port" not in error.hint


if os.environ.get("QDRANT_URL") == "http://127.0.0.1:6334":

    def test_the_rest_port_of_a_real_server_is_told() -> None:
        error = check_fails("http://127.0.0.1:6333")
        _is_told_as_a_rest_port(error, 6333)
        assert "6333 is Qdrant's REST port" in error.message


@pytest.mark.parametrize("version", ["1.16.3", "1.9.0", "0.11.1"])
def test_a_server_that_is_too_old_is_refused(qdrant_server: QdrantServer, version: str) -> None:
    error = _check_of_version(qdrant_server, version)
    assert isinstance(error, UsageError)
    assert version in error.message
    assert "1.17" in error.message


@pytest.mark.parametrize("version", ["1.17.0", "1.18.3-dev", "1.100.0", "2.0.0"])
def test_a_server_that_is_new_enough_is_not(qdrant_server: QdrantServer, version: str) -> None:
    assert _check_of_version(qdrant_server, version) == version


def _check_of_version(server: QdrantServer, version: str) -> BridgeError | str:
    def action(request: Any, proceed: Any, stopping: threading.Event) -> Any:
        reply = proceed()
        reply.version = version
        return reply

    server.faults.add(method="Qdrant.HealthCheck", action=action)
    with connected(server.url) as target:
        try:
            return target.check()
        except BridgeError as error:
            return error


# --- keys -----------------------------------------------------------------------------------------


def test_the_api_key_opens_everything(tmp_path: Path) -> None:
    with (
        QdrantServer(tmp_path, api_key="right") as server,
        connected(server.url, api_key="right") as target,
    ):
        assert target.check()
        target.create_collection(SPEC)
        target.upsert("docs", [point(1)])
        target.send(encode_upsert("docs", [point(2)])).result()
        assert target.count("docs") == 2


@pytest.mark.parametrize("given", [None, "wrong"])
def test_a_missing_or_wrong_api_key_is_told_before_anything_is_written(
    tmp_path: Path, given: str | None
) -> None:
    with QdrantServer(tmp_path, api_key="right") as server:
        error = check_fails(server.url, api_key=given)
        assert isinstance(error, UsageError)
        assert "refuses the API key" in error.message
        assert "QDRANT_BRIDGE_QDRANT__API_KEY" in error.hint
        assert "right" not in error.message + error.hint
        assert "wrong" not in error.message + error.hint
        with connected(server.url, api_key=given) as target, pytest.raises(UsageError):
            target.upsert("docs", [point(1)])


# --- the writer on a real connection --------------------------------------------------------------


def test_a_server_that_fails_in_every_way_ends_with_every_good_point(
    qdrant_server: QdrantServer, target: ServerTarget
) -> None:
    faults = qdrant_server.faults
    faults.add(method="Upsert", action=reject(contains_point(13)), times=None)
    faults.add(method="Upsert", action=reject(contains_point(250)), times=None)
    transient = [
        faults.add(method="Upsert", action=unavailable(), nth=2, times=2),
        faults.add(method="Upsert", action=lost_response(), nth=5),
        faults.add(method="Upsert", action=rate_limited(None), nth=7, times=2),
        faults.add(method="Upsert", action=wait_timeout(), nth=10),
    ]
    slept: list[float] = []
    write = Writer[Point](
        encode=lambda points: encode_upsert("docs", points),
        send=target.send,
        retry=Retry(patience_seconds=60.0, sleep=slept.append),
    )
    for start in range(0, 300, 30):
        write.write([point(number, n=number) for number in range(start, start + 30)])
    write.drain()
    assert sorted(refused.point.id for refused in write.take_refused()) == [13, 250]
    assert (write.written, write.refused) == (298, 2)
    assert target.count("docs") == 298
    stored, _ = target.scroll("docs", limit=1000)
    assert [p.payload["n"] for p in stored] == [n for n in range(300) if n not in (13, 250)]
    assert [rule.fired for rule in transient] == [2, 1, 2, 1]
    assert slept


def test_endpoints_compare_by_everything() -> None:
    one = Endpoint(host="h", port=1, tls=False)
    assert one == Endpoint(host="h", port=1, tls=False)
    assert one != Endpoint(host="h", port=1, tls=False, api_key="k")
