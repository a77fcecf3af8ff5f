"""Ordinary and broken servers: what each costs, and that nothing is left of it."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from contextlib import AsyncExitStack, suppress

import pytest

from crawler.errors import FetchError
from crawler.pool import ClientKey, SocketBudget
from tests.pool_server import (
    OK,
    Peer,
    Script,
    Server,
    answering,
    hang,
    reset_at_once,
    saying,
)
from tests.wire import (
    Wire,
    fetch,
    full_backlog,
    on_each_wire,
    one_failure,
    refused,
    settle,
    turns,
    until,
)

HEAD = b"HTTP/1.1 200 OK\r\n"
LENGTH = HEAD + b"Content-Length: 9\r\n\r\nhalf"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"


def then_reset(data: bytes) -> Script:
    async def script(peer: Peer, head: bytes) -> bool:
        await peer.send(data)
        peer.reset()
        return False

    return script


FAULTS = {
    "row-04-reset-before-the-head": ("reset", reset_at_once),
    "row-04-reset-in-the-head": ("reset", then_reset(HEAD + b"Content-")),
    "row-04-closed-before-the-head": ("reset", answering(b"")),
    "row-04-closed-in-the-status-line": ("reset", answering(b"HTTP/1.1 2")),
    "row-04-closed-in-the-head": ("reset", answering(HEAD + b"Content-")),
    "row-04-closed-after-an-interim-answer": ("reset", answering(b"HTTP/1.1 103 Hi\r\n\r\n")),
    "row-05-short-body": ("truncated", answering(LENGTH)),
    "row-05-no-body-at-all": ("truncated", answering(HEAD + b"Content-Length: 9\r\n\r\n")),
    "row-05-missing-last-chunk": ("truncated", answering(CHUNKED)),
    "row-05-cut-chunk": ("truncated", answering(CHUNKED + b"9\r\nhalf")),
    "row-05-cut-chunk-size": ("truncated", answering(CHUNKED + b"9")),
    "row-05-missing-end-of-the-trailers": ("truncated", answering(CHUNKED + b"0\r\n")),
    "row-06-silence": ("head-timeout", hang),
    "row-06-silence-in-the-head": ("head-timeout", saying(HEAD + b"Content-")),
    "row-06-silence-after-an-interim-answer": (
        "head-timeout",
        saying(b"HTTP/1.1 103 Hi\r\n\r\n"),
    ),
    "row-10-stall-after-the-head": ("read-timeout", saying(HEAD + b"Content-Length: 9\r\n\r\n")),
    "row-10-stall-in-the-body": ("read-timeout", saying(LENGTH)),
    "row-10-stall-between-chunks": ("read-timeout", saying(CHUNKED)),
    "row-10-stall-in-the-trailers": ("read-timeout", saying(CHUNKED + b"0\r\n")),
}


@on_each_wire
@pytest.mark.parametrize(("code", "script"), FAULTS.values(), ids=FAULTS)
def test_every_fault_has_its_code_and_gives_slot_and_socket_back(
    code: str, script: Script, wire: Wire
) -> None:
    async def scene() -> None:
        assert (await one_failure(wire, script, head=0.05, read=0.05)).code == code

    wire.play(scene)


@on_each_wire
def test_row_04_a_reset_in_the_body_is_a_reset(wire: Wire) -> None:
    async def scene() -> None:
        told = asyncio.Event()

        async def script(peer: Peer, head: bytes) -> bool:
            await peer.send(LENGTH)
            await told.wait()
            peer.reset()
            return False

        async with Server(script) as server, wire.open_cache() as cache:
            lease = cache.lease(ClientKey(server.domain))
            async with lease.client.stream("GET", server.url) as response:
                parts = response.aiter_raw()
                assert await anext(parts) == b"half"
                told.set()
                with pytest.raises(FetchError, match="reset"):
                    await anext(parts)
            lease.release()
            await settle(cache, server)

    wire.play(scene)


@on_each_wire
def test_row_10_a_stall_is_told_to_those_who_read_the_body_at_once(wire: Wire) -> None:
    async def scene() -> None:
        async with Server(saying(LENGTH)) as server, wire.open_cache() as cache:
            lease = cache.lease(ClientKey(server.domain))
            with pytest.raises(FetchError) as caught:
                await lease.client.get(server.url, extensions={"timeout": {"read": 0.05}})
            assert caught.value.code == "read-timeout"
            lease.release()
            await settle(cache, server)

    wire.play(scene)


# Connecting


@on_each_wire
def test_row_16_nothing_listening_and_no_such_name_are_told_apart(wire: Wire) -> None:
    async def scene() -> None:
        async with Server() as server:
            gone = server.url
        async with wire.open_cache() as cache:
            assert (await refused(cache, gone)).code == "connect-refused"
            assert (await refused(cache, "http://a..b/")).code == "dns"

    wire.play(scene)


@on_each_wire
def test_row_17_a_failed_connect_takes_no_place(wire: Wire) -> None:
    async def scene() -> None:
        server = Server()
        async with server:
            pass
        async with wire.open_cache() as cache:
            key = ClientKey(server.domain)
            for _ in range(3):
                error = await refused(cache, server.url, connections=1)
                assert error.code == "connect-refused"
                await until(lambda: cache.open_connections(key) == 0)
            async with server:
                await settle(cache, server)
                assert cache.stats().new_connections == server.connections == 1

    wire.play(scene)


@on_each_wire
def test_row_07_a_full_backlog_is_a_connect_timeout(wire: Wire) -> None:
    async def scene() -> None:
        with full_backlog() as url:
            async with wire.open_cache() as cache:
                assert (await refused(cache, url, connect=0.1)).code == "connect-timeout"

    wire.play(scene)


@on_each_wire
def test_a_close_delimited_body_ends_with_its_connection(wire: Wire) -> None:
    async def scene() -> None:
        script = answering(HEAD + b"\r\n" + b"x" * 300_000)
        async with Server(script) as server, wire.open_cache() as cache:
            assert await fetch(cache, server.url) == (200, b"x" * 300_000, False)
            await settle(cache, server)

    wire.play(scene)


@on_each_wire
@pytest.mark.parametrize("is_begun", [False, True], ids=["dropped-unread", "half-read"])
def test_row_21_an_unread_body_closes_its_connection(is_begun: bool, wire: Wire) -> None:
    async def scene() -> None:
        script = saying(HEAD + b"Content-Length: 5000000\r\n\r\n" + bytes(1000))
        async with Server(script) as server, wire.open_cache() as cache:
            lease = cache.lease(ClientKey(server.domain))
            request = lease.client.build_request("GET", server.url)
            response = await lease.client.send(request, stream=True)
            if is_begun:
                assert await anext(response.aiter_raw())
            await response.aclose()
            await response.aclose()
            lease.release()
            await server.until_open(0)
            assert cache.open_connections(lease.key) == 0
            await settle(cache, server)

    wire.play(scene)


@on_each_wire
def test_a_reader_who_stops_makes_the_server_stop(wire: Wire) -> None:
    size, sent = 32 << 20, 0

    async def script(peer: Peer, head: bytes) -> bool:
        nonlocal sent
        await peer.send(HEAD + b"Content-Length: %d\r\n\r\n" % size)
        while sent < size:
            await peer.send(bytes(65536))
            sent += 65536
        return True

    async def scene() -> None:
        async with Server(script) as server, wire.open_cache() as cache:
            lease = cache.lease(ClientKey(server.domain))
            async with lease.client.stream("GET", server.url) as response:
                parts = response.aiter_raw()
                received, before = len(await anext(parts)), -1
                while sent != before:
                    before = sent
                    await turns(50)
                assert sent < size // 2
                async for part in parts:
                    received += len(part)
            lease.release()
            assert received == size
            assert (await fetch(cache, server.url, method="HEAD")).reused

    wire.play(scene)


@on_each_wire
def test_row_35_a_connection_that_failed_never_serves_again(wire: Wire) -> None:
    async def second_is_broken(peer: Peer, head: bytes) -> bool:
        await peer.send(OK if peer.requests == 1 else b"garbage\r\n\r\n")
        return True

    async def scene() -> None:
        async with Server(second_is_broken) as server, wire.open_cache() as cache:
            for served in range(1, 4):
                assert await fetch(cache, server.url, connections=1) == (200, b"ok", False)
                assert (await refused(cache, server.url, connections=1)).code == "protocol"
                await server.until_open(0)
                assert server.connections == served

    wire.play(scene)


# The budget on the wire


@on_each_wire
def test_ten_hosts_share_four_sockets_by_closing_the_longest_idle(wire: Wire) -> None:
    async def scene() -> None:
        async with AsyncExitStack() as stack:
            servers = [Server(host=f"127.0.0.{n}") for n in range(1, 11)]
            for server in servers:
                await stack.enter_async_context(server)
            cache = await stack.enter_async_context(wire.open_cache(16, budget=SocketBudget(4)))
            for _ in range(2):
                await asyncio.gather(*(fetch(cache, s.url) for s in servers for _ in range(2)))
            assert cache.budget.stats().peak == 4
            assert cache.budget.stats().refused == 0
            hot = servers[0]
            await fetch(cache, hot.url)
            for server in servers[1:]:
                await fetch(cache, server.url)
                assert (await fetch(cache, hot.url)).reused  # never the longest idle

    wire.play(scene)


@on_each_wire
def test_a_machine_without_descriptors_is_a_local_error_and_shrinks_the_budget(
    wire: Wire,
) -> None:
    async def scene() -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        taken = [os.dup(0)]
        with socket.create_server(("127.0.0.1", 0)) as listener:
            async with wire.open_cache(budget=SocketBudget(16)) as cache:
                resource.setrlimit(resource.RLIMIT_NOFILE, (taken[0] + 4, hard))
                try:
                    with suppress(OSError):
                        while True:
                            taken.append(os.dup(0))
                    port = listener.getsockname()[1]
                    error = await refused(cache, f"http://127.0.0.1:{port}/")
                finally:
                    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                    for descriptor in taken:
                        os.close(descriptor)
                assert (error.code, error.fault) == ("local", "local")
                assert cache.budget.stats().limit == 8

    wire.play(scene)
