"""The cache's decisions against a model, without a socket."""

from __future__ import annotations

from collections import OrderedDict

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from crawler.pool.leases import LeaseTable

KEYS = st.sampled_from("abcdefg")


class LeaseMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.table: LeaseTable[str] = LeaseTable(3)
        self.held: OrderedDict[str, int] = OrderedDict()  # least recently freed first

    def victim(self) -> str | None:
        return next((key for key, count in self.held.items() if count == 0), None)

    @rule(key=KEYS)
    def lease(self, key: str) -> None:
        expected = key in self.held or len(self.held) < 3 or self.victim() is not None
        assert self.table.may_lease(key) is expected
        if not expected:
            with pytest.raises(RuntimeError, match="in use"):
                self.table.lease(key)
            return
        is_new = key not in self.held
        victim = self.victim() if is_new and len(self.held) == 3 else None
        assert self.table.lease(key) == (is_new, victim)
        if victim is not None:
            del self.held[victim]
        self.held[key] = self.held.get(key, 0) + 1

    @precondition(lambda self: any(self.held.values()))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from([key for key, count in self.held.items() if count]))
        self.held[key] -= 1
        assert self.table.release(key) is (self.held[key] == 0)
        if self.held[key] == 0:
            self.held.move_to_end(key)

    @rule(key=KEYS)
    def release_what_is_not_held(self, key: str) -> None:
        if not self.held.get(key):
            with pytest.raises(RuntimeError, match="no lease"):
                self.table.release(key)

    @rule(key=KEYS)
    def drop(self, key: str) -> None:
        if self.held.get(key) == 0:
            self.table.drop(key)
            del self.held[key]
        else:
            with pytest.raises(RuntimeError):
                self.table.drop(key)

    @invariant()
    def agrees_with_the_model(self) -> None:
        assert len(self.table) == len(self.held) <= 3
        assert self.table.total == sum(self.held.values())
        assert list(self.table.idle()) == [k for k, count in self.held.items() if not count]
        assert all(self.table.leases(key) == count for key, count in self.held.items())


LeaseMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_leases_follow_the_model = LeaseMachine.TestCase


def test_a_table_for_nobody_is_refused() -> None:
    with pytest.raises(ValueError, match="serves nobody"):
        LeaseTable(0)
