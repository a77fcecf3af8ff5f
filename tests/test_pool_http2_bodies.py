"""HTTP/2: heads within their limits, bodies whole, windows given back."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import pytest

from tests.h2_server import H2Server, Script, Stream, polite
from tests.h2_wire import Gate, fails, get, key_of, on_both_loops, settle
from tests.wire import (
    Wire,
    attempt,
    exchange,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


# Heads and bodies


@on_both_loops
def test_row_09_a_head_that_grows_when_unpacked_is_refused(wire: Wire) -> None:
    async def scene() -> None:
        async def bomb(stream: Stream) -> None:
            stream.peer.bomb(stream, 16_000)
            await stream.is_reset.wait()

        async with H2Server(bomb) as server, wire.open_cache() as cache:
            error = await fails(cache, server)
            assert error.code == "head-limit"
            assert "head.bytes" in str(error)
            await server.until(lambda: server.open == 0)  # its tables cannot be trusted
            await settle(cache, server, on=2)

    wire.play(scene)


@on_both_loops
def test_a_bomb_is_charged_to_its_own_request_and_trailers_are_no_headers(wire: Wire) -> None:
    async def scene() -> None:
        async def script(stream: Stream) -> None:
            if stream.path == "/bomb":
                stream.peer.bomb(stream, 16_000)
            elif stream.path == "/trailers":
                stream.head(("x-first", "1"))
                await stream.data(b"body")
                stream.peer.h2.send_headers(stream.id, [("x-last", "1")], end_stream=True)
                stream.sent(True)
                return
            await stream.is_reset.wait()

        async with H2Server(script) as server, wire.open_cache() as cache:
            response, body = await exchange(cache, server.url + "trailers", key=key_of(server))
            assert body == b"body"
            assert "x-last" not in response.headers
            other = asyncio.ensure_future(attempt(cache, server.url, key=key_of(server)))
            await server.until(lambda: server.active == 1)
            assert (await fails(cache, server, "bomb")).code == "head-limit"
            assert await other == "reset"
            await settle(cache, server, on=2)

    wire.play(scene)


async def many_fields(stream: Stream) -> None:
    stream.head(*((f"x-{n}", "v") for n in range(201)))


async def many_interims(stream: Stream) -> None:
    for _ in range(9):
        stream.head(status="103")


async def line_end(stream: Stream) -> None:
    stream.peer.raw(
        b"\0\0\x0b\x01\x04" + stream.id.to_bytes(4, "big") + b"\x88\x00\x02xx\x05a\r\nb:"
    )


async def no_status(stream: Stream) -> None:
    stream.peer.raw(b"\0\0\x06\x01\x04" + stream.id.to_bytes(4, "big") + b"\x00\x02xx\x01a")


async def odd_status(stream: Stream) -> None:
    stream.peer.raw(b"\0\0\x05\x01\x04" + stream.id.to_bytes(4, "big") + b"\x08\x03abc")


async def odd_length(stream: Stream) -> None:
    stream.head(("content-length", "five"))


async def endless_length(stream: Stream) -> None:
    stream.head(("content-length", "9" * 4400))


async def two_lengths(stream: Stream) -> None:
    stream.head(("content-length", "2"), ("content-length", "two"))


async def short_body(stream: Stream) -> None:
    stream.head(("content-length", "9"))
    await stream.data(b"half", end=True)


async def no_body(stream: Stream) -> None:
    stream.head(("content-length", "9"), end=True)


async def long_body(stream: Stream) -> None:
    stream.head(("content-length", "2"))
    await stream.data(b"too long", end=True)


@on_both_loops
@pytest.mark.parametrize(
    ("code", "script"),
    [
        ("head-limit", many_fields),
        ("head-limit", many_interims),
        ("protocol", line_end),
        ("protocol", no_status),
        ("protocol", odd_status),
        ("protocol", odd_length),
        ("protocol", endless_length),
        ("protocol", two_lengths),
        ("truncated", short_body),
        ("truncated", no_body),
        ("protocol", long_body),
    ],
)
def test_what_is_wrong_with_one_answer_ends_no_other(code: str, script: Script, wire: Wire) -> None:
    async def scene() -> None:
        gate = Gate()

        async def either(stream: Stream) -> None:
            if stream.path == "/bad":
                await script(stream)
                await stream.is_reset.wait()
            await gate(stream)

        async with H2Server(either) as server, wire.open_cache() as cache:
            good = asyncio.ensure_future(get(cache, server))
            await server.until(lambda: server.active == 1)
            assert (await fails(cache, server, "bad")).code == code
            gate.opened.set()
            assert (await good).body == b"ok"
            await settle(cache, server)

    wire.play(scene)


@on_both_loops
def test_what_is_no_http2_at_all_is_a_protocol_error(wire: Wire) -> None:
    async def scene() -> None:
        async def garbage(stream: Stream) -> None:
            stream.peer.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" * 10)
            await stream.is_reset.wait()

        async with H2Server(garbage) as server, wire.open_cache() as cache:
            assert (await fails(cache, server)).code == "protocol"
            await settle(cache, server, on=2)

    wire.play(scene)


@on_both_loops
def test_answers_without_a_body_leave_the_connection_free(wire: Wire) -> None:
    async def scene() -> None:
        async def script(stream: Stream) -> None:
            if stream.headers[":method"] == "HEAD":
                stream.head(("content-length", "1234"), end=True)
            else:
                stream.head(("content-length", "77"), status=stream.path[1:], end=True)

        async with H2Server(script) as server, wire.open_cache() as cache:
            assert (await get(cache, server, method="HEAD"))[:2] == (200, b"")
            assert (await get(cache, server, "304"))[:2] == (304, b"")
            assert (await get(cache, server, "204"))[:2] == (204, b"")
            await settle(cache, server)

    wire.play(scene)


async def in_parts(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


@on_both_loops
def test_bodies_are_sent_whole_however_small_the_windows(wire: Wire) -> None:
    async def scene() -> None:
        body = random.Random(1).randbytes(2_000_000)
        async with H2Server(INITIAL_WINDOW_SIZE=20_000) as server, wire.open_cache() as cache:
            small = await get(cache, server, method="POST", content=b"a=1")
            assert small.body == b"a=1"
            assert server.streams[0].headers["content-length"] == "3"
            assert (await get(cache, server, method="POST")).body == b"ok"
            large = await get(cache, server, method="PUT", content=body)
            assert large.body == body
            content = in_parts(body[:700_000], b"", body[700_000:])
            streamed = await get(cache, server, method="POST", content=content)
            assert streamed.body == body
            assert "transfer-encoding" not in server.streams[-1].headers
            await settle(cache, server)

    wire.play(scene)


@on_both_loops
def test_an_answer_that_comes_before_the_upload_ends_is_taken(wire: Wire) -> None:
    async def scene() -> None:
        async def early(stream: Stream) -> None:
            stream.head(status="413")
            await stream.data(b"too much", end=True)
            await stream.is_reset.wait()

        async with H2Server(INITIAL_WINDOW_SIZE=0) as server, wire.open_cache() as cache:
            await get(cache, server)
            server.script = early
            found = await get(cache, server, method="POST", content=bytes(100_000))
            assert found[:2] == (413, b"too much")
            await settle(cache, server)

    wire.play(scene)


@on_both_loops
def test_a_body_that_cannot_be_produced_fails_its_own_request(wire: Wire) -> None:
    async def scene() -> None:
        async def broken() -> AsyncIterator[bytes]:
            yield b"begun"
            raise ValueError("no more")

        async with H2Server() as server, wire.open_cache() as cache:
            error = await fails(cache, server, method="POST", content=broken())
            assert error.code == "bad-request"
            await settle(cache, server)

    wire.play(scene)


@on_both_loops
def test_a_reader_who_stops_makes_its_stream_wait_and_no_other(wire: Wire) -> None:
    async def scene() -> None:
        size, sent = 8 << 20, 0

        async def script(stream: Stream) -> None:
            nonlocal sent
            if stream.path != "/large":
                return await polite(stream)
            stream.head()
            while sent < size:
                await stream.data(bytes(65536), end=sent + 65536 == size)
                sent += 65536

        async with H2Server(script) as server, wire.open_cache() as cache:
            lease = cache.lease(key_of(server))
            async with lease.client.stream("GET", server.url + "large") as response:
                parts = response.aiter_raw()
                received = len(await anext(parts))
                for _ in range(20):
                    await get(cache, server)
                assert sent < size // 4
                async for part in parts:
                    received += len(part)
            lease.release()
            assert received == size
            await settle(cache, server)

    wire.play(scene)


@on_both_loops
def test_row_21_an_answer_closed_early_resets_its_stream_and_gives_its_window_back(
    wire: Wire,
) -> None:
    async def scene() -> None:
        async def endless(stream: Stream) -> None:
            stream.head()
            while not stream.is_reset.is_set():
                await stream.data(bytes(16384))

        async with H2Server(endless) as server, wire.open_cache() as cache:
            lease = cache.lease(key_of(server))
            for n in range(80):  # more than the window of the connection, were it lost
                request = lease.client.build_request("GET", server.url)
                response = await lease.client.send(request, stream=True)
                if n % 2:
                    await anext(response.aiter_raw())
                await response.aclose()
                await response.aclose()
            lease.release()
            assert server.connections == 1
            await settle(cache, server)

    wire.play(scene)
