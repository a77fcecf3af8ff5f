"""The client cache: one httpx client per (domain, proxy, TLS profile), the least recently
used given up for a new one.

Owns: clients, their leases, their closing, the counters over all of them.
Does not own: who asks for a client and when (`crawler.scheduler`), cookies and learned
pace (they live outside and survive eviction), the order of eviction (`leases`).

Invariants: at most `limit` clients are open; a client in use is never closed by eviction;
a lease is given back exactly once; every socket of every client has a token of one
budget; closing never raises into a fetch. Belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from crawler.pool.backend import CountingBackend
from crawler.pool.budget import SocketBudget
from crawler.pool.leases import LeaseTable
from crawler.pool.tls import TlsContexts, TlsProfile
from crawler.pool.transport import HttpcoreTransport, PoolClient, Tally

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CacheStats", "ClientCache", "ClientKey", "Lease"]

log = logging.getLogger("crawler.pool")

PLAIN = TlsProfile()
CLOSE_S = 5.0
"""Seconds a client may take to close; its sockets are closed before."""


class ClientKey(NamedTuple):
    """What must be equal for two requests to share a client.

    A tuple, for it is hashed half a dozen times a page.
    """

    domain: str
    proxy: str | None = None
    """URL of an HTTP proxy; None: direct."""
    tls: TlsProfile = TlsProfile()

    def __repr__(self) -> str:
        return f"ClientKey({self.domain!r}{', by proxy' if self.proxy else ''}, {self.tls})"


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheStats:
    """The cache at one instant, and its counters since the start."""

    clients: int
    clients_peak: int
    leases: int
    open_connections: int
    hits: int
    misses: int
    evictions: int
    """Clients given up for another one."""
    rebuilt: int
    """Clients given up because a request had waited inside their pool."""
    orphans: int
    """Connections found neither idle nor closed while their client was unused."""
    double_releases: int
    new_connections: int
    reused_connections: int
    stale_replays: int


class Lease:
    """The right to send through a client. `release` it exactly once."""

    __slots__ = ("_cache", "_is_held", "client", "key")

    def __init__(self, cache: ClientCache, key: ClientKey, client: PoolClient) -> None:
        self._cache = cache
        self._is_held = True
        self.key = key
        self.client = client

    def __repr__(self) -> str:
        return f"<Lease {self.key.domain} {'held' if self._is_held else 'released'}>"

    def release(self) -> None:
        """Give the client back. Raises RuntimeError the second time."""
        if not self._is_held:
            self._cache.count_double_release()
            raise RuntimeError(f"the lease of {self.key.domain} was released twice")
        self._is_held = False
        self._cache.give_back(self.key, self.client)


class ClientCache:
    """At most `limit` clients over one socket budget.

    `keepalive` is in seconds; `clock` gives the instants that idle connections are
    measured by, and must be monotonic.
    """

    def __init__(
        self,
        limit: int = 256,
        *,
        budget: SocketBudget | None = None,
        keepalive: float = 15.0,
        contexts: TlsContexts | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.budget = budget if budget is not None else SocketBudget()
        self.backend = CountingBackend(self.budget, clock=clock)
        self.contexts = contexts if contexts is not None else TlsContexts()
        self._keepalive = keepalive
        self._clock = clock
        self._table: LeaseTable[ClientKey] = LeaseTable(limit)
        self._clients: dict[ClientKey, PoolClient] = {}
        self._tally = Tally()
        self._closing: set[asyncio.Task[None]] = set()
        self._is_closed = False
        self._peak = 0
        self._hits = 0
        self._misses = 0
        self._evictions = 0
        self._rebuilt = 0
        self._orphans = 0
        self._double_releases = 0

    def __repr__(self) -> str:
        return (
            f"<ClientCache {len(self._table)}/{self._table.limit} clients, "
            f"{self._table.total} leases, {self.backend.stats().open} connections>"
        )

    def may_lease(self, key: ClientKey) -> bool:
        """Whether `lease(key)` would be granted now. Changes nothing, O(1)."""
        return not self._is_closed and self._table.may_lease(key)

    def lease(self, key: ClientKey, connections: int = 8) -> Lease:
        """Take the key's client, made now when it is not open.

        `connections` bounds a new client's pool; an open one keeps its bound. The caller
        has at most that many requests under way. Raises RuntimeError when every client
        is in use or the cache is closed, SettingsError for an unusable proxy.
        """
        if self._is_closed:
            raise RuntimeError("the client cache is closed")
        if key in self._table:
            self._hits += 1
            self._table.lease(key)
        else:
            self._open(key, connections)
        return Lease(self, key, self._clients[key])

    def leases(self, key: ClientKey) -> int:
        """Leases of a client that are out now; 0: idle, or not open."""
        return self._table.leases(key)

    def evict_idle(self, domain: str) -> int:
        """Close the domain's clients that nobody uses; how many."""
        idle = [key for key in self._table.idle() if key.domain == domain]
        for key in idle:
            self._table.drop(key)
            self._evictions += 1
            self._close_soon(self._clients.pop(key))
        return len(idle)

    def sweep(self, now: float) -> int:
        """Close the connections idle for longer than keep-alive allows; how many.

        `now` is an instant of the cache's clock. O(closed).
        """
        return self.backend.sweep(now - self._keepalive)

    def open_connections(self, key: ClientKey) -> int:
        """Open connections of one client; 0: none, or the client is not open."""
        client = self._clients.get(key)
        return client.transport.open_connections if client is not None else 0

    def stats(self) -> CacheStats:
        """The cache at this instant."""
        return CacheStats(
            clients=len(self._table),
            clients_peak=self._peak,
            leases=self._table.total,
            open_connections=self.backend.stats().open,
            hits=self._hits,
            misses=self._misses,
            evictions=self._evictions,
            rebuilt=self._rebuilt,
            orphans=self._orphans,
            double_releases=self._double_releases,
            new_connections=self._tally.new_connections,
            reused_connections=self._tally.reused_connections,
            stale_replays=self._tally.stale_replays,
        )

    async def aclose(self) -> None:
        """Close every client and socket and wait for the last descriptor. Idempotent.

        Requests still under way fail with `cancelled`; their leases may still be released.
        """
        self._is_closed = True
        for client in self._clients.values():
            self._close_soon(client)
        self._clients.clear()
        while self._closing:
            await asyncio.wait(self._closing)
        try:
            async with asyncio.timeout(CLOSE_S):
                await self.backend.aclose()
        except TimeoutError:
            log.warning("closed the cache beside connects under way: %r", self.backend)

    # For leases

    def give_back(self, key: ClientKey, client: PoolClient) -> None:
        """One lease less; the last one looks after what the client left behind."""
        if not self._table.release(key):
            return
        if self._is_closed:
            self._table.drop(key)
            return
        transport = client.transport
        self._orphans += transport.reclaim()
        if transport.is_poisoned:
            self._rebuilt += 1
            self._table.drop(key)
            self._close_soon(self._clients.pop(key))

    def count_double_release(self) -> None:
        """A lease was released although it had been before."""
        self._double_releases += 1

    def _open(self, key: ClientKey, connections: int) -> None:
        if not self._table.may_lease(key):
            self._table.lease(key)
        transport = HttpcoreTransport(
            backend=self.backend,
            connections=connections,
            keepalive=self._keepalive,
            proxy=key.proxy,
            profile=key.tls,
            contexts=self.contexts,
            tally=self._tally,
            clock=self._clock,
        )
        evicted = self._table.lease(key).evicted
        if evicted is not None:
            self._evictions += 1
            self._close_soon(self._clients.pop(evicted))
        self._misses += 1
        self._clients[key] = PoolClient(transport)
        self._peak = max(self._peak, len(self._clients))

    def _close_soon(self, client: PoolClient) -> None:
        """Sockets now, the rest in a task of its own."""
        client.transport.abort()
        task = asyncio.get_running_loop().create_task(_close(client))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


async def _close(client: PoolClient) -> None:
    try:
        async with asyncio.timeout(CLOSE_S):
            await client.aclose()
    except Exception:
        log.exception("a client did not close cleanly")
