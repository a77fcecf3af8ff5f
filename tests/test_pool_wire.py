"""What servers do wrong, and what each costs: its code, and no slot, token or socket."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import uvloop

from crawler.errors import FetchError
from crawler.pool import ClientCache, ClientKey, SocketBudget, connection_of
from tests.pool_server import OK, Peer, Server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine

RUNNERS = [asyncio.run, uvloop.run]


@asynccontextmanager
async def open_cache(limit: int = 8, **options: Any) -> AsyncIterator[ClientCache]:
    """A cache that must be clean when the scene ends."""
    cache = ClientCache(limit, **options)
    try:
        yield cache
        assert cache.stats().leases == 0
    finally:
        await cache.aclose()
    assert cache.stats().open_connections == 0
    assert cache.budget.stats().open == 0


async def fetch(
    cache: ClientCache,
    url: str,
    *,
    key: ClientKey | None = None,
    method: str = "GET",
    content: bytes | None = None,
    connections: int = 4,
    **timeouts: float,
) -> tuple[int, bytes, bool]:
    """Status, body and whether the connection was reused."""
    parts = httpx.URL(url)
    lease = cache.lease(key or ClientKey(parts.netloc.decode()), connections)
    try:
        request = lease.client.build_request(
            method,
            url,
            content=content,
            extensions={"timeout": {"connect": 5, "head": 5, "read": 5, "write": 5, **timeouts}},
        )
        response = await lease.client.send(request, stream=True)
        try:
            body = b"".join([part async for part in response.aiter_raw()])
        finally:
            await response.aclose()
        return response.status_code, body, connection_of(response).reused
    finally:
        lease.release()


def answering(data: bytes) -> Callable[[Peer, bytes], Awaitable[bool]]:
    async def script(peer: Peer, head: bytes) -> bool:
        await peer.send(data)
        return False

    return script


async def hang(peer: Peer, head: bytes) -> bool:
    await peer.until_gone()
    return False


async def stall_in_body(peer: Peer, head: bytes) -> bool:
    await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
    await peer.until_gone()
    return False


async def reset_at_once(peer: Peer, head: bytes) -> bool:
    peer.reset()
    return False


LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"
FAULTS = [
    ("reset", reset_at_once),
    ("reset", answering(b"")),
    ("reset", answering(b"HTTP/1.1 200 OK\r\nContent-")),
    ("truncated", answering(LENGTH)),
    ("truncated", answering(CHUNKED)),
    ("protocol", answering(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")),
    ("protocol", answering(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx")),
    ("protocol", answering(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")),
    ("too-large", answering(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000)),
    ("head-timeout", hang),
    ("read-timeout", stall_in_body),
]


@pytest.mark.parametrize("run", RUNNERS)
@pytest.mark.parametrize(("code", "script"), FAULTS)
def test_every_fault_has_its_code_and_gives_slot_and_socket_back(
    code: str, script: Callable[[Peer, bytes], Awaitable[bool]], run: Callable[..., None]
) -> None:
    async def scene() -> None:
        async with Server(script) as server, open_cache() as cache:
            with pytest.raises(FetchError) as caught:
                await fetch(cache, server.url, head=0.05, read=0.05, connections=1)
            assert caught.value.code == code
            assert caught.value.url == server.url
            await server.until_open(0)
            server.script = answering(OK)
            assert await fetch(cache, server.url, connections=1) == (200, b"ok", False)

    run(scene())


@pytest.mark.parametrize("run", RUNNERS)
def test_a_reset_in_the_body_is_a_reset(run: Callable[..., None]) -> None:
    async def scene() -> None:
        told = asyncio.Event()

        async def script(peer: Peer, head: bytes) -> bool:
            await peer.send(LENGTH)
            await told.wait()
            peer.reset()
            return False

        async with Server(script) as server, open_cache() as cache:
            lease = cache.lease(ClientKey(server.domain))
            async with lease.client.stream("GET", server.url) as response:
                parts = response.aiter_raw()
                assert await anext(parts) == b"half"
                told.set()
                with pytest.raises(FetchError, match="reset"):
                    await anext(parts)
            lease.release()

    run(scene())


def test_nothing_listening_and_no_such_name_are_told_apart() -> None:
    async def scene() -> None:
        async with Server() as server:
            gone = server.url
        async with open_cache() as cache:
            with pytest.raises(FetchError) as caught:
                await fetch(cache, gone)
            assert caught.value.code == "connect-refused"
            with pytest.raises(FetchError) as caught:
                await fetch(cache, "http://a..b/")
            assert caught.value.code == "dns"

    asyncio.run(scene())


def test_a_full_backlog_is_a_connect_timeout() -> None:
    async def scene() -> None:
        listener = socket.create_server(("127.0.0.1", 0), backlog=0)
        port = listener.getsockname()[1]
        fillers = [socket.socket() for _ in range(3)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        async with open_cache() as cache:
            with pytest.raises(FetchError) as caught:
                await fetch(cache, f"http://127.0.0.1:{port}/", connect=0.1)
            assert caught.value.code == "connect-timeout"
        for sock in (*fillers, listener):
            sock.close()

    asyncio.run(scene())


def test_a_peer_that_does_not_read_is_a_write_timeout() -> None:
    async def deaf(peer: Peer, head: bytes) -> bool:
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.Event().wait()
        return False

    async def scene() -> None:
        async with Server(deaf) as server, open_cache() as cache:
            with pytest.raises(FetchError) as caught:
                await fetch(cache, server.url, method="POST", content=bytes(30_000_000), write=0.1)
            assert caught.value.code == "write-timeout"

    asyncio.run(scene())


# Framing and reuse


@pytest.mark.parametrize("run", RUNNERS)
@pytest.mark.parametrize(
    ("answer", "is_kept"),
    [
        (OK, True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", True),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 77\r\n\r\n", True),
        (b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK, True),
        (OK + b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nplanted", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", False),
    ],
)
def test_a_connection_is_kept_only_when_nothing_is_left_over(
    answer: bytes, is_kept: bool, run: Callable[..., None]
) -> None:
    async def script(peer: Peer, head: bytes) -> bool:
        await peer.send(answer)
        return True

    async def scene() -> None:
        async with Server(script) as server, open_cache() as cache:
            first = await fetch(cache, server.url)
            second = await fetch(cache, server.url)
            assert first[:2] == second[:2]
            assert b"planted" not in second[1]
            assert second[2] is is_kept
            assert server.connections == (1 if is_kept else 2)

    run(scene())


def test_head_requests_do_not_wait_for_a_body() -> None:
    async def script(peer: Peer, head: bytes) -> bool:
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n")
        return True

    async def scene() -> None:
        async with Server(script) as server, open_cache() as cache:
            assert await fetch(cache, server.url, method="HEAD") == (200, b"", False)
            assert await fetch(cache, server.url, method="HEAD") == (200, b"", True)

    asyncio.run(scene())


def test_an_unread_body_closes_its_connection() -> None:
    async def script(peer: Peer, head: bytes) -> bool:
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5000000\r\n\r\n" + bytes(1000))
        await peer.until_gone()
        return False

    async def scene() -> None:
        async with Server(script) as server, open_cache() as cache:
            lease = cache.lease(ClientKey(server.domain))
            request = lease.client.build_request("GET", server.url)
            response = await lease.client.send(request, stream=True)
            await response.aclose()
            lease.release()
            await server.until_open(0)
            assert cache.open_connections(lease.key) == 0

    asyncio.run(scene())


# Stale keep-alive


def closing_second(peer: Peer, head: bytes) -> Coroutine[Any, Any, bool]:
    """Answers a connection's first request and cuts it at the second."""

    async def act() -> bool:
        if peer.requests > 1:
            peer.reset()
            return False
        await peer.send(OK)
        return True

    return act()


