"""Bad input: each is refused on one screen that says what, where and the remedy, with its exit code.

What always holds is asserted for each: nothing is written, no secret and no traceback is printed;
with `--debug` a traceback is, and still no secret. The canary stands in the password and in the API
key of every command.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import grpc
import pytest
from qdrant_client import QdrantClient, models
from qdrant_client import grpc as q
from qdrant_client.grpc import qdrant_pb2_grpc as service

from bridge.postgres import catalog
from bridge.postgres.connection import Connection
from bridge.postgres.embedded import EmbeddedPostgres
from bridge.qdrant.edge import EdgeTarget
from bridge.qdrant.state import QdrantState
from bridge.qdrant.target import STATE_COLLECTION
from tests.support import tls
from tests.support.command import Outcome, Running
from tests.support.databases import SETTINGS, Database, fresh_database
from tests.support.ports import free_port
from tests.support.qdrant_server import QdrantServer
from tests.support.shell import LINES, command, screen_lines
from tests.support.stock_client import connect

CANARY: Final = "kanarienvogel-7f3a"
COPY: Final = ("backfill", "pgvector")
# No such address (RFC 5737): a connection attempt would hang until its timeout.
ELSEWHERE: Final = "192.0.2.1"
AT_ONCE_SECONDS: Final = 5.0
REAL: Final = os.environ.get("QDRANT_URL")

TABLES: Final = """
CREATE ROLE locked LOGIN PASSWORD 'right-kanarienvogel-7f3a';
CREATE ROLE reader LOGIN;
CREATE SCHEMA closed;
CREATE TABLE docs (id bigint PRIMARY KEY, title text, ok boolean, embedding vector(3));
INSERT INTO docs VALUES (1, 'one', true, '[1,2,3]'), (2, 'two', false, '[1,2,4]');
CREATE TABLE unique_key (a int, b int NOT NULL UNIQUE, embedding vector(3));
CREATE TABLE keyless (a int, embedding vector(3));
CREATE TABLE json_key (k json, embedding vector(3));
CREATE VIEW no_key AS SELECT id, embedding FROM docs;
CREATE VIEW twice AS SELECT 1 AS id, embedding FROM docs;
CREATE VIEW null_key AS SELECT nullif(id, 1) AS id, embedding FROM docs;
CREATE MATERIALIZED VIEW unfilled AS SELECT * FROM docs WITH NO DATA;
CREATE TABLE mixed (id int PRIMARY KEY, embedding vector);
INSERT INTO mixed VALUES (1, '[1,2]'), (2, '[1,2,3]'), (3, '[1,2,4]');
CREATE TABLE untold (id int PRIMARY KEY, embedding vector);
CREATE TABLE "a|b" (id int PRIMARY KEY, embedding vector(3));
CREATE TABLE odd_vector (id int PRIMARY KEY, "e:f" vector(3));
CREATE TABLE jaccard (id int PRIMARY KEY, bits bit(8));
CREATE INDEX ON jaccard USING hnsw (bits bit_jaccard_ops);
CREATE TABLE sparse_l2 (id int PRIMARY KEY, terms sparsevec(9));
CREATE INDEX ON sparse_l2 USING hnsw (terms sparsevec_l2_ops);
CREATE TABLE disagreeing (id int PRIMARY KEY, embedding vector(3));
CREATE INDEX ON disagreeing USING hnsw (embedding vector_l2_ops);
CREATE INDEX ON disagreeing USING hnsw (embedding vector_ip_ops);
CREATE TABLE parameters (id int PRIMARY KEY, embedding vector(3));
CREATE INDEX ON parameters USING hnsw (embedding vector_l2_ops) WITH (m = 8);
CREATE INDEX ON parameters USING hnsw (embedding vector_l2_ops) WITH (m = 9);
CREATE TABLE generated (
  id int PRIMARY KEY, a int, b int GENERATED ALWAYS AS (a * 2) STORED, embedding vector(3));
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE TABLE moody (id int PRIMARY KEY, m mood, embedding vector(3));
CREATE TABLE two_vectors (id int PRIMARY KEY, a vector(3), b vector(3));
CREATE TABLE closed.docs (id int PRIMARY KEY, embedding vector(3));
CREATE TABLE secretive (id int PRIMARY KEY, secret text, embedding vector);
INSERT INTO secretive VALUES (1, 'x', '[1,2,3]');
GRANT SELECT (id, embedding) ON secretive TO reader;
CREATE TABLE policed (id int PRIMARY KEY, embedding vector(3));
ALTER TABLE policed ENABLE ROW LEVEL SECURITY;
CREATE POLICY few ON policed USING (id < 10);
GRANT SELECT ON policed TO reader;
CREATE VIEW policed_view WITH (security_invoker = true) AS SELECT * FROM policed;
GRANT SELECT ON policed_view TO reader;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A database full of difficulties, an empty Qdrant, and what a user would type."""

    database: Database
    server: QdrantServer
    client: QdrantClient
    directory: Path

    def url(
        self, user: str = "postgres", password: str = CANARY, database: str | None = None
    ) -> str:
        """The Postgres url of a role. With the canary as its password, which `trust` ignores."""
        port = urlsplit(self.database.url).port
        name = self.database.name if database is None else database
        return f"postgresql://{user}:{password}@127.0.0.1:{port}/{name}"

    def flags(
        self, table: str | None, *more: str, postgres: str = "", qdrant: str = ""
    ) -> list[str]:
        """A backfill of a table; later flags replace earlier ones."""
        return [
            *COPY,
            f"--pg.url={postgres or self.url()}",
            f"--qdrant.url={qdrant or self.server.url}",
            f"--qdrant.api-key={CANARY}",
            *(() if table is None else (f"--pg.table={table}",)),
            *more,
        ]

    def config(self, tables: str, *, more: str = "", qdrant: str = "") -> str:
        """`--config=FILE` of a file with these tables (YAML, in braces)."""
        path = self.directory / "bridge.yaml"
        path.write_text(
            f"pipeline: shop\npostgres:\n  url: {self.url()}\n"
            f"qdrant:\n  url: {qdrant or self.server.url}\n  api_key: {CANARY}\n"
            f"tables: {tables}\n{more}"
        )
        return f"--config={path}"

    def holdings(self) -> dict[str, int]:
        """The points of every collection, and every file of the workplace but its configuration."""
        names = [item.name for item in self.client.get_collections().collections]
        points = {name: self.client.count(name).count for name in names}
        files = {str(path): 1 for path in self.directory.rglob("*") if path.suffix != ".yaml"}
        return points | files

    def refusal(
        self,
        arguments: list[str],
        *words: str,
        code: int = 2,
        environ: Mapping[str, str] | None = None,
    ) -> Outcome:
        """Run it, and assert all that a refusal must be; `words` are in its message."""
        before = self.holdings()
        plain = command(*arguments, environ=environ)
        assert plain.code == code, plain.err
        assert plain.out == ""
        for word in words:
            assert word in plain.err, plain.err
        assert "\n  remedy: " in plain.err
        assert "Traceback" not in plain.err
        assert screen_lines(plain.err) <= LINES
        debug = command(*arguments, "--debug", environ=environ)
        assert (debug.code, debug.out) == (code, "")
        assert debug.err.startswith("Traceback") and debug.err.endswith(plain.err)
        for outcome in (plain, debug):
            # A traceback is wrapped to the terminal's width, maybe within a word.
            assert CANARY not in "".join((outcome.out + outcome.err).split())
        assert self.holdings() == before
        return plain


@pytest.fixture(scope="module")
def difficulties() -> Iterator[Database]:
    hba = ("host all locked 127.0.0.1/32 scram-sha-256",)
    with (
        EmbeddedPostgres.temporary("18", SETTINGS, hba=hba) as server,
        fresh_database(server) as database,
    ):
        database.execute(TABLES)
        yield database


@pytest.fixture(scope="module")
def qdrant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[QdrantServer, QdrantClient]]:
    with QdrantServer(tmp_path_factory.mktemp("qdrant")) as server:
        client = connect(server.port)
        yield server, client
        client.close()


@pytest.fixture
def world(
    difficulties: Database, qdrant: tuple[QdrantServer, QdrantClient], tmp_path: Path
) -> Iterator[World]:
    server, client = qdrant
    directory = tmp_path / "workplace"
    directory.mkdir()
    yield World(database=difficulties, server=server, client=client, directory=directory)
    for item in client.get_collections().collections:
        client.delete_collection(item.name)


# --- reaching Postgres ---------------------------------------------------------------------------


def test_a_wrong_password(world: World) -> None:
    wrong = world.url("locked", f"wrong-{CANARY}")
    world.refusal(
        world.flags("docs", postgres=wrong), "wrong password", "locked@127.0.0.1", "PGPASSWORD"
    )


def test_the_right_password_from_the_environment_is_no_bad_input(world: World) -> None:
    without = world.url("locked").replace(f":{CANARY}@", "@")
    environ = {"PGPASSWORD": f"right-{CANARY}"}
    world.refusal(
        world.flags("docs", postgres=without), "locked may not read public.docs", environ=environ
    )


def test_no_password(world: World) -> None:
    without = world.url("locked").replace(f":{CANARY}@", "@")
    world.refusal(world.flags("docs", postgres=without), "asks for a password", "PGPASSWORD")


def test_an_unknown_database(world: World) -> None:
    url = world.url(database="nowhere")
    world.refusal(world.flags("docs", postgres=url), "/nowhere: no such database")


def test_an_unknown_role(world: World) -> None:
    world.refusal(world.flags("docs", postgres=world.url("stranger")), "stranger@", "no such role")


@pytest.mark.parametrize(
    "url",
    [f"postgresql://u:{CANARY}@h:port/db", f"postgresql://u:{CANARY}@x@h/db", f"secret {CANARY}"],
)
def test_a_postgres_url_that_cannot_be_read(world: World, url: str) -> None:
    world.refusal(world.flags("docs", postgres=url), "Postgres url", "percent-encoded")


def test_an_unreachable_postgres(world: World) -> None:
    url = f"postgresql://u:{CANARY}@127.0.0.1:{free_port()}/db"
    world.refusal(
        world.flags("docs", postgres=url),
        "Postgres does not answer at u@127.0.0.1",
        "Connection refused",
        code=4,
    )


def test_plaintext_to_a_postgres_elsewhere_is_refused_without_connecting(world: World) -> None:
    url = f"postgresql://u:{CANARY}@{ELSEWHERE}/db?sslmode=disable"
    began = time.monotonic()
    world.refusal(
        world.flags("docs", postgres=url), ELSEWHERE, "unencrypted", "sslmode=verify-full"
    )
    assert time.monotonic() - began < AT_ONCE_SECONDS


# --- reaching Qdrant -----------------------------------------------------------------------------


def test_an_unreachable_qdrant(world: World) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    world.refusal(world.flags("docs", qdrant=url), url, "Connection refused", "6334", code=4)


@contextmanager
def rest_server() -> Iterator[int]:
    """Something that speaks HTTP/1.1, as Qdrant does on its REST port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("real", [False, True] if REAL else [False])
