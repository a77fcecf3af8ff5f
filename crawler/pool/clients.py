"""The client cache: one httpx client per key, the least recently used given up for another.

Owns: clients, their leases, their closing, the counters over all of them.
Does not own: who asks for a client and when (`crawler.scheduler`), cookies and learned
pace (they live outside and survive eviction), the order of eviction (`leases`), sockets
(`dialer`).

A client is open, then draining (no new leases; it goes with its last one, or when its
time is up), then closed.

Invariants: at most `limit` clients are alive; a client in use is never closed by eviction;
a key has at most one open client; a lease is given back exactly once; every socket of
every client has a token of one budget; closing never raises into a fetch. Belongs to one
event loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, NamedTuple

from crawler.pool.bounded import Tally
from crawler.pool.dialer import Dialer
from crawler.pool.leases import LeaseTable
from crawler.pool.tls import TlsContexts, TlsProfile
from crawler.pool.transport import PoolClient, PoolTransport

if TYPE_CHECKING:
    from collections.abc import Callable

    from crawler.pool.bounded import PoolStats
    from crawler.pool.budget import SocketBudget
    from crawler.pool.call import HeadLimits
    from crawler.pool.resolver import Resolver
    from crawler.pool.transport import Engine

__all__ = ["CacheStats", "ClientCache", "ClientKey", "Lease"]

log = logging.getLogger("crawler.pool")

CLOSE_S = 5.0
"""Seconds that closing everything may take; sockets are closed before."""
REMEMBERED = 4
"""Domains whose clients are counted, for each client there may be."""
DRAIN_S = 30.0
"""Seconds that a draining client's last requests are given."""


class ClientKey(NamedTuple):
    """What must be equal for two requests to share a client.

    A tuple, for it is hashed half a dozen times a page. `domain` in lower case, IDNA, with
    the port when it is not the scheme's own: as `crawler.urls` writes it.
    """

    domain: str
    proxy: str | None = None
    """URL of a proxy; None: direct."""
    tls: TlsProfile = TlsProfile()
    local_address: str | None = None
    """Address that connections leave from; None: the system's choice."""
    http2: bool = False

    def __repr__(self) -> str:
        return f"ClientKey({self.domain!r}{', by proxy' if self.proxy else ''}, {self.tls})"


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheStats:
    """The cache at one instant, and its counters since the start."""

    clients: int
    """Alive: open, idle or draining."""
    clients_peak: int
    draining: int
    leases: int
    open_connections: int
    hits: int
    misses: int
    evictions: int
    """Clients given up for another one."""
    misses_after_evict: int
    """Clients made again although they were among the last evicted: raise `limit`."""
    forced: int
    """Draining clients closed with requests under way because their time was up."""
    orphans: int
    """Connections found neither idle nor closed while their client was unused."""
    double_releases: int
    new_connections: int
    reused_connections: int
    stale_replays: int
    peer_closes: int
    """Idle connections that servers closed."""
    connect_failures: int


class Lease:
    """The right to send through a client. `release` it exactly once."""

    __slots__ = ("_cache", "_is_held", "client", "generation", "key", "nth")

    def __init__(
        self, cache: ClientCache, key: ClientKey, client: PoolClient, generation: int, nth: int
    ) -> None:
        self._cache = cache
        self._is_held = True
        self.key = key
        self.client = client
        self.generation = generation
        self.nth = nth
        """Which client of its domain this is, from 1."""

    def __repr__(self) -> str:
        return f"<Lease {self.key.domain} {'held' if self._is_held else 'released'}>"

    def release(self, *, is_needed: bool = True) -> None:
        """Give the client back. `is_needed` False: it is the first to go when room is short.

        Raises RuntimeError the second time.
        """
        if not self._is_held:
            self._cache.count_double_release()
            raise RuntimeError(f"the lease of {self.key.domain} was released twice")
        self._is_held = False
        self._cache.give_back(self, is_needed=is_needed)


