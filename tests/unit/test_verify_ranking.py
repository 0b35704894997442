"""The measures of a search, on lists small enough to count by hand."""

from __future__ import annotations

import math

import pytest

from verify.ranking import THRESHOLDS, Measures, measure, missed, spearman, summary

EXACT = {"a": 0.9, "b": 0.8, "c": 0.7, "d": 0.6}


def test_the_same_list_is_worth_everything() -> None:
    assert measure(EXACT, dict(EXACT), 4) == Measures(recall=1.0, ndcg=1.0, mrr=1.0, spearman=1.0)


@pytest.mark.parametrize(
    "found", [["b", "a", "c", "d"], ["a", "b", "e", "d"], ["b", "a", "d", "e"]]
)
def test_equals_are_worth_the_same_whichever_and_in_whatever_order(found: list[str]) -> None:
    exact = {"a": 0.9, "b": 0.9, "c": 0.5, "d": 0.5, "e": 0.5}
    answered = {one: exact[one] for one in found}
    assert measure(exact, answered, 4) == Measures(recall=1.0, ndcg=1.0, mrr=1.0, spearman=1.0)


def test_an_equal_that_is_not_in_the_exact_list_counts_if_the_list_is_cut_off() -> None:
    exact, answered = {"a": 0.9, "b": 0.5, "c": 0.5}, {"a": 0.9, "z": 0.5 + 1e-8}
    assert measure(exact, answered, 2, complete=False).recall == 1.0
    assert measure(exact, answered, 2, complete=True).recall == 0.5
    assert measure(exact, {"a": 0.9, "z": 0.4}, 2, complete=False).recall == 0.5


def test_equals_of_large_scores_are_told_by_their_leading_digits() -> None:
    exact = {"a": 123456.0, "b": 123400.0, "c": 123400.0}
    assert measure(exact, {"a": 123456.0, "z": 123400.01}, 2, complete=False).recall == 1.0
    assert measure(exact, {"a": 123456.0, "z": 123399.0}, 2, complete=False).recall == 0.5


def test_an_answer_of_which_nothing_is_right_is_worth_nothing() -> None:
    worst = measure(EXACT, {"x": 0.2, "y": 0.1}, 4)
    assert worst == Measures(recall=0.0, ndcg=0.0, mrr=0.0, spearman=None)


def test_recall_counts_what_belongs_in_the_list() -> None:
    found = measure(EXACT, {"a": 0.9, "x": 0.85, "c": 0.7, "y": 0.65}, 4)
    assert found.recall == 0.5
    assert found.mrr == 1.0


def test_early_places_count_more() -> None:
    best = 4 / 1 + 3 / math.log2(3) + 2 / 2 + 1 / math.log2(5)
    late = measure(EXACT, {"d": 0.6, "c": 0.7, "b": 0.8, "a": 0.9}, 4)
    gained = 1 / 1 + 2 / math.log2(3) + 3 / 2 + 4 / math.log2(5)
    assert late.ndcg == pytest.approx(gained / best)
    assert (late.recall, late.mrr) == (1.0, 0.25)


def test_a_nearest_neighbour_that_is_not_answered_is_worth_nothing() -> None:
    assert measure(EXACT, {"b": 0.8, "c": 0.7}, 4).mrr == 0.0


def test_between_equals_at_the_end_of_the_list_any_is_right() -> None:
    exact = {"a": 0.9, "b": 0.5, "c": 0.5}
    assert measure(exact, {"a": 0.9, "c": 0.5}, 2).recall == 1.0
    assert measure(exact, {"a": 0.9, "x": 0.5}, 2).recall == 0.5


def test_between_equals_at_the_beginning_any_is_the_nearest() -> None:
    assert measure({"a": 0.9, "b": 0.9, "c": 0.1}, {"b": 0.9, "a": 0.9}, 2).mrr == 1.0


def test_no_neighbour_at_all_asks_for_nothing() -> None:
    assert measure({}, {}, 10).recall == 1.0


@pytest.mark.parametrize(
    ("left", "right", "correlation"),
    [
        ([1, 2, 3], [10, 20, 30], 1.0),
        ([1, 2, 3], [3, 2, 1], -1.0),
        ([1, 2, 3, 4], [1, 3, 2, 4], 0.8),
    ],
)
def test_spearman(left: list[float], right: list[float], correlation: float) -> None:
    assert spearman(left, right) == pytest.approx(correlation)


@pytest.mark.parametrize(
    ("left", "right"), [([1, 1, 1], [1, 2, 3]), ([1, 2], [1, 1 + 1e-9]), ([1], [1]), ([], [])]
)
def test_what_has_no_order_has_no_correlation(left: list[float], right: list[float]) -> None:
    assert spearman(left, right) is None


def test_scores_a_rounding_apart_share_a_rank_wherever_they_lie() -> None:
    assert spearman([0.5000004, 0.5000006, 0.1], [0.5, 0.5, 0.1]) == pytest.approx(1.0)


def test_queries_without_an_order_do_not_count_for_the_correlation() -> None:
    equal = Measures(recall=1.0, ndcg=1.0, mrr=1.0, spearman=None)
    ordered = Measures(recall=1.0, ndcg=1.0, mrr=1.0, spearman=0.9)
    assert summary([equal, ordered])["spearman"] == 0.9
    told = summary([equal, equal])
    assert told["spearman"] is None
    assert missed(told) == []


def test_ties_share_their_rank() -> None:
    assert spearman([1, 2, 2, 3], [1, 2, 3, 4]) == pytest.approx(0.9486833)


def test_thresholds_are_of_all_queries() -> None:
    good = Measures(recall=1.0, ndcg=1.0, mrr=1.0, spearman=1.0)
    bad = Measures(recall=0.4, ndcg=0.0, mrr=0.0, spearman=0.0)
    assert missed(summary([good] * 50)) == []
    told = summary([good] * 60 + [bad])
    assert told["recall_min"] == 0.4
    assert missed(told) == ["recall_min 0.400 is below 0.50"]
    assert len(missed(summary([bad]))) == len(THRESHOLDS)
