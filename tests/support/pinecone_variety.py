"""Records of every kind in namespaces of very unequal size, made by a seed."""

from __future__ import annotations

import random
import string
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from tests.support.pinecone_index import Index

PRINTABLE: Final = string.ascii_letters + string.digits + string.punctuation + " "


def identities(chance: random.Random, count: int) -> list[str]:
    """Distinct ids: numbers with and without zeros, UUIDs of all spellings, long ones, odd ones."""
    makers: tuple[Callable[[int], str], ...] = (
        str,
        lambda n: f"{n:07}",
        lambda n: f"-{n}",
        lambda n: str(uuid.UUID(int=n + 2**64)),
        lambda n: str(uuid.UUID(int=n + 2**64)).upper() + ("" if n % 2 else "F"),
        lambda n: uuid.UUID(int=n + 2**64).hex,
        lambda n: f"doc-{n}#chunk-{n % 7}",
        lambda n: f"{n:06}" + "x" * 506 if n % 40 == 0 else f"s{n}",
        lambda n: f"{n}" + "".join(chance.choices(PRINTABLE, k=12)),
        lambda n: f"%{n}&ids=/?+#",
    )
    return list(dict.fromkeys(chance.choice(makers)(number) for number in range(count)))


def metadata(chance: random.Random, number: int) -> Mapping[str, Any] | None:
    """Missing, empty, or some of everything. `fraction` has fractions, `whole` never has."""
    if number % 11 == 0:
        return None if number % 22 else {}
    every: dict[str, Any] = {
        "title": f"Title {number}",
        "whole": number,
        "fraction": number + chance.choice((0.0, 0.25, 0.1)),
        "flag": number % 3 == 0,
        "tags": [f"t{n}" for n in range(number % 4)],
        "": "an empty key",
        "a.b.c": "a dotted key",
        "größe ☃": "a key beyond ASCII",
        "large": 2**53 - number,
        "id": "the user's own",
    }
    if number % 997 == 0:
        every["text"] = "y" * 39_000
    names = chance.sample(sorted(every), chance.randint(1, len(every)))
    return {name: every[name] for name in names}


def varied(records: int, namespaces: int, *, seed: int, dimension: int = 4) -> Index:
    """An index with half of its records in one namespace, half of the rest in the next, and so on."""
    chance = random.Random(seed)
    index = Index(dimension=dimension, metric="dotproduct", short_pages=seed)
    vectors = np.random.default_rng(seed).standard_normal((1000, dimension))
    left = records
    for number in range(namespaces):
        name = "" if number == 0 else f"tenant {number}/{chance.choice(string.ascii_letters)}"
        count = left if number == namespaces - 1 else max(1, left // 2)
        left = max(namespaces - number, left - count)
        for place, identity in enumerate(identities(chance, count)):
            sparse = {place: 0.5, place + 9: 1.5} if place % 5 == 0 else None
            index.put(
                identity, vectors[place % 1000], namespace=name, sparse=sparse,
                metadata=metadata(chance, place),
            )  # fmt: skip
    return index
