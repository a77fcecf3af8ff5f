"""What the tests of HTTP/2 share: a client that may speak it, and scenes that end clean."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from crawler.pool import ClientCache, ClientKey, TlsProfile
from tests.h2_server import H2Server, Stream, polite
from tests.wire import CA_FILE, LOOPS, Wire, fetch, refused, until

if TYPE_CHECKING:
    from crawler.errors import FetchError
    from tests.pool_server import Server

TRUSTING = TlsProfile(ca_file=CA_FILE)
on_both_loops = pytest.mark.parametrize(
    "wire", [Wire("native", loop) for loop in LOOPS], ids=list(LOOPS)
)


def key_of(server: H2Server | Server, **options: Any) -> ClientKey:
    return ClientKey(server.domain, tls=TRUSTING, http2=True, **options)


async def get(cache: ClientCache, server: H2Server, path: str = "", **options: Any) -> Any:
    return await fetch(cache, server.url + path, key=key_of(server), **options)


async def fails(cache: ClientCache, server: H2Server, path: str = "", **options: Any) -> FetchError:
    return await refused(cache, server.url + path, key=key_of(server), **options)


async def settle(cache: ClientCache, server: H2Server, *, on: int = 1) -> None:
    """Every stream has come back, and the one connection is idle and serves again."""
    await server.until(lambda: server.active == 0)
    await until(lambda: pool(cache, server).idle == pool(cache, server).open)
    server.script = polite
    assert (await get(cache, server)).body == b"ok"
    assert server.connections == on
    assert pool(cache, server).waiting == 0
    assert cache.stats().orphans == 0


def pool(cache: ClientCache, server: H2Server) -> Any:
    return cache.pool_stats(key_of(server))


class Gate:
    """Holds every stream until it is opened."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()

    async def __call__(self, stream: Stream) -> None:
        await self.opened.wait()
        await stream.answer()


class Half:
    """Answers by half, and waits."""

    def __init__(self) -> None:
        self.is_sent = asyncio.Event()

    async def __call__(self, stream: Stream) -> None:
        stream.head(("content-length", "8"))
        await stream.data(b"half")
        self.is_sent.set()
        await stream.is_reset.wait()
