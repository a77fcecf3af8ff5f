"""HTTP/2: many requests on one socket, and one request alone until that is known."""

from __future__ import annotations

import asyncio
import random
import sys

import pytest

from crawler.errors import SettingsError
from crawler.pool import PoolTransport, connection_of
from tests.h2_server import H2Server, Stream, silent
from tests.h2_wire import Gate, fails, get, key_of, on_both_loops, pool, settle
from tests.pool_server import Peer, Server
from tests.proxy_server import HttpProxy, SocksProxy
from tests.wire import (
    Wire,
    attempt,
    exchange,
    fetch,
    good_context,
    turns,
    until,
)

# Many on one


@on_both_loops
def test_an_answer_tells_its_version_and_which_request_it_was(wire: Wire) -> None:
    async def scene() -> None:
        async with H2Server() as server, wire.open_cache() as cache:
            for nth in range(1, 4):
                response, body = await exchange(cache, server.url, key=key_of(server))
                info = connection_of(response)
                assert (response.status_code, body) == (200, b"ok")
                assert (info.http_version, info.nth, info.reused) == ("HTTP/2", nth, nth > 1)
                assert (info.tls_s is None) == (nth > 1)
                assert info.peer == "127.0.0.1"
            assert server.connections == 1
            stats = cache.stats()
            assert (stats.new_connections, stats.reused_connections) == (1, 2)

    wire.play(scene)


@on_both_loops
def test_a_hundred_requests_share_one_socket_and_never_exceed_the_bound(wire: Wire) -> None:
    async def scene() -> None:
        async with H2Server() as server, wire.open_cache() as cache:
            found = await asyncio.gather(*(get(cache, server, connections=16) for _ in range(100)))
            assert [each.body for each in found] == [b"ok"] * 100
            assert sum(not each.reused for each in found) == 1
            assert server.connections == 1
            assert 8 < server.peak <= 16
            assert cache.stats().open_connections == 1
            await settle(cache, server)

    wire.play(scene)


@on_both_loops
def test_the_bound_holds_for_requests_and_those_that_wait_go_first_come_first(wire: Wire) -> None:
    async def scene() -> None:
        gate = Gate()
        async with H2Server(gate) as server, wire.open_cache() as cache:
            tasks = [
                asyncio.ensure_future(get(cache, server, f"{n}", connections=3)) for n in range(9)
            ]
            await server.until(lambda: len(server.streams) == 3)
            assert pool(cache, server).waiting == 6
            gate.opened.set()
            await asyncio.gather(*tasks)
            assert server.peak == 3
            assert [stream.path for stream in server.streams] == [f"/{n}" for n in range(9)]
            await settle(cache, server)

    wire.play(scene)


@on_both_loops
def test_waiting_for_a_place_has_its_own_deadline(wire: Wire) -> None:
    async def scene() -> None:
        gate = Gate()
        async with H2Server(gate) as server, wire.open_cache() as cache:
            first = asyncio.ensure_future(get(cache, server, connections=1))
            await server.until(lambda: server.active == 1)
            assert (await fails(cache, server, connections=1, pool=0.05)).code == "pool-timeout"
            gate.opened.set()
            await first
            await settle(cache, server)

    wire.play(scene)


@on_both_loops
def test_row_33_a_server_that_takes_fewer_requests_gets_fewer(wire: Wire) -> None:
    async def scene() -> None:
        async with H2Server(MAX_CONCURRENT_STREAMS=2) as server, wire.open_cache() as cache:
            await asyncio.gather(*(get(cache, server, connections=8) for _ in range(20)))
            assert server.connections == 1
            assert server.peak <= 2
            server.script = gate = Gate()
            running = [asyncio.ensure_future(get(cache, server)) for _ in range(2)]
            await server.until(lambda: server.active == 2)
            peer = server.peers[0]
            peer.settled.clear()
            peer.settings(MAX_CONCURRENT_STREAMS=1)
            await peer.settled.wait()
            server.peak = 0
            gate.opened.set()
            await asyncio.gather(*running, *(get(cache, server) for _ in range(6)))
            assert server.peak <= 1
            peer.settled.clear()
            peer.settings(MAX_CONCURRENT_STREAMS=50)
            await peer.settled.wait()
            await asyncio.gather(*(get(cache, server) for _ in range(20)))
            assert 1 < server.peak <= 8
            await settle(cache, server)

    wire.play(scene)


