"""What changes rows of a table without an event and without another column: enum labels, partitions. Pure,
but for `save` and `load`.

Kept beside the stream's record, one record a table, as it was when its copy began (design.md section 6).
A label that was renamed leaves every row that has it with the old text; a partition that was attached
brings rows that nobody told of, one that was detached leaves points behind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bridge.recorded_schema import Records
from bridge.state import Record

_PREFIX = "beneath/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Beneath:
    """`enums`: the labels of each enum column. `partitions`: names of the leaves, by OID as text."""

    enums: Mapping[str, tuple[str, ...]]
    partitions: Mapping[str, str]

    def to_record(self) -> dict[str, Any]:
        """As it is stored."""
        return {
            "enums": {column: list(labels) for column, labels in self.enums.items()},
            "partitions": dict(self.partitions),
        }

    @classmethod
    def from_record(cls, record: Record) -> Beneath:
        """The inverse of `to_record`."""
        enums = {column: tuple(labels) for column, labels in record["enums"].items()}
        return cls(enums=enums, partitions=record["partitions"])

    def renamed(self, now: Beneath) -> list[str]:
        """Columns whose rows may show a label that is called otherwise now. A new label changes none."""
        return sorted(
            column
            for column, labels in self.enums.items()
            if column in now.enums and not set(labels) <= set(now.enums[column])
        )

    def attached(self, now: Beneath) -> list[str]:
        """Partitions that came."""
        return sorted(now.partitions[oid] for oid in now.partitions.keys() - self.partitions.keys())

    def detached(self, now: Beneath) -> list[str]:
        """Partitions that went, dropped ones too: a dropped partition tells of no row either."""
        return sorted(
            self.partitions[oid] for oid in self.partitions.keys() - now.partitions.keys()
        )


def save(store: Records, label: str, beneath: Beneath) -> None:
    """Keep it, over what was kept of the table."""
    store.put("stream", f"{_PREFIX}{label}", beneath.to_record())


def load(store: Records) -> dict[str, Beneath]:
    """What is kept, by the tables' labels."""
    return {
        name.removeprefix(_PREFIX): Beneath.from_record(record)
        for name, record in store.records("stream")
        if name.startswith(_PREFIX)
    }
