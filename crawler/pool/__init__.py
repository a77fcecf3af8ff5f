"""Bounded httpx clients in an LRU cache, over one socket budget; usable alone.

A transport for any httpx client:

    async with httpx.AsyncClient(transport=PoolTransport(connections=8)) as client:
        response = await client.get("https://example.org/")

Or the cache of clients, one for each domain:

    cache = ClientCache(limit=256)
    lease = cache.lease(ClientKey("example.org"), connections=8)
    try:
        response = await lease.client.get("http://example.org/")
    finally:
        lease.release()
    await cache.aclose()

Order of layers: deadlines, expiry, keepalive, leases, decode, faults, frames, tls
< budget, call, eyeballs, resolver < channel, exchange, parsing < link, proxy, sockets
< dialer, http1, places, stream < core, multiplex, route < bounded, http2 < transport
< clients.
"""

from __future__ import annotations

from crawler.pool.bounded import BoundedPool, PoolStats
from crawler.pool.budget import BudgetStats, SocketBudget, raise_descriptor_limit
from crawler.pool.call import Answer, ConnectionInfo, HeadLimits
from crawler.pool.clients import CacheStats, ClientCache, ClientKey, Lease
from crawler.pool.deadlines import Deadlines
from crawler.pool.decode import ACCEPT_ENCODING, BodyDecoder, parse_codings
from crawler.pool.dialer import Dialer, DialerStats
from crawler.pool.leases import LeaseTable
from crawler.pool.proxy import ProxyRoute
from crawler.pool.resolver import Resolver, ResolverStats
from crawler.pool.tls import TlsContexts, TlsProfile
from crawler.pool.transport import PoolClient, PoolTransport, connection_of

__all__ = [
    "ACCEPT_ENCODING",
    "Answer",
    "BodyDecoder",
    "BoundedPool",
    "BudgetStats",
    "CacheStats",
    "ClientCache",
    "ClientKey",
    "ConnectionInfo",
    "Deadlines",
    "Dialer",
    "DialerStats",
    "HeadLimits",
    "Lease",
    "LeaseTable",
    "PoolClient",
    "PoolStats",
    "PoolTransport",
    "ProxyRoute",
    "Resolver",
    "ResolverStats",
    "SocketBudget",
    "TlsContexts",
    "TlsProfile",
    "connection_of",
    "parse_codings",
    "raise_descriptor_limit",
]
