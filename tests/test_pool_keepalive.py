"""Keep-alive: the field as servers write it, and what is learned from dead connections."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.pool.keepalive import NO_HINT, Hint, KeepAlive, parse

SECONDS = st.floats(0, 1000)
HINTS = st.builds(Hint, st.none() | st.integers(0, 100).map(float), st.none() | st.integers(0, 100))


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (b"timeout=5, max=100", Hint(5, 100)),
        ("timeout=5, max=100", Hint(5, 100)),
        (b"Timeout = 5 ,MAX=3", Hint(5, 3)),
        (b'timeout="5"', Hint(5, None)),
        (b"max=0", Hint(None, 0)),
        (b"timeout=-5, max=-1", NO_HINT),
        (b"timeout=, max", NO_HINT),
        (b"timeout=5s, max=1.5", NO_HINT),
        (b"timeout=\xb2, max=\xd9\xa1", NO_HINT),
        ("timeout=٥", NO_HINT),
        (b"timeout=5; max=100", NO_HINT),
        (b"timeout==5", NO_HINT),
        (b"", NO_HINT),
        (b",,,", NO_HINT),
        (b"300", NO_HINT),
        (b"colour=5, timeout=7", Hint(7, None)),
        (b"timeout=60, timeout=5, timeout=30", Hint(5, None)),
        (b"timeout=" + b"9" * 60_000, Hint(86_400, None)),
        (b"max=99999999", Hint(None, 86_400)),
    ],
)
def test_the_field_is_read_as_servers_write_it(value: bytes | str, hint: Hint) -> None:
    assert parse(value) == hint


@given(st.binary(max_size=60) | st.text(max_size=60))
def test_whatever_is_in_the_field_the_hint_is_in_bounds(value: bytes | str) -> None:
    hint = parse(value)
    assert hint.timeout is None or 0 <= hint.timeout <= 86_400
    assert hint.max is None or 0 <= hint.max <= 86_400


@given(st.integers(0, 86_400), st.integers(0, 86_400))
def test_what_is_well_formed_is_read_exactly(timeout: int, most: int) -> None:
    assert parse(f"timeout={timeout}, max={most}") == (timeout, most)


def test_a_connection_is_closed_a_second_before_the_server_does() -> None:
    keepalive = KeepAlive(15.0)
    assert keepalive.for_answer() == 15.0
    assert keepalive.for_answer(Hint(timeout=5)) == 4.0
    assert keepalive.for_answer(Hint(timeout=60)) == 15.0
    assert keepalive.for_answer(Hint(timeout=1)) == 0.0
    assert keepalive.for_answer(Hint(timeout=0)) == 0.0


def test_a_connection_without_requests_left_is_not_kept() -> None:
    keepalive = KeepAlive(15.0)
    assert keepalive.for_answer(Hint(max=0)) == 0.0
    assert keepalive.for_answer(Hint(timeout=60, max=1)) == 0.0
    assert keepalive.for_answer(Hint(timeout=60, max=2)) == 15.0


def test_a_dead_connection_halves_what_is_learned_down_to_a_second() -> None:
    keepalive = KeepAlive(15.0)
    keepalive.stale()
    assert keepalive.for_answer() == 7.5
    keepalive.stale(idle_for=4.0)
    assert keepalive.for_answer() == 2.0
    assert repr(keepalive) == "<KeepAlive 2 of 15 s>"
    for _ in range(5):
        keepalive.stale(idle_for=0.1)
    assert keepalive.for_answer() == 1.0


def test_only_a_long_idle_time_that_was_survived_speaks_for_more() -> None:
    keepalive = KeepAlive(15.0)
    keepalive.stale(10.0)
    keepalive.answered_after(3.9)
    assert keepalive.for_answer() == 5.0
    keepalive.answered_after(4.0)
    assert keepalive.for_answer() == pytest.approx(5.5)
    for _ in range(30):
        keepalive.answered_after(keepalive.for_answer())
    assert keepalive.for_answer() == 15.0


def test_keep_alive_that_is_off_stays_off() -> None:
    keepalive = KeepAlive(0.0)
    keepalive.stale(3.0)
    keepalive.answered_after(5.0)
    assert keepalive.for_answer(Hint(timeout=60)) == 0.0
    for wrong in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="0 turns it off"):
            KeepAlive(wrong)


def test_the_memory_of_one_domain_is_tiny() -> None:
    assert not hasattr(KeepAlive(15.0), "__dict__")


@given(SECONDS, st.lists(st.tuples(st.sampled_from(["stale", "dead", "answered"]), SECONDS)), HINTS)
def test_answers_stay_between_floor_and_setting(
    configured: float, story: list[tuple[str, float]], hint: Hint
) -> None:
    keepalive = KeepAlive(configured)
    survived = 0.0
    for event, idle_for in story:
        before = keepalive.for_answer()
        if event == "answered":
            keepalive.answered_after(idle_for)
            survived = max(survived, idle_for)
            assert keepalive.for_answer() <= max(before, survived * 1.376)
        else:
            keepalive.stale(idle_for if event == "stale" else None)
            assert keepalive.for_answer() <= before
        assert min(1.0, configured) <= keepalive.for_answer() <= configured
    allowed = keepalive.for_answer(hint)
    assert 0 <= allowed <= keepalive.for_answer()
    if hint.max is not None and hint.max <= 1:
        assert allowed == 0
    elif hint.timeout is not None:
        assert allowed <= max(0.0, hint.timeout - 1)
    else:
        assert allowed >= min(1.0, configured)