@on_both_loops
def test_a_server_that_takes_none_for_now_is_waited_for(wire: Wire) -> None:
    async def scene() -> None:
        async with H2Server() as server, wire.open_cache() as cache:
            await get(cache, server, connections=1)
            peer = server.peers[0]
            peer.settled.clear()
            peer.settings(MAX_CONCURRENT_STREAMS=0)
            await peer.settled.wait()
            waiting = asyncio.ensure_future(get(cache, server, connections=1))
            await until(lambda: pool(cache, server).waiting == 1)
            peer.settings(MAX_CONCURRENT_STREAMS=5)
            assert (await waiting).body == b"ok"
            await settle(cache, server)

    wire.play(scene)


# One alone, until it is known what is spoken


@on_both_loops
def test_row_39_a_server_of_http1_serves_all_of_fifty_first_requests(wire: Wire) -> None:
    async def scene() -> None:
        first, opened = asyncio.Event(), 0

        async def script(peer: Peer, head: bytes) -> bool:
            nonlocal opened
            opened = max(opened, peer.server.connections)
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            first.set()
            return True

        async with (
            Server(script, tls=good_context()) as server,
            wire.open_cache(keepalive=60) as cache,
        ):
            key = key_of(server)

            async def many() -> None:
                found = await asyncio.gather(
                    *(fetch(cache, server.url, key=key, connections=8) for _ in range(50))
                )
                assert {each.body for each in found} == {b"ok"}

            await many()
            assert 1 < server.peak <= 8
            assert cache.dialer.sockets.stats().failures == 0
            assert cache.evict_idle(server.domain) == 1
            await server.until_open(0)
            before = server.connections
            tasks = [
                asyncio.ensure_future(fetch(cache, server.url, key=key, connections=8))
                for _ in range(8)
            ]
            await turns(1)
            assert cache.open_connections(key) == 8  # known: nobody waits for the first
            await asyncio.gather(*tasks)
            assert server.connections - before <= 8

    wire.play(scene)


@on_both_loops
@pytest.mark.parametrize("kind", ["http", "https", "socks5"])
@pytest.mark.parametrize("speaks", ["h2", "http/1.1"])
def test_what_is_spoken_is_chosen_within_a_proxys_tunnel(
    speaks: str, kind: str, wire: Wire
) -> None:
    async def scene() -> None:
        server: H2Server | Server = H2Server() if speaks == "h2" else Server(tls=good_context())
        async with server:
            names = {"127.0.0.1": server.port}
            proxy = SocksProxy(names) if kind == "socks5" else HttpProxy(names, tls=kind == "https")
            async with proxy, wire.open_cache() as cache:
                key = key_of(server, proxy=f"{kind}://127.0.0.1:{proxy.port}")
                found = await asyncio.gather(
                    *(exchange(cache, server.url, key=key) for _ in range(10))
                )
                version = "HTTP/2" if speaks == "h2" else "HTTP/1.1"
                assert {connection_of(each).http_version for each, _ in found} == {version}
                assert proxy.connections == server.connections
                assert server.connections == 1 if speaks == "h2" else server.connections <= 4

    wire.play(scene)


def test_without_its_package_http2_is_refused_before_anything_is_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "h2", None)
    with pytest.raises(SettingsError, match="h2") as caught:
        PoolTransport(http2=True)
    assert caught.value.hint == 'pip install "poolcrawl[http2]"'


@on_both_loops
def test_while_nothing_is_known_one_socket_is_opened(wire: Wire) -> None:
    async def scene() -> None:
        async with H2Server() as server, wire.open_cache() as cache:
            tasks = [asyncio.ensure_future(get(cache, server)) for _ in range(8)]
            most = 0
            while not server.streams:
                most = max(most, cache.open_connections(key_of(server)))
                await turns(1)
            await asyncio.gather(*tasks)
            assert most == server.connections == 1
            await settle(cache, server)

    wire.play(scene)


@on_both_loops
def test_requests_without_tls_wait_for_nobody(wire: Wire) -> None:
    async def scene() -> None:
        async with Server() as server, wire.open_cache() as cache:
            tasks = [
                asyncio.ensure_future(fetch(cache, server.url, key=key_of(server)))
                for _ in range(4)
            ]
            await turns(1)
            assert cache.open_connections(key_of(server)) == 4
            await asyncio.gather(*tasks)

    wire.play(scene)


