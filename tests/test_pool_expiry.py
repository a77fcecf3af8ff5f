"""Expiries against a dictionary."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from crawler.pool.expiry import Expiries

KEYS = st.integers(0, 60)


class ExpiryMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.expiries: Expiries[int] = Expiries()
        self.model: dict[int, float] = {}
        self.now = 0.0

    @rule(key=KEYS, ahead=st.integers(-2, 20))
    def set(self, key: int, ahead: int) -> None:
        self.expiries.set(key, self.now + ahead)
        self.model[key] = self.now + ahead

    @rule(first=KEYS, count=st.integers(2, 60), ahead=st.integers(0, 20))
    def set_many(self, first: int, count: int, ahead: int) -> None:
        for key in range(first, first + count):
            self.set(key, ahead)

    @rule(key=KEYS)
    def drop(self, key: int) -> None:
        self.expiries.drop(key)
        self.model.pop(key, None)

    @rule(first=KEYS, count=st.integers(2, 60))
    def drop_many(self, first: int, count: int) -> None:
        for key in range(first, first + count):
            self.drop(key)

    @rule(seconds=st.integers(0, 8))
    def ask(self, seconds: int) -> None:
        self.now += seconds
        expected = {key: at for key, at in self.model.items() if at <= self.now}
        expired = self.expiries.due(self.now)
        assert sorted(expired) == sorted(expected)
        assert [expected[key] for key in expired] == sorted(expected.values())
        self.model = {key: at for key, at in self.model.items() if key not in expected}

    @rule()
    def wait_for_the_next(self) -> None:
        while (at := self.expiries.next_at()) is not None and at > self.now:
            self.now = at
            if any(at <= self.now for at in self.model.values()):
                break
            assert self.expiries.due(self.now) == []

    @invariant()
    def is_never_late_and_never_grows(self) -> None:
        assert len(self.expiries) == len(self.model)
        assert all(key in self.expiries for key in self.model)
        assert self.expiries.heap_size <= 2 * len(self.model) + 32
        at = self.expiries.next_at()
        assert (at is None) is (not self.model)
        if at is not None:
            assert at <= min(self.model.values())


ExpiryMachine.TestCase.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)
test_expiries_follow_the_model = ExpiryMachine.TestCase


def test_keys_that_come_and_go_leave_nothing_behind() -> None:
    expiries: Expiries[int] = Expiries()
    most = 0
    for turn in range(100_000):
        expiries.set(turn, turn + 15.0)
        most = max(most, expiries.heap_size)
        expiries.drop(turn)
    assert most <= 34
    assert len(expiries) == 0
    assert expiries.next_at() is None
    assert expiries.heap_size == 0


def test_a_key_that_is_set_again_and_again_has_one_entry() -> None:
    expiries: Expiries[str] = Expiries()
    for turn in range(100_000):
        expiries.set("connection", turn + 15.0)
        if turn % 3:
            expiries.drop("connection")
    assert expiries.heap_size == 1
    assert repr(expiries) == "<Expiries 1 keys, 1 in the heap>"
    assert expiries.due(99_999 + 14.0) == []
    assert expiries.due(99_999 + 15.0) == ["connection"]
    assert expiries.heap_size == 0


def test_a_key_that_is_brought_forward_expires_once() -> None:
    expiries: Expiries[str] = Expiries()
    for at in (30.0, 20.0, 30.0, 10.0, 30.0):
        expiries.set("a", at)
    assert expiries.due(29.0) == []
    assert expiries.due(30.0) == ["a"]
    assert expiries.due(100.0) == []


def test_entries_outlived_by_their_keys_are_forgotten_with_them() -> None:
    expiries: Expiries[int] = Expiries()
    for at in (9.0, 5.0):
        for key in range(100):
            expiries.set(key, at)
    assert expiries.heap_size == 200
    assert expiries.due(5.0) == list(range(100))
    assert expiries.heap_size == 0


def test_keys_need_no_order_of_their_own() -> None:
    expiries: Expiries[object] = Expiries()
    keys = [object() for _ in range(10)]
    for key in keys:
        expiries.set(key, 5.0)
    assert expiries.due(5.0) == keys
