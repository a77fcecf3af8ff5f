"""The client cache on real sockets: reuse, bounds, eviction, cancellation, the end."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import uvloop

from crawler.errors import FetchError, SettingsError
from crawler.pool import ClientCache, ClientKey, PoolTransport, SocketBudget
from crawler.pool.budget import open_descriptors
from tests.pool_server import OK, Peer, Server, hang, polite
from tests.wire import fetch, open_cache

if TYPE_CHECKING:
    from collections.abc import Callable

RUNNERS = [asyncio.run, uvloop.run]


@pytest.mark.parametrize("run", RUNNERS)
def test_new_and_reused_connections_are_counted_exactly(run: Callable[..., None]) -> None:
    async def scene() -> None:
        async with Server() as server, open_cache() as cache:
            reused = [(await fetch(cache, server.url))[2] for _ in range(10)]
            assert reused == [False] + [True] * 9
            stats = cache.stats()
            assert (stats.new_connections, stats.reused_connections) == (1, 9)
            assert (stats.hits, stats.misses) == (9, 1)
            assert cache.open_connections(ClientKey(server.domain)) == server.open == 1
            assert cache.dialer.sockets.stats().connects == server.connections == 1

    run(scene())


@pytest.mark.parametrize("run", RUNNERS)
def test_the_bound_of_a_domain_is_never_exceeded(run: Callable[..., None]) -> None:
    async def scene() -> None:
        async with Server() as server, open_cache() as cache:
            gate = asyncio.Semaphore(4)

            async def work() -> None:
                for _ in range(10):
                    async with gate:
                        await fetch(cache, server.url, connections=4)

            await asyncio.gather(*(work() for _ in range(12)))
            assert server.peak <= 4
            stats = cache.stats()
            assert stats.new_connections + stats.reused_connections == 120
            assert stats.new_connections == server.connections
            assert stats.orphans == 0

    run(scene())


def test_used_alone_more_requests_than_connections_wait_their_turn() -> None:
    async def scene() -> None:
        async with Server() as server, open_cache() as cache:
            lease = cache.lease(ClientKey(server.domain), connections=3)
            answers = await asyncio.gather(*(lease.client.get(server.url) for _ in range(40)))
            assert [answer.text for answer in answers] == ["ok"] * 40
            assert server.peak == 3
            lease.release()

    asyncio.run(scene())


def test_waiting_for_a_connection_has_a_deadline_and_leaves_nothing() -> None:
    async def scene() -> None:
        async with Server(hang) as server, open_cache() as cache:
            key = ClientKey(server.domain)
            lease = cache.lease(key, connections=1)
            first = asyncio.create_task(lease.client.get(server.url))
            await server.until_open(1)
            late = lease.client.build_request(
                "GET", server.url, extensions={"timeout": {"pool": 0.05}}
            )
            with pytest.raises(FetchError) as caught:
                await lease.client.send(late)
            assert caught.value.code == "pool-timeout"
            pool = cache.pool_stats(key)
            assert pool is not None
            assert (pool.open, pool.waiting) == (1, 0)
            first.cancel()
            with suppress(asyncio.CancelledError):
                await first
            lease.release()

    asyncio.run(scene())


def test_the_least_recently_used_client_goes_and_a_leased_one_never() -> None:
    async def scene() -> None:
        servers = [Server(host=f"127.0.0.{n}") for n in range(1, 5)]
        for server in servers:
            await server.__aenter__()
        a, b, c, d = (ClientKey(server.domain) for server in servers)
        async with open_cache(3) as cache:
            held = cache.lease(a)
            for server in (servers[1], servers[2], servers[1]):
                await fetch(cache, server.url)
            await fetch(cache, servers[3].url)  # c goes: b was used after it, a is held
            assert [cache.open_connections(key) for key in (a, b, c, d)] == [0, 1, 0, 1]
            await servers[2].until_open(0)
            assert (await held.client.get(servers[0].url)).text == "ok"
            others = [cache.lease(b), cache.lease(d)]
            assert not cache.may_lease(c)
            assert cache.may_lease(a)
            with pytest.raises(RuntimeError, match="in use"):
                cache.lease(c)
            for lease in (held, *others):
                lease.release()
            assert cache.may_lease(c)
            stats = cache.stats()
            assert (stats.clients, stats.clients_peak, stats.evictions) == (3, 3, 1)
        for server in servers:
            await server.__aexit__(None, None, None)

    asyncio.run(scene())


def test_a_domain_can_be_evicted_by_name_when_idle() -> None:
    async def scene() -> None:
        async with Server() as server, open_cache() as cache:
            lease = cache.lease(ClientKey(server.domain))
            await lease.client.get(server.url)
            assert cache.evict_idle(server.domain) == 0
            lease.release()
            assert cache.evict_idle("elsewhere") == 0
            assert cache.evict_idle(server.domain) == 1
            await server.until_open(0)
            assert cache.stats().clients == 0

    asyncio.run(scene())


def test_a_lease_is_released_exactly_once() -> None:
    async def scene() -> None:
        async with open_cache() as cache:
            lease = cache.lease(ClientKey("shop.test"))
            other = cache.lease(ClientKey("shop.test"))
            lease.release()
            with pytest.raises(RuntimeError, match="twice"):
                lease.release()
            assert cache.stats().leases == 1
            assert cache.stats().double_releases == 1
            other.release()

    asyncio.run(scene())


def test_keep_alive_ends_by_the_clock_whether_swept_or_not() -> None:
    async def scene() -> None:
        now = 100.0
        async with (
            Server() as first,
            Server(host="127.0.0.2") as second,
            open_cache(keepalive=15.0, clock=lambda: now) as cache,
        ):
            await fetch(cache, first.url)
            now = 110.0
            await fetch(cache, second.url)
            assert cache.sweep(114.9) == 0
            assert cache.sweep(116.0) == 1
            await first.until_open(0)
            assert second.open == 1
            now = 125.0
            assert (await fetch(cache, second.url))[2] is False
            assert (await fetch(cache, second.url))[2] is True

    asyncio.run(scene())


def test_clients_keep_no_cookies_and_follow_no_redirects() -> None:
    async def script(peer: Peer, head: bytes) -> bool:
        await peer.send(
            b"HTTP/1.1 302 Found\r\nLocation: /next\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n"
        )
        return True

    async def scene() -> None:
        async with Server(script) as server, open_cache() as cache:
            for _ in range(2):
                assert (await fetch(cache, server.url))[0] == 302
            assert not any(b"ookie" in head for head in server.heads)

    asyncio.run(scene())


@pytest.mark.parametrize("run", RUNNERS)
def test_after_the_end_no_descriptor_is_left_and_no_lease_is_given(
    run: Callable[..., None],
) -> None:
    async def scene() -> None:
        async with Server() as server, Server(hang, host="127.0.0.2") as slow:
            before = open_descriptors()
            cache = ClientCache(4)
            await asyncio.gather(*(fetch(cache, server.url, connections=8) for _ in range(8)))
            lease = cache.lease(ClientKey(slow.domain))
            under_way = asyncio.create_task(lease.client.get(slow.url))
            await slow.until_open(1)
            await cache.aclose()
            with pytest.raises(FetchError, match="cancelled"):
                await under_way
            lease.release()
            await cache.aclose()
            assert cache.stats().open_connections == cache.stats().leases == 0
            assert not cache.may_lease(ClientKey("x"))
            with pytest.raises(RuntimeError, match="closed"):
                cache.lease(ClientKey("x"))
            with pytest.raises(FetchError, match="closed"):
                await lease.client.transport.handle_async_request(
                    lease.client.build_request("GET", server.url)
                )
            await server.until_open(0)
            await slow.until_open(0)
            assert open_descriptors() == before

    run(scene())


async def fickle(peer: Peer, head: bytes) -> bool:
    """Every answer in two parts, so that a request has many places to be cancelled at."""
    await peer.send(OK[:20])
    await asyncio.sleep(0)
    await peer.send(OK[20:])
    return peer.requests % 5 != 0


@pytest.mark.parametrize("run", RUNNERS)
def test_cancelled_anywhere_nothing_is_lost(run: Callable[..., None]) -> None:
    async def scene() -> None:
        dice = random.Random(7)
        servers = [Server(fickle, host=f"127.0.0.{n}") for n in range(1, 5)]
        for server in servers:
            await server.__aenter__()
        async with open_cache(3, budget=SocketBudget(5)) as cache:

            async def work(server: Server) -> None:
                if cache.may_lease(ClientKey(server.domain)):
                    await fetch(cache, server.url, connections=12)

            for _ in range(30):
                tasks = [asyncio.create_task(work(dice.choice(servers))) for _ in range(12)]
                for task in dice.sample(tasks, 9):
                    for _ in range(dice.randrange(12)):
                        await asyncio.sleep(0)
                    task.cancel()
                ends = await asyncio.gather(*tasks, return_exceptions=True)
                wrong = [e for e in ends if not isinstance(e, asyncio.CancelledError | None)]
                assert not wrong
            assert cache.budget.stats().peak <= 5
            assert cache.budget.waiting == 0
            for server in servers:
                server.script = polite
                assert (await fetch(cache, server.url))[1] == b"ok"
            assert cache.budget.stats().open == cache.dialer.sockets.stats().idle
        for server in servers:
            await server.__aexit__(None, None, None)

    run(scene())


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"engine": "httpcor"}, "engine = 'httpcor': expected 'native' or 'httpcore'"),
        ({"engine": "curl", "http2": True}, "engine = 'curl'"),
        ({"keepalive": -1}, "keepalive = -1: expected seconds, 0 or more"),
        ({"keepalive": float("nan")}, "keepalive = nan"),
        ({"keepalive": None}, "keepalive = None"),
        ({"keepalive": "15"}, "keepalive = '15'"),
        ({"connections": 0}, "connections = 0: expected a whole number, 1 or more"),
        ({"connections": "8"}, "connections = '8'"),
        ({"local_address": "foo"}, "local_address = 'foo': expected an IP address, or None"),
        ({"proxy": httpx.Proxy("http://me:s3cret@h")}, "proxy of type Proxy: expected a URL"),
        ({"proxy": ""}, "not a URL of a proxy"),
    ],
)
def test_a_transport_refuses_what_it_cannot_work_with(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError) as caught:
        PoolTransport(**wrong)
    assert str(caught.value).startswith(told)
    assert "s3cret" not in str(caught.value)
    if "of type" in told:
        assert caught.value.hint == ("pass its URL as text: proxy='http://user:password@host:3128'")


def test_a_timeout_that_is_no_mapping_is_a_bad_request() -> None:
    async def scene() -> None:
        async with httpx.AsyncClient(transport=PoolTransport(keepalive=0)) as client:
            with pytest.raises(httpx.LocalProtocolError, match="a timeout must be a mapping"):
                await client.get("http://127.0.0.1:1/", extensions={"timeout": 5})

    asyncio.run(scene())
