"""Places in a source's history: where reading resumes, how far writing has come.

An LSN is a byte position in Postgres' write-ahead log, printed as two hexadecimal halves
(`16/B374D848`; PostgreSQL documentation, section 8.20 `pg_lsn`). LSNs are not unique: the rows of one
COPY may share one, so a checkpoint lies only where a transaction ends. Malformed input raises.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_LSN = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")
_POSTGRES = re.compile(r"([0-9]+):([0-9]+)@([0-9A-Fa-f/]+)")
_KAFKA = re.compile(r"([A-Za-z0-9._-]+)\[([0-9]+)\]@([0-9]+)")


@dataclass(frozen=True, slots=True, order=True)
class Lsn:
    """A position in the write-ahead log, an unsigned 64-bit number. Ordered; `Lsn(0)` is invalid."""

    value: int

    def __post_init__(self) -> None:
        if not 0 <= self.value < 2**64:
            raise ValueError(f"an LSN is an unsigned 64-bit number, not {self.value}")

    @classmethod
    def parse(cls, text: str) -> Lsn:
        """`16/B374D848` -> Lsn. ValueError if it is anything else."""
        match = _LSN.fullmatch(text)
        if match is None:
            raise ValueError(f"not an LSN: {text!r}")
        return cls(int(match[1], 16) << 32 | int(match[2], 16))

    def __str__(self) -> str:
        return f"{self.value >> 32:X}/{self.value & 0xFFFFFFFF:X}"

    def __sub__(self, other: Lsn) -> int:
        """Bytes of log from `other` to here; negative if `other` is later."""
        return self.value - other.value


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresPosition:
    """An LSN on one timeline of one cluster: comparable only within the same history."""

    system_id: str
    timeline: int
    lsn: Lsn

    @classmethod
    def parse(cls, text: str) -> PostgresPosition:
        """The inverse of `str`: `system:timeline@lsn`. ValueError if it is anything else."""
        match = _POSTGRES.fullmatch(text)
        try:
            if match is not None:
                lsn = Lsn.parse(match[3])
                return cls(system_id=match[1], timeline=int(match[2]), lsn=lsn)
        except ValueError:
            pass
        raise ValueError(f"not a Postgres position: {text!r}")

    def __str__(self) -> str:
        return f"{self.system_id}:{self.timeline}@{self.lsn}"

    def passed(self, other: PostgresPosition) -> bool:
        """Whether this position lies at or behind `other`. ValueError across histories."""
        if (self.system_id, self.timeline) != (other.system_id, other.timeline):
            raise ValueError("positions of different clusters or timelines have no order")
        return self.lsn >= other.lsn


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaPosition:
    """The next offset to read of one partition. Offsets of different partitions have no order."""

    topic: str
    partition: int
    offset: int

    @classmethod
    def parse(cls, text: str) -> KafkaPosition:
        """The inverse of `str`: `topic[partition]@offset`; a topic has no brackets (Kafka's rule)."""
        match = _KAFKA.fullmatch(text)
        if match is None:
            raise ValueError(f"not a Kafka position: {text!r}")
        return cls(topic=match[1], partition=int(match[2]), offset=int(match[3]))

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]@{self.offset}"

    def passed(self, other: KafkaPosition) -> bool:
        """Whether this position lies at or behind `other`. ValueError across partitions."""
        if (self.topic, self.partition) != (other.topic, other.partition):
            raise ValueError("offsets of different partitions have no order")
        return self.offset >= other.offset
