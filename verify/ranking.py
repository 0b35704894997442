"""How much a list of answers is worth beside the exact one. Pure.

    recall@k    which part of the k exact neighbours was answered
    NDCG@k      the same, where early places count more: gain k - place, discount log2 (Jaervelin and
                Kekaelaeinen 2002)
    MRR         one over the place at which the nearest neighbour was answered; 0 if it was not
    Spearman    whether the answered ones are in the exact order: correlation of the scores' ranks

Neighbours with one score are interchangeable: where the exact list was cut between equals, any of them is
right.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import TypeVar

import numpy as np

Id = TypeVar("Id", bound=Hashable)

_TIE = 1e-6
_NDCG_PLACES = 10

THRESHOLDS: Mapping[str, float] = {
    "recall_mean": 0.85,
    "recall_median": 0.90,
    "recall_min": 0.50,
    "recall_p5": 0.60,
    "spearman": 0.80,
    "ndcg": 0.70,
    "mrr": 0.60,
}
"""What Qdrant's guide to the verification of a migration asks for, over at least 50 queries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """Of one query."""

    recall: float
    ndcg: float
    mrr: float
    spearman: float


def measure(exact: Mapping[Id, float], answered: Mapping[Id, float], k: int) -> Measures:
    """Both as id -> score in their order, best first. `exact` may have more than k, for ties."""
    ideal = list(exact)[:k]
    if not ideal:
        return Measures(recall=1.0, ndcg=1.0, mrr=1.0, spearman=1.0)
    right = _right(exact, len(ideal))
    found = list(answered)[:k]
    hits = [identity in right for identity in found]
    first = exact[ideal[0]]
    nearest = {one for one in ideal if abs(exact[one] - first) <= _TIE}
    place = next((n for n, one in enumerate(found, 1) if one in nearest), None)
    return Measures(
        recall=min(1.0, sum(hits) / len(ideal)),
        ndcg=_ndcg(exact, ideal, found),
        mrr=0.0 if place is None else 1.0 / place,
        spearman=spearman(
            [exact[one] for one in found if one in exact],
            [answered[one] for one in found if one in exact],
        ),
    )


def _right(exact: Mapping[Id, float], count: int) -> set[Id]:
    """The neighbours that belong in the list: those with the last one's score as well."""
    ordered = list(exact)
    last = exact[ordered[count - 1]]
    return {one for n, one in enumerate(ordered) if n < count or abs(exact[one] - last) <= _TIE}


def _ndcg(exact: Mapping[Id, float], ideal: Sequence[Id], found: Sequence[Id]) -> float:
    places = min(_NDCG_PLACES, len(ideal))
    gains = {one: len(ideal) - n for n, one in enumerate(ideal)}
    for one in exact:
        # A tie with the last one is worth what that is worth.
        if one not in gains and one in _right(exact, len(ideal)):
            gains[one] = 1
    best = sum((len(ideal) - n) / math.log2(n + 2) for n in range(places))
    got = sum(gains.get(one, 0) / math.log2(n + 2) for n, one in enumerate(found[:places]))
    return min(1.0, got / best)


def spearman(left: Sequence[float], right: Sequence[float]) -> float:
    """The correlation of the ranks, ties sharing theirs; 1 if all of a side are ties, 0 below two."""
    if len(left) < 2:
        return 0.0
    ranks = [_ranks(side) for side in (left, right)]
    if any(np.ptp(side) == 0 for side in ranks):
        return 1.0
    correlation = float(np.corrcoef(ranks[0], ranks[1])[0, 1])
    return correlation


def _ranks(scores: Sequence[float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    numbers = np.round(np.asarray(scores, dtype=np.float64) / _TIE)
    _values, inverse, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    means: np.ndarray[tuple[int], np.dtype[np.float64]] = ends - (counts - 1) / 2.0
    return means[inverse]


def summary(found: Sequence[Measures]) -> dict[str, float]:
    """Over all queries."""
    recalls = [one.recall for one in found]
    told = {
        "recall_mean": fmean(recalls),
        "recall_median": median(recalls),
        "recall_min": min(recalls),
        "recall_p5": float(np.percentile(recalls, 5)),
        "spearman": fmean(one.spearman for one in found),
        "ndcg": fmean(one.ndcg for one in found),
        "mrr": fmean(one.mrr for one in found),
    }
    return {name: round(value, 4) for name, value in told.items()}


def missed(told: Mapping[str, float]) -> list[str]:
    """The thresholds that are not reached, in words."""
    return [
        f"{name} {told[name]:.3f} is below {least:.2f}"
        for name, least in THRESHOLDS.items()
        if told[name] < least
    ]
