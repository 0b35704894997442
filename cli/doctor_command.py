"""`qdrant-bridge doctor`: everything that can be checked before a run, each finding with its remedy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import typer

from backfill.preflight import check_target, inspect
from bridge.config import Effective, Settings, TableSettings
from bridge.errors import BridgeError, CheckFailed
from bridge.findings import Finding, blockers
from bridge.mapping import TableMapping
from bridge.postgres import catalog, checks
from bridge.postgres.connection import Connection, connect
from bridge.postgres.stream_checks import StreamNames, check_stream
from bridge.qdrant.state import QdrantState
from bridge.qdrant.target import Target
from bridge.status import read_stream
from cli import options as o
from cli.help import Command
from cli.output import counted, findings_table, out, print_json
from cli.places import (
    Place,
    open_target,
    pipeline_name,
    postgres_url,
    require_tables,
    state_of,
)

REPORT_VERSION = 1


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor", cls=Command, epilog="Example: qdrant-bridge doctor --config bridge.yaml")(
        doctor
    )


def doctor(
    pg_url: o.PgUrl = None,
    pg_table: o.PgTable = None,
    pg_key: o.PgKey = None,
    pg_columns: o.PgColumns = None,
    qdrant_url: o.QdrantUrl = None,
    qdrant_key: o.QdrantKey = None,
    collection: o.QdrantCollection = None,
    distance: o.QdrantDistance = None,
    skip_tls: o.SkipTls = None,
    config: o.Config = None,
    as_json: o.Json = False,
    allow_plaintext: o.AllowPlaintext = None,
    debug: o.Debug = False,
) -> None:
    """Check versions, privileges, keys and schemas before a run; exit 1 if anything blocks it."""
    effective = o.Flags.of(locals()).load()
    findings = examine(effective)
    found = blockers(findings)
    if as_json:
        listed = [asdict(finding) for finding in findings]
        print_json({"version": REPORT_VERSION, "ok": not found, "findings": listed})
    else:
        out().print(findings_table(findings))
    if found:
        verb = "blocks" if len(found) == 1 else "block"
        raise CheckFailed(
            f"{counted(len(found), 'finding')} {verb} a run",
            code="DOCTOR",
            hint="each has its remedy beside it",
        )


def examine(effective: Effective) -> list[Finding]:
    """All findings, of both sides. An unreachable side is a finding too."""
    settings = effective.settings
    require_tables(settings)
    findings: list[Finding] = []
    try:
        with open_target(settings, beside=True) as place:
            findings.append(_ok("target.reachable", f"Qdrant at {place.target.label}"))
            findings += _examine_postgres(settings, place)
    except BridgeError as error:
        findings.append(_blocker("target.reachable", error))
        findings += _examine_postgres(settings, None)
    return findings


def _examine_postgres(settings: Settings, place: Place | None) -> list[Finding]:
    try:
        url = postgres_url(settings)
        with connect(url, allow_plaintext=settings.allow_plaintext) as connection:
            facts = catalog.server_facts(connection)
            findings = [
                *checks.check_server(facts),
                *checks.check_connection(connection),
                *checks.check_long_transactions(connection),
            ]
            mappings: list[TableMapping] = []
            for name, table in settings.tables.items():
                target = None if place is None else place.target
                create = settings.migration.create_collection
                found, mapping = _examine_table(connection, name, table, target, create=create)
                findings += found
                mappings += [mapping] if mapping is not None else []
            return findings + _examine_stream(connection, facts, settings, place, mappings)
    except BridgeError as error:
        return [_blocker("source.reachable", error)]


def _examine_stream(
    connection: Connection,
    facts: catalog.ServerFacts,
    settings: Settings,
    place: Place | None,
    mappings: Sequence[TableMapping],
) -> list[Finding]:
    """Whether the changes can be followed, if the configuration says that they are to be."""
    if settings.reads_kafka:
        from cli.debezium_doctor import (
            examine_debezium,  # Kafka's client is not every run's to load
        )

        return examine_debezium(settings, connection, mappings)
    if settings.sync is None:
        return []
    names = StreamNames(
        slot=settings.slot,
        publication=settings.publication,
        pipeline=pipeline_name(settings),
        made=place is not None and _has_stream(state_of(place, settings)),
    )
    return check_stream(connection, facts, names, mappings)


def _examine_table(
    connection: Connection,
    name: str,
    settings: TableSettings,
    target: Target | None,
    *,
    create: bool,
) -> tuple[list[Finding], TableMapping | None]:
    try:
        inspection = inspect(connection, name, settings)
        findings = list(inspection.findings)
        findings += [
            Finding(level="warning", check="table.mapping", message=warning)
            for warning in inspection.mapping.warnings
        ]
        if target is not None:
            findings.append(check_target(target, inspection.mapping.collection, create=create)[1])
        return findings, inspection.mapping
    except BridgeError as error:
        return [_blocker(f"table {name}", error)], None


def _has_stream(store: QdrantState) -> bool:
    return store.exists() and read_stream(store) is not None


def _ok(check: str, message: str) -> Finding:
    return Finding(level="ok", check=check, message=message)


def _blocker(check: str, error: BridgeError) -> Finding:
    return Finding(level="blocker", check=check, message=error.message, remedy=error.hint)
