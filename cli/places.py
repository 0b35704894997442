"""From settings to open things: the target, the state, Postgres' url. Shared by the commands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from backfill.pgvector import Options
from bridge.config import Effective, Settings
from bridge.errors import UsageError
from bridge.qdrant.channel import Endpoint, endpoint
from bridge.qdrant.edge import EdgeTarget
from bridge.qdrant.edge_client import EdgeClient, hold, hold_or_join
from bridge.qdrant.edge_socket import EdgeSocket
from bridge.qdrant.server import ServerTarget
from bridge.qdrant.state import QdrantState
from bridge.qdrant.target import Target
from cli.logs import log


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """An open target. `endpoint` is None where it is embedded in this process, or in another one: then
    it is `beside` that one, which alone writes to it."""

    target: Target
    endpoint: Endpoint | None
    beside: bool = False


@contextmanager
def open_target(settings: Settings, *, beside: bool = False) -> Iterator[Place]:
    """The target of the configuration, looked at once, closed at the end.

    An embedded one is this process's alone meanwhile, and it serves the others; with `beside`, if
    another process has it open, that one is asked.
    """
    directory = _edge_directory(settings)
    if directory is not None:
        with _open_edge(settings, directory, beside) as embedded:
            yield embedded
        return
    key = settings.qdrant.api_key
    place = endpoint(
        settings.qdrant.url,
        api_key=None if key is None else key.get_secret_value(),
        ca_file=settings.qdrant.ca_file,
        skip_tls_verification=settings.skip_tls_verification,
        allow_plaintext=settings.allow_plaintext,
        timeout_seconds=settings.qdrant.timeout_seconds,
    )
    target = ServerTarget(place, write_ordering=settings.qdrant.write_ordering)
    try:
        target.check()
        yield Place(target=target, endpoint=place)
    finally:
        target.close()


def _edge_directory(settings: Settings) -> Path | None:
    url = settings.qdrant.url
    return Path(unquote(urlsplit(url).path)) if url.startswith("edge://") else None


@contextmanager
def _open_edge(settings: Settings, directory: Path, beside: bool) -> Iterator[Place]:
    timeout = settings.qdrant.timeout_seconds
    target = hold_or_join(directory, timeout_seconds=timeout) if beside else hold(directory)
    try:
        if isinstance(target, EdgeTarget):
            with _serving(directory, target):
                yield Place(target=target, endpoint=None)
        else:
            yield Place(target=target, endpoint=None, beside=True)
    finally:
        target.close()


@contextmanager
def _serving(directory: Path, target: EdgeTarget) -> Iterator[None]:
    """The other commands are served; without a socket they are not, and this one works all the same."""
    with ExitStack() as stack:
        try:
            stack.enter_context(EdgeSocket(directory, target))
        except UsageError as error:
            log("socket_unavailable", reason=error.message)
        yield


@contextmanager
def look_at_target(settings: Settings, *, writes: bool = False) -> Iterator[Target | None]:
    """The target as it is; None if it is embedded and not there yet, since opening would make it.

    An embedded one is not kept from others, unless this command `writes`.
    """
    directory = _edge_directory(settings)
    if directory is not None and not directory.exists():
        yield None
    elif directory is None or writes:
        with open_target(settings, beside=True) as place:
            yield place.target
    else:
        timeout = settings.qdrant.timeout_seconds
        target = EdgeClient(directory, timeout_seconds=timeout, visits=True)
        try:
            target.check()
            yield target
        finally:
            target.close()


def postgres_url(settings: Settings) -> str:
    """The url. UsageError if there is none."""
    url = settings.postgres.url
    if url is None:
        raise UsageError(
            "no Postgres url has been given",
            hint="--pg.url postgresql://user@host/database, postgres.url in bridge.yaml, or "
            "QDRANT_BRIDGE_POSTGRES__URL",
        )
    return url.get_secret_value()


def require_tables(settings: Settings) -> None:
    """UsageError if no table is configured."""
    if not settings.tables:
        raise UsageError(
            "no table has been named",
            hint="--pg.table NAME, or tables: in a bridge.yaml (qdrant-bridge init writes one)",
        )


def pipeline_name(settings: Settings) -> str:
    """The pipeline's name; without a configuration file it is made from the collection's."""
    if settings.pipeline is not None:
        return settings.pipeline
    index = settings.pinecone
    if not settings.tables and index is not None and (index.collection or index.index):
        first = index.collection or index.index or ""
    else:
        require_tables(settings)
        first = settings.collection_of(next(iter(settings.tables)))
    return re.sub(r"[^a-z0-9_]", "_", first.lower())[:50]


def state_of(place: Place, settings: Settings) -> QdrantState:
    """The pipeline's records."""
    return QdrantState(place.target, pipeline_name(settings))


def begun_state(target: Target | None, settings: Settings) -> QdrantState:
    """The records of a pipeline that has begun; UsageError if it has not. Writes nothing."""
    name = pipeline_name(settings)
    if target is not None:
        store = QdrantState(target, name)
        if store.exists():
            return store
    raise UsageError(
        f"pipeline {name} has not begun",
        hint="qdrant-bridge backfill pgvector begins it; or is this another Qdrant than its own?",
    )


def backfill_options(effective: Effective, place: Place) -> Options:
    """How to copy, from the settings."""
    settings = effective.settings
    migration = settings.migration
    return Options(
        postgres_url=postgres_url(settings),
        allow_plaintext=settings.allow_plaintext,
        endpoint=place.endpoint,
        write_ordering=settings.qdrant.write_ordering,
        workers=migration.num_workers,
        batch_rows=migration.batch_size,
        batch_delay_seconds=migration.batch_delay_milliseconds / 1000,
        restart=migration.restart,
        create_collection=migration.create_collection,
        shard=migration.shard_index_and_count,
    )
