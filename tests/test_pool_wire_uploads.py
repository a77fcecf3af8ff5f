"""Requests with bodies: how they are framed, answered early, never sent twice."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from crawler.errors import FetchError
from crawler.pool import ClientKey
from tests.pool_server import OK, Peer, Server, polite
from tests.wire import Wire, fetch, on_each_wire, refused, settle, turns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

BIG = 30_000_000
TOO_LARGE = b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno"


async def parts_of(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def big_parts() -> AsyncIterator[bytes]:
    for _ in range(BIG // 100_000):
        yield bytes(100_000)


async def deaf(peer: Peer, head: bytes) -> bool:
    peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
    await asyncio.Event().wait()
    return False


class Echo:
    """Keeps the bodies it was sent."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    async def __call__(self, peer: Peer, head: bytes) -> bool:
        self.bodies.append(await peer.body(head))
        await peer.send(OK)
        return True


@on_each_wire
def test_bytes_are_sent_with_their_length(wire: Wire) -> None:
    async def scene() -> None:
        echo = Echo()
        async with Server(echo) as server, wire.open_cache() as cache:
            for body in (b"order", b"", bytes(range(256)) * 4000):
                got = await fetch(cache, server.url, method="POST", content=body)
                assert got[:2] == (200, b"ok")
                assert f"\r\ncontent-length: {len(body)}\r\n".encode() in server.heads[-1].lower()
                assert echo.bodies[-1] == body
            assert server.connections == 1

    wire.play(scene)


@on_each_wire
def test_an_async_iterable_is_sent_in_chunks(wire: Wire) -> None:
    async def scene() -> None:
        echo = Echo()
        async with Server(echo) as server, wire.open_cache() as cache:
            for parts in ([b"or", b"", b"der"], [], [bytes(70_000)] * 9):
                got = await fetch(cache, server.url, method="PUT", content=parts_of(*parts))
                assert got[:2] == (200, b"ok")
                head = server.heads[-1].lower()
                assert b"\r\ntransfer-encoding: chunked\r\n" in head
                assert b"content-length" not in head
                assert echo.bodies[-1] == b"".join(parts)
            assert server.connections == 1

    wire.play(scene)


@on_each_wire
def test_an_async_iterable_of_known_length_is_sent_as_it_is(wire: Wire) -> None:
    async def scene() -> None:
        echo = Echo()
        async with Server(echo) as server, wire.open_cache() as cache:
            content, length = parts_of(b"or", b"der"), {"Content-Length": "5"}
            await fetch(cache, server.url, method="POST", content=content, headers=length)
            assert echo.bodies == [b"order"]
            assert b"transfer-encoding" not in server.heads[0].lower()

    wire.play(scene)


@on_each_wire
@pytest.mark.parametrize("parts", [[b"ord"], [b"or", b"ders"]], ids=["short", "long"])
def test_a_body_of_another_length_than_promised_is_a_bad_request(
    parts: list[bytes], wire: Wire
) -> None:
    async def scene() -> None:
        echo = Echo()
        async with Server(echo) as server, wire.open_cache() as cache:
            content, length = parts_of(*parts), {"Content-Length": "5"}
            error = await refused(cache, server.url, method="POST", content=content, headers=length)
            assert error.code == "bad-request"
            assert echo.bodies == []
            await settle(cache, server)

    wire.play(scene)


@on_each_wire
def test_a_body_that_raises_gives_slot_and_socket_back(wire: Wire) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"or"
        raise LookupError("no more")

    async def scene() -> None:
        echo = Echo()
        async with Server(echo) as server, wire.open_cache() as cache:
            with pytest.raises((FetchError, LookupError)):
                await fetch(cache, server.url, method="POST", content=broken())
            assert echo.bodies == []
            await settle(cache, server)

    wire.play(scene)


@on_each_wire
def test_a_peer_that_does_not_read_is_a_write_timeout(wire: Wire) -> None:
    async def scene() -> None:
        async with Server(deaf) as server, wire.open_cache() as cache:
            for content in (bytes(BIG), big_parts()):
                error = await refused(cache, server.url, method="POST", content=content, write=0.1)
                assert error.code == "write-timeout"

    wire.play(scene)


# Row 11: answers that do not wait for the body


@on_each_wire
@pytest.mark.parametrize("way", ["closes", "half-closes", "waits"])
@pytest.mark.parametrize("kind", ["bytes", "parts"])
def test_row_11_an_answer_before_the_end_of_the_body_is_heard(
    way: str, kind: str, wire: Wire
) -> None:
    async def script(peer: Peer, head: bytes) -> bool:
        await peer.reader.readexactly(1000)
        await peer.send(TOO_LARGE)
        if way == "closes":
            return False
        if way == "half-closes":
            peer.writer.write_eof()
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await turns(20)
        peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
        await peer.until_gone()
        return False

    async def scene() -> None:
        async with Server(script) as server, wire.open_cache() as cache:
            content = bytes(BIG) if kind == "bytes" else big_parts()
            got = await fetch(cache, server.url, method="POST", content=content)
            assert got == (413, b"no", False)
            assert len(server.heads) == 1
            await settle(cache, server)

    wire.play(scene)


