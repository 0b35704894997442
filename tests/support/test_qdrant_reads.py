"""The test server behaves as Qdrant 1.18.3 does: reads, filters, queries, payload indexes."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from qdrant_client import QdrantClient, models

from tests.support.stock_client import all_kinds, plain, point, refused

Code = grpc.StatusCode
UUID = "550e8400-e29b-41d4-a716-446655440000"


class TestReading:
    def test_scroll_runs_numbers_then_uuids_page_by_page(self, client: QdrantClient) -> None:
        plain(client)
        ids: list[Any] = [2**64 - 1, UUID, 7, 0, str(uuid.UUID(int=1)), 2**63]
        client.upsert("plain", [point(each) for each in ids])
        order = [0, 7, 2**63, 2**64 - 1, str(uuid.UUID(int=1)), UUID]
        seen: list[Any] = []
        offset = None
        while True:
            records, offset = client.scroll("plain", limit=2, offset=offset)
            seen += [record.id for record in records]
            if offset is None:
                break
        assert seen == order

    def test_scroll_returns_what_is_selected(self, client: QdrantClient) -> None:
        plain(client)
        client.upsert("plain", [point(1, a=1, b={"c": 2, "d": 3})])
        for selector, expected in (
            (True, {"a": 1, "b": {"c": 2, "d": 3}}),
            (False, {}),
            (["b.c"], {"b": {"c": 2}}),
            (models.PayloadSelectorExclude(exclude=["b"]), {"a": 1}),
        ):
            (record,), _ = client.scroll("plain", with_payload=selector)
            assert (record.payload or {}) == expected
        (record,), _ = client.scroll("plain", with_vectors=True)
        assert record.vector == [1.0, 2.0]
        (record,), _ = client.scroll("plain", with_vectors=False)
        assert record.vector is None

    def test_retrieve_keeps_the_order_asked_for(self, client: QdrantClient) -> None:
        plain(client)
        client.upsert("plain", [point(1), point(2), point(UUID)])
        assert [each.id for each in client.retrieve("plain", [UUID, 404, 2, 1])] == [UUID, 2, 1]
        upper = UUID.upper().replace("-", "")
        assert [each.id for each in client.retrieve("plain", [upper])] == [UUID]

    @pytest.mark.parametrize(
        ("condition", "expected"),
        [
            (models.FieldCondition(key="word", match=models.MatchValue(value="b")), [2]),
            (models.FieldCondition(key="n", match=models.MatchValue(value=1)), [1]),
            (models.FieldCondition(key="flag", match=models.MatchValue(value=True)), [1]),
            (models.FieldCondition(key="word", match=models.MatchAny(any=["a", "c"])), [1, 3]),
            (models.FieldCondition(key="n", match=models.MatchAny(any=[2, 3])), [2, 3]),
            (models.FieldCondition(key="n", range=models.Range(gt=1, lte=2)), [2]),
            (
                models.FieldCondition(
                    key="at",
                    range=models.DatetimeRange(gte=datetime(2024, 1, 2, tzinfo=UTC)),
                ),
                [2],
            ),
            (models.HasIdCondition(has_id=[3, UUID]), [3, UUID]),
            (models.IsNullCondition(is_null=models.PayloadField(key="maybe")), [2]),
            (models.IsEmptyCondition(is_empty=models.PayloadField(key="maybe")), [2, 3, UUID]),
            (models.HasVectorCondition(has_vector="dense"), [1, UUID]),
            (
                models.NestedCondition(
                    nested=models.Nested(
                        key="parts",
                        filter=models.Filter(
                            must=[
                                models.FieldCondition(key="x", match=models.MatchValue(value=1)),
                                models.FieldCondition(key="y", match=models.MatchValue(value=2)),
                            ]
                        ),
                    )
                ),
                [1],
            ),
            (
                models.Filter(
                    should=[
                        models.HasIdCondition(has_id=[1]),
                        models.HasIdCondition(has_id=[2]),
                    ],
                    must_not=[models.HasIdCondition(has_id=[2])],
                ),
                [1],
            ),
        ],
    )
    def test_filters(self, client: QdrantClient, condition: Any, expected: list[Any]) -> None:
        all_kinds(client)
        one: Any = {"dense": [1.0, 0.0]}
        none: Any = {}
        first = {
            "word": "a",
            "n": 1,
            "flag": True,
            "at": "2024-01-01T00:00:00Z",
            "maybe": 1,
            "parts": [{"x": 1, "y": 2}, {"x": 3, "y": 4}],
        }
        second = {
            "word": "b",
            "n": 2,
            "flag": False,
            "at": "2024-01-02T00:00:00Z",
            "maybe": None,
            "parts": [{"x": 1, "y": 4}, {"x": 3, "y": 2}],
        }
        client.upsert(
            "kinds",
            [
                models.PointStruct(id=1, vector=one, payload=first),
                models.PointStruct(id=2, vector=none, payload=second),
                models.PointStruct(id=3, vector=none, payload={"word": "c", "n": 3}),
                models.PointStruct(id=UUID, vector=one),
            ],
        )
        matching = models.Filter(must=[condition])
        records, _ = client.scroll("kinds", scroll_filter=matching)
        assert [record.id for record in records] == expected
        assert client.count("kinds", count_filter=matching).count == len(expected)

    def test_query_ranks_every_kind_of_vector(self, client: QdrantClient) -> None:
        all_kinds(client)
        near: Any = {
            "dense": [1.0, 0.1],
            "half": [1.0, 1.0],
            "many": [[1.0, 0.0], [0.0, 1.0]],
            "sparse": models.SparseVector(indices=[1], values=[2.0]),
        }
        far: Any = {
            "dense": [0.1, 1.0],
            "half": [9.0, 9.0],
            "many": [[0.1, 0.1]],
            "sparse": models.SparseVector(indices=[1, 2], values=[1.0, 5.0]),
        }
        client.upsert(
            "kinds",
            [
                models.PointStruct(id=1, vector=near, payload={"a": 1}),
                models.PointStruct(id=2, vector=far, payload={"a": 2}),
            ],
        )
        queries: dict[str, Any] = {
            "dense": [1.0, 0.0],
            "half": [1.0, 1.5],
            "many": [[1.0, 1.0]],
            "sparse": models.SparseVector(indices=[1], values=[1.0]),
        }
        for using, query in queries.items():
            found = client.query_points("kinds", query=query, using=using, with_payload=True)
            assert [each.id for each in found.points] == [1, 2], using
            assert found.points[0].payload == {"a": 1}
        exact = client.query_points(
            "kinds",
            query=[1.0, 0.0],
            using="dense",
            limit=1,
            query_filter=models.Filter(must_not=[models.HasIdCondition(has_id=[1])]),
            search_params=models.SearchParams(exact=True),
            with_vectors=["half"],
        )
        assert [(each.id, each.vector) for each in exact.points] == [(2, {"half": [9.0, 9.0]})]
        by_id = client.query_points("kinds", query=1, using="half")
        assert [each.id for each in by_id.points] == [2]
        fused = client.query_points(
            "kinds",
            prefetch=[
                models.Prefetch(query=query, using=using) for using, query in queries.items()
            ],
            query=models.FusionQuery(fusion=models.Fusion.RRF),
        )
        assert [each.id for each in fused.points] == [1, 2]

    def test_payload_indexes_are_real_and_reported(self, client: QdrantClient) -> None:
        plain(client)
        client.upsert(
            "plain", [point(number, kind=["even", "odd"][number % 2]) for number in range(5)]
        )
        client.create_payload_index(
            "plain",
            "kind",
            models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True),
        )
        client.create_payload_index("plain", "n", models.PayloadSchemaType.INTEGER)
        schema = client.get_collection("plain").payload_schema
        assert schema["kind"].data_type == models.PayloadSchemaType.KEYWORD
        assert schema["kind"].params.is_tenant is True  # type: ignore[union-attr]
        assert schema["kind"].points == 5
        assert schema["n"].data_type == models.PayloadSchemaType.INTEGER
        hits = client.facet("plain", "kind").hits
        assert [(hit.value, hit.count) for hit in hits] == [("even", 3), ("odd", 2)]
        client.delete_payload_index("plain", "kind")
        assert list(client.get_collection("plain").payload_schema) == ["n"]
        with refused(Code.INVALID_ARGUMENT, "No appropriate index for faceting"):
            client.facet("plain", "kind")
