"""TLS to a Qdrant server: certificates trusted, untrusted, skipped, for another name, expired."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.errors import (
    Unreachable,
    UsageError,
)
from tests.support import tls
from tests.support.qdrant_server import (
    QdrantServer,
)
from tests.support.server_connections import SPEC, check_fails, connected, point

FOREIGN = Path(__file__).parent.parent / "data" / "tls-foreign"


@pytest.fixture
def tls_server(tmp_path: Path) -> Iterator[QdrantServer]:
    with QdrantServer(tmp_path, api_key="a secret", tls=tls.server_pair()) as server:
        yield server


def _foreign(directory: Path, name: str) -> QdrantServer:
    pair = ((FOREIGN / f"{name}.key").read_bytes(), (FOREIGN / f"{name}.pem").read_bytes())
    return QdrantServer(directory, tls=pair)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_certificate_of_a_trusted_authority(tls_server: QdrantServer, host: str) -> None:
    url = tls_server.url.replace("127.0.0.1", host)
    with connected(url, api_key="a secret", ca_file=str(tls.AUTHORITY)) as target:
        assert target.check()
        target.create_collection(SPEC)
        target.upsert("docs", [point(1)])
        assert target.count("docs") == 1


def test_a_certificate_of_an_unknown_authority_is_refused(tls_server: QdrantServer) -> None:
    error = check_fails(tls_server.url, api_key="a secret")
    assert isinstance(error, UsageError)
    assert "is not trusted" in error.message
    assert "qdrant.ca_file" in error.hint
    assert tls_server.requests.counts() == {}


def test_any_certificate_is_taken_when_verification_is_skipped(tls_server: QdrantServer) -> None:
    with connected(tls_server.url, api_key="a secret", skip_tls_verification=True) as target:
        assert target.check()


@pytest.mark.parametrize("name", ["other-name", "wildcard", "common-name"])
def test_any_name_is_taken_when_verification_is_skipped(tmp_path: Path, name: str) -> None:
    with (
        _foreign(tmp_path, name) as server,
        connected(server.url, skip_tls_verification=True) as target,
    ):
        assert target.check()


@pytest.mark.parametrize("name", ["other-name", "wildcard", "common-name"])
def test_a_certificate_for_another_name_is_refused(tmp_path: Path, name: str) -> None:
    with _foreign(tmp_path, name) as server:
        error = check_fails(server.url, ca_file=str(FOREIGN / f"{name}.pem"))
    assert isinstance(error, UsageError)
    assert "127.0.0.1" in error.message
    assert "another name" in error.message


def test_an_expired_certificate_is_refused(tmp_path: Path) -> None:
    with _foreign(tmp_path, "expired") as server:
        error = check_fails(server.url, ca_file=str(FOREIGN / "expired.pem"))
    assert isinstance(error, UsageError)
    assert "expired" in error.message


def test_an_expired_certificate_cannot_be_skipped_and_that_is_said(tmp_path: Path) -> None:
    with _foreign(tmp_path, "expired") as server:
        error = check_fails(server.url, skip_tls_verification=True)
    assert isinstance(error, UsageError)
    assert "expired" in error.message


def test_a_file_of_authorities_that_cannot_be_used_is_refused(
    tls_server: QdrantServer, tmp_path: Path
) -> None:
    for file in (tmp_path / "missing.pem", FOREIGN / "expired.key", FOREIGN / "README.md"):
        error = check_fails(tls_server.url, ca_file=str(file))
        assert isinstance(error, UsageError)
        assert str(file) in error.message


def test_plaintext_to_a_tls_port_names_the_other_scheme(tls_server: QdrantServer) -> None:
    error = check_fails(tls_server.url.replace("https", "http"))
    assert isinstance(error, Unreachable)
    assert "https://" in error.hint


@pytest.mark.parametrize("skip", [True, False])
def test_tls_to_a_plaintext_port_names_the_other_scheme(
    qdrant_server: QdrantServer, skip: bool
) -> None:
    url = qdrant_server.url.replace("http", "https")
    error = check_fails(url, skip_tls_verification=skip)
    assert isinstance(error, UsageError)
    assert "does not speak TLS" in error.message
    assert "http://" in error.hint
