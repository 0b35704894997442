"""A process of the group as a thread of the test, for what the configuration does not offer."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any, Self

from bridge.config_tables import TableSettings
from bridge.qdrant.channel import endpoint
from bridge.qdrant.server import ServerTarget
from bridge.qdrant.state import QdrantState
from sync.debezium_daemon import KafkaDaemon
from sync.debezium_modes import Modes
from sync.debezium_options import KafkaOptions
from sync.kafka import Membership
from sync.windows import Limits
from tests.support.kafka_pipeline import SESSION_SECONDS, KafkaPipeline

PATIENCE_SECONDS = 40.0


class Member:
    """Runs until the context ends, and raises then what it ended with."""

    def __init__(self, pipeline: KafkaPipeline, *, cooperative: bool = True) -> None:
        self.events: list[str] = []
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._target = ServerTarget(endpoint(pipeline.place.url, api_key=None))
        table: dict[str, Any] = {
            "collection": pipeline.name,
            "vectors": {"v": {"distance": "euclid"}},
        }
        self._daemon = KafkaDaemon(
            {"public.docs": TableSettings.model_validate(table)},
            target=self._target,
            store=QdrantState(self._target, pipeline.name),
            options=KafkaOptions(
                place=pipeline.stack.place,
                membership=Membership(
                    group=f"bridge_{pipeline.name}",
                    session_timeout_seconds=SESSION_SECONDS,
                    fetch_bytes=10**6,
                    cooperative=cooperative,
                ),
                topics={pipeline.topic.name: "public.docs"},
                modes=Modes(decimal="string", told=True),
                postgres_url=pipeline.database.url,
                allow_plaintext=False,
                limits=Limits(operations=200, size_bytes=10**7, seconds=0.05),
            ),
            log=self._hear,
        )
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def partitions(self) -> set[int]:
        """Which are its own."""
        return {state.partition for state in self._daemon.partitions}

    def await_event(self, event: str, times: int = 1) -> None:
        """Return once it has logged this so often."""
        with self._changed:
            heard = self._changed.wait_for(
                lambda: self._error or self.events.count(event) >= times, PATIENCE_SECONDS
            )
        assert heard and self._error is None, (event, self._error, self.events)

    def _hear(self, event: str, **_fields: object) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def _run(self) -> None:
        try:
            self._daemon.run()
        except BaseException as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._daemon.stop()
        self._thread.join(PATIENCE_SECONDS)
        assert not self._thread.is_alive(), "it does not end"
        self._target.close()
        if self._error is not None and error is None:
            raise self._error