def test_a_rest_port(world: World, real: bool) -> None:
    if real:
        host = urlsplit(REAL or "").hostname
        flags = world.flags("docs", qdrant=f"http://{host}:6333")
        world.refusal(flags, "6333 is Qdrant's REST port", f"http://{host}:6334")
        return
    with rest_server() as port:
        flags = world.flags("docs", qdrant=f"http://127.0.0.1:{port}")
        world.refusal(flags, f"127.0.0.1:{port} does not speak", "gRPC", "http://127.0.0.1:6334")


def test_a_wrong_api_key(world: World, tmp_path: Path) -> None:
    with QdrantServer(tmp_path / "locked", api_key=f"right-{CANARY}") as server:
        world.refusal(
            world.flags("docs", qdrant=server.url), "refuses the API key", "qdrant.api_key_file"
        )


def test_plaintext_to_a_qdrant_elsewhere_is_refused_without_connecting(world: World) -> None:
    began = time.monotonic()
    url = f"http://{ELSEWHERE}:6334"
    world.refusal(
        world.flags("docs", qdrant=url), url, "plaintext", "https://", "--allow-plaintext"
    )
    assert time.monotonic() - began < AT_ONCE_SECONDS


def test_https_to_a_server_without_tls(world: World) -> None:
    url = world.server.url.replace("http", "https")
    for more in ((), ("--skip-tls-verification",)):
        world.refusal(world.flags("docs", *more, qdrant=url), "does not speak TLS", "http://")


