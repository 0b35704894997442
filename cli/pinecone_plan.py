"""The Pinecone half of `plan` and `init`: what an index is, and what would become of it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import yaml
from rich.table import Table
from rich.text import Text

from backfill.pgvector import now
from backfill.pinecone_inspect import Proposal, look, make_plan, pages_of, specs_of
from backfill.pinecone_reader import Reader
from backfill.preflight import check_target
from bridge.collection_spec import VectorSpec
from bridge.config import PineconeSettings, Settings
from bridge.errors import Unreachable
from bridge.findings import Finding, as_reported
from bridge.pinecone.fields import FieldGuess
from bridge.pinecone.index import shown
from bridge.qdrant.target import Target
from cli.output import findings_table, note, out
from cli.pinecone_places import copy_options, open_index, pinecone_settings
from cli.places import look_at_target

_NAMESPACES_SHOWN = 12
_CONVERSIONS = {
    "text": "text",
    "texts": "list of texts",
    "boolean": "boolean",
    "integer": "integer",
    "float": "float",
    "other": "as it is",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """An index, and what the target says to its collections."""

    proposal: Proposal
    findings: tuple[Finding, ...]


def names_index(settings: Settings) -> bool:
    """Whether the configuration or the flags speak of a Pinecone index."""
    found = settings.pinecone
    return found is not None and (found.index is not None or found.host is not None)


def plan_index(settings: Settings) -> Planned:
    """Look at the index, read a sample, and ask the target, if it answers. Writes nothing."""
    away: Finding | None = None
    with ExitStack() as stack:
        target: Target | None = None
        try:
            target = stack.enter_context(look_at_target(settings))
        except Unreachable as error:
            # A plan is of use before Qdrant runs.
            away = Finding(
                level="warning",
                check="target.reachable",
                message=f"{error.message}; whether the collections are there is not known",
                remedy=error.hint,
            )
        proposal = propose(settings, target)
        create = settings.migration.create_collection
        specs = specs_of(proposal.plan) if away is None else []
        found = [check_target(target, spec, create=create)[1] for spec in specs]
    found += [away] if away is not None else []
    return Planned(proposal=proposal, findings=tuple(found))


def propose(settings: Settings, target: Target | None) -> Proposal:
    """What the index is, and the plan that a backfill would store."""
    found = pinecone_settings(settings)
    with open_index(settings) as index:
        pages = pages_of(index, found)
        reader = Reader(pages, copy_options(settings, found), lambda event: None, stats=index.stats)
        try:
            seen = look(index, found, reader.lists)
            return make_plan(
                seen, found, pages, reader.lists, reader.fetches, now=now(), target=target
            )
        finally:
            reader.close()


def index_report(planned: Planned) -> dict[str, Any]:
    """An index in `plan --json`."""
    proposal = planned.proposal
    plan, facts = proposal.plan, proposal.look.facts
    return {
        "kind": facts.kind,
        "host": facts.host,
        "model": facts.model,
        "layout": plan.layout,
        "records": sum(plan.counts.values()),
        "namespaces": {
            name: {"records": plan.counts[name], "collection": collection}
            for name, collection in plan.collections.items()
        },
        "vectors": [{"source": one.source, **asdict(one.spec)} for one in plan.vectors],
        "id_field": plan.id_field,
        "namespace_field": plan.namespace_field if plan.layout == "joint" else None,
        "payload_indexes": dict(plan.indexes),
        "sampled": proposal.sampled,
        "fields": [_field_row(one, proposal) for one in proposal.fields],
        "warnings": list(proposal.warnings),
        "findings": [as_reported(found) for found in planned.findings],
    }


def _field_row(one: FieldGuess, proposal: Proposal) -> dict[str, Any]:
    plan = proposal.plan
    kinds = set(one.kinds)
    if "integer" in kinds and (plan.keep_floats or one.name in plan.float_fields):
        kinds = (kinds - {"integer"}) | {"float"}
    return {
        "field": one.name,
        "kinds": list(one.kinds),
        "records": one.records,
        "conversion": " or ".join(_CONVERSIONS[kind] for kind in sorted(kinds)),
    }


def show_index(planned: Planned) -> None:
    """For people."""
    proposal, console = planned.proposal, out()
    plan, facts = proposal.plan, proposal.look.facts
    collections = list(dict.fromkeys(plan.collections.values()))
    where = f"collection {collections[0]}"
    if len(collections) > 1:
        where = f"{len(collections)} collections"
    records = sum(plan.counts.values())
    console.print(Text(f"{plan.label} -> {where}, {records:,} records", style="bold"))
    console.print(_namespace_table(proposal))
    for one in plan.vectors:
        console.print(Text(f"vector {one.spec.name!r}: {_vector(one.spec)}"))
    if facts.model:
        console.print(Text(f"vectors made by {facts.model}: embed queries with the same model"))
    console.print(_field_table(proposal))
    if plan.indexes:
        told = ", ".join(f"{path} ({kind})" for path, kind in plan.indexes.items())
        console.print(Text(f"payload indexes: {told}"))
    for warning in proposal.warnings:
        note(f"warning: {warning}", style="yellow")
    console.print(findings_table(planned.findings))


def _namespace_table(proposal: Proposal) -> Table:
    plan = proposal.plan
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("namespace", overflow="fold")
    table.add_column("records", justify="right")
    table.add_column("collection", overflow="fold")
    largest = sorted(plan.counts, key=lambda name: (-plan.counts[name], name))
    for name in largest[:_NAMESPACES_SHOWN]:
        table.add_row(Text(shown(name)), f"{plan.counts[name]:,}", Text(plan.collections[name]))
    left = largest[_NAMESPACES_SHOWN:]
    if left:
        table.add_row(f"and {len(left)} more", f"{sum(plan.counts[n] for n in left):,}", "")
    return table


def _field_table(proposal: Proposal) -> Table:
    plan = proposal.plan
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("field", "in the sample", "becomes"):
        table.add_column(heading, overflow="fold")
    table.add_row("(id)", f"{proposal.sampled} records", Text(f"payload {plan.id_field}"))
    if plan.layout == "joint":
        table.add_row("(namespace)", "", Text(f"payload {plan.namespace_field}"))
    for one in proposal.fields:
        row = _field_row(one, proposal)
        told = f"{', '.join(one.kinds)} in {one.records}"
        table.add_row(Text(one.name), told, Text(row["conversion"]))
    return table


def _vector(spec: VectorSpec) -> str:
    if spec.shape == "sparse":
        return "sparse, dot"
    return f"{spec.dimension} x {spec.datatype}, {spec.distance}"


# --- init -----------------------------------------------------------------------------------------


def index_lines(settings: PineconeSettings, proposal: Proposal) -> list[str]:
    """The section `pinecone:` of a bridge.yaml."""
    plan = proposal.plan
    told = ", ".join(f"{one.spec.name or 'dense'}: {_vector(one.spec)}" for one in plan.vectors)
    lines = ["pinecone:", f"  # {sum(plan.counts.values()):,} records; {told}"]
    for name in ("index", "host", "service_host"):
        value = getattr(settings, name)
        if value is not None:
            lines.append(f"  {name}: {_scalar(value)}")
    lines += [
        "  # the API key: QDRANT_BRIDGE_PINECONE__API_KEY; or a file that holds it:",
        "  # api_key_file: /run/secrets/pinecone",
        f"  collection: {_scalar(next(iter(plan.collections.values())))}",
        *_namespace_lines(settings, proposal),
    ]
    if proposal.fields:
        lines.append("  # metadata of the sample:")
        for one in proposal.fields[:_NAMESPACES_SHOWN]:
            conversion = _field_row(one, proposal)["conversion"]
            lines.append(f"  #   {_scalar(one.name)}: {conversion}")
    return lines


def _namespace_lines(settings: PineconeSettings, proposal: Proposal) -> list[str]:
    counts = proposal.plan.counts
    chosen: Sequence[str] | str = settings.namespaces
    told = (
        chosen if isinstance(chosen, str) else yaml.safe_dump(list(chosen), default_flow_style=True)
    )
    lines = ["  # all: every namespace into one collection; split: a collection each; or [a, b]"]
    lines.append(f"  namespaces: {told.strip()}")
    largest = sorted(counts, key=lambda name: (-counts[name], name))
    for name in largest[:_NAMESPACES_SHOWN]:
        lines.append(f"  #   {_scalar(shown(name))}: {counts[name]:,} records")
    if len(largest) > _NAMESPACES_SHOWN:
        lines.append(f"  #   and {len(largest) - _NAMESPACES_SHOWN} more")
    return lines


def _scalar(text: str) -> str:
    """A YAML scalar on one line, quoted where it must be."""
    return yaml.safe_dump(text, allow_unicode=True, width=10_000).splitlines()[0]
