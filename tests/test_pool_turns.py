"""Whose turn it is: replays, short sockets, slow readers, and who is to blame for waiting."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import httpx
import pytest

from crawler.errors import FetchError
from crawler.pool import ClientCache, ClientKey, Dialer, PoolTransport, SocketBudget
from crawler.pool.http1 import Http1
from tests.pool_server import OK, Peer, Server, hang, polite
from tests.wire import Wire, exchange, fetch, on_each_wire, open_cache, refused, turns, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


async def closing_silently(peer: Peer, head: bytes) -> bool:
    await peer.send(OK)
    return False


@on_each_wire
def test_a_replay_has_a_connection_of_its_own_and_fails_for_no_other_kept_one(wire: Wire) -> None:
    async def scene() -> None:
        async with Server(closing_silently) as server, wire.open_cache() as cache:
            lease = cache.lease(ClientKey(server.domain), connections=2)
            answers = await asyncio.gather(*(lease.client.get(server.url) for _ in range(60)))
            lease.release()
            assert [answer.text for answer in answers] == ["ok"] * 60
            assert server.peak <= 2

    wire.play(scene)


@on_each_wire
def test_a_server_that_counts_requests_teaches_nothing_of_keep_alive(wire: Wire) -> None:
    async def scene() -> None:
        async with Server(closing_silently) as server, wire.open_cache() as cache:
            lease = cache.lease(ClientKey(server.domain), connections=1)
            await asyncio.gather(*(lease.client.get(server.url) for _ in range(8)))
            lease.release()
            assert cache.dialer.keepalive(server.domain).learned == 15.0

    wire.play(scene)


def test_a_post_that_was_never_sent_goes_out_on_another_connection() -> None:
    """The server's end arrives after the connection was handed on and before it is used."""

    async def scene() -> None:
        async with Server() as server, open_cache() as cache:
            lease = cache.lease(ClientKey(server.domain), connections=1)
            first = asyncio.create_task(lease.client.get(server.url))
            await server.until_open(1)
            second = asyncio.create_task(lease.client.post(server.url, content=b"x"))
            (link,) = lease.client.transport.pool._hosts[server.domain].links
            assert isinstance(link, Http1)
            while link._answer is None:
                await turns(1)
            while link._answer is not None:
                await turns(1)
            link.eof_received()
            assert [(await task).text for task in (first, second)] == ["ok", "ok"]
            lease.release()
            assert [head.split()[0] for head in server.heads] == [b"GET", b"POST"]
            assert cache.stats().stale_replays == 1

    asyncio.run(scene())


# Short sockets


def test_while_sockets_are_short_a_connection_serves_its_own_domain_and_then_another() -> None:
    async def scene() -> None:
        async with (
            Server() as one,
            Server(host="127.0.0.2") as other,
            open_cache(4, budget=SocketBudget(2)) as cache,
        ):
            stop = False

            async def keep_busy() -> None:
                while not stop:
                    await fetch(cache, one.url, connections=4)

            busy = [asyncio.create_task(keep_busy()) for _ in range(4)]
            await one.until_heads(20)
            assert await fetch(cache, other.url, connect=2.0) == (200, b"ok", False)
            stop = True
            await asyncio.gather(*busy)
            stats = cache.stats()
            assert stats.reused_connections > 5 * stats.new_connections

    asyncio.run(scene())


def test_one_domain_with_fewer_sockets_than_places_still_uses_its_connections_again() -> None:
    async def scene() -> None:
        async with Server() as server, open_cache(4, budget=SocketBudget(2)) as cache:

            async def work() -> None:
                for _ in range(40):
                    await fetch(cache, server.url, connections=8)

            await asyncio.gather(*(work() for _ in range(8)))
            stats = cache.stats()
            assert stats.new_connections + stats.reused_connections == 320
            assert stats.reused_connections > 280
            assert (stats.orphans, cache.budget.stats().peak) == (0, 2)

    asyncio.run(scene())


@on_each_wire
def test_waiting_for_a_socket_is_never_the_domains_fault(wire: Wire) -> None:
    async def scene() -> None:
        async with (
            Server(hang) as holder,
            Server(host="127.0.0.2") as server,
            wire.open_cache(budget=SocketBudget(1)) as cache,
        ):
            held = asyncio.create_task(fetch(cache, holder.url))
            await holder.until_heads(1)
            error = await refused(cache, server.url, connect=0.05)
            assert (error.code, error.fault) == ("local", "local")
            held.cancel()
            with suppress(asyncio.CancelledError):
                await held
            assert await fetch(cache, server.url) == (200, b"ok", False)

    wire.play(scene)


def test_closing_a_dialer_ends_those_that_wait_for_a_socket() -> None:
    async def scene() -> None:
        async with Server(hang) as server:
            dialer = Dialer(SocketBudget(1))
            first, second = (PoolTransport(dialer=dialer) for _ in range(2))
            tasks = [
                asyncio.create_task(
                    transport.handle_async_request(httpx.Request("GET", server.url))
                )
                for transport in (first, second)
            ]
            await server.until_heads(1)
            await turns(5)
            await asyncio.wait_for(dialer.aclose(), 2)
            codes = [
                error.code if isinstance(error, FetchError) else error
                for error in await asyncio.gather(*tasks, return_exceptions=True)
            ]
            assert codes == ["cancelled", "cancelled"]
            assert dialer.budget.stats().open == 0

    asyncio.run(scene())


# Slow readers


async def in_many_parts(peer: Peer, head: bytes) -> bool:
    await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 40000000\r\n\r\n")
    with suppress(OSError):
        for _ in range(400):
            await peer.send(bytes(100_000))
    return True


