"""The test server behaves as Qdrant 1.18.3 does: collections and writes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from qdrant_client import QdrantClient, models
from qdrant_client import grpc as qdrant

from tests.support.stock_client import all_kinds, payloads, plain, point, raw, refused

Code = grpc.StatusCode
UUID = "550e8400-e29b-41d4-a716-446655440000"


class TestCollections:
    def test_the_version_is_told(self, client: QdrantClient) -> None:
        assert client.info().version == "1.18.3"

    def test_a_collection_is_described_as_it_was_made(self, client: QdrantClient) -> None:
        all_kinds(client)
        info = client.get_collection("kinds")
        vectors: Any = info.config.params.vectors
        assert vectors["half"].datatype == models.Datatype.FLOAT16
        assert vectors["bits"].distance == models.Distance.MANHATTAN
        assert vectors["many"].multivector_config.comparator == "max_sim"
        assert vectors["dense"].datatype is None
        assert list(info.config.params.sparse_vectors or {}) == ["sparse"]
        assert info.status == models.CollectionStatus.GREEN
        assert info.config.optimizer_config.indexing_threshold == 10_000
        assert info.config.hnsw_config.m == 16
        assert info.points_count == 0

    def test_settings_are_changed_one_by_one(self, client: QdrantClient) -> None:
        plain(client)
        client.update_collection(
            "plain",
            optimizers_config=models.OptimizersConfigDiff(indexing_threshold=0),
            hnsw_config=models.HnswConfigDiff(m=0),
        )
        config = client.get_collection("plain").config
        assert config.optimizer_config.indexing_threshold == 0
        assert config.optimizer_config.flush_interval_sec == 5
        assert config.hnsw_config.m == 0
        assert config.hnsw_config.ef_construct == 100

    def test_list_exists_and_delete(self, client: QdrantClient) -> None:
        plain(client, "b")
        plain(client, "a")
        names = [each.name for each in client.get_collections().collections]
        assert {"a", "b"} <= set(names)
        assert client.delete_collection("a") is True
        assert client.delete_collection("a") is False
        assert client.collection_exists("b") and not client.collection_exists("a")

    def test_a_collection_may_have_no_vectors(self, client: QdrantClient) -> None:
        client.create_collection("bare", vectors_config={})
        client.upsert("bare", [models.PointStruct(id=1, vector={}, payload={"a": 1})])
        (record,) = client.retrieve("bare", [1], with_vectors=True)
        assert record.payload == {"a": 1}
        params = client.get_collection("bare").config.params
        assert params.vectors == {} and not params.sparse_vectors

    def test_refusals_have_the_codes_of_the_server(self, client: QdrantClient) -> None:
        plain(client)
        with refused(Code.ALREADY_EXISTS, "Collection `plain` already exists!"):
            plain(client)
        with refused(Code.NOT_FOUND, "Collection `missing` doesn't exist!"):
            client.get_collection("missing")
        with refused(Code.NOT_FOUND):
            client.upsert("missing", [point(1)])
        for name in ("a:b", "a/b", "", "x" * 256):
            with refused(Code.INVALID_ARGUMENT):
                plain(client, name)
        with refused(Code.INVALID_ARGUMENT):
            plain(client, "huge", size=65_537)
        with refused(Code.INVALID_ARGUMENT, "vector name"):
            client.create_collection(
                "named",
                vectors_config={"a|b": models.VectorParams(size=2, distance=models.Distance.DOT)},
            )


class TestWriting:
    def test_every_kind_of_vector_comes_back(self, client: QdrantClient) -> None:
        all_kinds(client)
        vector: Any = {
            "dense": [3.0, 4.0],
            "half": [0.5, 1.25],
            "bits": [1.0, 0.0, 1.0],
            "many": [[1.0, 2.0], [3.0, 4.0]],
            "sparse": models.SparseVector(indices=[7, 1], values=[0.5, 0.25]),
        }
        client.upsert("kinds", [models.PointStruct(id=1, vector=vector)])
        (record,) = client.retrieve("kinds", [1], with_vectors=True)
        got: Any = record.vector
        assert got["dense"] == pytest.approx([0.6, 0.8])
        assert got["half"] == [0.5, 1.25]
        assert got["bits"] == [1.0, 0.0, 1.0]
        assert got["many"] == [[1.0, 2.0], [3.0, 4.0]]
        assert dict(zip(got["sparse"].indices, got["sparse"].values, strict=True)) == {
            7: 0.5,
            1: 0.25,
        }

    def test_vectors_leave_in_the_present_form(self, client: QdrantClient, points: Any) -> None:
        plain(client)
        client.upsert("plain", [point(1)])
        request = qdrant.GetPoints(
            collection_name="plain",
            ids=[qdrant.PointId(num=1)],
            with_vectors=qdrant.WithVectorsSelector(enable=True),
        )
        (record,) = points.Get(request).result
        assert record.vectors.vector.WhichOneof("vector") == "dense"
        assert list(record.vectors.vector.data) == []
        assert not record.payload

    def test_payload_values_keep_their_kinds(self, client: QdrantClient, points: Any) -> None:
        plain(client)
        payload: dict[str, Any] = {
            "integer": 2**63 - 1,
            "negative": -(2**63),
            "whole": 42.0,
            "half": 0.5,
            "null": None,
            "yes": True,
            "text": "a\0ü",
            "nested": {"list": [1, 1.0, None, {"deep": []}], "empty": {}},
        }
        client.upsert("plain", [point(1, **payload)])
        got = payloads(client)[1]
        assert got == payload
        assert type(got["whole"]) is float and type(got["integer"]) is int
        assert [type(each) for each in got["nested"]["list"]] == [int, float, type(None), dict]

    def test_an_upsert_replaces_the_whole_point(self, client: QdrantClient) -> None:
        all_kinds(client)
        whole: Any = {"dense": [1.0, 0.0], "half": [1.0, 1.0]}
        part: Any = {"dense": [0.0, 1.0]}
        client.upsert("kinds", [models.PointStruct(id=1, vector=whole, payload={"a": 1})])
        client.upsert("kinds", [models.PointStruct(id=1, vector=part)])
        (record,) = client.retrieve("kinds", [1], with_vectors=True)
        assert record.vector == {"dense": [0.0, 1.0]}
        assert record.payload == {}

    def test_update_modes_and_conditions(self, client: QdrantClient) -> None:
        plain(client)
        client.upsert("plain", [point(1, v=1)])
        client.upsert(
            "plain", [point(1, v=2), point(2, v=2)], update_mode=models.UpdateMode.INSERT_ONLY
        )
        assert payloads(client) == {1: {"v": 1}, 2: {"v": 2}}
        client.upsert(
            "plain", [point(2, v=3), point(3, v=3)], update_mode=models.UpdateMode.UPDATE_ONLY
        )
        assert payloads(client) == {1: {"v": 1}, 2: {"v": 3}}
        newer = models.Filter(
            must=[models.FieldCondition(key="v", range=models.Range(gte=3, lt=4))]
        )
        client.upsert("plain", [point(1, v=4), point(2, v=4), point(9, v=4)], update_filter=newer)
        assert payloads(client) == {1: {"v": 1}, 2: {"v": 4}, 9: {"v": 4}}

    def test_set_merges_and_null_deletes_where_overwrite_keeps_it(
        self, client: QdrantClient
    ) -> None:
        plain(client)
        client.upsert("plain", [point(1, a=1, b=2), point(2, a=1)])
        client.set_payload("plain", {"a": None, "c": 3}, points=[1])
        client.overwrite_payload("plain", {"n": None}, points=[2])
        assert payloads(client) == {1: {"b": 2, "c": 3}, 2: {"n": None}}
        client.delete_payload("plain", ["b"], points=[1])
        client.clear_payload("plain", points_selector=[2])
        assert payloads(client) == {1: {"c": 3}, 2: {}}

    def test_vectors_are_updated_and_deleted_alone(self, client: QdrantClient) -> None:
        all_kinds(client)
        both: Any = {"dense": [1.0, 0.0], "half": [1.0, 1.0]}
        other: Any = {"half": [2.0, 2.0]}
        client.upsert("kinds", [models.PointStruct(id=1, vector=both, payload={"a": 1})])
        client.update_vectors("kinds", [models.PointVectors(id=1, vector=other)])
        client.delete_vectors("kinds", vectors=["dense"], points=[1])
        (record,) = client.retrieve("kinds", [1], with_vectors=True)
        assert record.vector == {"half": [2.0, 2.0]}
        assert record.payload == {"a": 1}

    def test_deletes_by_id_and_by_filter(self, client: QdrantClient) -> None:
        plain(client)
        client.upsert("plain", [point(number, odd=bool(number % 2)) for number in range(6)])
        client.delete("plain", [0, 777])
        odd = models.Filter(
            must=[models.FieldCondition(key="odd", match=models.MatchValue(value=True))]
        )
        client.delete("plain", odd)
        assert list(payloads(client)) == [2, 4]

    def test_a_batch_runs_in_order_and_stops_at_the_first_error(self, client: QdrantClient) -> None:
        plain(client)
        operations: list[Any] = [
            models.UpsertOperation(upsert=models.PointsList(points=[point(1, v=1)])),
            models.OverwritePayloadOperation(
                overwrite_payload=models.SetPayload(payload={"v": 2}, points=[1])
            ),
            models.SetPayloadOperation(
                set_payload=models.SetPayload(payload={"v": 3}, points=[404])
            ),
            models.DeleteOperation(delete=models.PointIdsList(points=[1])),
        ]
        with refused(Code.NOT_FOUND, "No point with id 404 found"):
            client.batch_update_points("plain", operations)
        assert payloads(client) == {1: {"v": 2}}
        results = client.batch_update_points("plain", [operations[0], operations[3]])
        assert [each.status for each in results] == ["completed", "completed"]
        assert payloads(client) == {}

    def test_without_waiting_late_errors_are_not_told(self, client: QdrantClient) -> None:
        plain(client)
        result = client.set_payload("plain", {"a": 1}, points=[404], wait=False)
        assert result.status == models.UpdateStatus.ACKNOWLEDGED
        with refused(Code.INVALID_ARGUMENT, "expected dim: 2, got 3"):
            client.upsert("plain", [models.PointStruct(id=1, vector=[1.0] * 3)], wait=False)

    def test_what_the_server_refuses(self, client: QdrantClient, points: Any) -> None:
        plain(client)
        all_kinds(client)
        named: Any = {"nowhere": [1.0]}
        short: Any = {"half": [1.0]}
        wrong: Any = {"sparse": [1.0]}
        upsert = client.upsert
        with refused(Code.INVALID_ARGUMENT, "Wrong input: Vector dimension error: expected dim: 2"):
            upsert("plain", [models.PointStruct(id=1, vector=[1.0])])
        with refused(Code.INVALID_ARGUMENT, "got 1 for vector 'half'"):
            upsert("kinds", [models.PointStruct(id=1, vector=short)])
        with refused(Code.INVALID_ARGUMENT, "Not existing vector name error: nowhere"):
            upsert("kinds", [models.PointStruct(id=1, vector=named)])
        with refused(Code.INVALID_ARGUMENT, "Conversion between sparse and regular"):
            upsert("kinds", [models.PointStruct(id=1, vector=wrong)])
        multi: Any = {"half": [[1.0, 2.0]]}
        with refused(Code.INVALID_ARGUMENT, "Conversion between multi and regular"):
            upsert("kinds", [models.PointStruct(id=1, vector=multi)])
        with refused(Code.INVALID_ARGUMENT, "cannot convert to json number"):
            upsert("plain", [point(1, bad=math.nan)])
        with refused(Code.INVALID_ARGUMENT, "Unable to parse UUID: no-uuid"):
            upsert("plain", [point("no-uuid")])
        missing: list[tuple[Callable[..., Any], Any]] = [
            (client.set_payload, {"a": 1}),
            (client.overwrite_payload, {"a": 1}),
            (client.delete_payload, ["a"]),
            (client.delete_vectors, [""]),
        ]
        for call, what in missing:
            with refused(Code.NOT_FOUND, "Not found: No point with id 404 found"):
                call("plain", what, points=[404])
        bare = qdrant.PointStruct(id=qdrant.PointId(num=1))
        with refused(Code.INVALID_ARGUMENT, "Expected some vectors"):
            points.Upsert(qdrant.UpsertPoints(collection_name="plain", points=[bare]))
        assert client.count("plain").count == client.count("kinds").count == 0

    def test_an_update_of_nothing_is_refused(self, client: QdrantClient, points: Any) -> None:
        plain(client)
        nothing = qdrant.PointsSelector(points=qdrant.PointsIdsList())
        for call, request in (
            (points.Upsert, qdrant.UpsertPoints(collection_name="plain")),
            (points.Delete, qdrant.DeletePoints(collection_name="plain", points=nothing)),
            (
                points.SetPayload,
                qdrant.SetPayloadPoints(collection_name="plain", points_selector=nothing),
            ),
        ):
            with refused(Code.INVALID_ARGUMENT, "Empty update request"):
                call(request)

    def test_nan_in_a_vector_is_taken(self, client: QdrantClient) -> None:
        plain(client)
        client.upsert("plain", [models.PointStruct(id=1, vector=[math.nan, 0.0])])
        (record,) = client.retrieve("plain", [1], with_vectors=True)
        assert math.isnan(record.vector[0])  # type: ignore[index,arg-type]

    def test_unknown_fields_in_a_message_are_ignored(
        self, client: QdrantClient, channel: grpc.Channel
    ) -> None:
        plain(client)
        request = qdrant.UpsertPoints(
            collection_name="plain",
            wait=True,
            points=[
                qdrant.PointStruct(
                    id=qdrant.PointId(num=1),
                    vectors=qdrant.Vectors(
                        vector=qdrant.Vector(dense=qdrant.DenseVector(data=[1.0, 2.0]))
                    ),
                )
            ],
        )
        unknown = b"\xfa\x3f\x03abc"  # field 1023, three bytes
        answer = raw(channel, "/qdrant.Points/Upsert")(request.SerializeToString() + unknown)
        assert qdrant.PointsOperationResponse.FromString(answer).result.status == 2
        assert client.count("plain").count == 1

    def test_vector_names_come_and_go(self, client: QdrantClient, points: Any) -> None:
        all_kinds(client)
        points.CreateVectorName(
            qdrant.CreateVectorNameRequest(
                collection_name="kinds",
                wait=True,
                vector_name="late",
                dense_config=qdrant.DenseVectorCreationConfig(
                    size=2, distance=qdrant.Distance.Euclid
                ),
            )
        )
        late: Any = {"late": [1.0, 2.0]}
        client.upsert("kinds", [models.PointStruct(id=1, vector=late)])
        vectors: Any = client.get_collection("kinds").config.params.vectors
        assert vectors["late"].size == 2
        points.DeleteVectorName(
            qdrant.DeleteVectorNameRequest(collection_name="kinds", wait=True, vector_name="late")
        )
        (record,) = client.retrieve("kinds", [1], with_vectors=True)
        assert record.vector == {}
