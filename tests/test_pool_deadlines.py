"""Deadlines read from httpx's dictionary, and the floor in bytes per second."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.pool.deadlines import DEADLINES, Deadlines, RateFloor, from_httpx


def test_what_is_not_given_stays_as_it_was() -> None:
    default = Deadlines(connect=3.0, total=None, rate=None)
    assert from_httpx(None, default) is default
    assert from_httpx({}, default) is default
    assert from_httpx({"write": 7}, default) == default._replace(write=7)
    assert from_httpx({"total": 1, "rate": 5, "rate_over": 2}) == DEADLINES._replace(
        total=1, rate=5, rate_over=2
    )


def test_connect_holds_for_tls_and_read_for_the_head_unless_they_are_given() -> None:
    found = from_httpx({"connect": 1.0, "read": 2.0, "write": 3.0, "pool": 4.0})
    assert found[:7] == (1.0, 1.0, 2.0, 2.0, 3.0, 300.0, 4.0)
    found = from_httpx({"connect": 1.0, "tls": 5.0, "read": 2.0, "head": None})
    assert found[:4] == (1.0, 5.0, None, 2.0)
    found = from_httpx({"tls": 5.0, "head": 6.0})
    assert found[:4] == (10.0, 5.0, 6.0, 20.0)


def test_none_is_no_bound_and_zero_is_one() -> None:
    found = from_httpx(dict.fromkeys(("connect", "read", "write", "pool")))
    assert found[:5] == (None,) * 5
    assert from_httpx({"connect": 0, "total": 0}).total == 0
    assert from_httpx({"read": sys.maxsize}).read == sys.maxsize


@pytest.mark.parametrize("wrong", [5, 0, 2.5, "5", [], (5, 5), True])
def test_what_is_no_mapping_is_told_what_is_wanted(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"a mapping like \{'connect': 5\.0\}, not"):
        from_httpx(wrong)


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"conect": 1.0, "total": 1, "speed": 2}, "conect, speed"),
        ({3: 1.0}, "no such timeout: 3"),
        ({"read": -1}, "'read'.*-1"),
        ({"read": "5"}, "'read'.*'5'"),
        ({"connect": True}, "'connect'.*True"),
        ({"total": float("nan")}, "'total'.*nan"),
        ({"total": float("inf")}, "'total'.*inf"),
        ({"total": 10**400}, "'total'"),
        ({"rate": [1]}, "'rate'"),
        ({"rate_over": 0}, "'rate_over' must be above 0"),
        ({"rate_over": None}, "'rate_over' must be above 0"),
    ],
)
def test_what_cannot_be_a_timeout_is_named(given_: dict[Any, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_httpx(given_)


@given(
    st.dictionaries(
        st.sampled_from(Deadlines._fields), st.none() | st.floats(0.001, 1e6), max_size=9
    )
)
def test_every_name_given_is_taken_as_it_is(names: dict[str, float | None]) -> None:
    names.setdefault("rate_over", 1.0)
    if names["rate_over"] is None:
        del names["rate_over"]
    found = from_httpx(names)._asdict()
    assert {name: found[name] for name in names} == names


@given(
    rate=st.integers(1, 5000),
    over=st.integers(1, 60),
    extra=st.lists(st.integers(0, 500), min_size=1, max_size=120),
    looks=st.integers(1, 90),
)
def test_a_server_at_the_rate_is_never_too_slow(
    rate: int, over: int, extra: list[int], looks: int
) -> None:
    """A second brings nothing but in the window's last one, however rare the looks are."""
    floor = RateFloor(rate, over, 0.0)
    received = 0
    for second, more in enumerate(extra, 1):
        received += more
        if second % over == 0:
            received += rate * over
        if second % looks == 0:
            assert not floor.is_too_slow(float(second), received)


@given(
    rate=st.integers(2, 5000),
    over=st.integers(2, 60),
    parts=st.lists(st.tuples(st.integers(1, 40), st.floats(0, 0.499)), min_size=1),
)
def test_a_server_below_half_the_rate_is_found_within_two_windows(
    rate: int, over: int, parts: list[tuple[int, float]]
) -> None:
    floor = RateFloor(rate, over, 100.0, received=7)
    now, received = 100.0, 7.0
    for wait, share in parts:
        now += min(wait, over)
        received += min(wait, over) * rate * share
        is_found = floor.is_too_slow(now, int(received))
        assert is_found is (now - 100 >= over)
        if is_found:
            assert now - 100 <= 2 * over
            break


def test_a_window_is_judged_at_its_end() -> None:
    floor = RateFloor(10, 20.0, 0.0)
    assert floor.ends_at == 20.0
    assert not floor.is_too_slow(19.9, 0)
    assert not floor.is_too_slow(20.0, 200)
    assert floor.ends_at == 40.0
    assert not floor.is_too_slow(39.0, 200)
    assert floor.is_too_slow(40.0, 399)


def test_a_late_look_asks_for_every_whole_window() -> None:
    assert not RateFloor(10, 20.0, 0.0).is_too_slow(39.0, 200)
    assert RateFloor(10, 20.0, 0.0).is_too_slow(40.0, 399)
    assert not RateFloor(10, 20.0, 0.0).is_too_slow(59.0, 400)


def test_a_slow_reader_is_not_a_slow_server() -> None:
    floor = RateFloor(10, 20.0, 0.0)
    floor.pause()
    assert floor.ends_at is None
    assert repr(floor) == "<RateFloor 10 B/s over 20 s, paused>"
    assert not floor.is_too_slow(500.0, 0)
    floor.restart(500.0, 0)
    assert floor.ends_at == 520.0
    assert not floor.is_too_slow(519.0, 0)
    assert floor.is_too_slow(520.0, 0)
    assert repr(floor) == "<RateFloor 10 B/s over 20 s, window since 520>"


@pytest.mark.parametrize("rate", [None, 0, 0.0])
def test_without_a_rate_nothing_is_too_slow(rate: float | None) -> None:
    floor = RateFloor(rate, 20.0, 0.0)
    assert floor.ends_at is None
    assert not floor.is_too_slow(1e6, 0)


def test_a_floor_is_tiny_and_has_a_window() -> None:
    assert not hasattr(RateFloor(1, 1, 0.0), "__dict__")
    with pytest.raises(ValueError, match="measured over 0"):
        RateFloor(1, 0, 0.0)