def test_a_process_prints_our_words_and_no_librarys(world: World) -> None:
    # Below Python, where a redirected sys.stderr hears nothing.
    flags = world.flags("docs", qdrant=world.server.url.replace("http", "https"))
    with Running(*flags) as running:
        outcome = running.finish().require(2)
    assert outcome.err == command(*flags).err


def test_a_certificate_that_nobody_vouches_for(world: World, tmp_path: Path) -> None:
    with QdrantServer(tmp_path / "encrypted", tls=tls.server_pair()) as server:
        world.refusal(
            world.flags("docs", qdrant=server.url),
            "certificate",
            "not trusted",
            "qdrant.ca_file",
        )
        config = world.config("{docs: }", more="skip_tls_verification: false", qdrant=server.url)
        path = Path(config.removeprefix("--config="))
        for authority, words in (("missing", "No such file"), (path.name, "no certificate in it")):
            text = path.read_text().replace("qdrant:\n", f"qdrant:\n  ca_file: {authority}\n", 1)
            wrong = path.with_name("wrong.yaml")
            wrong.write_text(text)
            world.refusal([*COPY, f"--config={wrong}"], "qdrant.ca_file", words)


class _OldQdrant(service.QdrantServicer):
    def HealthCheck(self, request: Any, context: Any) -> Any:
        return q.HealthCheckReply(title="qdrant", version="1.12.4")


