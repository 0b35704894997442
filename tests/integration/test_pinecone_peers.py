"""What goes wrong with qdrant/migration 0.6.5 on a Pinecone index, each fault a test that passes here.

Its faults were found by running it, and by reading it where it cannot reach a stand-in.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from qdrant_client import models

from tests.support.command import bridge
from tests.support.comparison import point_id
from tests.support.pinecone_faults import cut
from tests.support.pinecone_index import Index
from tests.support.pinecone_runs import fill, standing
from tests.support.pinecone_server import KEY
from tests.support.places import ServerPlace, open_server

SPELLINGS = (
    "6f6c1f4e-9a3b-4d1c-8e7f-2a1b3c4d5e6f",
    "6F6C1F4E-9A3B-4D1C-8E7F-2A1B3C4D5E6F",
    "6f6c1f4e9a3b4d1c8e7f2a1b3c4d5e6f",
    "{6f6c1f4e-9a3b-4d1c-8e7f-2a1b3c4d5e6f}",
    "urn:uuid:6f6c1f4e-9a3b-4d1c-8e7f-2a1b3c4d5e6f",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerPlace]:
    with open_server(tmp_path_factory.mktemp("qdrant")) as opened:
        yield opened


def test_spellings_of_one_uuid_are_records_of_their_own(place: ServerPlace) -> None:
    index = Index()
    for number, identity in enumerate(SPELLINGS):
        index.put(identity, [number + 1.0] * 8, metadata={"number": number})
    with standing(index, place) as job:
        job.run().require()
        job.require_equal()
        assert len(job.points()) == len(SPELLINGS)


def test_equal_ids_of_two_namespaces_do_not_collide_and_keep_their_names(
    place: ServerPlace,
) -> None:
    """It reads the default namespace alone, and does not keep the name of any."""
    index = Index()
    for namespace in ("", "a", "b"):
        index.put("same", [len(namespace) + 1.0] * 8, namespace=namespace)
    with standing(index, place) as job:
        job.run().require()
        found = {p.payload["namespace"]: p.payload["__id__"] for p in job.points().values()}
    assert found == {"": "same", "a": "same", "b": "same"}


def test_an_empty_page_with_a_token_ends_nothing(place: ServerPlace) -> None:
    index = Index(short_pages=23)
    fill(index, 400)
    with standing(index, place) as job:
        job.run().require()
        job.require_equal(float_fields=["price"])
        assert any(not page.ids for page in job.server.requests.of("list")[:-1])


def test_a_hybrid_index_needs_no_collection_made_by_hand(place: ServerPlace) -> None:
    index = Index(metric="dotproduct")
    for number in range(30):
        index.put(f"r{number}", [number + 1.0] * 8, sparse={number: 1.0})
    with standing(index, place) as job:
        job.run().require()
        job.require_equal()


@pytest.mark.parametrize("batch", ["1", "101", "1000"])
def test_batches_may_be_of_any_size(place: ServerPlace, batch: str) -> None:
    """Above 100 it asks Pinecone for more than a page may have."""
    index = Index()
    fill(index, 350)
    with standing(index, place, "-b", batch) as job:
        job.run().require()
        job.require_equal(float_fields=["price"])


def test_integer_ids_are_not_hashed(place: ServerPlace) -> None:
    index = Index()
    for number in range(5):
        index.put(str(number), [number + 1.0] * 8)
    with standing(index, place) as job:
        job.run().require()
        assert set(job.points()) == set(range(5))
        assert point_id(("3",)) == 3


def test_an_existing_collection_is_looked_at_before_anything_is_written(
    place: ServerPlace,
) -> None:
    index = Index(metric="dotproduct")
    fill(index, 3)
    with standing(index, place) as job:
        place.client.create_collection(
            job.name, vectors_config=models.VectorParams(size=8, distance=models.Distance.COSINE)
        )
        outcome = job.run().require(3)
        assert "TARGET_MISMATCH" in outcome.err
        assert "dot" in outcome.err and "cosine" in outcome.err
        assert place.count(job.name) == 0


def test_a_connection_that_is_cut_while_reading_is_waited_for(place: ServerPlace) -> None:
    index = Index()
    fill(index, 600)
    with standing(index, place) as job:
        job.server.faults.add("fetch", cut(0.2), nth=2, times=4)
        job.run().require()
        job.require_equal(float_fields=["price"])


def test_its_command_line_is_taken_as_it_is(place: ServerPlace) -> None:
    index = Index(metric="dotproduct")
    fill(index, 20)
    with standing(index, place) as job:
        bridge(
            "backfill", "pinecone", f"--pinecone.index-host={job.server.host_of('products')}",
            "--pinecone.index-name=products", f"--pinecone.api-key={KEY}",
            f"--pinecone.service-host={job.server.url}", "--pinecone.namespace=",
            f"--qdrant.url={place.url}", f"--qdrant.collection={job.name}",
            "--qdrant.id-field=__id__", "--qdrant.sparse-vector=sparse_vector",
            "--migration.batch-size=50", "--migration.batch-delay=1", "--migration.num-workers=2",
            "--migration.restart=false", "--migration.create-collection=true",
            "--migration.offsets-collection=offsets", "--skip-tls-verification=false",
            "--debug=false", "--trace=false",
        ).require()  # fmt: skip
        job.require_equal(float_fields=["price"])
