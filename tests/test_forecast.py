"""When a run will end: told only where it can be, and by what sets it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.forecast import (
    CELLS,
    LONG_S,
    SHORT_S,
    Forecast,
    Load,
    Moved,
    Rates,
    Sample,
    forecast,
)


def moved(settled: int, found: int, *, pages: int | None = None, seconds: float = 100.0) -> Moved:
    return Moved(seconds, settled if pages is None else pages, 0, settled, found)


def a_load(queued: int, delay: float = 0.0, **values: float) -> Load:
    answer_s, concurrency = values.get("answer_s", 0.01), int(values.get("concurrency", 1))
    return Load("shop.example", queued, delay, answer_s, concurrency, values.get("rest_s", 0.0))


def test_a_queue_that_shrinks_ends_when_it_is_empty() -> None:
    told = forecast(queued=500, moved=moved(700, 200), loads=[])
    assert told == Forecast(pytest.approx(100.0), "")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settled", "found", "words"),
    [
        (100, 240, "growing 1.4 URLs a page"),
        (100, 1_100, "growing 10.0 URLs a page"),
        (100, 100, "the queue stays as long"),
        (100, 103, "the queue stays as long"),
    ],
)
def test_a_queue_that_does_not_shrink_has_no_end_but_a_reason(
    settled: int, found: int, words: str
) -> None:
    told = forecast(queued=10_000, moved=moved(settled, found), loads=[a_load(10_000, 1.0)])
    assert told == (None, words)


def test_growth_is_told_by_page_not_by_settled_row() -> None:
    told = forecast(queued=9, moved=moved(100, 200, pages=50), loads=[])
    assert told == (None, "growing 2.0 URLs a page")


@pytest.mark.parametrize("early", [moved(50, 0, seconds=4.0), moved(0, 0), moved(0, 900)])
def test_nothing_is_forecast_before_anything_was_settled(early: Moved) -> None:
    assert forecast(queued=10, moved=early, loads=[a_load(10, 1.0)]) == (None, "")


def test_the_slowest_domain_sets_the_end_and_is_named_with_its_delay() -> None:
    told = forecast(queued=2_100, moved=moved(2_000, 0), loads=[a_load(1_980, 1.0), a_load(9)])
    assert told == (1_980.0, "shop.example, 33m 00s at its delay of 1 s")


def test_a_domain_with_little_to_do_is_not_named() -> None:
    told = forecast(queued=10_000, moved=moved(1_000, 0), loads=[a_load(10, 1.0)])
    assert told == Forecast(pytest.approx(1_000.0), "")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("load", "seconds", "words"),
    [
        (a_load(100, 0.1, answer_s=8.0, concurrency=4), 200.0, "3m 20s at 8 s a page"),
        (a_load(100, 3.0, answer_s=8.0, concurrency=4), 300.0, "5m 00s at its delay of 3 s"),
        (a_load(10, 1.0, rest_s=3_600), 3_610.0, "1h 00m with its rest"),
        (a_load(100, 0.25)._replace(rate=1 / 3), 300.0, "5m 00s at its 0.33 pages/s of late"),
        (a_load(100, 3.0)._replace(rate=9.0), 300.0, "5m 00s at its delay of 3 s"),
    ],
)
def test_what_makes_a_domain_slow_is_told(load: Load, seconds: float, words: str) -> None:
    ends_in_s, ends_by = forecast(queued=100, moved=moved(1_000, 0), loads=[load])
    assert ends_in_s == pytest.approx(seconds)
    assert ends_by == f"shop.example, {words}"


def test_a_limit_sets_the_end_even_of_a_queue_that_grows() -> None:
    told = forecast(queued=9_000, moved=moved(100, 900), loads=[], pages_left=50)
    assert told == Forecast(pytest.approx(50.0), "its limit, 50 pages from here")  # type: ignore[arg-type]


def test_a_queue_that_is_empty_before_the_limit_sets_the_end() -> None:
    told = forecast(queued=10, moved=moved(100, 0), loads=[], pages_left=5_000)
    assert told == Forecast(pytest.approx(10.0), "")  # type: ignore[arg-type]


@given(
    st.integers(0, 10**6),
    st.integers(0, 10**5),
    st.integers(0, 10**5),
    st.lists(st.tuples(st.integers(0, 10**5), st.floats(0, 100))),
)
def test_no_end_comes_before_its_slowest_domain_or_while_the_queue_grows(
    queued: int, settled: int, found: int, queues: list[tuple[int, float]]
) -> None:
    loads = [a_load(*queue) for queue in queues]
    ends_in_s, _ = forecast(queued=queued, moved=moved(settled, found), loads=loads)
    assert (ends_in_s is None) == (settled <= found)
    if ends_in_s is not None:
        assert ends_in_s >= max((load.seconds for load in loads), default=0.0) * 0.999


# ── the samples it is made of ────────────────────────────────────────────────────────────


def a_course(seconds: int, pages_per_s: int) -> Rates:
    rates = Rates()
    for second in range(seconds + 1):
        pages = second * pages_per_s
        rates.note(Sample(1_000.0 + second, pages, 2 * pages, pages, 3 * pages))
    return rates


def test_rates_are_those_of_the_last_seconds_not_of_the_whole_run() -> None:
    rates = a_course(60, 5)
    for second in range(1, 11):
        rates.note(Sample(1_060.0 + second, 300 + 40 * second, 600, 300, 900))
    lately = rates.over(SHORT_S)
    assert lately.seconds == pytest.approx(10.0)
    assert lately.per_second(lately.pages) == pytest.approx(40.0)
    assert lately.per_second(lately.items) == 0.0


def test_a_run_that_has_just_begun_has_the_rate_since_then() -> None:
    rates = a_course(3, 7)
    assert rates.over(LONG_S) == Moved(3.0, 21, 42, 21, 63)
    assert Rates().over(SHORT_S).per_second(5) == 0.0


def test_no_more_than_two_minutes_and_twenty_cells_are_kept() -> None:
    rates = a_course(3_600, 2)
    samples, cells = rates.stats()
    assert LONG_S <= samples <= LONG_S + 2
    assert cells == CELLS
    assert rates.over(LONG_S).seconds == pytest.approx(LONG_S)
    assert rates.spark() == (2.0,) * CELLS


def test_a_cell_that_has_not_ended_is_told_when_a_third_of_it_is_over() -> None:
    assert a_course(4, 2).spark() == ()
    assert a_course(5, 2).spark() == (2.0,)
    assert a_course(17, 2).spark() == (2.0,)
    assert a_course(20, 2).spark() == (2.0, 2.0)