def test_a_qdrant_that_is_too_old(world: World) -> None:
    server = grpc.server(futures.ThreadPoolExecutor(2))
    add: Any = service
    add.add_QdrantServicer_to_server(_OldQdrant(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        flags = world.flags("docs", qdrant=f"http://127.0.0.1:{port}")
        world.refusal(flags, "version 1.12.4", "1.17")
    finally:
        server.stop(None).wait()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://host", "http://host:6334"),
        ("localhost:6334", "http://host:6334"),
        ("edge://directory", "three slashes"),
        (f"https://user:{CANARY}@host:6334", "qdrant.api_key_file"),
        ("https://host:port", "cannot be read"),
    ],
)
def test_a_qdrant_url_that_cannot_be_read(world: World, url: str, words: str) -> None:
    world.refusal(world.flags("docs", qdrant=url), "qdrant.url", words)


# --- the embedded target -------------------------------------------------------------------------


def test_an_edge_directory_in_use(world: World) -> None:
    directory = world.directory / "edge"
    holder = EdgeTarget(directory)
    try:
        flags = world.flags("docs", qdrant=f"edge://{directory}")
        world.refusal(flags, f"in use by process {os.getpid()}", str(directory))
    finally:
        holder.close()


def test_an_edge_directory_that_cannot_be_made(world: World) -> None:
    (world.directory / "file").write_text("in the way")
    directory = world.directory / "file" / "edge"
    flags = world.flags("docs", qdrant=f"edge://{directory}")
    world.refusal(flags, f"cannot make the directory {directory}", "Not a directory", "edge:///")


