"""The pool for long: cancelled at random, closed on at random, aborted; nothing stays behind.

Each scene has a short form that every run of the tests plays, and a long one.
"""

from __future__ import annotations

import asyncio
import gc
import random
import time
import tracemalloc
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from crawler.errors import FetchError
from crawler.pool import ClientCache, ClientKey, SocketBudget
from crawler.pool.budget import open_descriptors
from tests.pool_server import OK, Peer, Server, polite
from tests.wire import LOOPS, TRANSPORTS, open_cache, turns, until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from typing import Any

HALF = b"HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n" + bytes(1000)
HEADERS = [("user-agent", "soak")]

long = pytest.mark.soak
counts_of_cancelled = pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=long)])
counts_of_fickle = pytest.mark.parametrize("count", [2_000, pytest.param(20_000, marks=long)])
on_each_engine = pytest.mark.parametrize("engine", TRANSPORTS)
on_each_loop = pytest.mark.parametrize("loop", LOOPS)


def play(loop: str, scene: Callable[[], Coroutine[Any, Any, None]], within: float) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(within):
            await scene()

    LOOPS[loop](bounded())


async def get(cache: ClientCache, server: Server, connections: int = 8) -> bytes:
    """A page, as a crawl fetches it: under a lease of its own."""
    lease = cache.lease(ClientKey(server.domain), connections)
    try:
        answer = await lease.client.exchange("GET", server.url, headers=HEADERS)
        try:
            return b"".join([part async for part in answer])
        finally:
            await answer.aclose()
    finally:
        lease.release()


async def in_parallel(count: int, width: int, work: Callable[[], Awaitable[None]]) -> None:
    """That much work by that many hands."""
    left = iter(range(count))

    async def hand() -> None:
        for _ in left:
            await work()

    async with asyncio.TaskGroup() as hands:
        for _ in range(width):
            hands.create_task(hand())


async def two_parts(peer: Peer, head: bytes) -> bool:
    await peer.send(OK[:20])
    await asyncio.sleep(0)
    await peer.send(OK[20:])
    return True


async def speed(cache: ClientCache, server: Server) -> float:
    """Requests per second of CPU, the best of five."""
    best = 0.0

    async def one() -> None:
        await get(cache, server)

    for _ in range(5):
        begun = time.process_time()
        await in_parallel(1_000, 8, one)
        best = max(best, 1_000 / (time.process_time() - begun))
    return best


@on_each_loop
@on_each_engine
@counts_of_cancelled
def test_requests_cancelled_at_random_leave_nothing_and_cost_no_speed(
    count: int, engine: str, loop: str
) -> None:
    dice = random.Random(11)
    is_measured = count > 1_000

    async def scene() -> None:
        async with (
            Server(two_parts) as server,
            open_cache(4, transport=engine, budget=SocketBudget(6)) as cache,
        ):
            assert await get(cache, server) == b"ok"
            before = await speed(cache, server) if is_measured else 0.0
            cache.evict_idle(server.domain)
            await server.until_open(0)
            await until(lambda: cache.budget.stats().open == 0)
            descriptors, tasks = open_descriptors(), len(asyncio.all_tasks())
            done = 0

            async def one() -> None:
                nonlocal done
                task = asyncio.create_task(get(cache, server))
                await turns(dice.randrange(16))
                task.cancel()
                with suppress(asyncio.CancelledError):
                    assert await task == b"ok"
                    done += 1

            await in_parallel(count, 10, one)
            assert 0 < done < count
            stats = cache.stats()
            assert (stats.leases, stats.orphans, cache.budget.waiting) == (0, 0, 0)
            assert cache.budget.stats().peak <= 6
            assert cache.open_connections(ClientKey(server.domain)) <= 8
            if is_measured:
                after = await speed(cache, server)
                assert after >= 0.95 * before, f"{before:.0f}/s before, {after:.0f}/s after"
            assert await get(cache, server) == b"ok"
            cache.evict_idle(server.domain)
            await until(lambda: cache.budget.stats().open == 0)
            await server.until_open(0)
            await until(lambda: len(asyncio.all_tasks()) <= tasks)
            assert open_descriptors() == descriptors

    play(loop, scene, within=20.0 + count / 20)


