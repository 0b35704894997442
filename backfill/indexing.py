"""Indexing deferred while a collection is loaded, and restored afterwards, whatever happens.

Deferring is worth a factor of two to three (facts/qdrant.md, costs). The threshold that the collection
had is stored before it is changed, insert-only, so that a second shard, or the next start after a
kill, restores the first one's value and not a zero.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from backfill.messages import Waiting
from bridge.errors import BridgeError
from bridge.qdrant.target import Target
from bridge.state import StateStore

POLL_SECONDS = 0.5

DEFAULT_THRESHOLD_KB = 10_000
"""Qdrant's own default (config/config.yaml, optimizers.indexing_threshold_kb), for a collection whose
configuration leaves it open: a value, once set, cannot be taken back to unset."""


class Patiently(Protocol):
    """Runs an action until it succeeds or patience ends."""

    def __call__(self, action: Callable[[], Any]) -> Any:
        """Its result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Indexing:
    """The copy is done and Qdrant builds its index; `indexed` of `points` vectors so far."""

    collection: str
    points: int
    indexed: int


def defer(target: Target, store: StateStore, collection: str) -> None:
    """Remember the collection's threshold and switch indexing off."""
    state = target.collection(collection)
    if state is None:
        return
    threshold = state.indexing_threshold
    if threshold == 0 and store.get("indexing", collection) is None:
        return  # the operator has switched it off, and it stays so
    store.put_new("indexing", collection, {"threshold": threshold})
    if threshold != 0:
        target.set_indexing_threshold(collection, 0)


def resume(target: Target, store: StateStore, collection: str) -> bool:
    """Give the collection its threshold back; whether there was anything to restore.

    What was remembered stays until `settle`: a run that ends while the index is being built leaves
    it to the next one to wait for it.
    """
    record = store.get("indexing", collection)
    if record is None:
        return False
    threshold = record["threshold"]
    if target.collection(collection) is not None:
        target.set_indexing_threshold(
            collection, DEFAULT_THRESHOLD_KB if threshold is None else int(threshold)
        )
    return True


def settle(store: StateStore, collection: str) -> None:
    """The index is built, or nobody waits for it: forget what was remembered."""
    store.remove("indexing", [collection])


def restore(target: Target, store: StateStore, collection: str) -> None:
    """Both at once, after a failure."""
    if resume(target, store, collection):
        settle(store, collection)


def restore_quietly(
    target: Target, store: StateStore, collection: str, tell: Callable[[Waiting], None]
) -> None:
    """Indexing back on after a failure; the failure itself is what gets reported."""
    try:
        restore(target, store, collection)
    except BridgeError as error:
        # The record stays, and the next start restores it.
        tell(Waiting(reason=f"indexing is still off: {error.message}", seconds=0.0))


def build(
    target: Target,
    store: StateStore,
    collection: str,
    *,
    patiently: Patiently,
    tell: Callable[[Indexing], None],
    wait: bool = True,
    poll_seconds: float = POLL_SECONDS,
) -> float | None:
    """Restore indexing and wait until it is done; the seconds, or None if it was not deferred."""
    if not patiently(lambda: resume(target, store, collection)):
        return None
    if not wait:
        patiently(lambda: settle(store, collection))
        return None
    started = time.monotonic()
    calm = 0
    # Twice in a row: right after the change the optimizer may not have begun.
    while calm < 2:
        calm = calm + 1 if patiently(lambda: target.optimize(collection)) else 0
        state = patiently(lambda: target.collection(collection))
        if state is None:
            break
        tell(Indexing(collection=collection, points=state.points, indexed=state.indexed_vectors))
        if calm < 2 and poll_seconds:
            time.sleep(poll_seconds)
    patiently(lambda: settle(store, collection))
    return time.monotonic() - started
