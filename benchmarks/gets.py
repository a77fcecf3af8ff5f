"""One transport, kept-alive GETs, in a process of its own: `python -m benchmarks.gets CASE`.

Owns: how each client is used, and counting this process's CPU around the requests.
Does not own: which cases are run in which order (`transport`).

Invariants: all connections are open and busy before the clock starts; every case reads the
whole body and runs on the same kind of loop.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import time
from contextlib import asynccontextmanager
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from crawler.pool import ClientCache, ClientKey

    Get = Callable[[str], Awaitable[int]]
    """Fetches a URL; gives the bytes of the body."""
    Case = Callable[[str, int], AbstractAsyncContextManager[Get]]
    """A client for a domain and a number of connections."""

__all__ = ["CASES", "LOOPS", "cpu_s", "leased"]

TIMEOUTS = {"connect": 10.0, "head": 20.0, "read": 20.0, "write": 20.0}
HEADERS = [("user-agent", "benchmark"), ("accept", "*/*"), ("accept-encoding", "gzip, deflate, br")]
LOOPS = ("uvloop", "asyncio")
WARM = 16
"""Requests on each connection before the clock starts: httpx's pool takes as long to settle."""


@asynccontextmanager
async def ours(domain: str, connections: int) -> AsyncIterator[Get]:
    """The client cache as the downloader uses it: a lease and a stream per request."""
    from crawler.pool import ClientCache, ClientKey

    cache = ClientCache()
    key = ClientKey(domain)

    async def get(url: str) -> int:
        return await leased(cache, key, url, connections)

    try:
        yield get
    finally:
        await cache.aclose()


async def leased(cache: ClientCache, key: ClientKey, url: str, connections: int) -> int:
    """A lease, a request, its whole body, a release: bytes of the body.

    RuntimeError for another status than 200.
    """
    lease = cache.lease(key, connections)
    try:
        answer = await lease.client.exchange("GET", url, headers=HEADERS)
        try:
            size = len(b"".join([part async for part in answer]))
        finally:
            await answer.aclose()
    finally:
        lease.release()
    if answer.status != 200:
        raise RuntimeError(f"{url}: status {answer.status}")
    return size


@asynccontextmanager
async def ours_by_send(domain: str, connections: int) -> AsyncIterator[Get]:
    """The same clients used as any httpx.AsyncClient."""
    from crawler.pool import ClientCache, ClientKey

    cache = ClientCache()
    lease = cache.lease(ClientKey(domain), connections)

    async def get(url: str) -> int:
        return len((await lease.client.get(url)).content)

    try:
        yield get
    finally:
        lease.release()
        await cache.aclose()


@asynccontextmanager
async def ours_by_transport(domain: str, connections: int) -> AsyncIterator[Get]:
    """Their transport alone, as httpx would call it."""
    import httpx

    from crawler.pool import ClientCache, ClientKey

    cache = ClientCache()
    lease = cache.lease(ClientKey(domain), connections)
    transport = lease.client.transport
    extensions = {"timeout": TIMEOUTS}

    async def get(url: str) -> int:
        request = httpx.Request("GET", url, extensions=extensions)
        response = await transport.handle_async_request(request)
        return len(await response.aread())

    try:
        yield get
    finally:
        lease.release()
        await cache.aclose()


@asynccontextmanager
async def plain_httpx(domain: str, connections: int) -> AsyncIterator[Get]:
    """httpx as its documentation uses it, its pool as large as the connections."""
    import httpx

    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    async with httpx.AsyncClient(limits=limits) as client:

        async def get(url: str) -> int:
            return len((await client.get(url)).content)

        yield get


@asynccontextmanager
async def httpx_aiohttp(domain: str, connections: int) -> AsyncIterator[Get]:
    """httpx over aiohttp's connections."""
    import httpx
    import httpx_aiohttp

    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    async with httpx_aiohttp.HttpxAiohttpClient(limits=limits) as client:

        async def get(url: str) -> int:
            return len((await client.get(url)).content)

        yield get


@asynccontextmanager
async def plain_aiohttp(domain: str, connections: int) -> AsyncIterator[Get]:
    """aiohttp as its documentation uses it."""
    import aiohttp

    connector = aiohttp.TCPConnector(limit=connections)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def get(url: str) -> int:
            async with session.get(url) as response:
                return len(await response.read())

        yield get


CASES: dict[str, tuple[str, Case]] = {
    "ours": ("crawler", ours),
    "ours by transport": ("crawler", ours_by_transport),
    "ours by send": ("crawler", ours_by_send),
    "httpx": ("httpx", plain_httpx),
    "httpx-aiohttp": ("httpx_aiohttp", httpx_aiohttp),
    "aiohttp": ("aiohttp", plain_aiohttp),
}
"""The module each case needs, and the case."""


async def measured(
    case: Case, urls: Sequence[str], requests: int, connections: int
) -> dict[str, float]:
    """CPU µs and bytes of one request, requests a second.

    The clock runs from one completed request to another, `requests` later, with every
    worker busy before and after: neither the first burst nor the last requests count.
    """
    first = max(requests, WARM * connections)
    last = first + requests
    turn = cycle(urls)
    done = received = 0
    marks: list[tuple[float, float, int]] = []
    async with case(urlsplit(urls[0]).netloc, connections) as get:
        await asyncio.gather(*(get(urls[0]) for _ in range(connections)))

        async def work() -> None:
            nonlocal done, received
            while done < last:
                size = await get(next(turn))
                received += size
                done += 1
                if done in (first, last):
                    marks.append((cpu_s(), time.perf_counter(), received))

        await asyncio.gather(*(work() for _ in range(connections)))
    cpu, wall, size = (after - before for before, after in zip(*marks, strict=True))
    return {"cpu_us": cpu / requests * 1e6, "per_s": requests / wall, "bytes": size / requests}


def cpu_s() -> float:
    """User and system time of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("urls", type=Path, help="a file with a URL on each line")
    parser.add_argument("--requests", type=int, required=True)
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--loop", choices=LOOPS, required=True)
    given = parser.parse_args()
    urls = given.urls.read_text(encoding="utf-8").split()
    work = measured(CASES[given.case][1], urls, given.requests, given.connections)
    if given.loop == "uvloop":
        import uvloop

        figures = uvloop.run(work)
    else:
        figures = asyncio.run(work)
    print(json.dumps(figures))


if __name__ == "__main__":
    _main()