@on_each_loop
@on_each_engine
@counts_of_fickle
def test_a_server_that_closes_idle_connections_at_random_costs_no_request(
    count: int, engine: str, loop: str
) -> None:
    dice = random.Random(5)
    closers: set[asyncio.Task[None]] = set()

    async def close_soon(peer: Peer, after: int) -> None:
        seen = peer.requests
        await turns(after)
        if peer.requests == seen:
            with suppress(OSError):
                peer.finish_now()
            peer.writer.transport.abort()

    async def fickle(peer: Peer, head: bytes) -> bool:
        await peer.send(OK)
        if dice.random() < 0.2:
            closer = asyncio.create_task(close_soon(peer, dice.randrange(8)))
            closers.add(closer)
            closer.add_done_callback(closers.discard)
        return True

    async def scene() -> None:
        # The same server closes all of them: what it teaches may not end keep-alive.
        async with Server(fickle) as server, open_cache(4, transport=engine) as cache:

            async def one() -> None:
                await turns(dice.randrange(6))
                assert await get(cache, server) == b"ok"

            await in_parallel(count, 6, one)
            stats = cache.stats()
            assert stats.new_connections + stats.reused_connections == count
            assert stats.connect_failures == 0
            # A replay is an exchange that no answer came of: it may have reached the server.
            assert count <= len(server.heads) <= count + stats.stale_replays
            assert server.connections == stats.new_connections
            assert stats.stale_replays + stats.peer_closes > count / 50
            assert stats.reused_connections > count / 4
            await asyncio.gather(*closers)

    play(loop, scene, within=10.0 + count / 100)


async def breaking_off(peer: Peer, head: bytes) -> bool:
    await peer.send(HALF)
    return False


async def stopping(peer: Peer, head: bytes) -> bool:
    await peer.send(HALF)
    await peer.until_gone()
    return False


@on_each_engine
@counts_of_cancelled
def test_row_36_short_and_aborted_bodies_leave_tasks_descriptors_and_memory_flat(
    count: int, engine: str
) -> None:
    async def cut_short(cache: ClientCache, server: Server) -> None:
        server.script = breaking_off
        with pytest.raises(FetchError, match="truncated"):
            await get(cache, server)

    async def left(cache: ClientCache, server: Server) -> None:
        server.script = stopping
        lease = cache.lease(ClientKey(server.domain), 4)
        answer = await lease.client.exchange("GET", server.url, headers=HEADERS)
        await anext(answer)
        await answer.aclose()
        lease.release()

    async def scene() -> None:
        async with Server() as server, open_cache(4, transport=engine) as cache:
            ways = (cut_short, left)

            async def many(times: int) -> tuple[int, int, int]:
                for nth in range(times):
                    await ways[nth % 2](cache, server)
                await server.until_open(0)
                await until(lambda: cache.budget.stats().open == 0)
                server.heads.clear()
                for _ in range(3):  # generators are closed in tasks of their own
                    gc.collect()
                    await turns(3)
                memory, _ = tracemalloc.get_traced_memory()
                return len(asyncio.all_tasks()), open_descriptors(), memory

            tracemalloc.start()
            try:
                await many(100)
                tasks, descriptors, memory = await many(100)
                now = await many(count)
            finally:
                tracemalloc.stop()
            assert now[0] <= tasks
            assert now[1] == descriptors
            assert now[2] - memory < 128 * 1024, f"{now[2] - memory} bytes more"
            server.script = polite
            assert await get(cache, server) == b"ok"

    play("asyncio", scene, within=20.0 + count / 50)
