"""Pages of a table merged into the stream of its changes: which of the two is newer. Pure.

The rule is that of design.md section 5.5, told by point and snapshot:

    1. A page counts only if its snapshot shows every transaction that the stream has written to the
       table already (`usable`). The stream delivers a transaction before it is visible to others, and
       a page that does not show it would bring an old row back. What was written before this process
       began to keep account is covered by a mark: every transaction older than the mark's has ended.
    2. A page's rows are written at once. What the stream brings for one of these points afterwards is
       skipped if the page's snapshot shows its transaction (`unshown`): the page's row is that or
       newer. Else it is applied, to a point that is complete.
    3. A page says nothing of rows that it does not hold. Their changes are applied as they come, in
       order, so a row that was deleted before the snapshot stays gone or goes in its turn.
    4. Once the stream has passed the page's mark, everything that its snapshot shows has been
       brought or skipped, and the page is forgotten (`passed`). So memory is bounded by the rows of
       the pages that the stream has not passed yet.

Rule 2 looks at the last change of a point in a window only. Transactions that change one row follow
each other: the second gets the row's lock when the first has ended, and is visible. So whoever sees the
last of them sees all of them.

A crash forgets all this. The stream is then replayed from the checkpoint, over pages too, and ends up
at the same state; `catching_up` is the phase in which older versions may be seen.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace

from bridge.point_ids import PointId
from bridge.positions import Lsn
from bridge.snapshots import Snapshot
from sync.window import TableWindow


@dataclass(frozen=True, slots=True)
class _Page:
    snapshot: Snapshot
    lsn: Lsn
    ids: frozenset[PointId]


class Merge:
    """The account of one table, from its mark on. `mark_xid` is the mark's transaction."""

    def __init__(self, mark_xid: int) -> None:
        self._mark_xid = mark_xid
        self._pages: deque[_Page] = deque()
        self._shown_by: dict[PointId, Snapshot] = {}
        self._unseen: set[int] = set()

    # --- rule 1 --------------------------------------------------------------------------------

    def usable(self, snapshot: Snapshot) -> bool:
        """Whether the snapshot shows everything that the stream has written to the table."""
        self._unseen = {xid for xid in self._unseen if not snapshot.shows(snapshot.widen(xid))}
        return self.older_ended(snapshot) and not self._unseen

    def older_ended(self, snapshot: Snapshot) -> bool:
        """Whether every transaction that is older than the mark has ended."""
        return snapshot.xmin > self._mark_xid

    def streamed(self, xids: Iterable[int]) -> None:
        """These (32-bit) transactions are about to be written to the table."""
        self._unseen.update(xids)

    # --- rules 2 and 4 -------------------------------------------------------------------------

    def wrote(self, snapshot: Snapshot, lsn: Lsn, ids: Iterable[PointId]) -> None:
        """A page's rows have been written; `lsn` is the mark that was set after its snapshot."""
        page = _Page(snapshot, lsn, frozenset(ids))
        self._pages.append(page)
        self._shown_by.update(dict.fromkeys(page.ids, snapshot))

    def passed(self, position: Lsn) -> None:
        """The stream has been applied up to this position."""
        while self._pages and self._pages[0].lsn <= position:
            page = self._pages.popleft()
            for identity in page.ids:
                if self._shown_by.get(identity) is page.snapshot:
                    del self._shown_by[identity]

    def unshown(self, changes: TableWindow) -> TableWindow:
        """The changes without those that pages already show."""
        if not self._shown_by:
            return changes
        states = {
            identity: state
            for identity, state in changes.states.items()
            if not self._shows(identity, state.xid)
        }
        return changes if len(states) == len(changes.states) else replace(changes, states=states)

    def outliving(self, xid: int) -> set[PointId]:
        """Points that a TRUNCATE by this transaction does not concern: pages show them after it."""
        return {identity for identity in self._shown_by if self._shows(identity, xid)}

    def _shows(self, identity: PointId, xid: int) -> bool:
        snapshot = self._shown_by.get(identity)
        return snapshot is not None and snapshot.shows(snapshot.widen(xid))

    @property
    def held(self) -> int:
        """Points of pages that the stream has not passed."""
        return len(self._shown_by)

    @property
    def oldest(self) -> Lsn | None:
        """The position at which the next page is forgotten."""
        return self._pages[0].lsn if self._pages else None

    @property
    def idle(self) -> bool:
        """Whether the stream has passed every page."""
        return not self._pages
