"""The lease table under random use, against a model in one ordered dictionary."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from crawler.pool.leases import LeaseTable

NAMES = "abcdefg"
KEYS = st.sampled_from(NAMES)


@dataclass
class Client:
    """What a cache would keep for a generation."""

    key: str
    leases: int = 0
    is_draining: bool = False
    is_needed: bool = True


class LeaseMachine(RuleBasedStateMachine):
    """Generations alive, in the order of their last use; the rest is computed by looking."""

    @initialize(limit=st.integers(1, 4))
    def open_table(self, limit: int) -> None:
        self.table: LeaseTable[str] = LeaseTable(limit)
        self.alive: OrderedDict[int, Client] = OrderedDict()
        self.gone: list[tuple[str, int]] = []
        self.ghosts: list[str] = []
        self.evictions = 0
        self.misses_after_evict = 0

    def current(self, key: str) -> int | None:
        found = [
            number
            for number, client in self.alive.items()
            if client.key == key and not client.is_draining
        ]
        assert len(found) <= 1, "two open generations of one key"
        return found[0] if found else None

    def idle(self) -> list[int]:
        found = [number for number, client in self.alive.items() if not client.leases]
        return sorted(found, key=lambda number: self.alive[number].is_needed)

    def may_lease(self, key: str) -> bool:
        has_room = len(self.alive) < self.table.limit or bool(self.idle())
        return self.current(key) is not None or has_room

    def held(self) -> list[int]:
        return [number for number, client in self.alive.items() if client.leases]

    def end(self, generation: int) -> None:
        client = self.alive.pop(generation)
        assert client.leases == 0, "a client in use was closed"
        self.gone.append((client.key, generation))

    @rule(key=KEYS)
    def lease(self, key: str) -> None:
        self.take(key)

    def take(self, key: str) -> int | None:
        if not self.may_lease(key):
            with pytest.raises(RuntimeError, match="in use"):
                self.table.lease(key)
            return None
        current = self.current(key)
        victim = None
        if current is None and len(self.alive) == self.table.limit:
            victim = self.idle()[0]
        grant = self.table.lease(key)
        assert grant.is_new is (current is None)
        assert grant.evicted == (None if victim is None else self.alive[victim].key)
        if current is None:
            assert grant.generation not in self.alive
            assert all(grant.generation != number for _, number in self.gone)
            self.open_client(key, grant.generation, victim)
        else:
            assert grant.generation == current
        self.alive[grant.generation].leases += 1
        return grant.generation

    def open_client(self, key: str, generation: int, victim: int | None) -> None:
        if victim is not None:
            self.ghosts.append(self.alive[victim].key)
            del self.ghosts[: -self.table.limit]
            self.evictions += 1
            self.end(victim)
        if key in self.ghosts:
            self.ghosts.remove(key)
            self.misses_after_evict += 1
        self.alive[generation] = Client(key)

    @precondition(lambda self: self.held())
    @rule(data=st.data(), is_needed=st.booleans())
    def release(self, data: st.DataObject, is_needed: bool) -> None:
        self.give_back(data.draw(st.sampled_from(self.held())), is_needed)

    def give_back(self, generation: int, is_needed: bool, *, is_named: bool = True) -> None:
        client = self.alive[generation]
        client.leases -= 1
        is_last = client.leases == 0
        named = generation if is_named else None
        assert self.table.release(client.key, named, is_needed=is_needed) is is_last
        if not is_last:
            return
        assert self.table.is_open(client.key, generation) is not client.is_draining
        if client.is_draining:
            self.end(generation)
        else:
            client.is_needed = is_needed
            self.alive.move_to_end(generation)

    @rule(key=KEYS)
    def release_without_naming_the_generation(self, key: str) -> None:
        current = self.current(key)
        if current is not None and self.alive[current].leases:
            self.give_back(current, True, is_named=False)
        else:
            with pytest.raises(RuntimeError, match="no lease"):
                self.table.release(key)

    @rule()
    def release_what_is_not_held(self) -> None:
        spent = [(self.alive[number].key, number) for number in self.idle()] + self.gone[-5:]
        for key, generation in spent:
            with pytest.raises(RuntimeError, match="no lease"):
                self.table.release(key, generation)
        for generation in self.held():
            for other in set(NAMES) - {self.alive[generation].key}:
                with pytest.raises(RuntimeError, match="no lease"):
                    self.table.release(other, generation)

    @rule(key=KEYS)
    def open_and_be_cancelled(self, key: str) -> None:
        is_new = self.current(key) is None
        generation = self.take(key)
        if generation is None:
            return
        self.give_back(generation, True)
        if is_new:
            self.table.drop(key)
            self.end(generation)

    @rule(key=KEYS)
    def retire(self, key: str) -> None:
        current = self.current(key)
        if current is None:
            with pytest.raises(RuntimeError, match="not open"):
                self.table.retire(key)
            return
        client = self.alive[current]
        assert self.table.retire(key) is (client.leases == 0)
        assert not self.table.is_open(key, current)
        if client.leases:
            client.is_draining = True
        else:
            self.end(current)

    @rule(key=KEYS)
    def drop(self, key: str) -> None:
        current = self.current(key)
        if current is None or self.alive[current].leases:
            with pytest.raises(RuntimeError, match="in use or not open"):
                self.table.drop(key)
        else:
            self.table.drop(key)
            self.end(current)

    @invariant()
    def agrees_with_the_model(self) -> None:
        table = self.table
        draining = [client for client in self.alive.values() if client.is_draining]
        assert len(table) == len(self.alive) <= table.limit
        assert table.total == sum(client.leases for client in self.alive.values())
        assert table.draining == len(draining)
        assert list(table.idle()) == [self.alive[number].key for number in self.idle()]
        for key in NAMES:
            current = self.current(key)
            assert (key in table) is (current is not None)
            assert table.leases(key) == (0 if current is None else self.alive[current].leases)
            assert table.may_lease(key) is self.may_lease(key)
        stats = table.stats()
        assert stats.open + stats.draining == len(table)
        assert (stats.idle, stats.leases) == (len(self.idle()), table.total)
        assert stats.evictions == self.evictions
        assert stats.misses_after_evict == self.misses_after_evict


LeaseMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
test_leases_follow_the_model = LeaseMachine.TestCase