def test_an_edge_directory_that_cannot_be_written_to(world: World) -> None:
    directory = world.directory / "edge"
    # Permissions do not stop root, under whom tests may run; this stops everyone.
    (directory / "LOCK").mkdir(parents=True)
    (directory / "collections").mkdir()
    flags = world.flags("docs", qdrant=f"edge://{directory}")
    world.refusal(flags, f"cannot write in {directory}", "Is a directory", "edge:///")


# --- tables, columns, keys -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "more", "words"),
    [
        ("dcos", (), ("no table or view dcos", "did you mean ", "public.docs?")),
        ("pubic.docs", (), ("pubic.docs", "did you mean public.docs")),
        ("nothing_like_it", (), ("nothing_like_it", "right database?")),
        ("a.b.c", (), ("'a.b.c'", "3 parts", "the schema and the table")),
        ('"docs', (), ("not closed", 'app."Weird.Table"')),
        ("docs", ("--pg.key-column=idd",), ("'idd'", "public.docs", "did you mean id?")),
        ("docs", ("--pg.columns=id,titel,embedding",), ("'titel'", "did you mean title?")),
        ("docs", ("--pg.columns=id,,title",), ("--pg.columns", "a name is empty")),
        ("docs", ("--pg.key-column=embedding",), ("embedding is a vector", "identify a row")),
        ("docs", ("--qdrant.distance-metric=embeding=dot",), ("embeding", "embedding")),
        ("docs", ("--qdrant.distance-metric=embedding=l2",), ("'l2'", "cosine, dot, euclid")),
        ("docs", ("--qdrant.distance-metric=cosine",), ("'cosine'", "embedding=cosine;image=dot")),
        ("keyless", (), ("public.keyless has no primary key", "--pg.key-column")),
        ("unique_key", (), ("no primary key", "b has a unique index and no NULLs")),
        ("no_key", (), ("view public.no_key has no primary key", "--pg.key-column")),
        ("twice", ("--pg.key-column=id",), ("several rows have the key (id)", "unique")),
        ("null_key", ("--pg.key-column=id",), ("NULL in some rows", "where: {id: not null}")),
        ("json_key", ("--pg.key-column=k",), ("k has type json", "cannot order")),
        ("unfilled", ("--pg.key-column=id",), ("unfilled", "REFRESH MATERIALIZED VIEW")),
        (
            "mixed",
            (),
            ("several dimensions", "2 (1 row), 3 (2 rows)", "vector_dims(embedding) <> 3"),
        ),
        ("untold", (), ("no declared dimension", "ALTER TABLE public.untold")),
        ("a|b", (), ("'a|b'", "quotes")),
        ('"a|b"', (), ("collection name 'a|b'", "'|'", "--qdrant.collection")),
        ("odd_vector", (), ("vector name 'e:f'", "':'", "vectors.e:f.name")),
        ("jaccard", (), ("Jaccard", "bits=manhattan")),
        (
            "jaccard",
            ("--qdrant.distance-metric=bits=cosine",),
            ("Hamming", "leave the distance out"),
        ),
        ("sparse_l2", (), ("terms", "not by euclid", "terms=cosine")),
        ("disagreeing", (), ("different distances: dot and euclid", "embedding=dot")),
        ("parameters", (), ("HNSW indexes of different parameters", "hnsw: {m: 16}")),
        ("generated", ("--pg.columns=id,b,embedding",), ("b of public.generated", "generated")),
    ],
)
def test_a_table_that_cannot_be_copied(
    world: World, table: str, more: tuple[str, ...], words: tuple[str, ...]
) -> None:
    world.refusal(world.flags(table, *more), *words)


def test_a_distance_settles_what_indexes_do_not(world: World) -> None:
    outcome = command(
        "plan", *world.flags("disagreeing", "--qdrant.distance-metric=embedding=dot")[2:]
    )
    assert outcome.code == 0, outcome.err
    assert "3 x float32, dot" in outcome.out


