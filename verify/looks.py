"""Suspects looked at again until it is sure what they are, also while both sides are written to.

One look at a row, in this order:

    1. the row is read, with its version
    2. the stream passes a position behind that moment           the target has what was read, or newer
    3. the point is read and compared
    4. transactions in progress end (bounded)                    what was streamed early is visible
    5. the row's version is read

If the version is the same in 1 and 5, the row has not changed in between, so the point in 3 had to be what
was read in 1: a difference is one. If it has changed, nothing was shown, and there is another look. Where
nothing follows the source, 2 and 4 are left out, and nothing is written to it for them. A row
that is gone is none of the source's any more (a point that it left behind is an extra). Rows that changed
at every look are `unsettled`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from bridge.events import Field
from bridge.mapping import TableMapping
from bridge.plan import Point
from bridge.point_ids import PointId
from bridge.postgres.verify_reads import RowLooks
from verify.comparison import Comparer, Difference
from verify.messages import Key
from verify.points import Points
from verify.rows import as_points
from verify.stream import Follower

LOOKS = 30
"""A row that changed every second, and of which every look takes one, is settled all the same."""
VISIBLE_SECONDS = 10.0
"""Longer no transaction stays invisible that was streamed, but for a synchronous standby that is away."""
KEYS_A_LOOK = 500

Kind = Literal["missing", "stale", "altered", "unsettled", "dead_lettered"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a row came to. `reason`: why it was set aside; `differences` of stale and altered ones."""

    kind: Kind
    key: Key
    id: PointId | None
    differences: tuple[Difference, ...] = ()
    reason: str = ""


class Settler:
    """Settles suspects of one table. `letters`: reasons of its dead letters, by the rows' keys."""

    def __init__(
        self,
        mapping: TableMapping,
        *,
        comparer: Comparer,
        looks: RowLooks,
        points: Points,
        follower: Follower,
        letters: Callable[[], Mapping[str, str]],
        with_vectors: bool,
        tries: int = LOOKS,
        visible_seconds: float = VISIBLE_SECONDS,
    ) -> None:
        self._mapping = mapping
        self._comparer = comparer
        self._looks = looks
        self._points = points
        self._follower = follower
        self._letters = letters
        self._with_vectors = with_vectors
        self._tries = tries
        self._visible_seconds = visible_seconds

    def settle(self, keys: Sequence[Key]) -> list[Verdict]:
        """What is wrong with these rows for sure; nothing is said of those that are right or gone."""
        verdicts: list[Verdict] = []
        for start in range(0, len(keys), KEYS_A_LOOK):
            verdicts += self._settle_some(keys[start : start + KEYS_A_LOOK])
        return verdicts

    def _settle_some(self, keys: Sequence[Key]) -> list[Verdict]:
        left, verdicts = list(keys), list[Verdict]()
        for _ in range(self._tries):
            found, left = self._look(left)
            verdicts += found
            if not left:
                break
        ids = self._mapping.id_rule
        unsettled = [Verdict(kind="unsettled", key=key, id=ids.of(key)) for key in left]
        return self._known_letters(verdicts) + unsettled

    def _look(self, keys: Sequence[Key]) -> tuple[list[Verdict], list[Key]]:
        """(verdicts, keys of rows that changed meanwhile)."""
        read = self._looks.rows(self._mapping, keys)
        batch = as_points(self._mapping, [one.row for one in read])
        if self._follower.follows:
            self._follower.await_passed(self._looks.place())
        ids = [point.id for point in batch.points]
        stored = {
            point.id: point
            for point in self._points.get(ids, with_vectors=self._with_vectors).result()
        }
        suspects = self._comparer.suspects(batch.points, stored)
        if not suspects and not batch.set_aside:
            return [], []
        before = {tuple(self._mapping.key_texts(one.row)): one.version for one in read}
        if self._follower.follows:
            self._looks.await_visible(self._visible_seconds)
        now = self._looks.versions(self._mapping, list(before))
        verdicts: list[Verdict] = []
        changed: list[Key] = []
        for number in suspects:
            key = batch.key_of(number)
            if _unchanged(before, now, key):
                verdicts.append(self._verdict(key, batch.points[number], stored))
            elif key in now:
                changed.append(key)
        for aside in batch.set_aside:
            key = next(k for k in before if self._mapping.dead_letter(k, "", "").key == aside.key)
            verdicts.append(
                Verdict(
                    kind="dead_lettered",
                    key=key,
                    id=self._mapping.id_rule.of(key),
                    reason=aside.reason,
                )
            )
        return verdicts, changed

    def _verdict(self, key: Key, wanted: Point, stored: Mapping[PointId, Point]) -> Verdict:
        found = stored.get(wanted.id)
        if found is None:
            return Verdict(kind="missing", key=key, id=wanted.id)
        differences = tuple(self._comparer.differences(wanted, found))
        kind = self._comparer.kind(differences)
        return Verdict(kind=kind, key=key, id=wanted.id, differences=differences)

    def _known_letters(self, verdicts: list[Verdict]) -> list[Verdict]:
        """Rows that were set aside when they were written are told as such."""
        if not verdicts:
            return verdicts
        letters = self._letters()
        told: list[Verdict] = []
        for one in verdicts:
            reason = letters.get(self._mapping.dead_letter(one.key, "", "").key)
            if reason is None or one.kind == "dead_lettered":
                told.append(one)
            else:
                told.append(Verdict(kind="dead_lettered", key=one.key, id=one.id, reason=reason))
        return told


def _unchanged(
    before: Mapping[Key, tuple[Field, ...]], now: Mapping[Key, tuple[Field, ...]], key: Key
) -> bool:
    return key in now and now[key] == before[key]
