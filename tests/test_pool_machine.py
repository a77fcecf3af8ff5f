"""The whole pool under random use: cache, pools, budget and sockets on a network in memory.

The rules are what callers, peers and time can do; between them the loop gets no turn, a
few, or as many as it wants. What must hold is numbered as in the pool's invariants. The
lease table and the budget have machines of their own.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from crawler.pool import ClientKey
from crawler.pool.http1 import HIGH_WATER
from tests.pool_model import ENDS, HOSTS, SEGMENT, SETTLE, PoolModel, answer_of, judge

KEYS = st.sampled_from([ClientKey(domain) for domain in HOSTS])
ADDRESSES = st.sampled_from(", ".join(HOSTS.values()).split(", "))
PICKS = st.integers(0, 20)
TURNS = st.sampled_from((SETTLE, SETTLE, 0, 0, 1, 2, 3, 5, 8))
GAUGES = {"clients", "draining", "leases", "open_connections"}
"""Of the cache's statistics those that may fall."""


class PoolMachine(PoolModel):
    """Callers, peers and time; the model of clients is a list in the order of last use."""

    # Callers

    @rule(key=KEYS, turns=TURNS)
    def lease(self, key: ClientKey, turns: int) -> None:
        taken = self.take(key)
        if taken is not None:
            self.held.append(taken)
        self.go(turns)

    @precondition(lambda self: self.held)
    @rule(pick=PICKS, is_needed=st.booleans(), turns=TURNS)
    def release(self, pick: int, is_needed: bool, turns: int) -> None:
        lease, client = self.held.pop(pick % len(self.held))
        self.give_back(lease, client, is_needed=is_needed)
        with pytest.raises(RuntimeError, match="twice"):
            lease.release()
        self.double_releases += 1
        self.go(turns)

    @rule(
        key=KEYS,
        methods=st.lists(st.sampled_from(("GET", "GET", "POST")), min_size=1, max_size=4),
        is_slow=st.sampled_from((False, False, False, True)),
        is_needed=st.booleans(),
        turns=TURNS,
    )
    def request(
        self, key: ClientKey, methods: list[str], is_slow: bool, is_needed: bool, turns: int
    ) -> None:
        for method in methods:
            self.ask(key, method, is_slow, is_needed)
        self.go(turns)

    @rule(key=KEYS, count=st.integers(1, 3), turns=TURNS)
    def request_and_be_answered(self, key: ClientKey, count: int, turns: int) -> None:
        for _ in range(count):
            self.ask(key, "GET", False, True)
        self.loop.settle()
        for sent in self.unanswered():
            self.say(sent, answer_of(sent.number, "whole"), "whole")
        self.go(turns)

    @precondition(lambda self: self.under_way())
    @rule(pick=PICKS, turns=TURNS)
    def cancel(self, pick: int, turns: int) -> None:
        running = self.under_way()
        asked = running[pick % len(running)]
        asked.is_cancelled = True
        assert asked.task is not None
        asked.task.cancel()
        if not asked.has_begun:
            self.give_back(asked.lease, asked.client, is_needed=True)
            asked.outcome = "given up"
        self.go(turns)

    @precondition(lambda self: any(not asked.may_read.is_set() for asked in self.under_way()))
    @rule(turns=TURNS)
    def read(self, turns: int) -> None:
        """Those who had not read yet begin to."""
        for asked in self.under_way():
            asked.may_read.set()
        self.go(turns)

    @rule(key=KEYS, turns=TURNS)
    def retire(self, key: ClientKey, turns: int) -> None:
        client = self.current(key)
        with self.loop.inside():
            self.cache.retire(key)
        if client is not None and client.leases:
            client.retired_at = self.loop.time()
        elif client is not None:
            self.end(client)
        self.go(turns)

    @rule(key=KEYS, turns=TURNS)
    def evict(self, key: ClientKey, turns: int) -> None:
        client = self.current(key)
        is_idle = client is not None and not client.leases
        with self.loop.inside():
            assert self.cache.evict_idle(key.domain) == is_idle
        if client is not None and is_idle:
            self.evictions += 1
            self.end(client)
        self.go(turns)

    # Peers

    @precondition(lambda self: self.unanswered())
    @rule(
        pick=PICKS,
        kind=st.sampled_from(
            ("whole", "whole", "chunked", "close", "surplus", "interim", "hint", "empty", "large")
        ),
        turns=TURNS,
    )
    def answer(self, pick: int, kind: str, turns: int) -> None:
        sent = self.one_unanswered(pick)
        self.say(sent, answer_of(sent.number, kind), kind)
        self.go(turns)

    @precondition(lambda self: self.unanswered())
    @rule(pick=PICKS, cut=st.integers(1, 60), turns=TURNS)
    def begin_to_answer(self, pick: int, cut: int, turns: int) -> None:
        line = self.one_unanswered(pick).line
        assert line.pending is not None
        data = line.rest or answer_of(line.pending.number, "chunked")
        cut = min(cut, len(data) - 1)
        if cut:
            line.say(data[:cut])
            line.rest = data[cut:]
        self.go(turns)

    @precondition(lambda self: self.unanswered())
    @rule(pick=PICKS, kind=st.sampled_from(("garbage", "short", "finish", "reset")), turns=TURNS)
    def answer_badly(self, pick: int, kind: str, turns: int) -> None:
        line = self.one_unanswered(pick).line
        self.blamed.update(ENDS)
        if kind == "garbage":
            line.is_spoilt = True
            line.say(b"garbage\r\n\r\n")
        elif kind == "short" and not line.rest:
            line.say(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nsome")
        if kind == "reset":
            line.reset()
        else:
            line.finish()
        self.go(turns)

    @precondition(lambda self: self.unused())
    @rule(pick=PICKS, kind=st.sampled_from(("finish", "reset", "speak")), turns=TURNS)
    def leave_when_idle(self, pick: int, kind: str, turns: int) -> None:
        if kind == "speak":
            self.loop.settle()  # nobody can tell it from an answer to what was just asked
        lines = self.unused()
        if not lines:
            return
        line = lines[pick % len(lines)]
        self.blamed.update(ENDS)
        if kind == "speak":
            line.say(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nplanted")
            self.loop.settle()
            assert line.is_closed, "bytes that nobody asked for"
        elif kind == "reset":
            line.reset()
        else:
            line.finish()
        self.go(turns)

    @rule(
        address=ADDRESSES,
        way=st.sampled_from(("accept", "accept", "refuse", "hang", "no-descriptor")),
    )
    def close_the_way(self, address: str, way: Any) -> None:
        self.network.ways[address] = way
        self.blamed[way] += 1

    @rule(turns=TURNS)
    def open_all_ways(self, turns: int) -> None:
        self.network.let_through()
        self.go(turns)

    # Time

    @rule(seconds=st.sampled_from((0.001, 0.3, 0.3, 1.0, 1.0, 5.0, 14.0, 16.0, 40.0)))
    def wait(self, seconds: float) -> None:
        self.loop.settle(seconds)
        self.at_rest()

    @rule()
    def settle(self) -> None:
        self.go(SETTLE)

    @rule()
    def sweep(self) -> None:
        with self.loop.inside():
            self.cache.sweep(self.loop.time())

    # What always holds

    @invariant()
    def invariants_01_to_08_bounds_and_generations(self) -> None:
        stats, budget = self.cache.stats(), self.cache.budget.stats()
        for pool in self.pools:
            assert pool.stats().open <= self.connections, pool
            assert pool.stats().peak <= self.connections, pool
        assert self.network.open_sockets() <= budget.open <= budget.peak <= self.sockets
        assert stats.open_connections <= budget.open
        assert stats.leases == sum(client.leases for client in self.alive)
        assert stats.clients == len(self.alive) <= self.limit
        assert stats.draining == sum(client.retired_at is not None for client in self.alive)
        assert (stats.evictions, stats.orphans) == (self.evictions, 0)
        assert stats.double_releases == self.double_releases
        for domain in HOSTS:
            key = ClientKey(domain)
            client = self.current(key)
            assert self.cache.leases(key) == (client.leases if client is not None else 0)
            assert (self.cache.pool_stats(key) is None) is (client is None)
            if not self.is_shut:
                has_room = len(self.alive) < self.limit or bool(self.idle)
                assert self.cache.may_lease(key) is (client is not None or has_room)

    @invariant()
    def invariants_14_and_15_what_is_sent_again(self) -> None:
        times = Counter(sent.number for sent in self.network.log)
        again = [number for number, count in times.items() if count > 1]
        for number in again:
            first, *others = (sent for sent in self.network.log if sent.number == number)
            assert first.method == b"GET", f"request {number} may not be sent twice"
            assert len(others) == 1, f"request {number} was replayed twice"
            assert first.nth > 1, f"request {number} was replayed after a fresh connection"
            assert first.line.heard == first.heard_before, f"{number} was replayed after a byte"
        assert self.cache.stats().stale_replays >= len(again)

    @invariant()
    def invariant_18_what_nobody_reads_is_bounded(self) -> None:
        for sent in self.unanswered():
            if not self.asked[sent.number].may_read.is_set():
                assert sent.line.heard - sent.heard_before <= HIGH_WATER + 2 * SEGMENT

    @invariant()
    def invariants_13_and_23_the_counters(self) -> None:
        stats = asdict(self.cache.stats())
        heads = sum(asked.has_head for asked in self.asked)
        assert stats["new_connections"] + stats["reused_connections"] == heads
        assert stats["new_connections"] <= self.cache.dialer.stats().sockets.connects
        for name, value in stats.items():
            assert name in GAUGES or value >= self.before.get(name, 0), name
        self.before = stats

    @invariant()
    def invariants_12_and_19_a_request_fails_only_for_what_the_world_did(self) -> None:
        for error in self.broken:
            raise error
        for asked, fault, at, is_shut in self.ended:
            judge(asked, fault, at, blamed=self.blamed, is_shut=is_shut)
        self.ended.clear()

    def teardown(self) -> None:
        if not hasattr(self, "cache"):
            return
        try:
            self.shut() if self.is_shut_amid_work else self.finish()
        finally:
            with suppress(BaseException):
                self.shut()
            self.loop.close()

    def finish(self) -> None:
        """9 and 10: when every peer answers again everybody is served in the end."""
        self.network.let_through()
        self.read(SETTLE)
        for _ in range(4 * len(self.asked) + 20):
            for sent in self.unanswered():
                self.say(sent, answer_of(sent.number, "whole"), "whole")
            self.loop.settle(0.3)  # a shrunken budget grows, a silent address is overtaken
        assert not self.under_way(), "somebody was never served"
        self.at_rest()
        self.shut()

    def shut(self) -> None:
        """22: closing ends everything at once, whatever is under way, and twice is once."""
        self.is_shut = True
        begun = self.loop.time()
        for lease, client in self.held:
            self.give_back(lease, client, is_needed=True)
        self.held.clear()
        closing = [self.loop.create_task(self.cache.aclose()) for _ in range(2)]
        self.loop.settle(0.01)
        assert all(task.done() for task in closing), f"{self.cache} does not close"
        assert not any(task.exception() for task in closing)
        assert not self.cache.may_lease(ClientKey("a.test"))
        with pytest.raises(RuntimeError, match="closed"):
            self.cache.lease(ClientKey("a.test"))
        self.read(0)
        self.loop.settle()
        assert not self.under_way(), "somebody waits for a closed client"
        self.invariants_12_and_19_a_request_fails_only_for_what_the_world_did()
        assert self.loop.time() - begun < 5.0
        budget = self.cache.budget.stats()
        assert (budget.open, budget.waiting, self.network.open_sockets()) == (0, 0, 0)
        assert not any(pool.stats().open for pool in self.pools)
        assert self.cache.stats().leases == 0


class LongPoolMachine(PoolMachine):
    """The same, for longer."""


PoolMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
LongPoolMachine.TestCase.settings = settings(max_examples=1_500, stateful_step_count=60)
test_the_pool_keeps_its_invariants_whatever_happens = PoolMachine.TestCase
test_the_pool_keeps_its_invariants_for_long = pytest.mark.soak(LongPoolMachine.TestCase)
