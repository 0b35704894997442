"""Indexing deferred while a collection is loaded, and restored afterwards, whatever happens.

Deferring is worth a factor of two to three (facts/qdrant.md, costs). The threshold that the collection
had is stored before it is changed, insert-only, so that a second shard, or the next start after a
kill, restores the first one's value and not a zero.
"""

from __future__ import annotations

from bridge.qdrant.target import Target
from bridge.state import StateStore

DEFAULT_THRESHOLD_KB = 10_000
"""Qdrant's own default (config/config.yaml, optimizers.indexing_threshold_kb), for a collection whose
configuration leaves it open: a value, once set, cannot be taken back to unset."""


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
