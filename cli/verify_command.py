"""`qdrant-bridge verify`: whether the collections are what the tables and the index are, field by field."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import typer

from backfill.pgvector import usable_cores
from bridge.config import Effective, Settings
from bridge.errors import UsageError
from bridge.kafka_status import is_read_from_kafka
from bridge.postgres.connection import connect
from bridge.postgres.verify_reads import Part
from bridge.qdrant.state import QdrantState
from bridge.status import read_stream, status_report
from cli import options as o
from cli import verify_options as v
from cli.help import Command
from cli.holder import is_held
from cli.output import note, print_json
from cli.pinecone_places import index_pipeline_name
from cli.places import Place, open_target, pipeline_name, postgres_url, state_of
from cli.verify_index import Chosen, IndexRun, choose, opened_index
from cli.verify_outcome import require_passed
from cli.verify_progress import display
from cli.verify_repair import Mender
from cli.verify_subjects import chosen_tables, subjects
from cli.verify_view import print_results
from verify import textfile as prometheus
from verify.mending import Repair, Repaired, mended
from verify.recall import QUERIES, VectorRecall, measure_recall
from verify.recall_html import page
from verify.report import TableResult, to_json
from verify.stream import Follower, NoStream, Stream
from verify.table import Options, Subject, TableComparison

_EXAMPLES = """
Examples:
  qdrant-bridge verify --config bridge.yaml
  qdrant-bridge verify public.docs --sample 1% --config bridge.yaml --json
  qdrant-bridge verify --repair --config bridge.yaml
  qdrant-bridge verify --pinecone.index-name shop --qdrant.collection shop
