"""Points of one collection on their way to the target."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

from backfill.messages import BATCH_BYTES
from backfill.pinecone_reader import CopyOptions
from bridge.pinecone.mapping import PineconeMapping
from bridge.plan import Point
from bridge.qdrant.target import Target
from bridge.qdrant.wire import encode_upsert
from bridge.retry import Retry
from bridge.writer import Writer


def vector_bytes(point: Point) -> int:
    """Of its dense vectors, which is nearly all of it."""
    return sum(len(vector) for vector in point.vectors.values() if isinstance(vector, bytes))


class Sink:
    """Points of one collection on their way: gathered, sent several requests at a time."""

    def __init__(
        self,
        mapping: PineconeMapping,
        target: Target,
        options: CopyOptions,
        retry: Retry,
    ) -> None:
        self.mapping = mapping
        self._rows = options.batch_rows
        self._delay = options.batch_delay_seconds
        self._points: list[tuple[str, Point]] = []
        self._bytes = 0
        self._recent: deque[tuple[str, Point]] = deque()
        self._writer = Writer[Point](
            encode=lambda points: encode_upsert(
                mapping.collection.name, points, ordering=options.write_ordering
            ),
            send=target.send,
            retry=retry,
            refused_limit=options.dead_letter_limit,
        )

    def add(self, namespace: str, points: Sequence[Point]) -> None:
        """Begin to write these, now or with the next ones."""
        for point in points:
            self._points.append((namespace, point))
            self._bytes += vector_bytes(point)
            if len(self._points) >= self._rows or self._bytes >= BATCH_BYTES:
                self._send()

    def drain(self) -> list[tuple[str, str, str]]:
        """Return when all is durable; (namespace, id, reason) of each point that was refused."""
        self._send()
        self._writer.drain()
        refused = self._writer.take_refused()
        if not refused:
            self._recent.clear()
            return []
        origins = {point.id: namespace for namespace, point in self._recent}
        self._recent.clear()
        return [
            (
                origins[one.point.id],
                self.mapping.origin_of(origins[one.point.id], one.point),
                one.reason,
            )
            for one in refused
        ]

    def _send(self) -> None:
        if not self._points:
            return
        # Without the vectors: these are kept until the next checkpoint.
        self._recent += [(namespace, Point(point.id, {}, {})) for namespace, point in self._points]
        self._writer.write([point for _namespace, point in self._points])
        self._points, self._bytes = [], 0
        if self._delay:
            time.sleep(self._delay)
