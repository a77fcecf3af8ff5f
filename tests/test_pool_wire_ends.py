"""How requests end before their answer does: cancelled, closed, given up."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from crawler.errors import FetchError
from crawler.pool import ClientKey, SocketBudget, TlsProfile
from crawler.pool.budget import open_descriptors
from tests.pool_server import OK, Peer, Script, Server, hang, saying
from tests.wire import (
    CA_FILE,
    Wire,
    fetch,
    full_backlog,
    good_context,
    on_each_wire,
    refused,
    settle,
    turns,
    until,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from crawler.pool import ClientCache

HEAD = b"HTTP/1.1 200 OK\r\n"
LENGTH = HEAD + b"Content-Length: 99999\r\n\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"

# Row 19: cancelled at every stage


async def uploading() -> AsyncIterator[bytes]:
    yield b"some"
    await asyncio.Event().wait()


STAGES: dict[str, tuple[Script, dict[str, Any]]] = {
    "before-the-head": (hang, {}),
    "in-the-head": (saying(HEAD + b"Content-"), {}),
    "after-an-interim-answer": (saying(b"HTTP/1.1 103 Hi\r\n\r\n"), {}),
    "in-the-body": (saying(LENGTH + b"half"), {}),
    "in-a-body-to-the-end": (saying(HEAD + b"\r\nhalf"), {}),
    "in-the-trailers": (saying(CHUNKED + b"0\r\na: b\r\n"), {}),
    "in-an-upload": (hang, {"method": "POST", "content": uploading}),
    "in-a-large-upload": (hang, {"method": "POST", "content": lambda: bytes(30_000_000)}),
}


@on_each_wire
@pytest.mark.parametrize("times", [1, 2], ids=["once", "again-in-close"])
@pytest.mark.parametrize(("script", "options"), STAGES.values(), ids=STAGES)
def test_row_19_cancelled_at_any_stage_slot_and_socket_come_back(
    script: Script, options: dict[str, Any], times: int, wire: Wire
) -> None:
    async def scene() -> None:
        async with Server(script) as server, wire.open_cache() as cache:
            made = {k: v() if callable(v) else v for k, v in options.items()}
            task = asyncio.create_task(fetch(cache, server.url, connections=1, **made))
            await server.until_heads(1)
            await turns(10)
            for _ in range(times):
                task.cancel()
                await turns(1)
            with pytest.raises(asyncio.CancelledError):
                await task
            await settle(cache, server)
            assert cache.stats().orphans == 0

    wire.play(scene)


@on_each_wire
def test_row_19_cancelled_while_connecting(wire: Wire) -> None:
    async def scene() -> None:
        with full_backlog() as url:
            async with wire.open_cache() as cache:
                task = asyncio.create_task(fetch(cache, url))
                await until(lambda: cache.budget.stats().open == 1)
                await turns(10)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                await until(lambda: cache.budget.stats().open == 0)
                assert cache.stats().open_connections == 0

    wire.play(scene)


@on_each_wire
def test_row_19_cancelled_while_it_waits_for_a_socket(wire: Wire) -> None:
    async def scene() -> None:
        async with (
            Server(hang) as busy,
            Server(host="127.0.0.2") as server,
            wire.open_cache(budget=SocketBudget(1)) as cache,
        ):
            first = asyncio.create_task(fetch(cache, busy.url))
            await busy.until_heads(1)
            waiting = asyncio.create_task(fetch(cache, server.url))
            await until(lambda: cache.budget.stats().waiting == 1)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert cache.budget.stats().waiting == 0
            assert server.connections == 0
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            await settle(cache, server)

    wire.play(scene)


@on_each_wire
def test_row_19_cancelled_in_the_handshake(wire: Wire) -> None:
    async def scene() -> None:
        async with Server() as silent, wire.open_cache() as cache:
            url = silent.url.replace("http:", "https:")
            task = asyncio.create_task(fetch(cache, url))
            await silent.until_open(1)
            await turns(10)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await settle(cache, silent)

    wire.play(scene)


@on_each_wire
@pytest.mark.parametrize("is_secure", [False, True], ids=["plain", "tls"])
def test_row_19_cancelled_after_any_number_of_turns_nothing_is_lost(
    is_secure: bool, wire: Wire
) -> None:
    async def scene() -> None:
        context = good_context() if is_secure else None
        async with Server(tls=context) as server, wire.open_cache() as cache:
            key = ClientKey(server.domain, tls=TlsProfile(ca_file=CA_FILE))
            done = 0
            for count in range(25):
                task = asyncio.create_task(fetch(cache, server.url, key=key, connections=1))
                await turns(count)
                task.cancel()
                with suppress(asyncio.CancelledError):
                    assert (await task)[:2] == (200, b"ok")
                    done += 1
                assert cache.stats().leases == 0
                assert cache.budget.stats().open <= 2
            got = await fetch(cache, server.url, key=key, connections=1)
            assert got[:2] == (200, b"ok")
            await until(lambda: cache.budget.stats().open == 1)
            assert cache.stats().orphans == 0

    wire.play(scene)


# Row 20: those who wait inside a client


@on_each_wire
def test_row_20_cancelled_waiters_lose_no_place_and_nobody_barges_in(wire: Wire) -> None:
    async def scene() -> None:
        async with Server() as server, wire.open_cache() as cache:
            gate = asyncio.Event()

            async def held(peer: Peer, head: bytes) -> bool:
                await gate.wait()
                await peer.send(OK)
                return True

            server.script = held
            lease = cache.lease(ClientKey(server.domain), connections=2)
            tasks = [asyncio.create_task(lease.client.get(server.url)) for _ in range(12)]
            await server.until_heads(2)
            await turns(5)
            for place in (0, 3, 4, 9, 11):
                tasks[place].cancel()
            await turns(3)
            gate.set()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            lost = [isinstance(end, asyncio.CancelledError) for end in ends]
            assert [place for place, is_lost in enumerate(lost) if is_lost] == [0, 3, 4, 9, 11]
            assert all(
                is_lost or (not isinstance(end, BaseException) and end.text == "ok")
                for is_lost, end in zip(lost, ends, strict=True)
            )
            assert server.peak <= 3  # the one that was cancelled may still be closing
            lease.release()
            assert cache.stats().orphans == 0

    wire.play(scene)


@on_each_wire
def test_row_20_a_failure_lets_the_next_one_in(wire: Wire) -> None:
    async def every_other(peer: Peer, head: bytes) -> bool:
        await peer.send(OK if len(peer.server.heads) % 2 else b"garbage\r\n\r\n")
        return True

    async def scene() -> None:
        async with Server(every_other) as server, wire.open_cache() as cache:
            lease = cache.lease(ClientKey(server.domain), connections=1)
            ends = await asyncio.gather(
                *(lease.client.get(server.url) for _ in range(8)), return_exceptions=True
            )
            codes = [end.code if isinstance(end, FetchError) else "ok" for end in ends]
            assert sorted(codes) == ["ok"] * 4 + ["protocol"] * 4
            assert server.peak == 1
            lease.release()

    wire.play(scene)


# Row 22: closed with requests in flight


@on_each_wire
@pytest.mark.parametrize(("script", "options"), STAGES.values(), ids=STAGES)
def test_row_22_closing_the_cache_ends_what_is_under_way(
    script: Script, options: dict[str, Any], wire: Wire
) -> None:
    async def scene() -> None:
        async with Server(script) as server, wire.open_cache() as cache:
            made = {k: v() if callable(v) else v for k, v in options.items()}
            task = asyncio.create_task(refused(cache, server.url, **made))
            await server.until_heads(1)
            await turns(10)
            await closed_twice(cache)
            assert (await task).code == "cancelled"
            await server.until_open(0)

    wire.play(scene)


async def closed_twice(cache: ClientCache) -> None:
    """Once in a task that is cancelled meanwhile, once to the end."""
    async with asyncio.timeout(1):
        closing = asyncio.create_task(cache.aclose())
        await turns(1)
        closing.cancel()
        with suppress(asyncio.CancelledError):
            await closing
        await cache.aclose()
    assert cache.stats().open_connections == cache.budget.stats().open == 0


@on_each_wire
@pytest.mark.parametrize("stage", ["connect", "handshake", "queued"])
def test_row_22_closing_the_cache_ends_what_has_not_begun(stage: str, wire: Wire) -> None:
    async def scene() -> None:
        script = hang if stage == "queued" else None
        async with Server(script) as server, wire.open_cache() as cache:
            with full_backlog() as full:
                url = {
                    "connect": full,
                    "handshake": server.url.replace("http:", "https:"),
                    "queued": server.url,
                }[stage]
                lease = cache.lease(ClientKey("shop.test"), connections=1)
                count = 3 if stage == "queued" else 1
                tasks = [asyncio.create_task(lease.client.get(url)) for _ in range(count)]
                try:
                    await until(lambda: cache.budget.stats().open == 1)
                    await turns(10)
                    await closed_twice(cache)
                    await asyncio.wait(tasks, timeout=1)
                finally:
                    for task in tasks:
                        task.cancel()
                    ends = await asyncio.gather(*tasks, return_exceptions=True)
                assert [getattr(end, "code", end) for end in ends] == ["cancelled"] * count
                lease.release()

    wire.play(scene)


@on_each_wire
def test_row_27_leases_and_answers_are_given_back_once(wire: Wire) -> None:
    async def scene() -> None:
        async with Server() as server, wire.open_cache() as cache:
            lease = cache.lease(ClientKey(server.domain))
            request = lease.client.build_request("GET", server.url)
            response = await lease.client.send(request, stream=True)
            assert await response.aread() == b"ok"
            for _ in range(2):
                await response.aclose()
            assert await fetch(cache, server.url) == (200, b"ok", True)
            lease.release()
            with pytest.raises(RuntimeError, match="twice"):
                lease.release()
            assert cache.stats().double_releases == 1
            late = cache.lease(ClientKey(server.domain))
            response = await late.client.send(request, stream=True)
            await cache.aclose()
            await response.aclose()
            late.release()
            with pytest.raises(RuntimeError, match="twice"):
                late.release()

    wire.play(scene)


# Row 36


async def short(peer: Peer, head: bytes) -> bool:
    await peer.send(LENGTH + bytes(1000))
    return False


async def long(peer: Peer, head: bytes) -> bool:
    await peer.send(LENGTH + bytes(1000))
    await peer.until_gone()
    return False


@on_each_wire
def test_row_36_five_hundred_aborted_bodies_leave_nothing(wire: Wire) -> None:
    dice = random.Random(7)

    async def cancelled(cache: ClientCache, url: str) -> None:
        task = asyncio.create_task(fetch(cache, url))
        await turns(dice.randrange(20))
        task.cancel()
        with pytest.raises((asyncio.CancelledError, FetchError)):
            await task

    async def cut_short(cache: ClientCache, url: str) -> None:
        assert (await refused(cache, url)).code == "truncated"

    async def left(cache: ClientCache, url: str) -> None:
        lease = cache.lease(ClientKey(url.split("/")[2]), 4)
        async with lease.client.stream("GET", url) as response:
            await anext(response.aiter_raw())
        lease.release()

    async def scene() -> None:
        async with (
            Server(short) as server,
            Server(long, host="127.0.0.2") as other,
            wire.open_cache() as cache,
        ):
            ways: list[tuple[Callable[..., Awaitable[None]], Server]] = [
                (cut_short, server),
                (left, server),
                (left, other),
                (cancelled, other),
            ]
            descriptors, tasks = open_descriptors(), len(asyncio.all_tasks())
            for _ in range(125):
                await asyncio.gather(*(way(cache, peer.url) for way, peer in ways))
            for peer in (server, other):
                await settle(cache, peer)
                assert cache.evict_idle(peer.domain) == 1
                await peer.until_open(0)
            await until(lambda: cache.budget.stats().open == 0)
            await until(lambda: len(asyncio.all_tasks()) <= tasks)
            assert open_descriptors() == descriptors
            assert cache.stats().orphans == 0

    wire.play(scene)
