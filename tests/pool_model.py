"""What the pool's state machine knows of clients and requests, and how it judges them."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize

from crawler.errors import FetchError
from crawler.pool import ClientCache, Deadlines, Resolver, SocketBudget
from crawler.pool.clients import DRAIN_S
from crawler.pool.sockets import SWEEP_S
from tests.pool_network import Network, Sent

if TYPE_CHECKING:
    from crawler.pool import BoundedPool, ClientKey, Lease

HOSTS = {
    "a.test": "127.0.0.1",
    "b.test": "127.0.0.2",
    "c.test": "127.0.0.3",
    "d.test": "127.0.0.4, ::4",
}
KEEPALIVE = 15.0
SEGMENT = 64 * 1024
SETTLE = -1
"""Turns: as many as the loop wants."""
DEADLINES = Deadlines(connect=10.0, head=20.0, read=15.0, write=15.0, total=45.0)
PATIENT = DEADLINES._replace(total=None)
ENDS = {"reset", "truncated", "protocol"}
LATE = {
    "connect-timeout": 10.0,
    "head-timeout": 20.0,
    "read-timeout": 15.0,
    "too-slow": 20.0,
    "total-timeout": 45.0,
}
CONNECT = {"connect-refused": "refuse", "connect": "refuse", "local": "no-descriptor"}


@dataclass(eq=False)
class Client:
    """A generation as the model has it."""

    key: ClientKey
    generation: int
    pool: BoundedPool
    leases: int = 0
    is_needed: bool = True
    retired_at: float | None = None


@dataclass(eq=False)
class Asked:
    """A request of ours: what became of it."""

    number: int
    method: str
    lease: Lease
    client: Client
    begun_at: float
    is_slow: bool
    """It does not read before it is told to."""
    is_cancelled: bool = False
    has_begun: bool = False
    has_head: bool = False
    outcome: str = ""
    """Empty: under way."""
    may_read: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


def judge(
    asked: Asked, error: FetchError, now: float, *, blamed: Counter[str], is_shut: bool
) -> None:
    """A request fails only for what the world did to it, and its code says so.

    `blamed` counts what went wrong outside, by the code that it excuses.
    """
    code, retired_at = error.code, asked.client.retired_at
    if code == "cancelled":
        is_forced = retired_at is not None and now >= retired_at + DRAIN_S - 0.001
        assert is_shut or is_forced, f"{asked} was ended by its own client"
    elif code in LATE:
        assert now - asked.begun_at >= LATE[code] - 0.001, f"{asked}: {code} too early"
    elif code in CONNECT:
        is_short = code == "local" and now - asked.begun_at >= 9.999
        assert is_short or blamed[CONNECT[code]], f"{asked}: {error}"
    else:
        assert code in ENDS, f"{asked}: {error}"
        assert blamed[code], f"{asked}: {error}"
    if code in ("local", "cancelled", "pool-timeout"):
        assert error.fault != "domain", error


def answer_of(number: int, kind: str) -> bytes:
    """An answer to the request of that number, which its body repeats."""
    body = b"%d " % number
    if kind == "large":
        body *= 600_000 // len(body)
    if kind == "empty":
        return b"HTTP/1.1 204 No Content\r\n\r\n"
    if kind == "chunked":
        chunk = b"%x\r\n%b\r\n" % (len(body), body)
        return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk + b"0\r\n\r\n"
    extra = {"close": b"Connection: close\r\n", "hint": b"Keep-Alive: timeout=3\r\n"}.get(kind, b"")
    whole = b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n%b" % (extra, len(body), body)
    if kind == "interim":
        return b"HTTP/1.1 103 Early Hints\r\n\r\n" + whole
    return whole + whole if kind == "surplus" else whole


class PoolModel(RuleBasedStateMachine):
    """The pool on its network, and beside it what must be true of it.

    The model of clients is a list in the order in which they became idle.
    """

    @initialize(
        engine=st.sampled_from(("native", "httpcore")),
        clients=st.integers(1, 4),
        sockets=st.integers(1, 6),
        connections=st.integers(1, 3),
        is_shut_amid_work=st.booleans(),
    )
    def open_cache(
        self,
        engine: Literal["native", "httpcore"],
        clients: int,
        sockets: int,
        connections: int,
        is_shut_amid_work: bool,
    ) -> None:
        self.network = Network()
        self.loop = self.network.loop
        self.connections = connections
        self.sockets = sockets
        self.is_shut_amid_work = is_shut_amid_work
        self.cache = ClientCache(
            clients,
            budget=SocketBudget(sockets, clock=self.loop.time),
            keepalive=KEEPALIVE,
            resolver=Resolver(overrides=HOSTS, clock=self.loop.time),
            transport=engine,
            clock=self.loop.time,
        )
        self.limit = clients
        self.alive: list[Client] = []
        self.idle: list[Client] = []
        self.pools: list[BoundedPool] = []
        self.held: list[tuple[Lease, Client]] = []
        self.asked: list[Asked] = []
        self.gone = 0
        self.evictions = 0
        self.double_releases = 0
        self.broken: list[BaseException] = []
        self.ended: list[tuple[Asked, FetchError, float, bool]] = []
        self.blamed: Counter[str] = Counter()
        """What went wrong outside, by the code it excuses."""
        self.is_shut = False
        self.before: dict[str, float] = {}

    # Clients

    def go(self, turns: int) -> None:
        if turns == SETTLE:
            self.loop.settle()
            self.at_rest()
        else:
            self.loop.turn(turns)

    def take(self, key: ClientKey) -> tuple[Lease, Client] | None:
        client = self.current(key)
        if client is None and len(self.alive) == self.limit and not self.idle:
            with pytest.raises(RuntimeError, match="in use"):
                self.cache.lease(key, self.connections)
            return None
        if client is None and len(self.alive) == self.limit:
            self.evictions += 1
            self.end(min(self.idle, key=lambda one: one.is_needed))
        with self.loop.inside():
            lease = self.cache.lease(key, self.connections)
        if client is None:
            assert lease.generation > self.gone, "a new client has an old generation"
            self.gone = lease.generation
            client = Client(key, lease.generation, lease.client.transport.pool)
            self.alive.append(client)
            self.pools.append(client.pool)
        elif client in self.idle:
            self.idle.remove(client)
        assert lease.generation == client.generation
        assert lease.client.transport.pool is client.pool
        client.leases += 1
        return lease, client

    def ask(self, key: ClientKey, method: str, is_slow: bool, is_needed: bool) -> None:
        taken = self.take(key)
        if taken is None:
            return
        lease, client = taken
        asked = Asked(len(self.asked), method, lease, client, self.loop.time(), is_slow)
        self.asked.append(asked)
        if not is_slow:
            asked.may_read.set()
        asked.task = self.loop.create_task(self.fetch(asked, is_needed))

    def give_back(self, lease: Lease, client: Client, *, is_needed: bool) -> None:
        with self.loop.inside():
            lease.release(is_needed=is_needed)
        client.leases -= 1
        if client.leases:
            return
        if client.retired_at is not None:
            self.alive.remove(client)
        else:
            client.is_needed = is_needed
            self.idle.append(client)

    def end(self, client: Client) -> None:
        assert not client.leases
        self.alive.remove(client)
        self.idle.remove(client)

    def current(self, key: ClientKey) -> Client | None:
        found = [one for one in self.alive if one.key == key and one.retired_at is None]
        return found[0] if found else None

    def under_way(self) -> list[Asked]:
        return [asked for asked in self.asked if not asked.outcome]

    def unanswered(self) -> list[Sent]:
        lines = self.network.open_lines()
        return [line.pending for line in lines if line.pending and not line.is_ended]

    def one_unanswered(self, pick: int) -> Sent:
        return self.unanswered()[pick % len(self.unanswered())]

    def unused(self) -> list[Any]:
        lines = self.network.open_lines()
        return [
            line
            for line in lines
            if not line.pending and not line.is_ended
            if line.served < 0 or self.asked[line.served].outcome
        ]

    # Requests and answers

    async def fetch(self, asked: Asked, is_needed: bool) -> None:
        asked.has_begun = True
        try:
            asked.outcome = await self.exchange(asked)
        except asyncio.CancelledError:
            assert asked.is_cancelled, f"request {asked.number} was cancelled by nobody"
            asked.outcome = "given up"
        except FetchError as error:
            asked.outcome = error.code
            self.ended.append((asked, error, self.loop.time(), self.is_shut))
        except BaseException as error:
            asked.outcome = "broken"
            self.broken.append(error)
        finally:
            self.give_back(asked.lease, asked.client, is_needed=is_needed)
            for sent in self.network.log:
                if sent.number == asked.number and sent.line.idle_since is not None:
                    sent.line.idle_since = self.loop.time()

    async def exchange(self, asked: Asked) -> str:
        answer = await asked.lease.client.exchange(
            asked.method,
            f"http://{asked.client.key.domain}/{asked.number}",
            headers=[],
            content=b"x" if asked.method == "POST" else b"",
            deadlines=PATIENT if asked.is_slow else DEADLINES,
        )
        asked.has_head = True
        try:
            await asked.may_read.wait()
            body = b"".join([part async for part in answer])
        finally:
            await answer.aclose()
        words = set(body.split())
        assert words <= {b"%d" % asked.number}, f"{asked.number} got the body of {words}"
        return "ok"

    def say(self, sent: Sent, data: bytes, kind: str) -> None:
        """The rest of an answer that was begun, or all of one."""
        line = sent.line
        line.idles_for = None
        if line.rest:
            line.say(line.rest)
        else:
            for at in range(0, len(data), SEGMENT):
                line.say(data[at : at + SEGMENT])
            line.is_spoilt = kind in ("close", "surplus")
            line.idles_for = 3.0 if kind == "hint" else None
        line.answered()

    # Rest

    def at_rest(self) -> None:
        """What holds when nothing is left to do."""
        now, cache = self.loop.time(), self.cache
        budget, sockets = cache.budget.stats(), cache.dialer.stats().sockets
        # 3: every token is a socket of some pool
        assert sockets.closing == 0
        assert sum(pool.stats().open for pool in self.pools) == sockets.open + budget.waiting
        assert len(self.network.open_lines()) <= sockets.open <= budget.open
        # 5: what is not alive any more has nothing
        alive = [client.pool for client in self.alive]
        assert not any(pool.stats().open for pool in self.pools if pool not in alive)
        # 10: nobody waits beside a free place or a free token
        for pool in self.pools:
            stats = pool.stats()
            assert not stats.waiting or stats.open == self.connections, pool
            assert not stats.waiting or not stats.idle, pool
        assert not budget.waiting or (budget.open >= budget.limit and not sockets.idle)
        # 16: idle connections end with their keep-alive, or one sweep later
        for line in self.network.open_lines():
            if line.idle_since is not None and self.asked[line.served].outcome:
                lasts = min(KEEPALIVE, (line.idles_for or 99.0) - 1.0)
                assert now - line.idle_since <= lasts + SWEEP_S + 0.001, line
        # 17: whoever has a total deadline has ended by then
        for asked in self.under_way():
            assert asked.is_slow or now - asked.begun_at <= 45.1, asked
