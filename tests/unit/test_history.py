"""What the status page draws, without a clock."""

from __future__ import annotations

from sync.history import MINUTES_SHOWN, SECONDS_BETWEEN, History, Moment


def moment(at: float, changes: int = 0, rows: int = 0, lag: float | None = 0.0) -> Moment:
    return Moment(at=at, lag_seconds=lag, lag_bytes=0, changes=changes, rows=rows)


def test_nothing_is_drawn_before_the_first_moment() -> None:
    history = History()
    assert history.points() == []
    assert history.last_point() is None
    assert history.rate() == 0.0


def test_a_point_has_the_lag_then_and_the_rate_since_the_one_before() -> None:
    history = History()
    history.add(moment(100.0, changes=10, lag=1.5))
    history.add(moment(102.0, changes=30, lag=None))
    assert history.points() == [[100.0, 1.5, 0.0], [102.0, None, 10.0]]
    assert history.last_point() == [102.0, None, 10.0]


def test_moments_that_come_sooner_are_left_out() -> None:
    history = History()
    assert [history.add(moment(at)) for at in (0.0, 1.0, 2.0, 3.0, 4.1)] == [
        True,
        False,
        True,
        False,
        True,
    ]


def test_the_oldest_go_after_ten_minutes() -> None:
    history = History()
    for step in range(1000):
        history.add(moment(float(step * SECONDS_BETWEEN)))
    points = history.points()
    assert len(points) == MINUTES_SHOWN * 60 // SECONDS_BETWEEN
    assert points[-1][0] == 999 * SECONDS_BETWEEN


def test_the_rate_is_that_of_the_last_ten_seconds() -> None:
    history = History()
    for at, changes in ((0.0, 0), (100.0, 90_000), (104.0, 90_400), (110.0, 91_000)):
        history.add(moment(at, changes=changes))
    assert history.rate() == 100.0


def test_rows_of_the_copy_count_and_a_count_that_falls_is_no_rate() -> None:
    history = History()
    history.add(moment(0.0, rows=0))
    history.add(moment(2.0, rows=500))
    assert history.rate() == 250.0
    history.add(moment(4.0, rows=0))
    assert history.last_point() == [4.0, 0.0, 0.0]