# --- privileges ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "more", "words"),
    [
        ("docs", (), ("reader may not read public.docs", "GRANT SELECT ON public.docs TO reader")),
        (
            "closed.docs",
            (),
            ("GRANT USAGE ON SCHEMA closed TO reader", "GRANT SELECT ON closed.docs TO reader"),
        ),
        ("secretive", (), ("(secret)", "GRANT SELECT (secret) ON public.secretive TO reader")),
        ("policed", (), ("row-level security", "ALTER ROLE reader BYPASSRLS")),
        (
            "policed_view",
            ("--pg.key-column=id",),
            ("row-level security", "policed", "ALTER ROLE reader BYPASSRLS"),
        ),
    ],
)
def test_a_missing_privilege(
    world: World, table: str, more: tuple[str, ...], words: tuple[str, ...]
) -> None:
    world.refusal(world.flags(table, *more, postgres=world.url("reader")), *words)


def test_a_column_that_is_not_asked_for_needs_no_privilege(world: World) -> None:
    flags = world.flags("secretive", "--pg.columns=id,embedding", postgres=world.url("reader"))
    outcome = command("plan", *flags[2:])
    assert outcome.code == 0, outcome.err
    assert "3 x float32" in outcome.out


# --- versions ------------------------------------------------------------------------------------


def test_a_pgvector_that_is_too_old(world: World) -> None:
    with fresh_database(world.database.server) as database:
        database.execute("CREATE TABLE docs (id int PRIMARY KEY, embedding vector(3))")
        database.execute("UPDATE pg_extension SET extversion = '0.4.4' WHERE extname = 'vector'")
        url = world.url(database=database.name)
        world.refusal(world.flags("docs", postgres=url), "pgvector 0.4.4", "0.5 or newer")


def test_a_postgres_that_is_too_old(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    real = catalog.server_facts

    def older(connection: Connection) -> catalog.ServerFacts:
        return replace(real(connection), version_num=130011, version="13.11")

    monkeypatch.setattr(catalog, "server_facts", older)
    world.refusal(world.flags("docs"), "Postgres 13.11 is too old", "Postgres 14 or newer")


# --- collections ---------------------------------------------------------------------------------


def _vector(**options: Any) -> dict[str, Any]:
    return {"vectors_config": {"embedding": models.VectorParams(**options)}}


@pytest.mark.parametrize(
    ("collection", "wanted", "found"),
    [
        (_vector(size=4, distance="Cosine"), "3 x float32, cosine", "4 x float32, cosine"),
        (_vector(size=3, distance="Dot"), "3 x float32, cosine", "3 x float32, dot"),
        (
            _vector(size=3, distance="Cosine", datatype="float16"),
            "3 x float32, cosine",
            "3 x float16, cosine",
        ),
        (
            {"vectors_config": models.VectorParams(size=3, distance="Cosine")},
            "vector 'embedding': wanted a vector",
            "found none",
        ),
        (
            {"sparse_vectors_config": {"embedding": models.SparseVectorParams()}},
            "3 x float32, cosine",
            "found a sparse vector",
        ),
    ],
    ids=["dimension", "distance", "datatype", "name", "kind"],
)
def test_a_collection_that_does_not_fit_is_shown_beside_what_is_wanted(
    world: World, collection: dict[str, Any], wanted: str, found: str
) -> None:
    world.client.create_collection("docs", **collection)
    world.refusal(
        world.flags("docs"),
        "TARGET_MISMATCH",
        "collection docs does not fit",
        wanted,
        found,
        "--qdrant.collection",
        code=3,
    )
    assert world.holdings() == {"docs": 0}


def test_a_collection_that_is_missing_and_not_to_be_created(world: World) -> None:
    world.refusal(
        world.flags("docs", "--migration.create-collection=false"),
        "collection docs does not exist",
        "--migration.create-collection=false",
    )


def test_a_collection_that_holds_the_points_of_another_pipeline(world: World) -> None:
    first = command(*world.flags("docs"))
    assert first.code == 0, first.err
    words = ("COLLECTION_TAKEN", "public.docs", "pipeline docs", "--qdrant.collection")
    # The same table under another pipeline's name; then another table.
    world.refusal([*COPY, world.config("{docs: {}}")], *words, code=3)
    world.client.delete_collection("docs")
    world.client.create_collection(
        "docs", vectors_config={"a": models.VectorParams(size=3, distance="Cosine")}
    )
    config = world.config("{two_vectors: {collection: docs, columns: [id, a]}}")
    world.refusal([*COPY, config], *words, code=3)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (STATE_COLLECTION, "reserved"),
        ("a/b", "'/'"),
        ("a" * 201, "over 200 bytes"),
        ("", "not empty"),
    ],
)
def test_a_collection_name_that_cannot_be(world: World, name: str, words: str) -> None:
    world.refusal(world.flags("docs", f"--qdrant.collection={name}"), words, "collection")


