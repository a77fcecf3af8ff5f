"""What the wire tests share: every transport on every loop, and scenes that leave nothing.

A test that takes `wire` is decorated with `on_each_wire` and plays its scene there.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
import pytest
import uvloop

from crawler.errors import FetchError
from crawler.pool import ClientCache, ClientKey, connection_of
from tests.pool_server import Script, Server, answering, polite, saying

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterator

TRANSPORTS = ("httpcore", "native")
LOOPS: dict[str, Callable[[Coroutine[Any, Any, None]], None]] = {
    "asyncio": asyncio.run,
    "uvloop": uvloop.run,
}
SCENE_S = 5.0
"""No scene lasts longer: a transport that hangs fails, and does not stop the tests."""
CA_FILE = str(Path(__file__).with_name("pool_server.pem"))
"""A certificate that signed itself, with its key."""


class Wire(NamedTuple):
    """One transport on one loop."""

    transport: str
    loop: str

    def play(self, scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a scene to its end, which must come soon."""

        async def bounded() -> None:
            async with asyncio.timeout(SCENE_S):
                await scene()

        LOOPS[self.loop](bounded())

    @asynccontextmanager
    async def open_cache(self, limit: int = 8, **options: Any) -> AsyncIterator[ClientCache]:
        """A cache of this transport that must be clean when the scene ends."""
        async with open_cache(limit, transport=self.transport, **options) as cache:
            yield cache


WIRES = [Wire(transport, loop) for transport in TRANSPORTS for loop in LOOPS]
on_each_wire = pytest.mark.parametrize("wire", WIRES, ids="-".join)


@asynccontextmanager
async def open_cache(limit: int = 8, **options: Any) -> AsyncIterator[ClientCache]:
    """A cache that must be clean when the scene ends."""
    cache = ClientCache(limit, **options)
    try:
        yield cache
        assert cache.stats().leases == 0, cache
    finally:
        await cache.aclose()
    assert cache.stats().open_connections == 0, cache
    assert cache.budget.stats().open == 0, cache.budget


class Fetched(NamedTuple):
    """What came of a request; its connection's history too."""

    status: int
    body: bytes
    reused: bool


async def exchange(
    cache: ClientCache,
    url: str,
    *,
    key: ClientKey | None = None,
    method: str = "GET",
    content: bytes | AsyncIterable[bytes] | None = None,
    headers: dict[str, str] | None = None,
    connections: int = 4,
    **timeouts: float,
) -> tuple[httpx.Response, bytes]:
    """The response and its body as sent, under a lease of its own."""
    lease = cache.lease(key or ClientKey(httpx.URL(url).netloc.decode()), connections)
    try:
        request = lease.client.build_request(
            method,
            url,
            content=content,
            headers=headers,
            extensions={"timeout": {"connect": 5, "head": 5, "read": 5, "write": 5, **timeouts}},
        )
        response = await lease.client.send(request, stream=True)
        try:
            return response, b"".join([part async for part in response.aiter_raw()])
        finally:
            await response.aclose()
    finally:
        lease.release()


async def fetch(cache: ClientCache, url: str, **options: Any) -> Fetched:
    """Status, body and whether the connection was reused."""
    response, body = await exchange(cache, url, **options)
    return Fetched(response.status_code, body, connection_of(response).reused)


async def refused(cache: ClientCache, url: str, **options: Any) -> FetchError:
    """The error of a request that must fail."""
    with pytest.raises(FetchError) as caught:
        await fetch(cache, url, **options)
    return caught.value


async def attempt(
    cache: ClientCache, url: str, **options: Any
) -> tuple[httpx.Response, bytes] | str:
    """The response and its body, or the code of the error."""
    try:
        return await exchange(cache, url, **options)
    except FetchError as error:
        return error.code


async def until(holds: Callable[[], bool]) -> None:
    """Give the loop turns until that holds."""
    while not holds():
        await turns(1)


async def turns(count: int) -> None:
    """Give the loop that many turns."""
    for _ in range(count):
        await asyncio.sleep(0)


async def settle(cache: ClientCache, server: Server) -> None:
    """Slot, token and socket come back, and the next request is served as if new."""
    assert cache.stats().leases == 0, cache
    await server.until_open(0)
    await until(lambda: cache.budget.stats().open == 0)
    server.script = polite
    got = await fetch(cache, server.url)
    assert got == (200, b"ok", False), got


async def one_failure(wire: Wire, script: Script, **options: Any) -> FetchError:
    """The error that a script ends in, after which nothing is left of it."""
    async with Server(script) as server, wire.open_cache() as cache:
        error = await refused(cache, server.url, connections=1, **options)
        assert error.url == server.url, error
        await settle(cache, server)
    return error


async def check(wire: Wire, expected: str | bytes, answer: bytes) -> None:
    """A body, or the code of an error after which the client closes by itself."""
    if isinstance(expected, str):
        waits = expected not in ("truncated", "reset")
        script = saying(answer) if waits else answering(answer)
        error = await one_failure(wire, script, read=0.5, head=0.5)
        assert error.code == expected, error
        return
    async with Server(answering(answer)) as server, wire.open_cache() as cache:
        got = await fetch(cache, server.url)
        assert got == (200, expected, False), got
        await settle(cache, server)


@contextmanager
def full_backlog() -> Iterator[str]:
    """The URL of a port that answers no SYN."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=0)
    port = listener.getsockname()[1]
    fillers = [socket.socket() for _ in range(3)]
    try:
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        yield f"http://127.0.0.1:{port}/"
    finally:
        for sock in (*fillers, listener):
            sock.close()


def good_context() -> ssl.SSLContext:
    """A server's, of the certificate in CA_FILE, which is good for 127.0.0.1."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CA_FILE)
    return context
