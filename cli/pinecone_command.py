"""`qdrant-bridge backfill pinecone`: the full copy of a Pinecone index."""

from __future__ import annotations

import typer
from rich.table import Table
from rich.text import Text

from backfill.pinecone import IndexBackfill
from backfill.pinecone_report import IndexReport
from bridge.config import Effective
from bridge.errors import CheckFailed
from bridge.lease import held
from bridge.pinecone.index import shown
from bridge.qdrant.guarded import GuardedTarget
from bridge.qdrant.state import QdrantState
from bridge.qdrant.target import Target
from cli import options as o
from cli.display import duration, say
from cli.help import Command
from cli.output import err, note, print_json
from cli.pinecone_places import index_options, index_pipeline_name, open_index, pinecone_settings
from cli.pinecone_progress import IndexDisplay
from cli.places import open_target
from cli.progress import display

_EXAMPLES = (
    """
Examples:
  qdrant-bridge backfill pinecone --pinecone.index-name products \\
      --qdrant.url https://qdrant:6334 --qdrant.collection products
  qdrant-bridge backfill pinecone --config bridge.yaml --namespaces split

"""
    "The API key: in pinecone.api_key_file, or in QDRANT_BRIDGE_PINECONE__API_KEY. A run that is "
    "repeated goes on where the last one stopped. Exit code 1 if the counts do not agree at the end."
)
_NAMESPACES_SHOWN = 20


def add_to(group: typer.Typer) -> None:
    """Add the command to `backfill`."""
    group.command("pinecone", cls=Command, epilog=_EXAMPLES)(backfill_pinecone)


def backfill_pinecone(
    index_name: o.PineconeIndexName = None,
    index_host: o.PineconeIndexHost = None,
    pinecone_key: o.PineconeKey = None,
    namespace: o.PineconeNamespace = None,
    namespaces: o.Namespaces = None,
    service_host: o.PineconeServiceHost = None,
    numbers: o.PineconeNumbers = None,
    reconcile: o.PineconeReconcile = None,
    ids_file: o.PineconeIdsFile = None,
    namespace_field: o.PineconeNamespaceField = None,
    list_per_second: o.PineconeListRate = None,
    fetch_per_second: o.PineconeFetchRate = None,
    qdrant_url: o.QdrantUrl = None,
    qdrant_key: o.QdrantKey = None,
    collection: o.QdrantCollection = None,
    id_field: o.QdrantIdField = None,
    sparse_vector: o.QdrantSparseVector = None,
    skip_tls: o.SkipTls = None,
    workers: o.Workers = None,
    batch_size: o.BatchSize = None,
    batch_delay: o.BatchDelay = None,
    restart: o.Restart = None,
    create_collection: o.CreateCollection = None,
    offsets_collection: o.OffsetsCollection = None,
    config: o.Config = None,
    as_json: o.Json = False,
    allow_plaintext: o.AllowPlaintext = None,
    debug: o.Debug = False,
    show_version: o.Version = False,
) -> None:
    """Copy a Pinecone index, all namespaces of it, into Qdrant."""
    effective = o.Flags.of(locals()).load()
    report = copy_index(effective, quiet=as_json)
    if as_json:
        print_json(report.to_json(index_pipeline_name(effective.settings)))
    else:
        print_index_summary(report)
    if report.problems:
        raise CheckFailed(
            "; ".join(report.problems),
            code="COUNTS_DIFFER",
            hint="the same command looks again; --migration.restart copies everything again",
        )


def copy_index(effective: Effective, *, quiet: bool) -> IndexReport:
    """Open both sides, take the pipeline's lease, and copy."""
    settings = effective.settings
    with (
        open_index(settings) as index,
        open_target(settings) as place,
        display(quiet=quiet) as show,
    ):
        name = index_pipeline_name(settings)

        def backfill(target: Target) -> IndexBackfill:
            return IndexBackfill(
                index,
                pinecone_settings(settings),
                target=target,
                store=QdrantState(target, name),
                options=index_options(effective, place),
                tell=IndexDisplay(show, _quiet if quiet else say),
            )

        seen = backfill(place.target).look()
        store = QdrantState(place.target, name)
        store.prepare()
        with held(store, on_wait=_tell_holder) as lease:
            return backfill(GuardedTarget(place.target, before=lease.require)).run(seen)


def _quiet(_text: str) -> None:
    return None


def _tell_holder(who: str) -> None:
    note(f"waiting whether {who} is still alive")


def print_index_summary(report: IndexReport) -> None:
    """The outcome: a row a namespace, then what is worth knowing."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in (
        "namespace",
        "collection",
        "in Pinecone",
        "in Qdrant",
        "set aside",
        "read units",
    ):
        left = heading in ("namespace", "collection")
        table.add_column(
            heading, justify="left" if left else "right", no_wrap=not left, overflow="fold"
        )
    largest = sorted(report.namespaces.items(), key=lambda item: -item[1].records)
    for name, one in largest[:_NAMESPACES_SHOWN]:
        table.add_row(
            Text(shown(name)),
            Text(one.collection),
            f"{one.source_count:,}",
            f"{one.written:,}",
            f"{one.dead_letters:,}",
            f"{one.read_units:,}",
        )
    if len(largest) > 1:
        table.add_row(
            ""
            if len(largest) <= _NAMESPACES_SHOWN
            else f"and {len(largest) - _NAMESPACES_SHOWN} more",
            "total",
            f"{report.total('source_count'):,}",
            f"{sum(report.collections.values()):,}",
            f"{report.total('dead_letters'):,}",
            f"{report.total('read_units'):,}",
            style="bold",
        )
    err().print(table)
    if report.copied_now > 0:
        rate = report.copied_now / max(report.copy_seconds, 1e-9)
        note(f"{report.copied_now:,} records in {duration(report.copy_seconds)}, {rate:,.0f}/s")
    else:
        note(f"{report.label}: was copied before; --migration.restart copies it again")
    again = report.second_pass
    if again is not None:
        note(
            f"second pass: {again.added:,} added, {again.removed:,} removed, "
            f"{again.kept_extras:,} extras left alone"
        )
    for text in report.notes:
        note(text, style="yellow")