def test_a_collection_deleted_under_a_finished_backfill(world: World) -> None:
    target = EdgeTarget(world.directory / "edge")
    target.close()
    flags = world.flags("docs", qdrant=f"edge://{world.directory}/edge")
    assert command(*flags).code == 0
    target = EdgeTarget(world.directory / "edge")
    target.delete_collection("docs")
    assert list(QdrantState(target, "docs").records("chunk"))
    target.close()
    outcome = command(*flags)
    assert outcome.code == 3
    assert "TARGET_CHANGED" in outcome.err
    assert "--migration.restart" in outcome.err
    again = command(*flags, "--migration.restart")
    assert again.code == 0, again.err


# --- values --------------------------------------------------------------------------------------


def test_a_vector_that_is_not_finite_is_set_aside_and_no_error(world: World) -> None:
    with fresh_database(world.database.server) as database:
        # pgvector refuses such a value in every input; only damage, or this, lets it in.
        database.execute("CREATE CAST (bytea AS vector) WITHOUT FUNCTION")
        database.execute("CREATE TABLE damaged (id int PRIMARY KEY, embedding vector(2))")
        database.execute(
            "INSERT INTO damaged VALUES (1, '[1,2]'), (7, '\\x020000000000c07f0000803f'::bytea::vector),"
            " (8, '\\x020000000000807f0000803f'::bytea::vector)"
        )
        url = world.url(database=database.name)
        edge = f"edge://{world.directory}/edge"
        outcome = command(*world.flags("damaged", postgres=url, qdrant=edge))
        assert outcome.code == 0, outcome.err
        assert "2 rows were set aside: qdrant-bridge dead-letters list" in outcome.err
        letters = command(
            "dead-letters", "list", f"--qdrant.url={edge}", "--pg.table=damaged", "--json"
        )
        assert '"key": "7"' in letters.out and '"key": "8"' in letters.out
        assert letters.out.count("column embedding") == 2


# --- configuration -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ("{docs: {colection: x}}", ("line 7", "tables.docs.colection", "'collection'")),
        ("{docs: {}}\ntabels: {}", ("tabels", "line 8", "did you mean 'tables'?")),
        ("{docs: {}}\ncollection: x", ("unknown key", "tables.<name>.collection")),
        ("[docs", ("line 8", "YAML")),
        ("{docs: {key: [id}}", ("line 7", "YAML")),
        ("{docs: {}, docs: {}}", ("line 7", "there already")),
        ("{docs: {}, two_vectors: {collection: docs}}", ("docs and two_vectors", "'docs'", "own")),
        ("{}", ("no table has been named", "--pg.table")),
        ("{docs: {payload: {a: title, a.b: id}}}", ("'a.b' lies inside field 'a'",)),
        ('{docs: {payload: {id: title, "*": true}}}', ("payload field 'id'", "rename one")),
        ("{docs: {id: {template: 'd-{id}', field: title}}}", ("field 'title'", "id.field")),
        ("{docs: {payload: {x: titel}}}", ("payload.x", "did you mean title?")),
        ("{docs: {payload: {x: embedding}}}", ("embedding is a vector", "id, title, ok")),
        ("{docs: {id: {template: 'd-{title}'}}}", ("'title' is no key column", "id")),
        ("{two_vectors: {vectors: {a: {name: x}, b: {name: x}}}}", ("a and b", "vectors.b.name")),
        ("{docs: {vectors: {embeding: {}}}}", ("vectors.embeding", "embedding")),
        ("{docs: {where: {idd: 1}}}", ("idd", "did you mean id?")),
        ("{docs: {where: {id: abc}}}", ("id (bigint)", "an integer")),
        ("{docs: {where: {ok: 1}}}", ("ok (boolean)", "null or 'not null'")),
        ("{docs: {where: {title: 5}}}", ("title (text)", "literal")),
        ("{docs: {where: {id: 1.5}}}", ("tables.docs.where.id", "fraction")),
        ("{docs: {where: {embedding: 1}}}", ("embedding (vector(3))", "null or 'not null'")),
        ("{moody: {where: {m: happy}}}", ("public.moody", "`where`")),
    ],
)
def test_a_configuration_that_cannot_be(world: World, tables: str, words: tuple[str, ...]) -> None:
    world.refusal([*COPY, world.config(tables)], *words)


