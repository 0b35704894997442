"""From settings to an open index, and the names that follow from them. Shared by the commands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from backfill.pinecone import IndexOptions
from backfill.pinecone_reader import CopyOptions
from bridge.config import Effective, PineconeSettings, Settings
from bridge.errors import UsageError
from bridge.pinecone.client import Access, PineconeIndex
from cli.places import Place


def pinecone_settings(settings: Settings) -> PineconeSettings:
    """The section. UsageError if it names no index, or there is no key."""
    found = settings.pinecone or PineconeSettings()
    if found.index is None and found.host is None:
        raise UsageError(
            "no Pinecone index has been named",
            hint="--pinecone.index-name NAME, or pinecone.index in bridge.yaml",
        )
    if found.api_key is None:
        raise UsageError(
            "there is no API key for Pinecone",
            hint="pinecone.api_key_file in bridge.yaml, or QDRANT_BRIDGE_PINECONE__API_KEY",
        )
    return found


@contextmanager
def open_index(settings: Settings) -> Iterator[PineconeIndex]:
    """The index of the configuration, closed at the end."""
    found = pinecone_settings(settings)
    assert found.api_key is not None  # noqa: S101 - pinecone_settings has looked
    index = PineconeIndex(
        Access(
            api_key=found.api_key.get_secret_value(),
            index=found.index,
            host=found.host,
            service_host=found.service_host,
            ca_file=found.ca_file,
            allow_plaintext=settings.allow_plaintext,
        )
    )
    try:
        yield index
    finally:
        index.close()


def index_pipeline_name(settings: Settings) -> str:
    """The pipeline's name; without a configuration file it is made from the collection's."""
    if settings.pipeline is not None:
        return settings.pipeline
    found = pinecone_settings(settings)
    name = found.collection or found.index
    if name is None:
        raise UsageError(
            "the collection has no name", hint="--qdrant.collection, or --pinecone.index-name"
        )
    return re.sub(r"[^a-z0-9_]", "_", name.lower())[:50]


def copy_options(settings: Settings, found: PineconeSettings) -> CopyOptions:
    """How fast to read and write, from the settings."""
    migration = settings.migration
    return CopyOptions(
        write_ordering=settings.qdrant.write_ordering,
        batch_rows=migration.batch_size,
        batch_delay_seconds=migration.batch_delay_milliseconds / 1000,
        most_requests=migration.num_workers,
        list_per_second=found.list_per_second,
        fetch_per_second=found.fetch_per_second,
    )


def index_options(effective: Effective, place: Place) -> IndexOptions:
    """How to copy, from the settings."""
    settings = effective.settings
    return IndexOptions(
        copy=copy_options(settings, pinecone_settings(settings)),
        restart=settings.migration.restart,
        create_collection=settings.migration.create_collection,
        embedded=place.endpoint is None,
    )
