"""Labels and partitions against what they were."""

from __future__ import annotations

from bridge.silent_changes import Beneath

BEFORE = Beneath(enums={"m": ("good", "bad"), "n": ("x",)}, partitions={"1": "public.a"})


def test_it_is_read_as_it_was_stored() -> None:
    assert Beneath.from_record(BEFORE.to_record()) == BEFORE


def test_a_label_that_was_renamed_concerns_rows_and_one_that_was_added_none() -> None:
    now = Beneath(enums={"m": ("fine", "bad"), "n": ("x", "y")}, partitions=BEFORE.partitions)
    assert BEFORE.renamed(now) == ["m"]
    # A column that is gone is told of elsewhere.
    assert BEFORE.renamed(Beneath(enums={}, partitions={})) == []


def test_partitions_come_and_go_by_their_oids() -> None:
    now = Beneath(enums={}, partitions={"2": "public.a"})
    assert (BEFORE.attached(now), BEFORE.detached(now)) == (["public.a"], ["public.a"])
    renamed = Beneath(enums={}, partitions={"1": "public.b"})
    assert (BEFORE.attached(renamed), BEFORE.detached(renamed)) == ([], [])
