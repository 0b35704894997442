"""A LangChain application moves: what `PGVector` wrote, LangChain's `QdrantVectorStore` reads.

Both libraries are the real ones. The same questions get the same documents, metadata and scores from
both stores, with filters on metadata too.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_postgres import PGVector
from langchain_qdrant import QdrantVectorStore
from qdrant_client import models
from sqlalchemy import Engine, create_engine

from tests.support.databases import Database
from tests.support.places import SERVERS, ServerPlace, open_place
from tests.support.shell import command

DIMENSION: Final = 24
QUESTIONS: Final = ("chapter 3", "something else entirely", "Kapitel Ünï 日本")


@pytest.fixture
def engine(database: Database) -> Iterator[Engine]:
    made = create_engine(database.url.replace("postgresql://", "postgresql+psycopg://"))
    yield made
    made.dispose()


@pytest.fixture(params=SERVERS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServerPlace]:
    with open_place(request.param, tmp_path) as opened:
        assert isinstance(opened, ServerPlace)
        yield opened


def embedding() -> DeterministicFakeEmbedding:
    """The same text, the same vector, in every process."""
    return DeterministicFakeEmbedding(size=DIMENSION)


def library(engine: Engine, name: str) -> PGVector:
    """One of LangChain's collections; all lie in one table."""
    return PGVector(embedding(), connection=engine, collection_name=name, create_extension=False)


def documents() -> list[Document]:
    """Texts and metadata of every JSON type."""
    return [
        Document(
            page_content=f"chapter {number}\nKapitel Ünï 日本",
            metadata={
                "number": number,
                "share": number / 8,
                "even": number % 2 == 0,
                "author": {"name": ["Ada", "Grace"][number % 2], "born": None},
                "tags": ["a", f"t{number}"],
            },
        )
        for number in range(40)
    ]


def configuration(path: Path, database: Database, place: ServerPlace, **names: str) -> str:
    """`--config=FILE` of a bridge.yaml that makes LangChain's fields of its columns."""
    path.write_text(
        f"""
pipeline: {names["pipeline"]}
postgres:
  url: {database.url}
qdrant:
  url: {place.url}
tables:
  langchain_pg_embedding:
    collection: {names["collection"]}
    payload: {{page_content: document, metadata: cmetadata}}
    where: {{collection_id: {names["uuid"]}}}
    vectors:
      embedding: {{name: ""}}
"""
    )
    return f"--config={path}"


def shown(results: list[tuple[Document, float]]) -> list[tuple[str, str, dict[str, Any]]]:
    """(id, text, metadata), without what the Qdrant store adds to metadata."""
    return [
        (
            str(document.id or document.metadata["_id"]),
            document.page_content,
            {k: v for k, v in document.metadata.items() if not k.startswith("_")},
        )
        for document, _similarity in results
    ]


def test_langchains_qdrant_store_reads_what_its_pgvector_store_wrote(
    database: Database, engine: Engine, place: ServerPlace, tmp_path: Path
) -> None:
    books = library(engine, "books")
    books.add_documents(documents())
    library(engine, "letters").add_documents([Document(page_content="chapter 3, not of the books")])
    ((uuid,),) = database.execute("SELECT uuid FROM langchain_pg_collection WHERE name = 'books'")
    collection = place.name("books")
    file = configuration(
        tmp_path / "bridge.yaml",
        database,
        place,
        pipeline=collection,
        collection=collection,
        uuid=str(uuid),
    )

    report = command("backfill", "pgvector", file, "--json").require().table
    assert (report["source_count"], report["target_count"]) == (40, 40)

    store = QdrantVectorStore(place.client, collection, embedding=embedding())
    for question in QUESTIONS:
        for filters in (
            (None, None),
            ({"even": True}, _metadata("even", models.MatchValue(value=True))),
            ({"number": 7}, _metadata("number", models.MatchValue(value=7))),
            ({"number": {"$in": [3, 5, 8]}}, _metadata("number", models.MatchAny(any=[3, 5, 8]))),
        ):
            expected = _similarities(books, question, filters[0])
            answer = store.similarity_search_with_score(question, k=5, filter=filters[1])
            assert shown(answer) == shown(expected)
            similarities = [similarity for _document, similarity in expected]
            assert [score for _, score in answer] == pytest.approx(similarities, abs=1e-5)
            texts = [document.page_content for document in store.similarity_search(question, k=1)]
            assert texts == [d.page_content for d in books.similarity_search(question, k=1)]
    (exact, similarity), *_ = store.similarity_search_with_score(documents()[3].page_content, k=1)
    assert exact.metadata["author"] == {"name": "Grace", "born": None}
    assert similarity == pytest.approx(1.0, abs=1e-5)


def _metadata(key: str, match: models.MatchValue | models.MatchAny) -> models.Filter:
    return models.Filter(must=[models.FieldCondition(key=f"metadata.{key}", match=match)])


def _similarities(
    store: PGVector, question: str, chosen: dict[str, Any] | None
) -> list[tuple[Document, float]]:
    """The store tells cosine distances."""
    answer = store.similarity_search_with_score(question, k=5, filter=chosen)
    return [(document, 1 - distance) for document, distance in answer]


def test_documents_added_later_through_langchain_join_the_copied_ones(
    database: Database, engine: Engine, place: ServerPlace, tmp_path: Path
) -> None:
    books = library(engine, "books")
    (first,) = books.add_documents([Document(page_content="copied", metadata={"n": 1})])
    ((uuid,),) = database.execute("SELECT uuid FROM langchain_pg_collection WHERE name = 'books'")
    collection = place.name("books")
    file = configuration(
        tmp_path / "bridge.yaml",
        database,
        place,
        pipeline=collection,
        collection=collection,
        uuid=str(uuid),
    )
    command("backfill", "pgvector", file).require()

    store = QdrantVectorStore(place.client, collection, embedding=embedding())
    store.add_documents([Document(page_content="added", metadata={"n": 2})])
    assert {d.page_content for d in store.similarity_search("copied", k=5)} == {"copied", "added"}
    # The ids are LangChain's own, so what was copied is also replaced and deleted through it.
    assert [d.page_content for d in store.get_by_ids([first])] == ["copied"]
    store.delete([first])
    assert [d.page_content for d in store.similarity_search("copied", k=5)] == ["added"]
