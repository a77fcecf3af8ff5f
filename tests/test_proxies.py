"""Rotation of proxies: whose turn it is, who rests and for how long."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from crawler.proxies import Picked, Rotation

A, B, C = "http://a:3128", "socks5://me:s3cret@b:1080", "https://c"


def picks(rotation: Rotation, count: int, now: float = 0.0) -> list[str | None]:
    return [rotation.pick(now).proxy for _ in range(count)]


def test_proxies_are_taken_in_turn() -> None:
    assert picks(Rotation([A, B, C]), 7) == [A, B, C, A, B, C, A]


def test_one_proxy_has_every_turn_and_one_named_twice_no_second_one() -> None:
    assert picks(Rotation([A]), 3) == [A, A, A]
    assert picks(Rotation([A, B, A]), 4) == [A, B, A, B]


def test_no_proxy_is_no_rotation() -> None:
    with pytest.raises(ValueError, match="needs a proxy"):
        Rotation([])


def test_a_failing_proxy_rests_and_comes_back_behind_the_others() -> None:
    rotation = Rotation([A, B, C])
    assert picks(rotation, 1) == [A]
    rotation.failed(A, 0.0)
    assert picks(rotation, 4, now=4.9) == [B, C, B, C]
    assert picks(rotation, 4, now=5.0) == [B, C, A, B]


def test_when_all_rest_the_answer_is_an_instant_and_never_a_direct_connection() -> None:
    rotation = Rotation([A, B])
    rotation.failed(A, 10.0)
    rotation.failed(B, 12.0)
    assert rotation.pick(13.0) == Picked(None, 15.0)
    assert rotation.pick(15.0) == Picked(A, None)


def test_rests_double_up_to_five_minutes_and_begin_anew_after_it_worked() -> None:
    rotation, now, rests = Rotation([A]), 0.0, []
    for _ in range(8):
        rotation.failed(A, now)
        until = rotation.pick(now).until
        assert until is not None
        rests.append(until - now)
        now = until
        assert rotation.pick(now).proxy == A
    assert rests == [5, 10, 20, 40, 80, 160, 300, 300]
    rotation.worked(A)
    rotation.failed(A, now)
    assert rotation.pick(now).until == now + 5


def test_many_requests_that_fail_together_are_one_rest() -> None:
    rotation = Rotation([A])
    for n in range(8):
        rotation.failed(A, n / 10)
    assert rotation.pick(1.0) == Picked(None, 5.0)
    assert rotation.stats()[0].failures == 8


def test_an_answer_through_a_resting_proxy_ends_its_rest() -> None:
    rotation = Rotation([A, B])
    rotation.failed(A, 0.0)
    rotation.worked(A)
    assert picks(rotation, 2, now=1.0) == [B, A]
    assert rotation.stats()[0].rests_until is None


def test_counters_and_errors_tell_no_password() -> None:
    rotation = Rotation([A, B])
    picks(rotation, 3)
    rotation.failed(B, 2.0)
    first, second = rotation.stats()
    assert (first.proxy, first.uses, first.failures, first.rests_until) == (A, 2, 0, None)
    assert (second.proxy, second.uses) == ("socks5://***@b:1080", 1)
    assert (second.failures, second.rests_until) == (1, 7.0)
    assert repr(rotation) == "<Rotation 1/2 ready, 3 picked>"
    with pytest.raises(ValueError, match=r"^http://\*\*\*@other is not of this rotation$"):
        rotation.worked("http://me:s3cret@other")


@given(st.integers(1, 6), st.integers(0, 40))
def test_while_all_are_well_no_two_are_more_than_one_pick_apart(size: int, count: int) -> None:
    rotation = Rotation([f"http://p{n}" for n in range(size)])
    picks(rotation, count)
    uses = [each.uses for each in rotation.stats()]
    assert max(uses) - min(uses) <= 1
    assert sum(uses) == count


class RotationMachine(RuleBasedStateMachine):
    """Held against a plain list of who rests until when."""

    @initialize(size=st.integers(1, 4))
    def begin(self, size: int) -> None:
        self.now = 0.0
        self.rests = {f"http://p{n}": 0.0 for n in range(size)}
        self.rotation = Rotation(list(self.rests))

    def resting(self) -> list[float]:
        return [until for until in self.rests.values() if until > self.now]

    @rule(seconds=st.sampled_from([0.0, 0.5, 4.5, 5.0, 40.0, 400.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def pick(self) -> None:
        proxy, until = self.rotation.pick(self.now)
        if len(self.resting()) == len(self.rests):
            assert (proxy, until) == (None, min(self.rests.values()))
            return
        assert proxy is not None
        assert until is None
        assert self.rests[proxy] <= self.now

    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        proxy = data.draw(st.sampled_from(list(self.rests)))
        was_resting = self.rests[proxy] > self.now
        self.rotation.failed(proxy, self.now)
        (told,) = [each for each in self.rotation.stats() if each.proxy == proxy]
        assert told.rests_until is not None
        if was_resting:
            assert told.rests_until == self.rests[proxy]
        else:
            assert 5 <= told.rests_until - self.now <= 300
        self.rests[proxy] = told.rests_until

    @rule(data=st.data())
    def work(self, data: st.DataObject) -> None:
        proxy = data.draw(st.sampled_from(list(self.rests)))
        self.rotation.worked(proxy)
        self.rests[proxy] = 0.0

    @rule()
    def turns_of_all_that_are_well(self) -> None:
        well = [proxy for proxy, until in self.rests.items() if until <= self.now]
        taken = [self.rotation.pick(self.now).proxy for _ in well]
        assert sorted(filter(None, taken)) == sorted(well)

    @invariant()
    def no_rest_is_forgotten(self) -> None:
        if hasattr(self, "rotation"):
            told = {each.proxy: each.rests_until for each in self.rotation.stats()}
            assert all(told[p] == until for p, until in self.rests.items() if until > self.now)


TestRotation = RotationMachine.TestCase
