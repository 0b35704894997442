"""How much a list of answers is worth beside the exact one. Pure.

    recall@k    which part of the k exact neighbours was answered
    NDCG@k      the same, where early places count more: gain k - place, discount log2 (Jaervelin and
                Kekaelaeinen 2002)
    MRR         one over the place at which the nearest neighbour was answered; 0 if it was not
    Spearman    whether the answered ones are in the exact order: correlation of the scores' ranks

Neighbours with one score are interchangeable, in all of them: an answer counts for the score that its
row has in the source, whichever of the equals it is. What has no order (one answer, or one score for all)
has no Spearman correlation, and does not count in its mean.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median
from typing import TypeVar

import numpy as np

Id = TypeVar("Id", bound=Hashable)

TIE = 1e-6
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
    """Of one query. `spearman` is None where there is no order to compare."""

    recall: float
    ndcg: float
    mrr: float
    spearman: float | None


def tied(left: float, right: float) -> bool:
    """Whether two scores are the same, but for the rounding of single floats."""
    return math.isclose(left, right, rel_tol=TIE, abs_tol=TIE)


def measure(
    exact: Mapping[Id, float], answered: Mapping[Id, float], k: int, *, complete: bool = True
) -> Measures:
    """Both as id -> score in their order, best first. `exact` has more than k where the k-th has equals.

    `complete`: all of these. Else an answer that is not in it counts by its own score.
    """
    ideal = list(exact.values())[:k]
    if not ideal:
        return Measures(recall=1.0, ndcg=1.0, mrr=1.0, spearman=None)
    found = list(answered)[:k]
    right = set(list(exact)[: len(ideal)])
    right |= {one for one, score in exact.items() if tied(score, ideal[-1])}
    scores = [
        exact[one]
        if one in right
        else ideal[-1]
        if not complete and one not in exact and tied(answered[one], ideal[-1])
        else None
        for one in found
    ]
    hits = [score for score in scores if score is not None]
    place = next((n for n, s in enumerate(scores, 1) if s is not None and tied(s, ideal[0])), None)
    return Measures(
        recall=min(1.0, len(hits) / len(ideal)),
        ndcg=_ndcg(ideal, scores),
        mrr=0.0 if place is None else 1.0 / place,
        spearman=spearman(
            [exact[one] for one in found if one in exact],
            [answered[one] for one in found if one in exact],
        ),
    )


def _ndcg(ideal: Sequence[float], scores: Sequence[float | None]) -> float:
    """Each answer takes the largest gain that is left of those of its score's places."""
    places = min(_NDCG_PLACES, len(ideal))
    left = list(range(len(ideal)))
    got = 0.0
    for n, score in enumerate(scores[:places]):
        if score is None:
            continue
        place = next((p for p in left if tied(ideal[p], score)), None)
        if place is not None:
            left.remove(place)
        # One equal of the last one more than there are places is worth what the last one is.
        got += (1 if place is None else len(ideal) - place) / math.log2(n + 2)
    best = sum((len(ideal) - n) / math.log2(n + 2) for n in range(places))
    return min(1.0, got / best)


def spearman(left: Sequence[float], right: Sequence[float]) -> float | None:
    """The correlation of the ranks, ties sharing theirs; None below two, or if all of a side are ties."""
    if len(left) < 2:
        return None
    ranks = [_ranks(side) for side in (left, right)]
    if any(np.ptp(side) == 0 for side in ranks):
        return None
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _ranks(scores: Sequence[float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    numbers = np.asarray(scores, dtype=np.float64)
    order = np.argsort(numbers, kind="stable")
    # Scores of one rank lie together; each is compared with its neighbour.
    steps = [not tied(numbers[a], numbers[b]) for a, b in pairwise(order)]
    inverse = np.empty(len(order), dtype=np.intp)
    inverse[order] = np.cumsum([0, *steps])
    counts = np.bincount(inverse)
    means: np.ndarray[tuple[int], np.dtype[np.float64]] = np.cumsum(counts) - (counts - 1) / 2.0
    return means[inverse]


def summary(found: Sequence[Measures]) -> dict[str, float | None]:
    """Over all queries; None where no query has such a measure."""
    recalls = [one.recall for one in found]
    ordered = [one.spearman for one in found if one.spearman is not None]
    told: dict[str, float | None] = {
        "recall_mean": fmean(recalls),
        "recall_median": median(recalls),
        "recall_min": min(recalls),
        "recall_p5": float(np.percentile(recalls, 5)),
        "spearman": fmean(ordered) if ordered else None,
        "ndcg": fmean(one.ndcg for one in found),
        "mrr": fmean(one.mrr for one in found),
    }
    return {name: None if value is None else round(value, 4) for name, value in told.items()}


def missed(told: Mapping[str, float | None]) -> list[str]:
    """The thresholds that are not reached, in words."""
    lines: list[str] = []
    for name, least in THRESHOLDS.items():
        value = told[name]
        if value is not None and value < least:
            lines.append(f"{name} {value:.3f} is below {least:.2f}")
    return lines
