"""What comes too late, and what only seems to."""

from __future__ import annotations

import time

import pytest

from tests.pool_server import OK, Peer, Script, Server, dripping, hang, saying
from tests.wire import Wire, fetch, full_backlog, on_each_wire, one_failure, refused, turns

HEAD = b"HTTP/1.1 200 OK\r\n"
LENGTH = HEAD + b"Content-Length: 99999\r\n\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


def block(seconds: float) -> None:
    """What a spider's callback may do to the loop."""
    time.sleep(seconds)


# Row 8: deadlines that slow servers cannot push ahead

DRIPS: dict[str, tuple[str, Script, dict[str, float]]] = {
    "row-08-total-in-silence": ("total-timeout", hang, {"total": 0.1}),
    "row-08-total-in-a-dripped-head": (
        "total-timeout",
        dripping(b"", HEAD + b"a: b\r\n" * 99, 0.01),
        {"total": 0.1},
    ),
    "row-08-head-in-a-dripped-head": (
        "head-timeout",
        dripping(b"", HEAD + b"a: b\r\n" * 99, 0.01),
        {"head": 0.1},
    ),
    "row-08-head-in-dripped-interim-answers": (
        "head-timeout",
        dripping(b"", b"HTTP/1.1 103 Hi\r\n\r\n" * 99, 0.005),
        {"head": 0.1},
    ),
    "row-08-total-in-a-dripped-body": (
        "total-timeout",
        dripping(LENGTH, bytes(999), 0.01),
        {"total": 0.1, "read": 0.08},
    ),
    "row-08-total-in-dripped-chunks": (
        "total-timeout",
        dripping(CHUNKED, b"1\r\nx\r\n" * 99, 0.01),
        {"total": 0.1, "read": 0.08},
    ),
    "row-08-total-in-dripped-trailers": (
        "total-timeout",
        dripping(CHUNKED + b"0\r\n", b"a: b\r\n" * 99, 0.01),
        {"total": 0.1, "read": 0.08},
    ),
    "row-08-too-slow-body": (
        "too-slow",
        dripping(LENGTH, bytes(999), 0.01),
        {"rate": 1000, "rate_over": 0.1},
    ),
    "row-08-too-slow-chunks": (
        "too-slow",
        dripping(CHUNKED, b"1\r\nx\r\n" * 99, 0.01),
        {"rate": 1000, "rate_over": 0.1},
    ),
    "row-08-too-slow-body-before-the-total": (
        "too-slow",
        saying(LENGTH),
        {"rate": 1000, "rate_over": 0.1, "read": 3, "total": 3},
    ),
}


@on_each_wire
@pytest.mark.parametrize(("code", "script", "timeouts"), DRIPS.values(), ids=DRIPS)
def test_a_slow_server_is_left_in_time(
    code: str, script: Script, timeouts: dict[str, float], wire: Wire
) -> None:
    async def scene() -> None:
        assert (await one_failure(wire, script, **timeouts)).code == code

    wire.play(scene)


@on_each_wire
def test_row_08_a_body_above_the_floor_is_not_too_slow(wire: Wire) -> None:
    async def script(peer: Peer, head: bytes) -> bool:
        await peer.send(HEAD + b"Content-Length: 20000\r\n\r\n")
        for _ in range(10):
            await peer.send(bytes(2000))
            if await peer.is_gone_within(0.02):
                return False
        return True

    async def scene() -> None:
        async with Server(script) as server, wire.open_cache() as cache:
            got = await fetch(cache, server.url, rate=1000, rate_over=0.05, total=3)
            assert len(got.body) == 20000

    wire.play(scene)


@on_each_wire
def test_row_08_a_total_covers_connecting(wire: Wire) -> None:
    async def scene() -> None:
        with full_backlog() as url:
            async with wire.open_cache() as cache:
                error = await refused(cache, url, connect=3, total=0.1)
                assert error.code in ("total-timeout", "connect-timeout")

    wire.play(scene)


# Timers that must not fire


@on_each_wire
def test_row_37_the_timers_of_a_request_do_not_outlive_it(wire: Wire) -> None:
    async def script(peer: Peer, head: bytes) -> bool:
        if peer.requests == 2 and await peer.is_gone_within(0.1):
            return False
        await peer.send(OK)
        return True

    async def scene() -> None:
        async with Server(script) as server, wire.open_cache() as cache:
            short = {"connect": 0.05, "head": 0.05, "read": 0.05, "write": 0.05, "total": 0.05}
            await fetch(cache, server.url, **short)
            assert await fetch(cache, server.url) == (200, b"ok", True)
            assert cache.stats().stale_replays == 0

    wire.play(scene)


@on_each_wire
@pytest.mark.parametrize("begun", [b"", OK[:20], OK[:-1]], ids=["head", "in-head", "body"])
def test_row_38_what_arrived_while_the_loop_was_blocked_is_not_late(
    begun: bytes, wire: Wire
) -> None:
    async def script(peer: Peer, head: bytes) -> bool:
        await peer.send(begun)
        await turns(5)
        peer.send_now(OK[len(begun) :])
        block(0.15)
        return True

    async def scene() -> None:
        async with Server(script) as server, wire.open_cache() as cache:
            assert await fetch(cache, server.url, head=0.1, read=0.1) == (200, b"ok", False)
            assert await fetch(cache, server.url, head=0.1, read=0.1) == (200, b"ok", True)

    wire.play(scene)