@on_each_wire
def test_row_11_a_server_that_never_reads_the_body_is_heard(wire: Wire) -> None:
    async def script(peer: Peer, head: bytes) -> bool:
        await peer.send(TOO_LARGE)
        return await deaf(peer, head)

    async def scene() -> None:
        async with Server(script) as server, wire.open_cache() as cache:
            got = await fetch(cache, server.url, method="POST", content=bytes(BIG), write=1)
            assert got == (413, b"no", False)

    wire.play(scene)


@on_each_wire
def test_row_11_an_early_answer_that_keeps_the_connection_leaves_no_rest_of_the_body(
    wire: Wire,
) -> None:
    async def script(peer: Peer, head: bytes) -> bool:
        await peer.send(OK)
        await peer.body(head)
        return True

    async def scene() -> None:
        async with Server(script) as server, wire.open_cache() as cache:
            for size in (5, BIG):
                got = await fetch(cache, server.url, method="POST", content=bytes(size))
                assert got[:2] == (200, b"ok")
                assert (await fetch(cache, server.url))[:2] == (200, b"ok")
            assert [head.split()[0] for head in server.heads] == [b"POST", b"GET"] * 2
            # an upload that the answer overtook may be cut off, with its connection
            assert server.unfinished.strip(b"\0") == b""

    wire.play(scene)


@on_each_wire
def test_row_12_a_half_closed_peer_with_an_open_upload_does_not_spin(wire: Wire) -> None:
    async def scene() -> None:
        go_on = asyncio.Event()

        async def halting() -> AsyncIterator[bytes]:
            yield b"some"
            await go_on.wait()
            yield b"more"

        async def script(peer: Peer, head: bytes) -> bool:
            await peer.reader.readline()
            peer.writer.write_eof()
            closed.set()
            await peer.until_gone()
            return False

        closed = asyncio.Event()
        async with Server(script) as server, wire.open_cache() as cache:
            task = asyncio.create_task(refused(cache, server.url, method="POST", content=halting()))
            await closed.wait()
            burnt = time.process_time()
            await asyncio.wait([task], timeout=0.1)
            assert task.done() or time.process_time() - burnt < 0.08
            go_on.set()
            assert (await task).code == "reset"
            await settle(cache, server)

    wire.play(scene)


# What is never sent twice


@on_each_wire
@pytest.mark.parametrize(
    ("method", "kind", "replays"),
    [
        ("GET", "none", 1),
        ("PUT", "bytes", 1),
        ("DELETE", "bytes", 1),
        ("POST", "none", 0),
        ("POST", "bytes", 0),
        ("PATCH", "bytes", 0),
        ("PUT", "parts", 0),
        ("GET", "parts", 0),
    ],
)
def test_only_idempotent_requests_without_a_stream_are_replayed(
    method: str, kind: str, replays: int, wire: Wire
) -> None:
    async def script(peer: Peer, head: bytes) -> bool:
        return peer.requests == 1 and await polite(peer, head)

    async def scene() -> None:
        content = {"none": None, "bytes": b"order", "parts": parts_of(b"or", b"der")}[kind]
        async with Server(script) as server, wire.open_cache() as cache:
            await fetch(cache, server.url)
            if replays:
                got = await fetch(cache, server.url, method=method, content=content)
                assert got == (200, b"ok", False)
            else:
                error = await refused(cache, server.url, method=method, content=content)
                assert error.code == "reset"
            assert len(server.heads) == 2 + replays
            assert cache.stats().stale_replays == replays
            if not replays:
                await settle(cache, server)

    wire.play(scene)


@on_each_wire
def test_a_request_is_framed_by_its_own_headers_only(wire: Wire) -> None:
    async def scene() -> None:
        async with Server() as server, wire.open_cache() as cache:
            lease = cache.lease(ClientKey(server.domain))
            await lease.client.get(server.url + "a?b=c", headers={"X-One": "1"})
            lease.release()
            lines = server.heads[0].split(b"\r\n")
            assert lines[0] == b"GET /a?b=c HTTP/1.1"
            names = [line.split(b":")[0].lower() for line in lines[1:-2]]
            assert names.count(b"host") == 1
            assert b"x-one" in names
            assert not {b"content-length", b"transfer-encoding"} & set(names)

    wire.play(scene)
