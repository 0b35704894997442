"""Records that differ, looked at again until it is sure what they are. A read of Pinecone is no snapshot.

There are no versions and no positions to wait for, and a record that was just written may be read as it was
before. So a record is fetched and its point read again, after a pause, until the record has been the same
at `LOOKS` looks one after the other: what differs then at all of them is reported, and one that was not
there at any is gone (a point that it left behind is an extra). A record that differs and never held still
is `unsettled`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Protocol

from bridge.pinecone.scan import Fetched
from bridge.plan import Point
from bridge.point_ids import PointId
from bridge.retry import Retry
from verify.index_subject import IndexSubject
from verify.looks import Verdict
from verify.messages import Key
from verify.points import Points

LOOKS = 3
TRIES = 12
PAUSE_SECONDS = 0.5
"""Longer than Pinecone usually takes until what was written is read, times `LOOKS`."""
KEYS_A_LOOK = 500

Sleep = Callable[[float], None]


class Records(Protocol):
    """What looks need of an index."""

    def fetch(self, namespace: str, ids: Sequence[str]) -> Fetched:
        """These records as they are now; limits are kept and outages waited out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """A record at one look: a digest of it, and what it came to. `equal`: nothing is wrong with it."""

    content: bytes
    verdict: Verdict | None = None
    equal: bool = False


class RecordSettler:
    """Settles suspects of one collection."""

    def __init__(
        self,
        subject: IndexSubject,
        *,
        records: Records,
        points: Points,
        retry: Retry,
        sleep: Sleep = time.sleep,
        looks: int = LOOKS,
        tries: int = TRIES,
    ) -> None:
        self._subject = subject
        self._comparer = subject.comparer
        self._records = records
        self._points = points
        self._retry = retry
        self._sleep = sleep
        self._looks = looks
        self._tries = tries

    def settle(self, keys: Sequence[Key]) -> list[Verdict]:
        """What is wrong with these records for sure; nothing is said of those that are right or gone."""
        unique = list(dict.fromkeys(keys))
        verdicts: list[Verdict] = []
        for start in range(0, len(unique), KEYS_A_LOOK):
            verdicts += self._settle_some(unique[start : start + KEYS_A_LOOK])
        return self._known_letters(verdicts)

    def _settle_some(self, keys: Sequence[Key]) -> list[Verdict]:
        left = list(keys)
        held: dict[Key, tuple[bytes, int]] = {}
        verdicts: list[Verdict] = []
        for attempt in range(self._tries):
            if attempt:
                self._sleep(PAUSE_SECONDS)
            seen = self._look(left)
            moving: list[Key] = []
            for key in left:
                one = seen[key]
                if one.equal:
                    continue
                content, times = held.get(key, (b"", 0))
                times = times + 1 if one.content == content else 1
                held[key] = (one.content, times)
                if times < self._looks:
                    moving.append(key)
                elif one.verdict is not None:
                    verdicts.append(one.verdict)
            left = moving
            if not left:
                return verdicts
        return verdicts + [
            Verdict(kind="unsettled", key=key, id=self._subject.id_of(key)) for key in left
        ]

    def _look(self, keys: Sequence[Key]) -> dict[Key, _Seen]:
        """Each record as it is now, beside its point as it is then."""
        subject, mapping = self._subject, self._subject.mapping
        seen = {key: _Seen(content=b"gone") for key in keys}
        wanted: list[tuple[Key, Point]] = []
        for namespace, ids in subject.by_namespace(keys).items():
            fetched = self._records.fetch(namespace, ids)
            points, letters = mapping.points(namespace, fetched.records)
            reasons = {letter.key: letter.reason for letter in letters}
            reasons |= {mapping.key_of(namespace, one.id): one.reason for one in fetched.unread}
            for identity in ids:
                reason = reasons.get(mapping.key_of(namespace, identity))
                if reason is not None:
                    key = subject.key(namespace, identity)
                    seen[key] = _set_aside(key, subject.id_of(key), reason)
            wanted += [
                (subject.key(namespace, mapping.origin_of(namespace, point)), point)
                for point in points
            ]
        stored = self._stored([point.id for _key, point in wanted])
        seen |= {key: self._compared(key, point, stored) for key, point in wanted}
        return seen

    def _stored(self, ids: list[PointId]) -> dict[PointId, Point]:
        found = self._retry.call(lambda: self._points.get(ids).result()) if ids else []
        return {point.id: point for point in found}

    def _compared(self, key: Key, wanted: Point, stored: Mapping[PointId, Point]) -> _Seen:
        content = digest_of(wanted)
        found = stored.get(wanted.id)
        if found is None:
            verdict = Verdict(kind="missing", key=key, id=wanted.id)
            return _Seen(content=content, verdict=verdict)
        if not self._comparer.suspects([wanted], stored):
            return _Seen(content=content, equal=True)
        differences = tuple(self._comparer.differences(wanted, found))
        verdict = Verdict(
            kind=self._comparer.kind(differences), key=key, id=wanted.id, differences=differences
        )
        return _Seen(content=content, verdict=verdict)

    def _known_letters(self, verdicts: list[Verdict]) -> list[Verdict]:
        """Records that were set aside when they were written are told as such."""
        if not verdicts:
            return verdicts
        letters, mapping = self._subject.letters(), self._subject.mapping
        told: list[Verdict] = []
        for one in verdicts:
            reason = letters.get(mapping.key_of(*self._subject.place(one.key)))
            if reason is None or one.kind == "dead_lettered":
                told.append(one)
            else:
                told.append(replace(one, kind="dead_lettered", reason=reason, differences=()))
        return told


def _set_aside(key: Key, identity: PointId, reason: str) -> _Seen:
    verdict = Verdict(kind="dead_lettered", key=key, id=identity, reason=reason)
    return _Seen(content=f"set aside: {reason}".encode(), verdict=verdict)


def digest_of(point: Point) -> bytes:
    """What tells two versions of a record apart."""
    payload = sorted(point.payload.items())
    vectors = sorted(point.vectors.items(), key=lambda item: item[0])
    return blake2b(repr((payload, vectors)).encode(), digest_size=16).digest()