""" + (
    "\nExit code 0: equal; 1: not equal, or --recall misses a threshold. It may run while a daemon does, "
    "and while the table is written to: what differs is looked at again before it is reported."
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("verify", cls=Command, epilog=_EXAMPLES)(verify)


def verify(
    table: v.TableName = None,
    sample: v.Sample = None,
    seed: v.Seed = 0,
    shard: v.Shard = None,
    resume: v.Resume = None,
    exact_vectors: v.ExactVectors = False,
    repair: v.Repair = False,
    dry_run: v.DryRun = False,
    recall: v.Recall = None,
    queries: v.Queries = None,
    html: v.Html = None,
    show_values: v.ShowValues = False,
    textfile: v.Textfile = None,
    pg_url: o.PgUrl = None,
    qdrant_url: o.QdrantUrl = None,
    qdrant_key: o.QdrantKey = None,
    pg_table: o.PgTable = None,
    pg_key: o.PgKey = None,
    pg_columns: o.PgColumns = None,
    index_name: o.PineconeIndexName = None,
    index_host: o.PineconeIndexHost = None,
    pinecone_key: o.PineconeKey = None,
    namespace: o.PineconeNamespace = None,
    namespaces: o.Namespaces = None,
    service_host: o.PineconeServiceHost = None,
    numbers: o.PineconeNumbers = None,
    ids_file: o.PineconeIdsFile = None,
    namespace_field: o.PineconeNamespaceField = None,
    list_per_second: o.PineconeListRate = None,
    fetch_per_second: o.PineconeFetchRate = None,
    collection: o.QdrantCollection = None,
    id_field: o.QdrantIdField = None,
    sparse_vector: o.QdrantSparseVector = None,
    distance: o.QdrantDistance = None,
    workers: o.Workers = None,
    batch_size: o.BatchSize = None,
    config: o.Config = None,
    as_json: o.Json = False,
    skip_tls: o.SkipTls = None,
    allow_plaintext: o.AllowPlaintext = None,
    debug: o.Debug = False,
) -> None:
    """Compare tables, or a Pinecone index, with their collections: every row, field and vector."""
    _require_sense(repair, dry_run, recall, queries, html)
    effective = o.Flags.of(locals()).load()
    settings = effective.settings
    results: list[TableResult] = []
    repairs: dict[str, dict[str, Any]] = {}
    searched: dict[str, list[VectorRecall]] = {}
    with ExitStack() as stack:
        place = stack.enter_context(open_target(settings, beside=True))
        chosen = choose(
            settings, place, table, index=index_name is not None or index_host is not None
        )
        runs: list[_Run | IndexRun] = []
        if chosen.tables:
            tables = _Run(
                effective,
                place,
                table,
                sample=sample,
                seed=seed,
                resume=resume,
                exact=exact_vectors,
            )
            runs.append(tables)
        if chosen.index:
            _require_sense_of_index(chosen, resume, recall)
            runs.append(
                stack.enter_context(opened_index(settings, place, sample=sample, seed=seed))
            )
        for run in runs:
            found = run.compare(quiet=as_json)
            if repair:
                found, done_by_table = run.mend(found, dry_run=dry_run)
                repairs |= done_by_table
            results += found
        if recall is not None:
            searched = tables.recall(recall, queries, quiet=as_json)
    name_of = pipeline_name if chosen.tables else index_pipeline_name
    report = to_json(name_of(settings), results, show_values=show_values)
    for name, done in repairs.items():
        report["tables"][name]["repair"] = done
    for name, vectors in searched.items():
        report["tables"][name]["recall"] = {one.vector: one.to_json() for one in vectors}
    if html is not None:
        title = f"qdrant-bridge verify: {report['pipeline']}"
        every = [one for vectors in searched.values() for one in vectors]
        prometheus.write(html, page(title, every))
    if textfile is not None:
        prometheus.write(textfile, prometheus.metrics(report, time.time()))
    if as_json:
        print_json(report)
    else:
        print_results(report)
    require_passed(
        report,
        results,
        follows=bool(chosen.tables) and tables.follows,
        repaired=repair and not dry_run,
    )


def _require_sense(
    repair: bool, dry_run: bool, recall: int | None, queries: str | None, html: Path | None
) -> None:
    if dry_run and not repair:
        raise UsageError("--dry-run belongs to --repair", hint="verify --repair --dry-run")
    if recall is not None and recall < 1:
        raise UsageError(f"--recall: {recall} neighbours are none", hint="verify --recall 10")
    if recall is None and (queries is not None or html is not None):
        raise UsageError(
            "--queries and --html belong to --recall", hint="verify --recall 10 --html recall.html"
        )


def _require_sense_of_index(chosen: Chosen, resume: Path | None, recall: int | None) -> None:
    if recall is not None and not chosen.tables:
        raise UsageError(
            "--recall compares with a table's exact neighbours; Pinecone gives out none",
            hint="verify --recall on the table that goes on with the collection",
        )
    if resume is not None:
        raise UsageError(
            "--resume does not go on with an index, whose page tokens do not last",
            hint="in parts: --shard 0/4, and so on",
        )


class _Run:
    """One run of the command over tables: what is compared, with what."""

    def __init__(
        self,
        effective: Effective,
        place: Place,
        table: str | None,
        *,
        sample: str | None,
        seed: int,
        resume: Path | None,
        exact: bool,
    ) -> None:
        self.effective = effective
        self.settings = effective.settings
        self.place = place
        self.store = existing_state(place, self.settings)
        self.tables = chosen_tables(self.settings, table)
        self.subjects = subjects(self.settings, self.tables, place.target, self.store)
        self.follower = follower_of(self.store)
        self.follows = self.store is not None and read_stream(self.store) is not None
        self.options = replace(
            _options(self.settings, place, sample, seed, resume), exact_vectors=exact
        )

    def compare(self, *, quiet: bool) -> list[TableResult]:
        """Compare all of them."""
        with display(quiet=quiet) as shown:
            return [self.comparison(subject, shown).run() for subject in self.subjects]

    def mend(
        self, results: list[TableResult], *, dry_run: bool
    ) -> tuple[list[TableResult], dict[str, dict[str, Any]]]:
        """Repair what differs; the results afterwards, and by table what was done."""
        after: list[TableResult] = []
        told: dict[str, dict[str, Any]] = {}
        for subject, result in zip(self.subjects, results, strict=True):
            repair = Repair.of(result)
            if repair is None:
                after.append(result)
                continue
            if dry_run:
                after.append(result)
                done = Repaired(repair=repair)
            else:
                comparison = self.comparison(subject, lambda event: None)
                mender = Mender(self.effective, self.place, self.tables)
                done = mender.mend(repair, subject, comparison)
                after.append(self._looked_again(result, repair, comparison))
            told[result.table] = {"dry_run": dry_run, **done.to_json(result.findings.counts)}
        return after, told

    def _looked_again(
        self, result: TableResult, repair: Repair, comparison: TableComparison
    ) -> TableResult:
        if repair.whole:
            return comparison.run()
        verdicts, extras = comparison.recheck(repair.keys, repair.extras)
        target = self.place.target.count(result.collection)
        return mended(result, verdicts, extras, target)

    def recall(self, k: int, queries: str | None, *, quiet: bool) -> dict[str, list[VectorRecall]]:
        """By table, what its searches find."""
        number, file = v.parse_queries(queries)
        found: dict[str, list[VectorRecall]] = {}
        for subject in self.subjects:
            settings = self.settings
            url = postgres_url(settings)
            with connect(url, allow_plaintext=settings.allow_plaintext) as connection:
                found[subject.table] = measure_recall(
                    connection,
                    subject.mapping,
                    self.place.target,
                    k=k,
                    queries=number or QUERIES,
                    seed=self.options.part.seed,
                    file=file,
                )
            if not found[subject.table] and not quiet:
                note(f"{subject.table}: no vector column that both sides can be asked with")
        return found

    def comparison(self, subject: Subject, tell: Any) -> TableComparison:
        """That of one table."""
        return TableComparison(
            subject,
            target=self.place.target,
            follower=self.follower,
            options=self.options,
            tell=tell,
        )


def existing_state(place: Place, settings: Settings) -> QdrantState | None:
    """The pipeline's records; None if there are none. Nothing is made."""
    store = state_of(place, settings)
    return store if store.exists() else None


def follower_of(store: QdrantState | None) -> Follower:
    """The daemon, if one runs: then what differs may be on its way."""
    stream = None if store is None else read_stream(store)
    if store is None or stream is None:
        if store is not None and is_read_from_kafka(store):
            note("what differs may be on its way through Kafka, which cannot be waited for")
        return NoStream()
    if not status_report(store)["complete"]:
        note("the copy is not complete: rows that it has not reached are missing")
        return NoStream()
    if not is_held(store):
        note(f"no daemon is running: the collection shows the source as of {stream.checkpoint}")
        return NoStream()
    return Stream(store)


def _options(
    settings: Settings, place: Place, sample: str | None, seed: int, resume: Path | None
) -> Options:
    rows, fraction = v.parse_sample(sample)
    index, count = settings.migration.shard_index_and_count
    return Options(
        postgres_url=postgres_url(settings),
        allow_plaintext=settings.allow_plaintext,
        endpoint=place.endpoint,
        workers=settings.migration.num_workers or usable_cores(),
        batch_rows=settings.migration.batch_size,
        sample_rows=rows,
        part=Part(fraction=fraction, seed=seed, index=index, count=count),
        resume=resume,
    )