@on_both_loops
def test_when_the_first_is_cancelled_the_next_one_goes(wire: Wire) -> None:
    async def scene() -> None:
        async with H2Server() as server, wire.open_cache() as cache:
            tasks = [asyncio.ensure_future(get(cache, server)) for _ in range(3)]
            await turns(2)
            tasks[0].cancel()
            found = await asyncio.gather(*tasks, return_exceptions=True)
            assert isinstance(found[0], asyncio.CancelledError)
            assert [each.body for each in found[1:]] == [b"ok", b"ok"]  # type: ignore[union-attr]
            await server.until(lambda: server.open == 1)

    wire.play(scene)


@on_both_loops
def test_those_who_wait_for_the_first_share_its_failure(wire: Wire) -> None:
    async def scene() -> None:
        server = H2Server()
        async with server:
            pass
        async with wire.open_cache() as cache:
            url, key = server.url, key_of(server)
            found = await asyncio.gather(*(attempt(cache, url, key=key) for _ in range(5)))
            assert found == ["connect-refused"] * 5
            assert cache.stats().connect_failures == 1
            async with server:
                assert (await get(cache, server)).body == b"ok"

    wire.play(scene)


# Cancellation


@on_both_loops
def test_three_hundred_requests_cancelled_at_random_leave_nothing(wire: Wire) -> None:
    async def scene() -> None:
        chance = random.Random(2)

        async def slow(stream: Stream) -> None:
            stream.head()
            for _ in range(chance.randrange(4)):
                await stream.data(bytes(chance.randrange(1, 40_000)))
                await turns(chance.randrange(3))
            await stream.data(b"end", end=True)

        async with H2Server(slow) as server, wire.open_cache() as cache:
            whole = 0

            async def one(n: int) -> None:
                nonlocal whole
                content = bytes(chance.randrange(200_000)) if n % 3 == 0 else None
                method = "PUT" if content is not None else "GET"
                found = await get(cache, server, method=method, content=content, connections=16)
                assert found.body.endswith(b"end")
                whole += 1

            running: list[asyncio.Task[None]] = []
            for n in range(300):
                running.append(asyncio.ensure_future(one(n)))
                await turns(chance.randrange(6))
                if chance.random() < 0.7:
                    chance.choice(running).cancel()
            for task in running:
                await turns(chance.randrange(2))
                if chance.random() < 0.3:
                    task.cancel()
            for result in await asyncio.gather(*running, return_exceptions=True):
                assert result is None or isinstance(result, asyncio.CancelledError)
            assert 0 < whole < 300
            assert server.peak <= 16 + 16  # a reset may still be on its way
            stats = pool(cache, server)
            assert (stats.open, stats.waiting) == (1, 0)
            await settle(cache, server)

    wire.play(scene)


@on_both_loops
def test_closing_the_cache_ends_what_is_under_way(wire: Wire) -> None:
    async def scene() -> None:
        async with H2Server(silent) as server:
            async with wire.open_cache() as cache:
                tasks = [
                    asyncio.ensure_future(attempt(cache, server.url, key=key_of(server)))
                    for _ in range(3)
                ]
                await server.until(lambda: server.active == 1)
                await cache.aclose()
                assert await asyncio.gather(*tasks) == ["cancelled"] * 3
            await server.until(lambda: server.open == 0)

    wire.play(scene)


@on_both_loops
def test_row_19_a_request_cancelled_at_any_turn_of_the_loop_gives_its_place_back(
    wire: Wire,
) -> None:
    async def scene() -> None:
        body = bytes(200_000)
        async with H2Server() as server, wire.open_cache() as cache:
            for warm in (False, True):
                for after in range(40):
                    if warm:
                        await get(cache, server, connections=2)
                    tasks = [
                        asyncio.ensure_future(
                            get(cache, server, method="PUT", content=body, connections=2)
                        )
                        for _ in range(3)
                    ]
                    await turns(after)
                    for task in tasks[:2]:
                        task.cancel()
                    assert len((await tasks[2]).body) == len(body)
                    await asyncio.gather(*tasks, return_exceptions=True)
                    assert pool(cache, server).waiting == 0
                    await until(lambda: pool(cache, server).idle == pool(cache, server).open)
                    if not warm:
                        cache.evict_idle(server.domain)
                        await server.until(lambda: server.open == 0)
            await settle(cache, server, on=server.connections)

    wire.play(scene)
