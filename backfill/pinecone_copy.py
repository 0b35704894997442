"""The copy of namespaces: listers, fetchers, and the one thread that writes and checkpoints.

    listers    a few threads, a namespace each at a time: pages of ids -> batches
    fetchers   as many threads as may fetch at once: a batch -> records -> points
    the caller's thread: points -> requests in flight -> durable -> checkpoint

Batches of a namespace come back in any order. `Ledger` advances a namespace's cursor over those that are
there without a gap, so that a checkpoint never passes a batch that is not durable; how far a lister
may be ahead of it is bounded, and with it what a crash makes us fetch twice, and memory.

What a crash leaves: points beyond the last checkpoint, which are written again as they are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial

from backfill.messages import Waiting
from backfill.pinecone_ledger import AHEAD, Ledger, Result, Work
from backfill.pinecone_reader import CopyOptions, Reader
from backfill.pinecone_sink import Sink, vector_bytes
from backfill.pinecone_state import NamespaceProgress
from backfill.pinecone_threads import Crew, Line
from bridge.errors import BridgeError, StopError, Unreachable
from bridge.failpoints import failpoint
from bridge.pinecone.errors import TokenRefused
from bridge.pinecone.mapping import PineconeMapping
from bridge.pinecone.pace import Closed
from bridge.pinecone.reader import LISTERS, TOLD_SECONDS
from bridge.pinecone.scan import START, batches
from bridge.pipeline import checkpoint_namespaces
from bridge.plan import DeadLetter
from bridge.qdrant.state import QdrantState
from bridge.qdrant.target import Target
from bridge.retry import Retry

_JOIN_SECONDS = 2.0
_REFUSED_IN_VAIN = 3
"""A token expires in hours; one that is refused again and again at one page never was good."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Advanced:
    """A namespace has been read up to somewhere; `of`: what the index says that it holds."""

    progress: NamespaceProgress
    of: int


