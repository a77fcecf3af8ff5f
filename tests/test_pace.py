"""The pace of a domain: spacing, ramp, rests, and when it is given up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.pace import Pace


def a_pace(**changes: float | None) -> Pace:
    values = {"limit": 8, "delay": None, "probes": 8, "give_up": 3600.0} | changes
    return Pace(**values)  # type: ignore[arg-type]


def probe(pace: Pace, now: float, rest: float = 1.0, code: str = "connect-refused") -> None:
    pace.started(now)
    pace.refused(now, rest, code)


@pytest.mark.parametrize(
    ("ttfb", "delay"), [(None, 0.25), (0.01, 0.25), (0.3, 0.6), (1.0, 2.0), (30.0, 2.0)]
)
def test_the_learned_delay_is_twice_the_time_to_first_byte_within_bounds(
    ttfb: float | None, delay: float
) -> None:
    pace = a_pace()
    pace.answered_in(ttfb)
    assert pace.delay == pytest.approx(delay)


def test_the_time_to_first_byte_is_smoothed() -> None:
    pace = a_pace()
    for ttfb in (0.2, 1.2):
        pace.answered_in(ttfb)
    assert pace.ttfb_s == pytest.approx(0.5)


@pytest.mark.parametrize("delay", [0.0, 0.1, 7.0])
def test_a_number_fixes_the_delay(delay: float) -> None:
    pace = a_pace(delay=delay)
    pace.answered_in(5.0)
    pace.started(100.0)
    assert pace.next_at == pytest.approx(100.0 + delay)


@pytest.mark.parametrize("delay", [None, 0.0, 3.0])
def test_a_crawl_delay_is_never_gone_below(delay: float | None) -> None:
    pace = a_pace(delay=delay)
    pace.floor_s = 5.0
    pace.started(0.0)
    assert pace.next_at == 5.0


def test_concurrency_begins_at_one_and_grows_by_one_with_each_answer() -> None:
    pace = a_pace(limit=4)
    seen = [pace.concurrency]
    for _ in range(6):
        pace.answered_in(0.1)
        seen.append(pace.concurrency)
    assert seen == [1, 2, 3, 4, 4, 4, 4]


def test_a_refusal_rests_the_domain_and_goes_back_to_one_request() -> None:
    pace = a_pace(delay=0.0)
    for _ in range(5):
        pace.answered_in(0.1)
    pace.started(10.0)
    pace.refused(11.0, 30.0, "http-429")
    assert (pace.concurrency, pace.next_at, pace.state) == (1, 41.0, "throttled")


def test_a_burst_of_refusals_counts_once_however_short_its_rest() -> None:
    pace = a_pace(delay=0.0)
    for _ in range(8):
        pace.answered_in(0.1)
    for _ in range(8):
        pace.started(0.0)
    for n in range(8):
        pace.refused(10.0 + n, 0.001, "connect-timeout")
    assert pace.failures == 1
    assert not pace.is_dead


def test_the_longest_rest_of_a_burst_holds() -> None:
    pace = a_pace(delay=0.0)
    for _ in range(3):
        pace.started(0.0)
    for rest in (5.0, 60.0, 1.0):
        pace.refused(1.0, rest, "http-503")
    assert pace.next_at == 61.0


def test_a_refused_probe_counts_anew() -> None:
    pace = a_pace()
    for n in range(2):
        probe(pace, n * 100.0)
    assert pace.failures == 2


def test_an_answer_ends_the_run_of_failures_but_not_the_rest() -> None:
    pace = a_pace(delay=0.0)
    probe(pace, 0.0, rest=50.0)
    pace.answered_in(0.1)
    assert (pace.failures, pace.state, pace.next_at) == (0, "ok", 50.0)
    assert pace.concurrency == 2


def test_a_domain_that_asks_to_be_left_alone_is_given_up_by_time_alone() -> None:
    pace = a_pace()
    tried = 0
    while not pace.is_dead:
        probe(pace, tried * 100.0, code="http-429")
        tried += 1
    assert tried == 37
    assert pace.give_up == 3600.0


def test_a_newcomer_is_dead_after_three_probes_and_a_known_domain_after_eight() -> None:
    for code, answered, probes in [("dns", False, 3), ("dns", True, 8)]:
        pace = a_pace()
        if answered:
            pace.answered_in(0.1)
        tried = 0
        while not pace.is_dead:
            probe(pace, tried * 100.0, code=code)
            tried += 1
        assert tried == probes, code


def test_a_domain_that_asks_to_be_left_alone_is_given_up_by_time_and_not_by_count() -> None:
    pace = a_pace(give_up=3600.0)
    for n in range(20):
        probe(pace, n * 100.0, code="http-429")
    assert (pace.failures, pace.is_dead) == (20, False)
    probe(pace, 3600.0, code="http-429")
    assert pace.is_dead


def test_a_dead_domain_may_be_buried_at_once() -> None:
    pace = a_pace(probes=1)
    probe(pace, 10.0, rest=600.0)
    assert pace.is_dead
    assert pace.next_at <= 10.0 + pace.delay


def test_a_domain_that_failed_for_long_enough_is_dead() -> None:
    pace = a_pace(give_up=300.0)
    pace.answered_in(0.1)
    probe(pace, 0.0)
    probe(pace, 299.0)
    assert not pace.is_dead
    probe(pace, 300.0)
    assert pace.is_dead


def test_a_rest_as_long_as_the_patience_is_still_followed_by_a_probe() -> None:
    pace = a_pace(give_up=3600.0)
    pace.answered_in(0.1)
    probe(pace, 0.0, rest=3600.0, code="http-429")
    assert pace.next_at == 3600.0
    assert not pace.is_dead


def test_its_row_is_in_wall_clock_time() -> None:
    pace = a_pace(delay=2.0)
    pace.started(5.0)
    row = pace.row(offset=1_000.0, connections=3)
    assert (row.next_at, row.delay, row.concurrency, row.connections) == (1_007.0, 2.0, 1, 3)
    assert row.state == "ok"


EVENTS = st.one_of(
    st.tuples(st.just("started"), st.floats(0, 10)),
    st.tuples(st.just("answered"), st.floats(0, 10)),
    st.tuples(st.just("refused"), st.floats(0, 100)),
)


@given(limit=st.integers(1, 8), events=st.lists(st.tuples(st.floats(0, 5), EVENTS)))
def test_starts_are_spaced_and_concurrency_is_bounded(
    limit: int, events: list[tuple[float, tuple[str, float]]]
) -> None:
    pace = a_pace(limit=limit)
    now, last, delay = 0.0, None, 0.0
    for passed, (event, value) in events:
        if pace.is_dead:  # nothing starts any more: it is to be buried at once
            break
        now += passed
        if event == "started":
            now = max(now, pace.next_at)
            assert last is None or now - last >= delay - 1e-9
            last, delay = now, pace.delay
            pace.started(now)
        elif event == "answered":
            pace.answered_in(value)
            assert pace.failures == 0
        else:
            pace.refused(now, value, "reset")
            assert pace.concurrency == 1
        assert 1 <= pace.concurrency <= limit
        assert 0.25 <= pace.delay <= 2.0