def test_a_configuration_file_that_is_not_there(world: World) -> None:
    path = world.directory / "nowhere.yaml"
    world.refusal([*COPY, f"--config={path}"], str(path), "No such file")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--shard=4/4",), ("'4/4'", "from 0 to n - 1")),
        (("--shard=one",), ("'one'", "i/n")),
        (("--shard=/4",), ("JOB_COMPLETION_INDEX", "0/4")),
        (("--migration.batch-size=0",), ("batch_size", "at least 1")),
        (("--migration.num-workers=-1",), ("num_workers", "at least 0")),
    ],
)
def test_a_flag_that_cannot_be(
    world: World, flags: tuple[str, ...], words: tuple[str, ...]
) -> None:
    world.refusal(world.flags("docs", *flags), *words)


def test_a_wrong_variable_names_the_nearest(world: World) -> None:
    environ = {"QDRANT_BRIDGE_QDRANT__APIKEY": CANARY}
    words = ("QDRANT_BRIDGE_QDRANT__APIKEY", "QDRANT_BRIDGE_QDRANT__API_KEY")
    world.refusal(world.flags("docs"), *words, environ=environ)


def test_no_table_and_no_url(world: World) -> None:
    world.refusal(world.flags(None), "no table has been named", "--pg.table")
    flags = [*COPY, f"--qdrant.url={world.server.url}", "--pg.table=docs"]
    world.refusal(flags, "no Postgres url", "--pg.url")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((*COPY, "--pg.tabel=docs"), ("--pg.tabel", "--pg.table", "backfill pgvector --help")),
        ((*COPY, "--pg.table"), ("--pg.table", "requires an argument", "--help")),
        ((*COPY, "--migration.batch-size=many"), ("-b", "--migration.batch-size", "--help")),
        ((*COPY, "--migration.restart=maybe"), ("--migration.restart", "'maybe'", "=false")),
        ((*COPY, "docs"), ("docs", "--help")),
        (("backfil",), ("backfil", "--help")),
        (("dead-letters", "lst"), ("lst", "dead-letters --help")),
        (("plan", "--debug=perhaps"), ("--debug", "'perhaps'")),
    ],
)
def test_a_command_line_that_cannot_be_read(
    arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    outcome = command(*arguments)
    assert (outcome.code, outcome.out) == (2, "")
    for word in words:
        assert word in outcome.err
    assert outcome.err.startswith("error: ")
    assert "\n  remedy: " in outcome.err
    assert screen_lines(outcome.err) <= LINES


def test_many_mistakes_still_fit_on_one_screen(world: World) -> None:
    tables = ", ".join(f"t{number}: {{colour: {number}, k: [a]}}" for number in range(30))
    outcome = world.refusal([*COPY, world.config("{" + tables + "}")], "60 settings are wrong")
    assert "more" in outcome.err
