"""`qdrant-bridge doctor`: everything that can be checked before a run, each finding with its remedy."""

from __future__ import annotations

from collections.abc import Sequence

import typer

from backfill.preflight import check_target, inspect
from bridge.config import Effective, Settings, TableSettings
from bridge.errors import BridgeError, CheckFailed
from bridge.findings import Finding, as_reported, blockers
from bridge.mapping import TableMapping
from bridge.postgres import catalog, checks
from bridge.postgres.connection import Connection, connect
from cli import options as o
from cli.doctor_stream import Recorded, examine_stream
from cli.help import Command
from cli.output import counted, findings_table, out, print_json
from cli.places import open_target, postgres_url, require_tables

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
        listed = [as_reported(finding) for finding in findings]
        print_json({"version": REPORT_VERSION, "ok": not found, "findings": listed})
    else:
        out().print(findings_table(findings))
    if found:
        verb = "blocks" if len(found) == 1 else "block"
        raise CheckFailed(f"{counted(len(found), 'finding')} {verb} a run", code="DOCTOR")


def examine(effective: Effective) -> list[Finding]:
    """All findings, of both sides. An unreachable side is a finding too."""
    settings = effective.settings
    require_tables(settings)
    findings: list[Finding] = []
    try:
        with open_target(settings, beside=True) as place:
            recorded = Recorded.read(place.target, settings)
            findings.append(_ok("target.reachable", f"Qdrant at {place.target.label}"))
            findings += _examine_postgres(settings, recorded)
    except BridgeError as error:
        findings.append(_blocker("target.reachable", error))
        findings += _examine_postgres(settings, None)
    return findings


def _examine_postgres(settings: Settings, recorded: Recorded | None) -> list[Finding]:
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
                create = settings.migration.create_collection
                found, mapping = _examine_table(connection, name, table, recorded, create=create)
                findings += found
                mappings += [mapping] if mapping is not None else []
            return findings + _examine_changes(connection, facts, settings, recorded, mappings)
    except BridgeError as error:
        return [_blocker("source.reachable", error)]


def _examine_changes(
    connection: Connection,
    facts: catalog.ServerFacts,
    settings: Settings,
    recorded: Recorded | None,
    mappings: Sequence[TableMapping],
) -> list[Finding]:
    """Whether the changes can be followed."""
    if settings.reads_kafka:
        from cli.debezium_doctor import (
            examine_debezium,  # Kafka's client is not every run's to load
        )

        return examine_debezium(settings, connection, mappings)
    return examine_stream(connection, facts, settings, recorded, mappings)


def _examine_table(
    connection: Connection,
    name: str,
    settings: TableSettings,
    recorded: Recorded | None,
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
        if recorded is not None:
            findings += _examine_collection(recorded, inspection.mapping, create=create)
        return findings, inspection.mapping
    except BridgeError as error:
        if error.code == "PRIVILEGE":
            return [_blocker("table.privilege", error)], None
        return [_blocker("table.mapping", error)], None


def _examine_collection(
    recorded: Recorded, mapping: TableMapping, *, create: bool
) -> list[Finding]:
    state, finding = check_target(recorded.target, mapping.collection, create=create)
    if state is None and recorded.is_streamed(mapping):
        return []  # it is not made again: the stream's checks say so
    taken = recorded.owner_finding(mapping)
    if taken is None:
        return [finding]
    return [taken] if finding.level == "ok" else [finding, taken]


def _ok(check: str, message: str) -> Finding:
    return Finding(level="ok", check=check, message=message)


def _blocker(check: str, error: BridgeError) -> Finding:
    return Finding(level="blocker", check=check, message=error.message, remedy=error.hint)
