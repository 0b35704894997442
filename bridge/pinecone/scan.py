"""Listing and fetching: from a place in a namespace to batches of ids, from a batch to its records.

`batches` turns pages of ids, which may be short or empty, into batches of a size that one fetch takes.
Each batch carries the `Cursor` from which the listing goes on once this batch and all before it are
done: the token of the first page that is not used up, and within it the last id that is.

`Fetcher.fetch` sees a batch through: outages and limits are waited for, a URL that is too long is
halved, an answer that holds a record nobody can read is bisected until that record is alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from bridge.errors import BridgeError, Rejected
from bridge.pinecone.errors import Missing, TooLong, Unreadable
from bridge.pinecone.pace import Gate, Pace
from bridge.pinecone.records import LIST_PAGE, IdPage, Record, RecordPage, encoded_length
from bridge.retry import Retry

T = TypeVar("T")

FETCH_IDS = 100
"""Ids of one fetch. The API takes 1,000; a page of 100 records of 1536 dimensions is 2 MB already."""
URL_BYTES = 8000
"""What proxies commonly take of a URL is 8 kB."""
_SHORTEST_URL_BYTES = 1000
_ATTEMPTS = 3


class Pages(Protocol):
    """What a scan needs of an index; one attempt each."""

    def list_page(self, namespace: str, token: str | None) -> IdPage:
        """A page of ids."""

    def fetch(self, namespace: str, ids: Sequence[str]) -> RecordPage:
        """Those of the records that there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """Where a listing goes on: with the page of `token` (None: the first), behind the id `after`.

    `done`: there is nothing behind.
    """

    token: str | None = None
    after: str | None = None
    done: bool = False


START = Cursor()


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Ids to fetch together, and where the listing goes on behind them."""

    ids: tuple[str, ...]
    cursor: Cursor
    read_units: int = 0


def batches(
    list_page: Callable[[str | None], IdPage],
    cursor: Cursor,
    *,
    size: int = FETCH_IDS,
    url_bytes: int = URL_BYTES,
) -> Iterator[Batch]:
    """The batches from a cursor to the end; the last one's cursor is `done`, and it may be empty."""
    if cursor.done:
        return
    waiting = _Waiting(size, url_bytes)
    begun = _Begun(cursor.after, 2 * LIST_PAGE)
    token, units = cursor.token, 0
    while True:
        page = list_page(token)
        units += page.read_units
        last = page.following is None
        for where, ids in begun.take(token, page.ids, last=last):
            waiting.add(where, ids)
        while waiting.full or (last and waiting.count):
            taken = waiting.take()
            rest = waiting.place() or Cursor(token=page.following, done=last)
            yield Batch(ids=taken, cursor=rest, read_units=units)
            units = 0
            if rest.done:
                return
        if last:
            yield Batch(ids=(), cursor=Cursor(done=True), read_units=units)
            return
        token = page.following


class _Begun:
    """Skips what a cursor has behind it: everything up to the id `after`, if that is still there.

    A page need not have the ids that it had before, so the id is looked for a little further on; where
    it is not, nothing is skipped, and some ids come twice.
    """

    def __init__(self, after: str | None, far: int) -> None:
        self._after = after
        self._far = far
        self._held: list[tuple[str | None, Sequence[str]]] = []

    def take(
        self, token: str | None, ids: Sequence[str], *, last: bool
    ) -> list[tuple[str | None, Sequence[str]]]:
        """The pages that count, of this one and those held back."""
        if self._after is None:
            return [(token, ids)]
        if self._after in ids:
            place = list(ids).index(self._after)
            self._after, self._held = None, []
            return [(token, ids[place + 1 :])]
        self._held.append((token, ids))
        if not last and sum(len(held) for _token, held in self._held) < self._far:
            return []
        self._after = None
        return self._held


