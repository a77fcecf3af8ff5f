"""When a connection serves again, and what happens to a request that it lets down."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from crawler.pool import ClientKey
from tests.pool_server import OK, Peer, Server, keeping, polite, reset_at_once
from tests.wire import Wire, fetch, on_each_wire, refused, settle, until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"

# Framing and reuse

REUSE: dict[str, tuple[bytes, bool | dict[str, bool]]] = {
    "row-15-length": (OK, True),
    "row-15-chunks": (CHUNKED + b"0\r\n\r\n", True),
    "row-15-empty-body": (HEAD + b"Content-Length: 0\r\n\r\n", True),
    "row-15-204": (b"HTTP/1.1 204 No Content\r\n\r\n", True),
    "row-15-204-with-a-length": (b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", True),
    "row-15-304-with-a-length": (
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 77\r\n\r\n",
        True,
    ),
    "row-15-304-in-chunks": (
        b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n",
        True,
    ),
    "row-15-interim-answer": (b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK, True),
    "row-14-connection-close": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
        False,
    ),
    "row-14-close-in-a-list": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: x, Close\r\n\r\nok",
        False,
    ),
    "row-14-http-1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", False),
    "row-14-http-1.0-in-chunks": (
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        False,
    ),
    "row-14-http-1.0-keep-alive": (
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nok",
        {"native": True, "httpcore": False},
    ),
    "row-13-surplus": (HEAD + b"Content-Length: 2\r\n\r\nok and more", False),
    "row-13-surplus-after-chunks": (CHUNKED + b"0\r\n\r\nmore", False),
    "row-13-surplus-after-304": (b"HTTP/1.1 304 Not Modified\r\n\r\nmore", False),
    "row-13-surplus-after-204": (
        b"HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\nmore",
        False,
    ),
}


@on_each_wire
@pytest.mark.parametrize(("answer", "is_kept"), REUSE.values(), ids=REUSE)
def test_a_connection_is_kept_only_when_nothing_is_left_over(
    answer: bytes, is_kept: bool | dict[str, bool], wire: Wire
) -> None:
    expected = is_kept if isinstance(is_kept, bool) else is_kept[wire.transport]

    async def scene() -> None:
        async with Server(keeping(answer)) as server, wire.open_cache() as cache:
            first = await fetch(cache, server.url)
            second = await fetch(cache, server.url)
            assert first[:2] == second[:2]
            assert b"more" not in second.body
            assert second.reused is expected
            assert server.connections == (1 if expected else 2)

    wire.play(scene)


@on_each_wire
@pytest.mark.parametrize("field", [b"Content-Length: 5000", b"Transfer-Encoding: chunked"])
def test_row_15_head_requests_do_not_wait_for_a_body(field: bytes, wire: Wire) -> None:
    async def scene() -> None:
        script = keeping(HEAD + field + b"\r\n\r\n")
        async with Server(script) as server, wire.open_cache() as cache:
            assert await fetch(cache, server.url, method="HEAD") == (200, b"", False)
            assert await fetch(cache, server.url, method="HEAD") == (200, b"", True)

    wire.play(scene)


@on_each_wire
def test_row_13_a_body_sent_to_a_head_request_ends_its_connection(wire: Wire) -> None:
    async def scene() -> None:
        async with Server(keeping(OK)) as server, wire.open_cache() as cache:
            assert await fetch(cache, server.url, method="HEAD") == (200, b"", False)
            assert await fetch(cache, server.url) == (200, b"ok", False)

    wire.play(scene)


# Stale keep-alive


async def resetting_second(peer: Peer, head: bytes) -> bool:
    if peer.requests > 1:
        peer.reset()
        return False
    return await polite(peer, head)


async def closing_second(peer: Peer, head: bytes) -> bool:
    return peer.requests == 1 and await polite(peer, head)


@on_each_wire
@pytest.mark.parametrize("script", [resetting_second, closing_second])
def test_row_01_a_stale_connection_is_replayed_once_and_a_post_is_not(
    script: Callable[[Peer, bytes], Awaitable[bool]], wire: Wire
) -> None:
    async def scene() -> None:
        async with Server(script) as server, wire.open_cache() as cache:
            assert (await fetch(cache, server.url)).reused is False
            assert await fetch(cache, server.url) == (200, b"ok", False)
            assert server.connections == 2
            assert cache.stats().stale_replays == 1
            error = await refused(cache, server.url, method="POST", content=b"order")
            assert error.code == "reset"
            assert sum(head.startswith(b"POST") for head in server.heads) == 1
            assert cache.stats().stale_replays == 1
            await settle(cache, server)

    wire.play(scene)


@on_each_wire
def test_row_01_a_replay_is_never_replayed(wire: Wire) -> None:
    async def script(peer: Peer, head: bytes) -> bool:
        return peer.number == 1 and peer.requests == 1 and await polite(peer, head)

    async def scene() -> None:
        async with Server(script) as server, wire.open_cache() as cache:
            await fetch(cache, server.url)
            assert (await refused(cache, server.url)).code == "reset"
            assert len(server.heads) == 3
            assert cache.stats().stale_replays == 1

    wire.play(scene)


@on_each_wire
def test_row_01_nothing_is_replayed_after_the_first_byte_of_an_answer(wire: Wire) -> None:
    async def script(peer: Peer, head: bytes) -> bool:
        if peer.requests == 1:
            return await polite(peer, head)
        await peer.send(b"HTTP/1.1 2")
        return False

    async def scene() -> None:
        async with Server(script) as server, wire.open_cache() as cache:
            await fetch(cache, server.url)
            assert (await refused(cache, server.url)).code == "reset"
            assert len(server.heads) == 2
            assert cache.stats().stale_replays == 0

    wire.play(scene)


@on_each_wire
def test_row_01_a_fresh_connection_is_never_replayed(wire: Wire) -> None:
    async def scene() -> None:
        async with Server(reset_at_once) as server, wire.open_cache() as cache:
            await refused(cache, server.url)
            assert len(server.heads) == 1
            assert cache.stats().stale_replays == 0

    wire.play(scene)


@on_each_wire
def test_row_02_a_connection_closed_while_idle_is_gone_without_a_request(wire: Wire) -> None:
    async def scene() -> None:
        cut = asyncio.Event()

        async def script(peer: Peer, head: bytes) -> bool:
            await peer.send(OK)
            await cut.wait()
            return False

        async with Server(script) as server, wire.open_cache() as cache:
            key = ClientKey(server.domain)
            await fetch(cache, server.url)
            assert cache.open_connections(key) == 1
            cut.set()
            await until(lambda: cache.budget.stats().open == 0)
            assert cache.open_connections(key) == 0
            await settle(cache, server)
            assert cache.stats().stale_replays == 0

    wire.play(scene)


@on_each_wire
def test_row_03_a_fin_that_arrives_with_the_next_request_costs_nothing(wire: Wire) -> None:
    async def scene() -> None:
        async with Server() as server, wire.open_cache() as cache:
            await fetch(cache, server.url)
            server.peers[0].finish_now()
            assert await fetch(cache, server.url) == (200, b"ok", False)
            assert server.connections == 2
            assert cache.stats().stale_replays <= 1

    wire.play(scene)


# Row 26: keep-alive ends


@on_each_wire
def test_row_26_without_keep_alive_no_connection_serves_twice(wire: Wire) -> None:
    async def scene() -> None:
        async with Server() as server, wire.open_cache(keepalive=0.0) as cache:
            for _ in range(3):
                assert await fetch(cache, server.url) == (200, b"ok", False)
            assert server.connections == 3
            assert server.peak <= 2
            assert cache.stats().stale_replays == 0

    wire.play(scene)


@on_each_wire
def test_row_26_keep_alive_ends_by_the_clock_swept_or_not(wire: Wire) -> None:
    async def scene() -> None:
        now = 100.0
        async with (
            Server() as server,
            wire.open_cache(keepalive=15.0, clock=lambda: now) as cache,
        ):
            await fetch(cache, server.url)
            now = 114.0
            assert (await fetch(cache, server.url)).reused
            assert cache.sweep(128.9) == 0
            now = 129.5
            assert not (await fetch(cache, server.url)).reused
            assert cache.sweep(145.0) == 1
            await server.until_open(0)
            assert cache.sweep(999.0) == 0

    wire.play(scene)


@on_each_wire
@pytest.mark.parametrize(
    ("field", "at", "is_kept"),
    [
        (b"Keep-Alive: timeout=5", 103.0, True),
        (b"Keep-Alive: timeout=5", 105.5, False),
        (b"keep-alive: max=99, timeout=5", 105.5, False),
        (b"Keep-Alive: timeout=500", 116.0, False),
        (b"Keep-Alive: timeout=x, max=y, z", 103.0, True),
        (b"Keep-Alive: max=2", 100.0, True),
        (b"Keep-Alive: max=1", 100.0, False),
        (b"Keep-Alive: max=0", 100.0, False),
        (b"Keep-Alive: timeout=0", 100.0, False),
    ],
)
def test_row_14_what_the_server_says_of_keep_alive_is_obeyed(
    field: bytes, at: float, is_kept: bool, wire: Wire
) -> None:
    async def scene() -> None:
        now = 100.0
        script = keeping(HEAD + field + b"\r\nContent-Length: 2\r\n\r\nok")
        async with (
            Server(script) as server,
            wire.open_cache(keepalive=15.0, clock=lambda: now) as cache,
        ):
            await fetch(cache, server.url)
            now = at
            assert (await fetch(cache, server.url)).reused is is_kept

    wire.play(scene)
