"""Servers that mean harm, or never read a standard: bodies, heads, lines, chunks, bytes."""

from __future__ import annotations

import asyncio

import pytest

from crawler.downloader import Downloader, Order
from crawler.pool import ClientKey
from crawler.pool.deadlines import Deadlines
from tests.pool_server import OK, Peer, Script, Server, answering, repeating, saying
from tests.wire import (
    Wire,
    attempt,
    exchange,
    fetch,
    on_each_wire,
    one_failure,
    settle,
    until,
)

HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
REST = b"Content-Length: 2\r\n\r\nok"
HINT = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"

# A7: bodies without end, bounded above the transports

ENDLESS = {
    "A7-chunks": repeating(CHUNKED, b"1000\r\n" + bytes(4096) + b"\r\n"),
    "A7-to-the-end": repeating(HEAD + b"\r\n", bytes(4096)),
    "A7-length": repeating(HEAD + b"Content-Length: 999999999999999\r\n\r\n", bytes(4096)),
}


@on_each_wire
@pytest.mark.parametrize("script", ENDLESS.values(), ids=ENDLESS)
def test_row_09_an_endless_body_is_read_to_its_limit_only(script: Script, wire: Wire) -> None:
    async def scene() -> None:
        async with Server(script) as server, wire.open_cache() as cache:
            downloader = Downloader(cache, key=ClientKey)
            order = Order(
                method="GET",
                url=server.url,
                headers={},
                content=b"",
                deadlines=Deadlines(),
                wire_bytes=100_000,
                decoded_bytes=None,
            )
            lease = downloader.lease(server.domain, 1)
            outcome = await downloader.fetch(lease, order)
            lease.release()
            assert outcome.code == "too-large"
            assert outcome.status is None
            assert outcome.body == b""
            assert 100_000 < outcome.bytes_received < 1_000_000
            await settle(cache, server)

    wire.play(scene)


# A10: answers nobody asked for

PLANTED = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nplanted"


@on_each_wire
@pytest.mark.parametrize(
    ("method", "answer"),
    [
        pytest.param("GET", OK, id="A10-after-a-length"),
        pytest.param("GET", CHUNKED + b"2\r\nok\r\n0\r\n\r\n", id="A10-after-chunks"),
        pytest.param("GET", b"HTTP/1.1 204 No\r\n\r\n", id="A10-after-204"),
        pytest.param("GET", b"HTTP/1.1 304 No\r\nContent-Length: 9\r\n\r\n", id="A10-after-304"),
        pytest.param("HEAD", HEAD + b"Content-Length: 9\r\n\r\n", id="A10-after-head"),
        pytest.param("POST", OK, id="A10-after-post"),
    ],
)
@pytest.mark.parametrize("planted", [PLANTED, b"H", b"\r\n", b"\0"], ids=ascii)
def test_row_13_a_planted_answer_is_given_to_nobody(
    method: str, answer: bytes, planted: bytes, wire: Wire
) -> None:
    async def script(peer: Peer, head: bytes) -> bool:
        await peer.send(answer + planted if len(peer.server.heads) == 1 else OK)
        return True

    async def scene() -> None:
        async with Server(script) as server, wire.open_cache() as cache:
            first = await fetch(cache, server.url, method=method)
            assert b"planted" not in first.body
            await server.until_open(0)
            assert await fetch(cache, server.url) == (200, b"ok", False)
            assert server.connections == 2

    wire.play(scene)


@on_each_wire
def test_row_13_an_answer_planted_while_idle_is_given_to_nobody(wire: Wire) -> None:
    async def scene() -> None:
        async with Server() as server, wire.open_cache() as cache:
            key = ClientKey(server.domain)
            for served in range(1, 4):
                assert await fetch(cache, server.url) == (200, b"ok", False)
                await server.peers[0].send(PLANTED)
                await server.until_open(0)
                await until(lambda: cache.open_connections(key) == 0)
                assert server.connections == served
            assert cache.stats().stale_replays == 0

    wire.play(scene)


