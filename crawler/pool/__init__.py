"""Bounded httpx clients in an LRU cache, over one socket budget; usable alone.

    cache = ClientCache(limit=256)
    lease = cache.lease(ClientKey("example.org"), connections=8)
    try:
        response = await lease.client.get("http://example.org/")
    finally:
        lease.release()
    await cache.aclose()

Order of layers: tls, budget, decode, leases, faults < stream
< backend < connection < transport
< clients.
"""

from __future__ import annotations

from crawler.pool.backend import BackendStats, CountingBackend
from crawler.pool.budget import BudgetStats, SocketBudget
from crawler.pool.clients import CacheStats, ClientCache, ClientKey, Lease
from crawler.pool.connection import ConnectionInfo, ProxyRoute
from crawler.pool.decode import ACCEPT_ENCODING, BodyDecoder, parse_codings
from crawler.pool.faults import fault
from crawler.pool.leases import LeaseTable
from crawler.pool.stream import Stream
from crawler.pool.tls import TlsContexts, TlsProfile
from crawler.pool.transport import HttpcoreTransport, PoolClient, connection_of

__all__ = [
    "ACCEPT_ENCODING",
    "BackendStats",
    "BodyDecoder",
    "BudgetStats",
    "CacheStats",
    "ClientCache",
    "ClientKey",
    "ConnectionInfo",
    "CountingBackend",
    "HttpcoreTransport",
    "Lease",
    "LeaseTable",
    "PoolClient",
    "ProxyRoute",
    "SocketBudget",
    "Stream",
    "TlsContexts",
    "TlsProfile",
    "connection_of",
    "fault",
    "parse_codings",
]
