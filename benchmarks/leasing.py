"""The client cache under one load, in a process of its own: `python -m benchmarks.leasing LOAD`.

Owns: the loads, and counting this process's CPU and memory around them. Does not own: the
hosts (`hosts`), which loads are run how often (`pools`).

Invariants: every request is a lease, an exchange, the whole body and a release, as the
downloader does it; memory is what the system counts, after a full collection, in a process
that has done nothing else and traces nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import time
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.gets import cpu_s, leased
from benchmarks.hosts import CERTIFICATE, address, raise_limit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from crawler.pool import ClientCache

__all__ = ["AT_ONCE", "CLIENTS", "LOADS"]

AT_ONCE = 16
CLIENTS = 256
"""Clients of the cache that sees more hosts than that."""
STEP = 1_000
"""Hosts between two looks at the memory."""
TLS_CONNECTIONS = 8
KEEPALIVE = 600.0
"""Seconds: no connection is closed for its age."""
KIB = 1024


async def reach(port: int, size: int, requests: int) -> dict[str, float]:
    """CPU µs of a request, 16 at once, over `size` domains in turn, all connections open.

    `opened` is how many connections were opened while the clock ran: 0, or the figure
    means nothing.
    """
    cache = _cache(size, sockets=2 * size + AT_ONCE)
    domains = _domains(port, size)
    for domain in domains:
        together = -(-AT_ONCE // size)
        await asyncio.gather(*(get(cache, domain) for _ in range(together)))
    first = max(requests // 2, 2 * size)
    marks: list[tuple[float, float, int]] = []

    def mark(done: int) -> None:
        if done in (first, first + requests):
            marks.append((cpu_s(), time.perf_counter(), cache.stats().new_connections))

    await spread(cache, domains, first + requests, mark)
    cpu, wall, opened = (after - before for before, after in zip(*marks, strict=True))
    connections = cache.stats().open_connections
    await cache.aclose()
    return {
        "cpu_us": cpu / requests * 1e6,
        "per_s": requests / wall,
        "opened": opened,
        "connections": connections,
    }


async def idle_closed(port: int, size: int, requests: int) -> dict[str, float]:
    """Memory of `size` clients, each after a request whose connection was closed."""
    return await _idle(port, size, "/close", open_each=0)


async def idle_open(port: int, size: int, requests: int) -> dict[str, float]:
    """The same, each with its connection open and idle."""
    return await _idle(port, size, "/", open_each=1)


async def _idle(port: int, size: int, path: str, *, open_each: int) -> dict[str, float]:
    cache = _cache(size + 1, sockets=size + AT_ONCE)
    domains = _domains(port, size + 1)
    await get(cache, domains.pop(), path)
    before = resident()
    for domain in domains:
        await get(cache, domain, path)
    await settle()
    grown, stats = resident() - before, cache.stats()
    if stats.open_connections != open_each * (size + 1):
        raise RuntimeError(f"{stats.open_connections} connections are open")
    await cache.aclose()
    return {"mib": grown / KIB**2, "client_kib": grown / KIB / size, "clients": stats.clients}


async def hosts(port: int, size: int, requests: int) -> dict[str, float]:
    """`size` hosts, one request each, through 256 clients: memory after every 1,000."""
    cache = _cache(CLIENTS, sockets=2 * CLIENTS)
    domains = _domains(port, size)
    figures: dict[str, float] = {}
    for begin in range(0, size, STEP):
        some = domains[begin : begin + STEP]
        await spread(cache, some, len(some))
        await settle()
        memory = resident()
        figures[f"mib_{begin + len(some)}"] = memory / KIB**2
        figures[f"objects_{begin + len(some)}"] = len(gc.get_objects())
    stats = cache.stats()
    figures |= {"clients": stats.clients_peak, "evictions": stats.evictions}
    await cache.aclose()
    return figures


async def tls(port: int, size: int, requests: int) -> dict[str, float]:
    """GETs over TLS at 8 connections: how many found one open, and the CPU of each."""
    from crawler.pool import ClientKey, TlsProfile

    cache = _cache(1, sockets=AT_ONCE)
    key = ClientKey(f"127.0.0.1:{port}", tls=TlsProfile(ca_file=str(CERTIFICATE)))
    begun = cpu_s()
    turn = iter(range(requests))

    async def work() -> None:
        for _ in turn:
            await leased(cache, key, f"https://{key.domain}/", TLS_CONNECTIONS)

    await asyncio.gather(*(work() for _ in range(TLS_CONNECTIONS)))
    used, stats = cpu_s() - begun, cache.stats()
    await cache.aclose()
    new, reused = stats.new_connections, stats.reused_connections
    return {
        "new": new,
        "reused": reused,
        "ratio": reused / (new + reused),
        "cpu_us": used / requests * 1e6,
    }


LOADS = {
    "reach": reach,
    "idle_closed": idle_closed,
    "idle_open": idle_open,
    "hosts": hosts,
    "tls": tls,
}


async def spread(
    cache: ClientCache,
    domains: Sequence[str],
    requests: int,
    done: Callable[[int], None] = lambda _: None,
) -> None:
    """So many requests over the domains in turn, 16 at once; `done` gets their number."""
    begun, ended = count(), count(1)

    async def work() -> None:
        while (number := next(begun)) < requests:
            await get(cache, domains[number % len(domains)])
            done(next(ended))

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))


async def get(cache: ClientCache, domain: str, path: str = "/") -> None:
    """One page of a domain, as the downloader gets it."""
    from crawler.pool import ClientKey

    await leased(cache, ClientKey(domain), f"http://{domain}{path}", AT_ONCE)


async def settle() -> None:
    """Let the loop close what is to be closed: it is not gone when its client is."""
    for _ in range(20):
        await asyncio.sleep(0.005)


def resident() -> int:
    """Bytes of this process in memory, after a full collection."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _cache(clients: int, *, sockets: int) -> ClientCache:
    from crawler.pool import ClientCache, SocketBudget

    return ClientCache(clients, budget=SocketBudget(sockets), keepalive=KEEPALIVE)


def _domains(port: int, size: int) -> list[str]:
    return [f"{address(number)}:{port}" for number in range(size)]


def _main() -> None:
    import uvloop

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("load", choices=LOADS)
    parser.add_argument("port", type=int)
    parser.add_argument("--size", type=int, default=1, help="domains")
    parser.add_argument("--requests", type=int, default=1, help="that count")
    given = parser.parse_args()
    raise_limit()
    print(json.dumps(uvloop.run(LOADS[given.load](given.port, given.size, given.requests))))


if __name__ == "__main__":
    _main()