@on_each_wire
def test_row_13_an_answer_planted_as_the_next_request_leaves_is_not_its_answer(
    wire: Wire,
) -> None:
    async def scene() -> None:
        async with Server() as server, wire.open_cache() as cache:
            await fetch(cache, server.url)
            server.peers[0].send_now(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
            server.peers[0].finish_now()
            got = await attempt(cache, server.url)
            # No client can tell this apart; what it must not do is keep the connection.
            told = got if isinstance(got, str) else got[0].status_code
            assert told in (200, 408, "reset", "protocol")
            assert await fetch(cache, server.url) == (200, b"ok", told == 200)
            assert server.connections == 2

    wire.play(scene)


# A11


@on_each_wire
def test_row_30_twenty_thousand_tiny_chunks_are_one_body(wire: Wire) -> None:
    async def scene() -> None:
        answer = CHUNKED + b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n"
        async with Server(saying(answer)) as server, wire.open_cache() as cache:
            assert (await fetch(cache, server.url)).body == b"x" * 20_000

    wire.play(scene)


@on_each_wire
def test_row_30_an_answer_may_come_byte_by_byte(wire: Wire) -> None:
    answer = HINT + CHUNKED + b"2;x=y\r\nok\r\n3\r\nand\r\n0\r\nTrailer: 1\r\n\r\n"

    async def script(peer: Peer, head: bytes) -> bool:
        for byte in answer:
            await peer.send(bytes([byte]))
            await asyncio.sleep(0)
        return True

    async def scene() -> None:
        async with Server(script) as server, wire.open_cache() as cache:
            assert await fetch(cache, server.url) == (200, b"okand", False)
            assert await fetch(cache, server.url) == (200, b"okand", True)

    wire.play(scene)


# B1, B2: heads without end


def fields(count: int) -> bytes:
    """A head with that many fields, the length included."""
    return HEAD + b"".join(b"X-%d: y\r\n" % n for n in range(count - 1)) + REST


LIMITS: dict[str, tuple[str | bytes, Script]] = {
    "B1-200-fields": (b"ok", answering(fields(200))),
    "B1-201-fields": ("head-limit", saying(fields(201))),
    "B1-60-KiB": (b"ok", answering(HEAD + b"X: " + b"y" * 60_000 + b"\r\n" + REST)),
    "B1-endless-fields": ("head-limit", repeating(HEAD, b"X: y\r\n" * 500)),
    "B1-endless-wide-fields": ("head-limit", repeating(HEAD, b"X: " + b"y" * 4000 + b"\r\n")),
    "B1-ten-mebibyte-line": ("head-limit", saying(HEAD + b"X: " + b"y" * (10 << 20))),
    "B1-line-just-too-long": ("head-limit", saying(HEAD + b"X: " + b"y" * 70_000)),
    "B1-whole-head-too-long": (
        "head-limit",
        saying(HEAD + b"X: " + b"y" * 70_000 + b"\r\n" + REST),
    ),
    "B1-endless-name": ("head-limit", repeating(HEAD, b"X" * 4096)),
    "B1-endless-reason": ("head-limit", repeating(b"HTTP/1.1 200 ", b"K" * 4096)),
    "B2-eight-interim-answers": (b"ok", answering(HINT * 8 + OK)),
    "B2-nine-interim-answers": ("head-limit", saying(HINT * 9 + OK)),
    "B2-endless-interim-answers": ("head-limit", repeating(b"", HINT * 50)),
    "B2-endless-continue": ("head-limit", repeating(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 50)),
    "B2-fields-over-many-interim-answers": (
        "head-limit",
        saying((b"HTTP/1.1 103 Hi\r\nX: " + b"y" * 30_000 + b"\r\n\r\n") * 4 + OK),
    ),
    "B2-endless-trailers": ("head-limit", repeating(CHUNKED + b"0\r\n", b"X: y\r\n" * 500)),
    "B2-endless-trailer": ("head-limit", repeating(CHUNKED + b"0\r\nX: ", b"y" * 4096)),
    "B2-endless-chunk-extension": ("head-limit", repeating(CHUNKED + b"5;x=", b"y" * 4096)),
    "B2-endless-chunk-size": ("head-limit", repeating(CHUNKED, b"0" * 4096)),
    "B2-unasked-switch": (
        "protocol",
        saying(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"),
    ),
}


@on_each_wire
@pytest.mark.parametrize(("expected", "script"), LIMITS.values(), ids=LIMITS)
def test_row_09_heads_have_limits(expected: str | bytes, script: Script, wire: Wire) -> None:
    async def scene() -> None:
        if isinstance(expected, str):
            assert (await one_failure(wire, script)).code == expected
            return
        async with Server(script) as server, wire.open_cache() as cache:
            assert (await fetch(cache, server.url)).body == expected

    wire.play(scene)


@on_each_wire
@pytest.mark.parametrize(
    ("trailers", "codes"),
    [
        (b"X-Late: 1\r\nSet-Cookie: a=b\r\n", []),
        (b"Connection: close\r\n", []),
        (b"Content-Type: text/html\r\nLocation: /b\r\n", []),
        # They have no place there (RFC 9110 §6.5.1): left out or refused.
        (b"Content-Length: 9\r\n", ["protocol"]),
        (b"Transfer-Encoding: chunked\r\n", ["protocol"]),
    ],
    ids=ascii,
)
def test_row_09_trailers_are_no_headers(trailers: bytes, codes: list[str], wire: Wire) -> None:
    async def script(peer: Peer, head: bytes) -> bool:
        first = CHUNKED + b"2\r\nok\r\n0\r\n" + trailers + b"\r\n"
        await peer.send(first if len(peer.server.heads) == 1 else OK)
        return True

    async def scene() -> None:
        async with Server(script) as server, wire.open_cache() as cache:
            got = await attempt(cache, server.url)
            if isinstance(got, str):
                assert got in codes
            else:
                assert got[1] == b"ok"
                names = [name.lower() for name, _ in got[0].headers.raw]
                assert names == [b"transfer-encoding"]
            assert (await fetch(cache, server.url)).body == b"ok"

    wire.play(scene)


@on_each_wire
def test_interim_fields_are_no_headers_either(wire: Wire) -> None:
    async def scene() -> None:
        async with Server(answering(HINT + OK)) as server, wire.open_cache() as cache:
            response, _ = await exchange(cache, server.url)
            assert [name.lower() for name, _ in response.headers.raw] == [b"content-length"]

    wire.play(scene)