@pytest.mark.parametrize("run", RUNNERS)
def test_a_stale_connection_is_replayed_once_and_a_post_is_not(run: Callable[..., None]) -> None:
    async def scene() -> None:
        async with Server(closing_second) as server, open_cache() as cache:
            assert (await fetch(cache, server.url))[2] is False
            assert await fetch(cache, server.url) == (200, b"ok", False)
            assert cache.stats().stale_replays == 1
            with pytest.raises(FetchError, match="reset"):
                await fetch(cache, server.url, method="POST", content=b"order")
            assert sum(head.startswith(b"POST") for head in server.heads) == 1
            assert cache.stats().stale_replays == 1

    run(scene())


def test_a_fresh_connection_is_never_replayed() -> None:
    async def scene() -> None:
        async with Server(reset_at_once) as server, open_cache() as cache:
            with pytest.raises(FetchError):
                await fetch(cache, server.url)
            assert len(server.heads) == 1
            assert cache.stats().stale_replays == 0

    asyncio.run(scene())


@pytest.mark.parametrize("run", RUNNERS)
def test_a_connection_closed_while_idle_is_gone_without_a_request(
    run: Callable[..., None],
) -> None:
    async def scene() -> None:
        async def script(peer: Peer, head: bytes) -> bool:
            await peer.send(OK)
            await cut.wait()
            return False

        cut = asyncio.Event()
        async with Server(script) as server, open_cache() as cache:
            key = ClientKey(server.domain)
            await fetch(cache, server.url)
            assert cache.open_connections(key) == 1
            cut.set()
            await server.until_open(0)
            await cache.backend.until_quiet()
            assert cache.open_connections(key) == 0
            assert cache.budget.stats().open == 0
            assert (await fetch(cache, server.url))[2] is False
            assert cache.stats().stale_replays == 0

    run(scene())


# The budget on the wire


def test_ten_hosts_share_four_sockets_by_closing_the_longest_idle() -> None:
    async def scene() -> None:
        servers = [Server(host=f"127.0.0.{n}") for n in range(1, 11)]
        for server in servers:
            await server.__aenter__()
        async with open_cache(16, budget=SocketBudget(4)) as cache:
            for _ in range(2):
                await asyncio.gather(*(fetch(cache, s.url) for s in servers for _ in range(2)))
            assert cache.budget.stats().peak == 4
            assert cache.budget.stats().refused == 0
            hot = servers[0]
            await fetch(cache, hot.url)
            for server in servers[1:]:
                await fetch(cache, server.url)
                assert (await fetch(cache, hot.url))[2] is True  # never the longest idle
        for server in servers:
            await server.__aexit__(None, None, None)

    asyncio.run(scene())


def test_a_machine_without_descriptors_is_a_local_error_and_shrinks_the_budget() -> None:
    async def scene() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        taken = [os.dup(0)]
        async with open_cache(budget=SocketBudget(16)) as cache:
            resource.setrlimit(resource.RLIMIT_NOFILE, (taken[0] + 4, hard))
            try:
                with suppress(OSError):
                    while True:
                        taken.append(os.dup(0))
                with pytest.raises(FetchError) as caught:
                    await fetch(cache, f"http://127.0.0.1:{listener.getsockname()[1]}/")
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                for descriptor in taken:
                    os.close(descriptor)
            assert (caught.value.code, caught.value.fault) == ("local", "local")
            assert cache.budget.stats().limit == 8
        listener.close()

    asyncio.run(scene())
