"""How a process of the consumer group runs, and how it gives up what it cannot finish."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bridge.errors import Unreachable
from sync.debezium_modes import Modes
from sync.debezium_reread import WithoutPostgres
from sync.kafka import Membership
from sync.kafka_place import KafkaPlace
from sync.windows import Limits

SAVE_SECONDS = 1.0
"""So often offsets are saved and committed: as much is read again after a crash."""
DEAD_LETTER_LIMIT = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaOptions:
    """How the process runs. `topics`: topic -> table."""

    place: KafkaPlace
    membership: Membership
    topics: Mapping[str, str]
    modes: Modes
    postgres_url: str | None = field(repr=False)
    allow_plaintext: bool
    limits: Limits
    without_postgres: WithoutPostgres = "stop"
    write_ordering: str = "weak"
    dead_letter_limit: int = DEAD_LETTER_LIMIT
    save_seconds: float = SAVE_SECONDS


class Abandoned(Unreachable):
    """What was under way is not finished: it is read again, by whoever has the partition then."""