Tell = Callable[[Advanced | Waiting], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _BeganAgain:
    namespace: str
    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failed:
    error: Exception


class NamespaceCopy:
    """Copies namespaces from where they are. Use `run` once."""

    def __init__(
        self,
        reader: Reader,
        mappings: Mapping[str, PineconeMapping],
        progress: Sequence[NamespaceProgress],
        *,
        target: Target,
        store: QdrantState,
        options: CopyOptions,
        tell: Tell,
        counts: Mapping[str, int],
        present_may_stay: bool,
        now: Callable[[], str],
        ids: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self._reader = reader
        self._mappings = mappings
        self._ledgers = {one.namespace: Ledger(one) for one in progress}
        self._target = target
        self._store = store
        self._options = options
        self._tell = tell
        self._counts = counts
        self._present_may_stay = present_may_stay
        self._now = now
        self._todo: Line[str] = Line(1 + len(self._ledgers))
        self._work: Line[Work] = Line(2 * reader.most)
        self._results: Line[Result | _BeganAgain | _Failed] = Line(16)
        self._retry = Retry(patience_seconds=options.patience_seconds, on_wait=self._waiting)
        self._sinks: dict[str, Sink] = {}
        self._letters: list[DeadLetter] = []
        self._set_aside = 0

    def run(self) -> dict[str, NamespaceProgress]:
        """Every namespace read to its end; the progress of each. Raises what stops it."""
        open_ones = [name for name, one in self._ledgers.items() if not one.progress.done]
        for name in open_ones:
            self._todo.put(name)
        crew = Crew(self._hand_over)
        try:
            crew.start("list", min(LISTERS, len(open_ones)), self._list)
            crew.start("fetch", self._reader.most if open_ones else 0, self._fetch)
            self._write_all(len(open_ones))
        finally:
            self._reader.close()
            for line in (self._todo, self._work, self._results):
                line.close()
            for ledger in self._ledgers.values():
                ledger.ahead.release(AHEAD)
            crew.join(_JOIN_SECONDS)
        return {name: one.progress for name, one in self._ledgers.items()}

    # --- listers -----------------------------------------------------------------------------------

    def _list(self) -> None:
        while True:
            namespace = self._todo.take()
            assert namespace is not None  # noqa: S101 - no time limit was given
            self._list_one(namespace)

    def _list_one(self, namespace: str) -> None:
        ledger = self._ledgers[namespace]
        cursor, stay, generation = ledger.progress.cursor, ledger.progress.present_stay, 0
        furthest = in_vain = 0
        while True:
            reached = 0
            try:
                listed = batches(partial(self._reader.page, namespace), cursor)
                for number, batch in enumerate(listed):
                    reached = number + 1
                    ledger.ahead.acquire()
                    self._work.put(
                        Work(
                            namespace=namespace,
                            generation=generation,
                            number=number,
                            batch=batch,
                            present_stay=stay,
                        )
                    )
                return
            except TokenRefused:
                in_vain = 0 if reached > furthest else in_vain + 1
                furthest = max(furthest, reached)
                if in_vain >= _REFUSED_IN_VAIN:
                    raise Unreachable(
                        f"Pinecone refuses the page tokens that it gave itself, {in_vain} times in "
                        "a row at the same page",
                        table=namespace or "(default namespace)",
                        hint="is there a proxy in between that changes URLs? what is copied is kept",
                    ) from None
                generation += 1
                cursor, stay = START, self._present_may_stay
                self._results.put(_BeganAgain(namespace=namespace, generation=generation))

    # --- fetchers ----------------------------------------------------------------------------------

    def _fetch(self) -> None:
        while True:
            work = self._work.take()
            assert work is not None  # noqa: S101 - no time limit was given
            self._results.put(self._fetched(work))

    def _fetched(self, work: Work) -> Result:
        mapping, namespace = self._mappings[work.namespace], work.namespace
        ids: Sequence[str] = work.batch.ids
        result = Result(work=work, read_units=work.batch.read_units)
        if work.present_stay and ids:
            points = {mapping.id_of(namespace, one): one for one in ids}
            there = self._retry.call(
                lambda: self._target.existing(mapping.collection.name, list(points))
            )
            result.present = len(there)
            ids = [one for identity, one in points.items() if identity not in there]
        if not ids:
            return result
        fetched = self._reader.fetcher.fetch(namespace, ids)
        result.read_units += fetched.read_units
        result.missing = len(fetched.missing)
        result.points, result.letters = mapping.points(namespace, fetched.records)
        result.made = len(result.points)
        result.size_bytes = sum(map(vector_bytes, result.points))
        result.letters += [
            mapping.dead_letter(namespace, one.id, one.reason) for one in fetched.unread
        ]
        return result

    def _hand_over(self, error: Exception) -> None:
        try:
            self._results.put(_Failed(error=error))
        except Closed:
            return

    # --- the thread that writes --------------------------------------------------------------------

    def _write_all(self, left: int) -> None:
        checkpointed = time.monotonic()
        while left:
            wait = checkpointed + self._options.checkpoint_seconds - time.monotonic()
            message = self._results.take(max(0.0, wait))
            if isinstance(message, _Failed):
                raise message.error
            if isinstance(message, _BeganAgain):
                self._ledgers[message.namespace].begin_again(
                    message.generation, present_stay=self._present_may_stay
                )
            elif message is not None:
                left -= self._take(message)
            if time.monotonic() - checkpointed >= self._options.checkpoint_seconds or not left:
                self._checkpoint()
                checkpointed = time.monotonic()

    def _take(self, result: Result) -> bool:
        """Write a batch; whether its namespace is read to the end by now."""
        failpoint("backfill.read")
        namespace = result.work.namespace
        ledger = self._ledgers[namespace]
        before = ledger.progress.done
        self._sink(namespace).add(namespace, result.points)
        self._letters += result.letters
        ledger.take(result)
        result.points = []  # it may wait for others of its namespace; its points need not
        return ledger.progress.done and not before

    def _sink(self, namespace: str) -> Sink:
        mapping = self._mappings[namespace]
        name = mapping.collection.name
        if name not in self._sinks:
            self._sinks[name] = Sink(mapping, self._target, self._options, self._retry)
        return self._sinks[name]

    def _checkpoint(self) -> None:
        failpoint("backfill.mid_chunk")
        for sink in self._sinks.values():
            for namespace, identity, reason in sink.drain():
                self._ledgers[namespace].refuse(identity)
                self._letters.append(sink.mapping.dead_letter(namespace, identity, reason))
        changed = [one for one in self._ledgers.values() if one.dirty]
        if not changed and not self._letters:
            return
        progress = {one.progress.name: asdict(one.progress) for one in changed}
        letters = list({(one.table, one.key): one for one in self._letters}.values())
        self._retry.call(
            lambda: checkpoint_namespaces(
                self._store, self._target.flush, progress, letters, now=self._now()
            )
        )
        self._letters.clear()
        self._set_aside += len(letters)
        for one in changed:
            one.dirty = False
            namespace = one.progress.namespace
            self._tell(Advanced(progress=one.progress, of=self._counts.get(namespace, 0)))
        if self._set_aside > self._options.dead_letter_limit:
            raise StopError(
                f"more than {self._options.dead_letter_limit} records had to be set aside",
                code="DEAD_LETTERS",
                hint="see why with qdrant-bridge dead-letters list; what is copied is kept",
            )

    def _waiting(self, error: BridgeError, seconds: float) -> None:
        if seconds >= TOLD_SECONDS:
            self._tell(Waiting(reason=error.message, seconds=seconds))