async def read_slowly(answer: httpx.Response) -> None:
    async for _ in answer.aiter_raw():
        await asyncio.wait([asyncio.ensure_future(asyncio.sleep(0.03))])


@on_each_wire
def test_the_total_deadline_holds_while_the_reader_takes_its_time(wire: Wire) -> None:
    async def scene() -> None:
        async with Server(in_many_parts) as server, wire.open_cache() as cache:
            lease = cache.lease(ClientKey(server.domain))
            extensions = {"timeout": {"total": 0.2}}
            async with lease.client.stream("GET", server.url, extensions=extensions) as answer:
                with pytest.raises(FetchError) as caught:
                    await read_slowly(answer)
            assert caught.value.code == "total-timeout"
            lease.release()
            await server.until_open(0)

    wire.play(scene)


def test_an_answer_that_nobody_reads_gives_its_place_back_at_its_total_deadline() -> None:
    async def scene() -> None:
        async with Server(in_many_parts) as server, open_cache() as cache:
            lease = cache.lease(ClientKey(server.domain))
            deadlines = {"timeout": {"total": 0.1}}
            request = lease.client.build_request("GET", server.url, extensions=deadlines)
            answer = await lease.client.send(request, stream=True)
            await server.until_open(0)
            await until(lambda: cache.budget.stats().open == 0)
            with pytest.raises(FetchError) as caught:
                await answer.aread()
            assert caught.value.code == "total-timeout"
            lease.release()

    asyncio.run(scene())


@on_each_wire
def test_a_readers_own_pause_is_not_a_slow_server(wire: Wire) -> None:
    async def scene() -> None:
        async with Server(in_many_parts) as server, wire.open_cache() as cache:
            lease = cache.lease(ClientKey(server.domain))
            rate = {"timeout": {"rate": 5_000_000, "rate_over": 0.05}}
            async with lease.client.stream("GET", server.url, extensions=rate) as answer:
                size = pauses = 0
                async for part in answer.aiter_raw():
                    size += len(part)
                    if pauses < 4 and size > (pauses + 1) * 4_000_000:
                        pauses += 1
                        await asyncio.wait([asyncio.ensure_future(asyncio.sleep(0.12))])
            assert (size, pauses) == (40_000_000, 4)
            lease.release()

    wire.play(scene)


# What may be sent, what came before anybody asked


@on_each_wire
@pytest.mark.parametrize("coding", ["chunked", "gzip"])
def test_a_transfer_coding_of_the_callers_own_never_reaches_the_wire(
    coding: str, wire: Wire
) -> None:
    async def scene() -> None:
        async with Server(polite) as server, wire.open_cache() as cache:
            body = b"0\r\n\r\nGET /planted HTTP/1.1\r\n\r\n"
            headers = {"Transfer-Encoding": coding}
            await exchange(cache, server.url, method="POST", content=body, headers=headers)
            (head,) = server.heads
            assert b"transfer-encoding" not in head.lower()
            assert b"content-length: %d\r\n" % len(body) in head.lower()

    wire.play(scene)


@on_each_wire
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("field", [b"X: a\0b", b"Transfer-Encoding: gzip"])
def test_what_is_wrong_with_a_head_is_told_before_the_body_is_read(
    field: bytes, method: str, wire: Wire
) -> None:
    async def script(peer: Peer, head: bytes) -> bool:
        await peer.send(b"HTTP/1.1 200 OK\r\n" + field + b"\r\n\r\n")
        return False

    async def scene() -> None:
        async with Server(script) as server, wire.open_cache() as cache:
            lease = cache.lease(ClientKey(server.domain))
            with pytest.raises(FetchError) as caught:
                await lease.client.send(lease.client.build_request(method, server.url), stream=True)
            assert caught.value.code == "protocol"
            assert cache.stats().new_connections == 0
            lease.release()

    wire.play(scene)


@on_each_wire
def test_a_server_that_answers_before_it_is_asked_is_heard(wire: Wire) -> None:
    async def scene() -> None:
        async def early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 503 Full\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
            await reader.read(65_536)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

        server = await asyncio.start_server(early, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with wire.open_cache() as cache:
            for _ in range(10):
                assert (await fetch(cache, f"http://127.0.0.1:{port}/")).status == 503
        server.close()
        await server.wait_closed()

    wire.play(scene)


def test_a_cancelled_producer_of_a_body_ends_its_request() -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"x"
        raise asyncio.CancelledError

    async def scene() -> None:
        async with Server() as server, open_cache() as cache:
            error = await refused(cache, server.url, method="POST", content=body(), total=5)
            assert error.code == "bad-request"

    asyncio.run(scene())


def test_a_transport_of_another_loop_says_so() -> None:
    async def first(transport: PoolTransport) -> None:
        async with Server() as server:
            await (await transport.handle_async_request(httpx.Request("GET", server.url))).aread()

    async def second(transport: PoolTransport) -> None:
        with pytest.raises(httpx.LocalProtocolError, match="another event loop"):
            await transport.handle_async_request(httpx.Request("GET", "http://127.0.0.1/"))

    async def scene() -> PoolTransport:
        transport = PoolTransport(keepalive=0)
        await first(transport)
        await transport.dialer.sockets.aclose()
        return transport

    transport = asyncio.run(scene())
    asyncio.run(second(transport))


def test_a_cache_is_told_of_as_it_is() -> None:
    async def scene() -> None:
        async with Server() as server, open_cache() as cache:
            await fetch(cache, server.url)
            assert (
                repr(cache) == "<ClientCache 1/8 clients, 0 leases, <SocketTable 1 open, 1 idle>>"
            )
            assert isinstance(cache, ClientCache)

    asyncio.run(scene())
