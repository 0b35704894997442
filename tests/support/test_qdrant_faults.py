"""The test server's own: its life, its keys and certificates, its faults, its counters."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from qdrant_client import QdrantClient, models
from qdrant_client import grpc as qdrant
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse

from tests.support.qdrant_server import (
    QdrantServer,
    contains_point,
    delay,
    internal,
    lost_response,
    rate_limited,
    reject,
    unavailable,
    wait_timeout,
)
from tests.support.stock_client import connect, payloads, plain, point, raw, refused
from tests.support.tls import AUTHORITY, server_pair

Code = grpc.StatusCode
UUID = "550e8400-e29b-41d4-a716-446655440000"


class TestLife:
    def test_data_outlives_a_kill_and_a_new_object(self, tmp_path: Path) -> None:
        server = QdrantServer(tmp_path / "data").start()
        client = connect(server.port)
        plain(client)
        client.create_payload_index("plain", "v", models.PayloadSchemaType.INTEGER)
        client.upsert("plain", [point(1, v=1)])
        server.kill()
        server.start()
        assert payloads(client) == {1: {"v": 1}}
        server.stop()
        with QdrantServer(tmp_path / "data", port=server.port):
            assert payloads(client) == {1: {"v": 1}}
            assert client.get_collection("plain").payload_schema["v"].points == 1
        client.close()

    def test_a_stopped_server_is_unreachable(self, tmp_path: Path) -> None:
        server = QdrantServer(tmp_path / "data").start()
        client = connect(server.port)
        server.stop()
        with refused(Code.UNAVAILABLE):
            client.get_collections()
        client.close()

    def test_a_kill_drops_what_is_under_way(self, qdrant_server: QdrantServer) -> None:
        client = connect(qdrant_server.port)
        plain(client)
        qdrant_server.faults.add(method="Upsert", action=delay(threading.Event()))
        with ThreadPoolExecutor() as pool:
            held = pool.submit(client.upsert, "plain", [point(1)])
            qdrant_server.requests.wait_for("Upsert", 1)
            qdrant_server.kill()
            assert isinstance(held.exception(timeout=30), grpc.RpcError)
        qdrant_server.start()
        assert client.count("plain").count == 0
        client.close()

    def test_an_api_key_is_asked_for(self, tmp_path: Path) -> None:
        with (
            QdrantServer(tmp_path / "data", api_key="right") as server,
            grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel,
        ):
            call = raw(channel, "/qdrant.Collections/List")
            with refused(Code.UNAUTHENTICATED, "Must provide an API key"):
                call(b"")
            with refused(Code.UNAUTHENTICATED, "Invalid API key"):
                call(b"", metadata=[("api-key", "wrong")])
            call(b"", metadata=[("api-key", "right")])
            call(b"", metadata=[("authorization", "Bearer right")])
            raw(channel, "/qdrant.Qdrant/HealthCheck")(b"")

    def test_tls_is_spoken_with_a_certificate(self, tmp_path: Path) -> None:
        with QdrantServer(tmp_path / "data", tls=server_pair()) as server:
            assert server.url == f"https://127.0.0.1:{server.port}"
            trusted = grpc.ssl_channel_credentials(AUTHORITY.read_bytes())
            with grpc.secure_channel(f"127.0.0.1:{server.port}", trusted) as channel:
                answer = raw(channel, "/qdrant.Qdrant/HealthCheck")(b"")
        assert qdrant.HealthCheckReply.FromString(answer).version == "1.18.3"

    def test_it_runs_as_a_process_of_its_own(self, tmp_path: Path) -> None:
        command = [sys.executable, "-m", "tests.support.qdrant_server", "--directory"]
        process = subprocess.Popen(
            [*command, str(tmp_path / "data")], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        try:
            word, port = process.stdout.readline().split()
            assert word == "ready"
            client = connect(int(port))
            plain(client)
            client.upsert("plain", [point(1, v=1)])
            client.close()
            process.kill()
            process.wait(timeout=30)
        finally:
            process.kill()
            process.stdout.close()
        with QdrantServer(tmp_path / "data") as server:
            client = connect(server.port)
            assert payloads(client) == {1: {"v": 1}}
            client.close()


class TestFaults:
    @pytest.fixture
    def client(self, qdrant_server: QdrantServer) -> Iterator[QdrantClient]:
        stock = connect(qdrant_server.port)
        plain(stock)
        yield stock
        stock.close()

    @pytest.fixture
    def address(self, qdrant_server: QdrantServer) -> tuple[str, int]:
        return "127.0.0.1", qdrant_server.port

    @pytest.mark.parametrize(
        ("action", "code", "applied"),
        [
            (unavailable, Code.UNAVAILABLE, False),
            (internal, Code.INTERNAL, False),
            (lost_response, Code.UNAVAILABLE, True),
        ],
    )
    def test_a_fault_hits_the_requests_it_was_meant_for(
        self,
        client: QdrantClient,
        qdrant_server: QdrantServer,
        action: Callable[[], Any],
        code: grpc.StatusCode,
        applied: bool,
    ) -> None:
        qdrant_server.faults.add(method="Upsert", action=action(), nth=2, times=2)
        client.upsert("plain", [point(1)])
        for number in (2, 3):
            with refused(code):
                client.upsert("plain", [point(number)])
        client.upsert("plain", [point(4)])
        assert list(payloads(client)) == ([1, 2, 3, 4] if applied else [1, 4])

    def test_a_rate_limit_tells_when_to_come_back(
        self, client: QdrantClient, points: Any, qdrant_server: QdrantServer
    ) -> None:
        qdrant_server.faults.add(method="Upsert", action=rate_limited(1.2), times=None)
        with pytest.raises(ResourceExhaustedResponse) as exhausted:
            client.upsert("plain", [point(1)])
        assert exhausted.value.retry_after_s == 2
        qdrant_server.faults.clear()
        qdrant_server.faults.add(method="Upsert", action=rate_limited(None))
        with pytest.raises(grpc.RpcError) as raised:
            points.Upsert(qdrant.UpsertPoints(collection_name="plain"))
        error: Any = raised.value
        assert error.code() == Code.RESOURCE_EXHAUSTED
        assert "retry-after" not in dict(error.trailing_metadata())

    def test_a_wait_timeout_is_applied_but_not_confirmed(
        self, client: QdrantClient, qdrant_server: QdrantServer
    ) -> None:
        qdrant_server.faults.add(method="Upsert", action=wait_timeout())
        qdrant_server.faults.add(method="UpdateBatch", action=wait_timeout())
        result = client.upsert("plain", [point(1)])
        assert result.status == models.UpdateStatus.WAIT_TIMEOUT
        batch = [models.DeleteOperation(delete=models.PointIdsList(points=[1]))]
        (result,) = client.batch_update_points("plain", batch)
        assert result.status == models.UpdateStatus.WAIT_TIMEOUT
        assert client.count("plain").count == 0

    def test_a_rejected_point_takes_its_request_along(
        self, client: QdrantClient, qdrant_server: QdrantServer
    ) -> None:
        qdrant_server.faults.add(method="Upsert", action=reject(contains_point(2)), times=None)
        qdrant_server.faults.add(method="Upsert", action=reject(contains_point(UUID)), times=None)
        for bad in (2, UUID):
            with refused(Code.INVALID_ARGUMENT):
                client.upsert("plain", [point(1), point(bad)])
        client.upsert("plain", [point(1), point(3)])
        assert list(payloads(client)) == [1, 3]

    def test_a_delayed_request_waits_for_its_event(
        self, client: QdrantClient, qdrant_server: QdrantServer
    ) -> None:
        release = threading.Event()
        rule = qdrant_server.faults.add(method="Upsert", action=delay(release))
        with ThreadPoolExecutor() as pool:
            held = pool.submit(client.upsert, "plain", [point(1)])
            qdrant_server.faults.wait_fired(rule)
            assert client.count("plain").count == 0
            assert not held.done()
            release.set()
            assert held.result(timeout=30).status == models.UpdateStatus.COMPLETED
        assert client.count("plain").count == 1

    def test_a_fault_may_be_confined_to_a_collection(
        self, client: QdrantClient, qdrant_server: QdrantServer
    ) -> None:
        plain(client, "other")
        qdrant_server.faults.add(method="*", action=unavailable(), collection="other", times=None)
        client.upsert("plain", [point(1)])
        with refused(Code.UNAVAILABLE):
            client.upsert("other", [point(1)])
        with refused(Code.UNAVAILABLE):
            client.get_collection("other")

    def test_requests_are_counted_and_recorded(
        self, client: QdrantClient, qdrant_server: QdrantServer
    ) -> None:
        seen: list[tuple[str, Any]] = []
        qdrant_server.requests.reset()
        qdrant_server.requests.recorder = lambda method, request: seen.append((method, request))
        client.upsert("plain", [point(1)])
        client.get_collection("plain")
        client.retrieve("plain", [1])
        assert qdrant_server.requests.counts() == {
            "Points.Upsert": 1,
            "Collections.Get": 1,
            "Points.Get": 1,
        }
        assert qdrant_server.requests.count("Get") == 1
        assert [method for method, _ in seen] == ["Points.Upsert", "Collections.Get", "Points.Get"]
        assert seen[0][1].points[0].id.num == 1
        with pytest.raises(TimeoutError, match="Upsert: 1 requests arrived, not 2"):
            qdrant_server.requests.wait_for("Upsert", 2, timeout_seconds=0.05)
