"""Where a document's blocks are run: a shell, a Postgres, a Qdrant, a directory.

The documents name fixed places; `Stage` puts those of the test in their stead, and back again in what
was printed:

    localhost:5432, db.internal:5432      the embedded Postgres; the database app is made anew
    http://localhost:6334,
    https://qdrant.internal:6334          the Qdrant test server
    an index of Pinecone by its name      the stand-in (`pinecone_documented.py`)
    grpc_port=6334                        its port
    /run/secrets, /var/lib                directories below the block's own; they hold the files that
                                          the documents speak of

A command that would reach any other Qdrant is refused: a forgotten url means the default one, where
somebody's real server may be.

Blocks in `sh` go through the real shell. The `qdrant-bridge` that it finds hands its arguments,
environment and directory to this process, which runs the command by the same function as the console
script does: starting the interpreter anew for each would take most of the time.
"""

from __future__ import annotations

import contextlib
import json
import os
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast
from unittest import mock
from urllib.parse import urlsplit

import psycopg

import cli.places
from bridge.errors import UsageError
from bridge.postgres.embedded import EmbeddedPostgres
from bridge.qdrant.channel import Endpoint, endpoint
from tests.docs.markdown import Block
from tests.support.command import Outcome, bridge
from tests.support.pinecone_documented import products
from tests.support.pinecone_server import KEY as PINECONE_KEY
from tests.support.pinecone_server import PineconeServer
from tests.support.qdrant_server import QdrantServer

COLUMNS: Final = "100"
DATABASE: Final = "app"
ROLE: Final = "bridge"
SHELL_SECONDS: Final = 60.0
_PORT: Final = "DOCS_COMMAND_PORT"
_STAND_IN: Final = f"""#!{sys.executable} -IS
import json, os, socket, sys
with socket.create_connection(("127.0.0.1", int(os.environ["{_PORT}"]))) as server:
    asked = {{"argv": sys.argv[1:], "env": dict(os.environ), "cwd": os.getcwd()}}
    server.sendall(json.dumps(asked).encode() + b"\\n")
    code, out, err = json.loads(server.makefile().read())
sys.stdout.write(out)
sys.stderr.write(err)
sys.exit(code)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """The places of one document, fresh."""

    directory: Path
    postgres: EmbeddedPostgres
    qdrant: QdrantServer
    pinecone: PineconeServer
    command_port: int

    @property
    def url(self) -> str:
        """The database app, as its owner."""
        return self.postgres.url(DATABASE)

    def translated(self, text: str) -> str:
        """The document's text with this stage's places."""
        for name, place in self._places():
            text = text.replace(name, place)
        return text

    def restored(self, text: str) -> str:
        """What was printed, with the document's places."""
        for name, place in reversed(self._places()):
            text = text.replace(place, name)
        return text

    def _places(self) -> list[tuple[str, str]]:
        address = urlsplit(self.url).netloc.rpartition("@")[2]
        return [
            ("db.internal:5432", address),
            ("localhost:5432", address),
            ("https://qdrant.internal:6334", self.qdrant.url),
            ("http://localhost:6334", self.qdrant.url),
            ("grpc_port=6334", f"grpc_port={self.qdrant.port}"),
            ("/run/secrets", str(self.directory / "secrets")),
            ("/var/lib", str(self.directory / "lib")),
        ]

    def prepare(self) -> None:
        """The files, directories and the shell's command that documents count on."""
        programs = self.directory / "bin"
        programs.mkdir()
        stand_in = programs / "qdrant-bridge"
        stand_in.write_text(_STAND_IN)
        stand_in.chmod(0o755)
        (self.directory / "lib").mkdir()
        secrets = self.directory / "secrets"
        secrets.mkdir()
        (secrets / "qdrant").write_text("any key; the test server asks for none\n")
        (secrets / "pinecone").write_text(f"{PINECONE_KEY}\n")
        url = self.url.replace("postgres@", f"{ROLE}@")
        (secrets / "postgres_url").write_text(f"{url}\n")
        (self.directory / "work").mkdir()

    @property
    def work(self) -> Path:
        """The directory in which blocks run."""
        return self.directory / "work"

    def shell(self, block: Block) -> Outcome:
        """Run an sh block; it stops at the first command that fails."""
        path = f"{self.directory / 'bin'}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["sh", "-eu"],
            input=self.translated(block.text),
            cwd=self.work,
            env={
                "PATH": path,
                "HOME": str(self.work),
                "COLUMNS": COLUMNS,
                "LC_ALL": "C.UTF-8",
                _PORT: str(self.command_port),
                # What an index is asked for by name.
                "QDRANT_BRIDGE_PINECONE__SERVICE_HOST": self.pinecone.url,
            },
            capture_output=True,
            text=True,
            timeout=SHELL_SECONDS,
        )
        return Outcome(
            code=done.returncode, out=self.restored(done.stdout), err=self.restored(done.stderr)
        )

    def sql(self, block: Block) -> None:
        """Run an sql block as the database's owner; each statement is committed."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(self.translated(block.text).encode())

    def python(self, block: Block) -> Outcome:
        """Run a python block in a process of its own."""
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", self.translated(block.text)],
            cwd=self.work,
            capture_output=True,
            text=True,
            timeout=SHELL_SECONDS,
        )
        return Outcome(code=done.returncode, out=self.restored(done.stdout), err=done.stderr)

    def write(self, block: Block) -> None:
        """Put a block with the directive `file` into its file."""
        (self.work / block.directives["file"]).write_text(self.translated(block.text))


@contextmanager
def open_stage(directory: Path, postgres: EmbeddedPostgres) -> Iterator[Stage]:
    """A stage with an empty database and an empty Qdrant."""
    _make_database(postgres)
    with (
        QdrantServer(directory / "qdrant") as qdrant,
        PineconeServer(products()) as pinecone,
        _commands(qdrant.port) as port,
    ):
        stage = Stage(
            directory=directory,
            postgres=postgres,
            qdrant=qdrant,
            pinecone=pinecone,
            command_port=port,
        )
        stage.prepare()
        yield stage


def _make_database(postgres: EmbeddedPostgres) -> None:
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")
        connection.execute(f"DROP ROLE IF EXISTS {ROLE}")
        connection.execute(f"CREATE DATABASE {DATABASE}")


class _Server(socketserver.TCPServer):
    """Runs commands one after the other, so that the environment is always one command's own."""

    def __init__(self, qdrant_port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Command)
        self.qdrant_port = qdrant_port

    def endpoint(self, url: str, **options: Any) -> Endpoint:
        """`cli.places.endpoint`, for this stage's Qdrant alone."""
        found = endpoint(url, **options)
        if (found.host, found.port) != ("127.0.0.1", self.qdrant_port):
            raise UsageError(f"{url} is not the Qdrant of this stage")
        return found


class _Command(socketserver.StreamRequestHandler):
    """One command."""

    server: _Server

    def handle(self) -> None:
        asked: dict[str, Any] = json.loads(self.rfile.readline())
        with (
            mock.patch.dict(os.environ, asked["env"], clear=True),
            mock.patch.object(cli.places, "endpoint", self.server.endpoint),
            contextlib.chdir(asked["cwd"]),
        ):
            outcome = bridge(*asked["argv"])
        self.wfile.write(json.dumps([outcome.code, outcome.out, outcome.err]).encode())


@contextmanager
def _commands(qdrant_port: int) -> Iterator[int]:
    """Serve the shell's stand-in for `qdrant-bridge`; the port that it asks."""
    with _Server(qdrant_port) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield cast("tuple[str, int]", server.server_address)[1]
        finally:
            server.shutdown()
            thread.join()