class ClientCache:
    """At most `limit` clients over one socket budget.

    `keepalive` is in seconds; `clock` gives the instants that idle connections are
    measured by, and must be monotonic; `engine` is who speaks HTTP/1.1.
    """

    def __init__(
        self,
        limit: int = 256,
        *,
        budget: SocketBudget | None = None,
        keepalive: float = 15.0,
        contexts: TlsContexts | None = None,
        resolver: Resolver | None = None,
        transport: Engine = "native",
        limits: HeadLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.dialer = Dialer(budget, resolver=resolver, keepalive=keepalive, clock=clock)
        self.contexts = contexts if contexts is not None else TlsContexts()
        self.transport = transport
        self._limits = limits
        self._table: LeaseTable[ClientKey] = LeaseTable(limit)
        self._clients: dict[ClientKey, tuple[PoolClient, int]] = {}
        self._draining: dict[int, tuple[PoolClient, asyncio.TimerHandle]] = {}
        self._made: OrderedDict[str, int] = OrderedDict()
        self._past = Tally()
        self._is_closed = False
        self._peak = 0
        self._hits = 0
        self._misses = 0
        self._given_up = 0
        self._forced = 0
        self._orphans = 0
        self._double_releases = 0

    def __repr__(self) -> str:
        return (
            f"<ClientCache {len(self._table)}/{self._table.limit} clients, "
            f"{self._table.total} leases, {self.dialer.sockets!r}>"
        )

    @property
    def budget(self) -> SocketBudget:
        """Of all the cache's sockets."""
        return self.dialer.budget

    def may_lease(self, key: ClientKey) -> bool:
        """Whether `lease(key)` would be granted now. Changes nothing, O(1)."""
        return not self._is_closed and self._table.may_lease(key)

    def lease(self, key: ClientKey, connections: int = 8) -> Lease:
        """Take the key's client, made now when it is not open.

        `connections` bounds a new client's pool; an open one keeps its bound until `bind`.
        The caller has at most that many requests under way. Raises RuntimeError when every
        client is in use or the cache is closed, SettingsError for an unusable proxy.
        """
        if self._is_closed:
            raise RuntimeError("the client cache is closed")
        known = self._clients.get(key)
        client = known[0] if known is not None else self._made_for(key, connections)
        grant = self._table.lease(key)
        if grant.evicted is not None:
            self._abort(self._clients.pop(grant.evicted)[0])
        if grant.is_new:
            self._misses += 1
            self._clients[key] = client, grant.generation
            self._count_made(key.domain)
            self._peak = max(self._peak, len(self._table))
        else:
            self._hits += 1
        return Lease(self, key, client, grant.generation, self._made.get(key.domain, 1))

    def bind(self, lease: Lease, connections: int) -> None:
        """Give the leased client's pool another bound, though never below the leases that
        are out: nothing under way comes to wait for it."""
        pool = lease.client.transport.pool
        bound = max(connections, self._table.leases(lease.key))
        if pool.connections != bound:
            pool.resize(bound)

    def leases(self, key: ClientKey) -> int:
        """Leases of an open client that are out now; 0: idle, or not open."""
        return self._table.leases(key)

    def retire(self, key: ClientKey) -> None:
        """Give no new leases of the key's client; it closes after its last, or in 30 s.

        The key's next lease makes a new client. Nothing happens when it is not open.
        """
        if key not in self._clients:
            return
        client, generation = self._clients.pop(key)
        if self._table.retire(key):
            self._abort(client)
            return
        loop = asyncio.get_running_loop()
        timer = loop.call_later(DRAIN_S, self._force, generation)
        self._draining[generation] = client, timer

    def evict_idle(self, domain: str) -> int:
        """Close the domain's clients that nobody uses; how many."""
        idle = [key for key in self._table.idle() if key.domain == domain]
        for key in idle:
            self._table.drop(key)
            self._given_up += 1
            self._abort(self._clients.pop(key)[0])
        return len(idle)

    def sweep(self, now: float) -> int:
        """Close the connections idle for longer than keep-alive allows; how many.

        `now` is an instant of the cache's clock. O(closed). The cache also does it by
        itself, once a second while connections are idle.
        """
        return self.dialer.sockets.sweep(now)

    def open_connections(self, key: ClientKey) -> int:
        """Open connections of one client; 0: none, or the client is not open."""
        known = self._clients.get(key)
        return known[0].transport.pool.open_connections if known is not None else 0

    def pool_stats(self, key: ClientKey) -> PoolStats | None:
        """One open client's pool; None: it is not open."""
        known = self._clients.get(key)
        return known[0].transport.stats() if known is not None else None

    def stats(self) -> CacheStats:
        """The cache at this instant."""
        table = self._table.stats()
        sums = asdict(self._past)
        for client, _ in (*self._clients.values(), *self._draining.values()):
            tally = client.transport.pool.tally
            for name in sums:
                sums[name] += getattr(tally, name)
        return CacheStats(
            clients=len(self._table),
            clients_peak=self._peak,
            draining=table.draining,
            leases=table.leases,
            open_connections=self.dialer.sockets.stats().open,
            hits=self._hits,
            misses=self._misses,
            evictions=table.evictions + self._given_up,
            misses_after_evict=table.misses_after_evict,
            forced=self._forced,
            orphans=self._orphans,
            double_releases=self._double_releases,
            **sums,
        )

    async def aclose(self) -> None:
        """Close every client and socket and wait for the last descriptor. Idempotent.

        Requests still under way fail with `cancelled`; their leases may still be released.
        """
        self._is_closed = True
        for client, timer in self._draining.values():
            timer.cancel()
            self._abort(client)
        self._draining.clear()
        for client, _ in self._clients.values():
            self._abort(client)
        self._clients.clear()
        try:
            async with asyncio.timeout(CLOSE_S):
                await self.dialer.aclose()
        except TimeoutError:
            log.warning("closed the cache beside connects under way: %r", self.dialer)

    # For leases

    def give_back(self, lease: Lease, *, is_needed: bool) -> None:
        """One lease less; the last one looks after what the client left behind."""
        if not self._table.release(lease.key, lease.generation, is_needed=is_needed):
            return
        if self._is_closed:
            return
        if lease.generation in self._draining:
            client, timer = self._draining.pop(lease.generation)
            timer.cancel()
            self._abort(client)
            return
        self._orphans += lease.client.transport.pool.reclaim()

    def count_double_release(self) -> None:
        """A lease was released although it had been before."""
        self._double_releases += 1

    def _made_for(self, key: ClientKey, connections: int) -> PoolClient:
        if not self._table.may_lease(key):
            raise RuntimeError("every client is in use; ask may_lease first")
        transport = PoolTransport(
            connections=connections,
            proxy=key.proxy,
            tls=key.tls,
            local_address=key.local_address,
            engine=self.transport,
            http2=key.http2,
            limits=self._limits,
            dialer=self.dialer,
            contexts=self.contexts,
        )
        return PoolClient(transport)

    def _count_made(self, domain: str) -> None:
        self._made[domain] = self._made.get(domain, 0) + 1
        self._made.move_to_end(domain)
        if len(self._made) > REMEMBERED * self._table.limit:
            self._made.popitem(last=False)

    def _abort(self, client: PoolClient) -> None:
        """Sockets now; there is nothing else of a client that needs closing."""
        pool = client.transport.pool
        for name, value in asdict(pool.tally).items():
            setattr(self._past, name, getattr(self._past, name) + value)
        pool.tally = Tally()
        pool.abort()

    def _force(self, generation: int) -> None:
        client, _ = self._draining.pop(generation)
        self._forced += 1
        self._abort(client)
