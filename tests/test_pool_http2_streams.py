"""HTTP/2: each request has its own deadlines, its own limits and its own end."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from crawler.pool import ClientCache, connection_of
from tests.h2_server import H2Server, Script, Stream, polite, silent
from tests.h2_wire import Gate, Half, fails, get, key_of, on_both_loops, settle
from tests.wire import (
    Wire,
    attempt,
    exchange,
    until,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

# The end of a stream


@on_both_loops
def test_row_33_a_reset_stream_fails_its_own_request_only(wire: Wire) -> None:
    async def scene() -> None:
        gate = Gate()

        async def script(stream: Stream) -> None:
            if stream.path == "/bad":
                stream.head()
                await stream.data(b"half")
                stream.reset(2)
            else:
                await gate(stream)

        async with H2Server(script) as server, wire.open_cache() as cache:
            good = asyncio.ensure_future(get(cache, server))
            await server.until(lambda: server.active == 1)
            error = await fails(cache, server, "bad")
            assert error.code == "reset"
            assert "INTERNAL_ERROR" in str(error)
            gate.opened.set()
            assert (await good).body == b"ok"
            await settle(cache, server)

    wire.play(scene)


@on_both_loops
def test_row_33_a_refused_stream_is_sent_once_more(wire: Wire) -> None:
    async def scene() -> None:
        async def once() -> AsyncIterator[bytes]:
            yield b"sent once"

        async def script(stream: Stream) -> None:
            if len(server.streams) in (2, 4, 5, 6, 8):
                stream.reset(7)
            else:
                await polite(stream)

        async with H2Server(script) as server, wire.open_cache() as cache:
            await get(cache, server)
            response, body = await exchange(cache, server.url, key=key_of(server))
            assert (body, connection_of(response).replays) == (b"ok", 1)
            assert (await fails(cache, server)).code == "reset"
            response, body = await exchange(
                cache, server.url, key=key_of(server), method="POST", content=b"x"
            )
            assert (body, connection_of(response).replays) == (b"x", 1)
            assert (await fails(cache, server, method="POST", content=once())).code == "reset"
            assert len(server.streams) == 8
            assert cache.stats().stale_replays == 3
            await settle(cache, server)

    wire.play(scene)


@on_both_loops
def test_row_33_goaway_ends_what_was_not_looked_at_and_lets_the_rest_finish(wire: Wire) -> None:
    async def scene() -> None:
        gate = Gate()
        async with H2Server(gate) as server, wire.open_cache() as cache:
            asks = [("0", "GET"), ("1", "GET"), ("2", "GET"), ("3", "POST")]
            tasks = []
            for n, (path, method) in enumerate(asks):
                tasks.append(
                    asyncio.ensure_future(
                        attempt(cache, server.url + path, key=key_of(server), method=method)
                    )
                )
                await server.until(lambda n=n: len(server.streams) == n + 1)  # type: ignore[misc]
            server.peers[0].go_away(server.streams[1].id)
            await server.until(lambda: server.connections == 2)
            gate.opened.set()
            found = await asyncio.gather(*tasks)
            replays = [connection_of(each[0]).replays for each in found]  # type: ignore[arg-type]
            assert replays == [0, 0, 1, 1]
            await server.until(lambda: server.open == 1)  # the old one went with its last
            await settle(cache, server, on=2)

    wire.play(scene)


@on_both_loops
def test_row_33_goaway_on_an_idle_connection_closes_it_before_the_next_request(wire: Wire) -> None:
    async def scene() -> None:
        async with H2Server() as server, wire.open_cache() as cache:
            await get(cache, server)
            server.peers[0].go_away(2**31 - 1)
            await server.until(lambda: server.open == 0)
            assert not (await get(cache, server)).reused
            assert cache.stats().stale_replays == 0
            assert cache.stats().peer_closes == 1

    wire.play(scene)


@on_both_loops
def test_a_connection_that_dies_fails_its_requests_and_only_unanswered_ones_go_again(
    wire: Wire,
) -> None:
    async def scene() -> None:
        async with H2Server() as server, wire.open_cache() as cache:
            await get(cache, server)
            server.script = silent
            tasks = [
                asyncio.ensure_future(attempt(cache, server.url, key=key_of(server)))
                for _ in range(4)
            ]
            await server.until(lambda: server.active == 4)
            server.script = polite
            server.peers[0].writer.transport.abort()
            found = await asyncio.gather(*tasks)
            assert [each[1] for each in found] == [b"ok"] * 4
            assert cache.stats().stale_replays == 4
            server.script = half = Half()
            task = asyncio.ensure_future(attempt(cache, server.url, key=key_of(server)))
            await half.is_sent.wait()
            server.peers[0].writer.transport.abort()
            assert await task == "truncated"
            await settle(cache, server, on=3)

    wire.play(scene)


# Deadlines


async def stalling(stream: Stream) -> None:
    await Half()(stream)


async def dripping(stream: Stream) -> None:
    stream.head()
    while not stream.is_reset.is_set():
        await stream.data(b"x")
        with suppress(TimeoutError):
            async with asyncio.timeout(0.005):
                await stream.is_reset.wait()


@on_both_loops
@pytest.mark.parametrize(
    ("code", "script", "deadlines"),
    [
        ("head-timeout", silent, {"head": 0.05}),
        ("read-timeout", stalling, {"read": 0.05}),
        ("total-timeout", silent, {"total": 0.05}),
        ("total-timeout", dripping, {"total": 0.05}),
        ("too-slow", dripping, {"rate": 1e6, "rate_over": 0.05}),
    ],
    ids=["row-33-silence", "stall", "total-in-the-head", "total-in-the-body", "rate"],
)
def test_a_late_stream_is_reset_and_the_others_go_on(
    code: str, script: Script, deadlines: dict[str, float], wire: Wire
) -> None:
    async def scene() -> None:
        gate = Gate()

        async def either(stream: Stream) -> None:
            await (script if stream.path == "/late" else gate)(stream)

        async with H2Server(either) as server, wire.open_cache() as cache:
            await asyncio.gather(
                good := asyncio.ensure_future(get(cache, server)),
                opener(cache, server, gate, code, deadlines),
            )
            assert good.result().body == b"ok"
            assert server.streams[1].is_reset.is_set()
            await settle(cache, server)

    async def opener(
        cache: ClientCache, server: H2Server, gate: Gate, code: str, deadlines: dict[str, float]
    ) -> None:
        await server.until(lambda: server.active == 1)
        assert (await fails(cache, server, "late", **deadlines)).code == code
        await server.until(lambda: server.active == 1)
        gate.opened.set()

    wire.play(scene)


@on_both_loops
@pytest.mark.parametrize("is_alive", [True, False])
def test_row_33_a_server_that_answers_no_ping_either_gets_no_new_request(
    is_alive: bool, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crawler.pool.http2.PING_S", 0.1)

    async def scene() -> None:
        async with H2Server() as server, wire.open_cache() as cache:
            await get(cache, server)
            peer = server.peers[0]
            server.script = silent
            if not is_alive:
                peer.flush = lambda: None  # type: ignore[method-assign]
            assert (await fails(cache, server, head=0.05)).code == "head-timeout"
            server.script = polite
            if is_alive:
                await server.until(lambda: peer.pings == 1)
                await settle(cache, server, on=1)
            else:
                await server.until(lambda: server.open == 0)
                await settle(cache, server, on=2)

    wire.play(scene)


@on_both_loops
def test_an_upload_that_is_not_taken_is_a_write_timeout(wire: Wire) -> None:
    async def scene() -> None:
        async with H2Server(silent, INITIAL_WINDOW_SIZE=1000) as server, wire.open_cache() as cache:
            server.script = polite
            await get(cache, server)

            async def not_taking(stream: Stream) -> None:
                stream.peer.h2.acknowledge_received_data = lambda *_: None
                await stream.is_reset.wait()

            server.script = not_taking
            error = await fails(cache, server, method="POST", content=bytes(5000), write=0.05)
            assert error.code == "write-timeout"
            await server.until(lambda: server.active == 0)

    wire.play(scene)


# Bytes on an idle connection


@on_both_loops
def test_row_33_a_ping_on_an_idle_connection_is_answered_and_does_not_close_it(wire: Wire) -> None:
    async def scene() -> None:
        async with H2Server() as server, wire.open_cache() as cache:
            await get(cache, server)
            peer = server.peers[0]
            peer.h2.ping(b"are you?")
            peer.settings(HEADER_TABLE_SIZE=0)
            peer.h2.increment_flow_control_window(5)
            peer.flush()
            await peer.pongs.wait()
            await peer.settled.wait()
            assert (await get(cache, server)).reused
            await settle(cache, server)

    wire.play(scene)


@on_both_loops
def test_an_idle_connection_expires_and_the_servers_end_closes_it(wire: Wire) -> None:
    async def scene() -> None:
        now = 0.0
        async with H2Server() as server, wire.open_cache(clock=lambda: now) as cache:
            await get(cache, server)
            now = 20.0
            assert cache.sweep(now) == 1
            await server.until(lambda: server.open == 0)
            await get(cache, server)
            server.peers[0].writer.close()
            await server.until(lambda: server.open == 0)
            await until(lambda: cache.stats().open_connections == 0)
            assert cache.stats().peer_closes == 1
            assert not (await get(cache, server)).reused

    wire.play(scene)


@on_both_loops
def test_without_keep_alive_a_connection_goes_with_its_last_request(wire: Wire) -> None:
    async def scene() -> None:
        async with H2Server() as server, wire.open_cache(keepalive=0) as cache:
            await asyncio.gather(*(get(cache, server) for _ in range(5)))
            await server.until(lambda: server.open == 0)
            assert "connection" not in server.streams[0].headers

    wire.play(scene)
