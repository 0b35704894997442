"""`verify --repair`: what differs is written anew and removed, by the process that holds the pipeline.

    a daemon runs      it gets requests, and executes them inside its stream
    none runs          this process is the holder for so long, and runs the stream itself
    it reads Kafka     a process of the group executes them beside the topics, or this one is a member
    no stream          this process takes the lease, reads the rows again and writes them

Extras of a stream go by the last step of a resync, which knows what the stream has written meanwhile; it is
asked for with the range of a single key. Afterwards the same rows and points are looked at again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from backfill.retry_letters import retry_letters
from bridge import requests
from bridge.config import Effective
from bridge.config_tables import TableSettings
from bridge.errors import UsageError
from bridge.kafka_state import read_kafka
from bridge.postgres.connection import connect
from bridge.postgres.verify_reads import some_key
from bridge.qdrant.state import QdrantState
from bridge.requests import Request
from bridge.status import read_stream
from cli.holder import await_holder, execute, holding, is_held
from cli.output import note
from cli.places import Place, begun_state, pipeline_name, postgres_url
from verify.mending import Repair, Repaired
from verify.messages import Key
from verify.report import key_text
from verify.table import Subject, TableComparison

KEYS_A_REQUEST = 1_000
IDS_A_REQUEST = 1_000


class Mender:
    """Carries out repairs of one pipeline."""

    def __init__(
        self, effective: Effective, place: Place, tables: Mapping[str, TableSettings]
    ) -> None:
        self._effective = effective
        self._settings = effective.settings
        self._place = place
        self._tables = tables
        self._store: QdrantState = begun_state(place.target, self._settings)

    def mend(self, repair: Repair, subject: Subject, comparison: TableComparison) -> Repaired:
        """Carry one out; returns when it is durable."""
        if read_stream(self._store) is not None:
            return self._through_stream(repair, subject)
        if read_kafka(self._store) is not None:
            return self._through_group(repair, subject)
        return self._directly(repair, subject, comparison)

    # --- with a stream -------------------------------------------------------------------------

    def _through_stream(self, repair: Repair, subject: Subject) -> Repaired:
        asked = self._requests(repair, subject)
        if is_held(self._store):
            for request in asked:
                requests.ask(self._store, request)
            ended = await_holder(self._store, asked, _tell)
        else:
            with holding(self._effective, self._place) as mine:
                for request in asked:
                    requests.ask(self._store, request)
                ended = execute(self._effective, mine, asked, _tell)
        return _repaired(repair, ended)

    def _through_group(self, repair: Repair, subject: Subject) -> Repaired:
        asked = self._requests(repair, subject)
        from cli.debezium_requests import execute_in_group  # with it comes Kafka's client

        ended = execute_in_group(self._effective, self._place.target, self._store, asked, _tell)
        return _repaired(repair, ended)

    def _requests(self, repair: Repair, subject: Subject) -> list[Request]:
        table = repair.table
        if repair.whole:
            return [requests.make("resync", table, waited_for=True)]
        names = [key_text(key) for key in repair.keys]
        asked = [
            requests.make(
                "retry", table, keys=tuple(names[start : start + KEYS_A_REQUEST]), waited_for=True
            )
            for start in range(0, len(names), KEYS_A_REQUEST)
        ]
        if repair.extras:
            some = self._some_key(subject)
            asked.append(requests.make("resync", table, first=some, last=some, waited_for=True))
        return asked

    def _some_key(self, subject: Subject) -> Key | None:
        """The key of any row; None if there is none, and then the whole table is nothing."""
        settings = self._settings
        with connect(
            postgres_url(settings), allow_plaintext=settings.allow_plaintext
        ) as connection:
            return some_key(connection, subject.mapping)

    # --- without one ---------------------------------------------------------------------------

    def _directly(self, repair: Repair, subject: Subject, comparison: TableComparison) -> Repaired:
        if repair.whole:
            raise UsageError(
                f"too much of {repair.table} differs to be mended row by row",
                hint="copy it again: qdrant-bridge backfill pgvector --migration.restart",
            )
        collection = subject.mapping.collection.name
        kept = bool(repair.extras) and not self._extras_may_go(collection, subject)
        with holding(self._effective, self._place) as mine:
            names = [key_text(key) for key in repair.keys]
            retry_letters(
                postgres_url(self._settings),
                self._tables,
                [
                    {"table": repair.table, "key": name, "reason": "", "position": "verify"}
                    for name in names
                ],
                target=mine.target,
                store=self._store,
                allow_plaintext=self._settings.allow_plaintext,
            )
            if repair.extras and not kept:
                # A row may have come since; nobody else writes as long as the lease is held.
                _verdicts, extras = comparison.recheck([], repair.extras)
                for start in range(0, len(extras), IDS_A_REQUEST):
                    mine.target.delete(collection, extras[start : start + IDS_A_REQUEST])
            mine.target.flush()
        return Repaired(repair=repair, extras_kept=kept)

    def _extras_may_go(self, collection: str, subject: Subject) -> bool:
        """As for a resync: not where the collection also held points of other origin."""
        owner: Mapping[str, Any] = self._store.get("owner", collection) or {}
        mine = owner.get("pipeline") == pipeline_name(self._settings)
        settings = next(iter(self._settings_of(subject)), None)
        owns = settings is not None and settings.owns_collection
        return owns or (mine and not int(owner.get("found_points", 0)))

    def _settings_of(self, subject: Subject) -> Sequence[TableSettings]:
        return [
            table
            for name, table in self._tables.items()
            if name in (subject.table, subject.table.partition(".")[2])
        ]


def _repaired(repair: Repair, ended: Sequence[Request]) -> Repaired:
    return Repaired(
        repair=repair,
        extras_kept=any(request.progress.extras_kept for request in ended),
        problems=tuple(
            request.progress.reason for request in ended if request.progress.stage == "failed"
        ),
    )


def _tell(request: Request) -> None:
    if request.progress.waiting:
        note(f"{request.table}: waiting for {request.progress.waiting}")