class _Waiting:
    """Ids that are listed and in no batch yet, by page."""

    def __init__(self, size: int, url_bytes: int) -> None:
        self._size = size
        self._url_bytes = url_bytes
        self._pages: deque[tuple[str | None, deque[str]]] = deque()
        self._last: str | None = None
        self._partly = False
        self.count = 0
        self._bytes = 0

    @property
    def full(self) -> bool:
        """Whether there is enough for a batch."""
        return self.count >= self._size or self._bytes >= self._url_bytes

    def add(self, token: str | None, ids: Sequence[str]) -> None:
        """A page that was listed with this token."""
        if ids:
            self._pages.append((token, deque(ids)))
            self.count += len(ids)
            self._bytes += sum(map(encoded_length, ids))

    def take(self) -> tuple[str, ...]:
        """The ids of the next batch: at least one, as many as fit."""
        taken: list[str] = []
        length = 0
        while self._pages and len(taken) < self._size:
            ids = self._pages[0][1]
            more = encoded_length(ids[0])
            if taken and length + more > self._url_bytes:
                break
            length += more
            self._last = ids.popleft()
            self._partly = bool(ids)
            taken.append(self._last)
            if not ids:
                self._pages.popleft()
        self.count -= len(taken)
        self._bytes -= length
        return tuple(taken)

    def place(self) -> Cursor | None:
        """Where the ids that are left begin; None if there are none."""
        if not self._pages:
            return None
        return Cursor(token=self._pages[0][0], after=self._last if self._partly else None)


# --- asking, with patience -------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class Endpoint:
    """One kind of request: its pace, its gate, and how long its failures are borne."""

    pace: Pace
    gate: Gate
    retry: Retry

    def call(self, action: Callable[[], T]) -> T:
        """The result of `action`, tried again while that makes sense."""

        def attempt() -> T:
            with self.gate.inside():
                self.pace.wait()
                return action()

        return self.retry.call(attempt)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unread:
    """A record that is listed and cannot be read."""

    id: str
    reason: str


@dataclass(slots=True, kw_only=True)
class Fetched:
    """What became of a batch. `missing`: ids that are gone by now."""

    records: list[Record] = field(default_factory=list)
    unread: list[Unread] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    read_units: int = 0


class Fetcher:
    """Fetches batches through one endpoint. Safe for threads."""

    def __init__(self, pages: Pages, endpoint: Endpoint, *, url_bytes: int = URL_BYTES) -> None:
        self._pages = pages
        self._endpoint = endpoint
        self._url_bytes = url_bytes

    def fetch(self, namespace: str, ids: Sequence[str]) -> Fetched:
        """Every id is afterwards a record, unread or missing."""
        fetched = Fetched()
        for part in self._fitting(ids):
            self._settle(namespace, part, fetched, _ATTEMPTS)
        return fetched

    def _fitting(self, ids: Sequence[str]) -> Iterator[Sequence[str]]:
        """The ids in parts that fit what has proved to be the longest URL."""
        start, length = 0, 0
        for number, identity in enumerate(ids):
            more = encoded_length(identity)
            if number > start and length + more > self._url_bytes:
                yield ids[start:number]
                start, length = number, 0
            length += more
        if start < len(ids):
            yield ids[start:]

    def _settle(self, namespace: str, ids: Sequence[str], into: Fetched, attempts: int) -> None:
        try:
            page = self._attempt(namespace, ids, attempts)
        except TooLong as error:
            # Not below what one id may take: that one has its own reason then.
            self._url_bytes = max(_SHORTEST_URL_BYTES, self._url_bytes // 2)
            self._halves(namespace, ids, into, error)
        except (Rejected, Missing) as error:
            self._halves(namespace, ids, into, error)
        else:
            self._take(ids, page, into)

    def _attempt(self, namespace: str, ids: Sequence[str], attempts: int) -> RecordPage:
        """The page; an answer that cannot be read is asked for again before anybody is blamed."""
        while True:
            attempts -= 1
            try:
                return self._endpoint.call(lambda: self._pages.fetch(namespace, ids))
            except Unreadable:
                if attempts <= 0:
                    raise

    def _halves(
        self, namespace: str, ids: Sequence[str], into: Fetched, error: BridgeError
    ) -> None:
        if len(ids) == 1:
            into.unread.append(Unread(id=ids[0], reason=error.message))
            return
        half = len(ids) // 2
        for part in (ids[:half], ids[half:]):
            self._settle(namespace, part, into, _ATTEMPTS if len(part) == 1 else 1)

    def _take(self, ids: Sequence[str], page: RecordPage, into: Fetched) -> None:
        into.records += page.records
        into.read_units += page.read_units
        if len(page.records) < len(ids):
            found = {record.id for record in page.records}
            into.missing += [identity for identity in ids if identity not in found]
