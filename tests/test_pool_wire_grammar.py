"""The grammar of answers: what is read as browsers read it, and what is no HTTP."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import httpx
import pytest

from crawler.errors import FetchError
from crawler.pool import ClientKey
from crawler.pool.deadlines import Deadlines
from tests.pool_server import Peer, Server, answering, polite, saying
from tests.wire import (
    Wire,
    attempt,
    check,
    fetch,
    on_each_wire,
    one_failure,
    refused,
    settle,
    until,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
REST = b"Content-Length: 2\r\n\r\nok"

# A9: lengths that are not so

LIES: dict[str, tuple[str | bytes, bytes]] = {
    "A9-equal-lengths": (b"hello", b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello"),
    "A9-equal-lengths-in-one-field": (b"hello", b"Content-Length: 5, 5\r\n\r\nhello"),
    "A9-leading-zero": (b"hello", b"Content-Length: 005\r\n\r\nhello"),
    "A9-upper-case-chunked": (
        b"hello",
        b"Transfer-Encoding: CHUNKED\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ),
    "A9-two-lengths": ("protocol", b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!"),
    "A9-two-lengths-in-one-field": ("protocol", b"Content-Length: 5, 6\r\n\r\nhello!"),
    "A9-length-and-chunks": (
        "protocol",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ),
    "A9-chunks-and-length": (
        "protocol",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ),
    "A9-negative-length": ("protocol", b"Content-Length: -5\r\n\r\nhello"),
    "A9-signed-length": ("protocol", b"Content-Length: +5\r\n\r\nhello"),
    "A9-hexadecimal-length": ("protocol", b"Content-Length: 0x5\r\n\r\nhello"),
    "A9-length-with-a-space": ("protocol", b"Content-Length: 5 5\r\n\r\nhello"),
    "A9-empty-length": ("protocol", b"Content-Length: \r\n\r\nhello"),
    "A9-overflowing-length": (
        "protocol",
        b"Content-Length: 99999999999999999999999999\r\n\r\nhello",
    ),
    "A9-unknown-transfer-coding": ("protocol", b"Transfer-Encoding: gzip\r\n\r\nhello"),
    "A9-chunked-not-last": (
        "protocol",
        b"Transfer-Encoding: chunked, gzip\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ),
    "A9-chunked-twice": (
        "protocol",
        b"Transfer-Encoding: chunked, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ),
}


@on_each_wire
@pytest.mark.parametrize(("expected", "rest"), LIES.values(), ids=LIES)
def test_row_30_conflicting_lengths_are_refused(
    expected: str | bytes, rest: bytes, wire: Wire
) -> None:
    async def scene() -> None:
        await check(wire, expected, HEAD + rest)

    wire.play(scene)


# B4: any byte anywhere

SWEEPS = {
    "value": (HEAD + b"X-A: a", b"b\r\n" + REST),
    "name": (HEAD + b"X", b"A: ab\r\n" + REST),
    "reason": (b"HTTP/1.1 200 O", b"K\r\n" + REST),
}


def sent(place: str, byte: bytes) -> list[tuple[bytes, bytes]]:
    """The fields of a head, had it been read as it was sent."""
    length = [(b"content-length", b"2")]
    if place == "value":
        return [(b"x-a", b"a" + byte + b"b"), *length]
    if place == "name":
        name, _, value = (b"X" + byte + b"A: ab").partition(b":")
        return [(name.lower(), value.strip()), *length]
    return length


@on_each_wire
@pytest.mark.parametrize("place", SWEEPS)
def test_row_30_any_byte_is_kept_as_it_is_or_refused(place: str, wire: Wire) -> None:
    before, after = SWEEPS[place]

    async def script(peer: Peer, head: bytes) -> bool:
        number = int(head.split()[1][1:])
        await peer.send(before + bytes([number]) + after)
        return True

    async def scene() -> None:
        async with Server(script) as server, wire.open_cache() as cache:
            read = 0
            for number in range(256):
                got = await attempt(cache, f"{server.url}{number}", head=1)
                if isinstance(got, str):
                    assert got == "protocol", number
                    continue
                response, body = got
                read += 1
                assert number != 0
                assert body == b"ok"
                read_as = [(name.lower(), value) for name, value in response.headers.raw]
                assert read_as == sent(place, bytes([number])), number
            assert read > 60
            await until(lambda: server.open == cache.budget.stats().open)

    wire.play(scene)


UNSENDABLE = [
    ("GET", "", {"X-A": "a\r\nX-B: b"}),
    ("GET", "", {"X-A": "a\nb"}),
    ("GET", "", {"X-A": "a\rb"}),
    ("GET", "", {"X-A": "a\0b"}),
    ("GET", "", {"X-A\r\nX-B": "b"}),
    ("GET", "", {"X A": "b"}),
    ("GET", "", {"": "b"}),
    ("GET", "", {"X-A:": "b"}),
    ("GET / HTTP/1.1\r\nX-A:", "", {}),
    ("GE T", "", {}),
    ("G\0T", "", {}),
    ("", "", {}),
    ("GET", "a\r\nX-A: b", {}),
    ("GET", "a\nb", {}),
    ("GET", "a\0b", {}),
]


@on_each_wire
@pytest.mark.parametrize(("method", "target", "headers"), UNSENDABLE, ids=ascii)
def test_what_would_break_a_request_is_refused_before_anything_is_sent(
    method: str, target: str, headers: dict[str, str], wire: Wire
) -> None:
    async def scene() -> None:
        async with Server() as server, wire.open_cache() as cache:
            lease = cache.lease(ClientKey(server.domain))
            with pytest.raises(FetchError) as caught:
                await lease.client.exchange(
                    method,
                    server.url + target,
                    headers=headers.items(),
                    deadlines=Deadlines(head=1, read=1),
                )
            assert caught.value.code == "bad-request"
            lease.release()
            await server.until_open(0)
            assert server.heads == []
            assert server.unfinished == b""
            await settle(cache, server)

    wire.play(scene)


@on_each_wire
def test_a_target_that_only_a_foreign_hand_can_make_is_refused(wire: Wire) -> None:
    async def scene() -> None:
        async with Server() as server, wire.open_cache() as cache:
            lease = cache.lease(ClientKey(server.domain))
            for target in (b"/a\r\nX: y", b"/a b", b"/\0", b""):
                url = httpx.URL(server.url)
                url._uri_reference = url._uri_reference._replace(path=target.decode())
                request = httpx.Request("GET", server.url)
                request.url = url
                if not target:
                    assert (await lease.client.send(request)).status_code == 200
                    continue
                with pytest.raises(FetchError) as caught:
                    await lease.client.send(request)
                assert caught.value.code == "bad-request"
            lease.release()
            assert len(server.heads) == 1
            assert server.heads[0].startswith(b"GET / HTTP/1.1\r\n")

    wire.play(scene)


# B5: chunks

CHUNKS: dict[str, tuple[bytes, dict[str, str | bytes] | str | bytes]] = {
    "B5-plain": (b"4\r\nhalf\r\n0\r\n\r\n", b"half"),
    "B5-upper-case": (b"A\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
    "B5-leading-zeros": (b"0004\r\nhalf\r\n000\r\n\r\n", b"half"),
    "B5-extension": (b"4;a=b;c\r\nhalf\r\n0;d\r\n\r\n", b"half"),
    "B5-quoted-extension": (b'4;a="b;c"\r\nhalf\r\n0\r\n\r\n', b"half"),
    "B5-space-after-the-size": (b"4 \r\nhalf\r\n0  \r\n\r\n", b"half"),
    "B5-bare-line-feeds": (
        b"4\nhalf\n0\n\n",
        {"native": "protocol", "httpcore": "truncated"},
    ),
    "B5-no-hexadecimal-digit": (b"zz\r\nhalf\r\n0\r\n\r\n", "protocol"),
    "B5-empty-size": (b"\r\nhalf\r\n0\r\n\r\n", "protocol"),
    "B5-space-before-the-size": (b" 4\r\nhalf\r\n0\r\n\r\n", "protocol"),
    "B5-negative": (b"-4\r\nhalf\r\n0\r\n\r\n", "protocol"),
    "B5-signed": (b"+4\r\nhalf\r\n0\r\n\r\n", "protocol"),
    "B5-prefix": (b"0x4\r\nhalf\r\n0\r\n\r\n", "protocol"),
    "B5-underscore": (b"0_4\r\nhalf\r\n0\r\n\r\n", "protocol"),
    "B5-two-sizes": (b"4 4\r\nhalf\r\n0\r\n\r\n", "protocol"),
    "B5-overflow": (b"fffffffffffffffffffff\r\nhalf\r\n0\r\n\r\n", "protocol"),
    "B5-just-overflow": (
        b"10000000000000004\r\nhalf\r\n0\r\n\r\n",
        {"native": "protocol", "httpcore": "truncated"},
    ),
    "B5-no-line-end-after-the-data": (b"4\r\nhalf0\r\n\r\n", "protocol"),
    "B5-wrong-bytes-after-the-data": (b"4\r\nhalfXX0\r\n\r\n", "protocol"),
    "B5-too-much-data": (b"4\r\nhalf and more\r\n0\r\n\r\n", "protocol"),
    "B5-too-little-data": (b"8\r\nhalf\r\n0\r\n\r\n", "protocol"),
    "B5-nul-in-the-size": (b"4\0\r\nhalf\r\n0\r\n\r\n", "protocol"),
    "B5-broken-trailer": (b"4\r\nhalf\r\n0\r\nno colon\r\n\r\n", "protocol"),
    "B5-nul-in-a-trailer": (b"4\r\nhalf\r\n0\r\nX: \0\r\n\r\n", "protocol"),
}


@on_each_wire
@pytest.mark.parametrize(("chunks", "expected"), CHUNKS.values(), ids=CHUNKS)
def test_row_30_chunks_are_read_strictly_and_the_connection_is_closed(
    chunks: bytes, expected: dict[str, str | bytes] | str | bytes, wire: Wire
) -> None:
    async def scene() -> None:
        one = expected[wire.transport] if isinstance(expected, dict) else expected
        await check(wire, one, CHUNKED + chunks)

    wire.play(scene)


# B8: what is no HTTP, and what only just is

STRANGE: dict[str, tuple[bytes, str]] = {
    "B8-ssh": (b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n", "SSH-2.0-OpenSSH_9.2p1 Debian"),
    "B8-tls-alert": (b"\x15\x03\x01\x00\x02\x02\x28\r\n\r\n", r"\x15\x03\x01\x00\x02\x02("),
    "B8-binary": (bytes(range(128, 256)), r"\x80\x81"),
    "B8-smtp": (b"220 mail.test ESMTP\r\n", "220 mail.test ESMTP"),
    "B8-html": (b"<!DOCTYPE html><p>HTTP/0.9\r\n\r\n", "<!DOCTYPE html>"),
    "B8-icy": (b"ICY 200 OK\r\n\r\n", "ICY 200 OK"),
    "B8-lower-case": (b"http/1.1 200 OK\r\n\r\n", "http/1.1"),
    "B8-http-2-frame": (b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\r\n\r\n", r"\x00\x00\x12"),
    "B8-no-version": (b"HTTP 200 OK\r\n\r\n", ""),
    "B8-no-status": (b"HTTP/1.1 OK\r\n\r\n", ""),
    "B8-two-digits": (b"HTTP/1.1 20 OK\r\n\r\n", ""),
    "B8-four-digits": (b"HTTP/1.1 2000 OK\r\n\r\n", ""),
    "B8-no-colon": (HEAD + b"nothing\r\n\r\n", ""),
    "B8-empty-name": (HEAD + b": a\r\n\r\n", ""),
    "B8-nothing-but-line-ends": (b"\r\n" * 40_000, ""),
}


@on_each_wire
@pytest.mark.parametrize(("answer", "shown"), STRANGE.values(), ids=STRANGE)
def test_row_30_what_is_not_http_is_a_protocol_error_that_shows_its_beginning(
    answer: bytes, shown: str, wire: Wire
) -> None:
    async def scene() -> None:
        error = await one_failure(wire, saying(answer), head=0.5)
        assert error.code in ("protocol", "head-limit" if len(answer) > 65536 else "protocol")
        said = str(error.args[0])
        assert said.isprintable()
        assert said.replace("…", "").isascii()
        assert shown in said
        assert len(re.findall(r"\\x[89a-f][0-9a-f]", said)) <= 40

    wire.play(scene)


LENIENT: dict[str, bytes] = {
    "B8-no-reason": b"HTTP/1.1 200\r\n" + REST,
    "B8-empty-reason": b"HTTP/1.1 200 \r\n" + REST,
    "B8-bare-line-feeds": b"HTTP/1.1 200 OK\nX: y\nContent-Length: 2\n\nok",
    "B8-no-space-after-the-colon": HEAD + b"Content-Length:2\r\n\r\nok",
    "B8-space-around-the-value": HEAD + b"Content-Length: \t 2 \t\r\n\r\nok",
    "B8-empty-value": HEAD + b"X-A:\r\n" + REST,
    "B8-http-1.0": b"HTTP/1.0 200 OK\r\n\r\nok",
    "B8-no-length": HEAD + b"\r\nok",
    "B8-latin-1": HEAD + b"X-A: caf\xe9\r\n" + REST,
}


@on_each_wire
@pytest.mark.parametrize("answer", LENIENT.values(), ids=LENIENT)
def test_row_30_what_browsers_read_is_read(answer: bytes, wire: Wire) -> None:
    async def scene() -> None:
        await check(wire, b"ok", answer)

    wire.play(scene)


@on_each_wire
def test_row_30_statuses_nobody_registered_are_statuses(wire: Wire) -> None:
    async def script(peer: Peer, head: bytes) -> bool:
        await peer.send(b"HTTP/1.1 %b Odd\r\n" % head.split()[1][1:] + REST)
        return True

    async def scene() -> None:
        async with Server(script) as server, wire.open_cache() as cache:
            for status in (200, 299, 418, 444, 599, 600, 999):
                got = await fetch(cache, f"{server.url}{status}")
                assert got[:2] == (status, b"ok")
            assert server.connections == 1

    wire.play(scene)


@on_each_wire
def test_row_30_a_folded_field_is_one_field_or_refused(wire: Wire) -> None:
    async def scene() -> None:
        answer = HEAD + b"X-A: a\r\n  b\r\n\tX-B: c\r\n" + REST
        async with Server(answering(answer)) as server, wire.open_cache() as cache:
            got = await attempt(cache, server.url)
            if not isinstance(got, str):
                assert got[1] == b"ok"
                assert got[0].headers["X-A"].split() == ["a", "b", "X-B:", "c"]
                assert "X-B" not in got[0].headers
            else:
                assert got == "protocol"
            await settle(cache, server)

    wire.play(scene)


@on_each_wire
def test_row_30_a_space_before_the_colon_hides_no_length(wire: Wire) -> None:
    async def scene() -> None:
        answer = HEAD + b"Content-Length : 2\r\n\r\nok and more"
        async with Server(saying(answer)) as server, wire.open_cache() as cache:
            got = await attempt(cache, server.url, read=0.5)
            told = got if isinstance(got, str) else got[1]
            assert told in ("protocol", b"ok")
            await settle(cache, server)

    wire.play(scene)


# All of it at once: what one connection suffers no other sees


def troubles() -> Iterator[bytes]:
    for rest in (rest for expected, rest in LIES.values() if isinstance(expected, str)):
        yield HEAD + rest
    for answer, _ in STRANGE.values():
        yield answer


@on_each_wire
def test_row_35_hostile_answers_harm_only_their_own_requests(wire: Wire) -> None:
    bad = list(troubles())

    async def script(peer: Peer, head: bytes) -> bool:
        target = head.split()[1]
        if target == b"/good":
            return await polite(peer, head)
        await peer.send(bad[int(target[1:])])
        return True

    async def scene() -> None:
        async with Server(script) as server, wire.open_cache() as cache:

            async def good() -> None:
                for _ in range(len(bad)):
                    assert (await fetch(cache, server.url + "good"))[:2] == (200, b"ok")

            async def evil() -> None:
                for number in range(len(bad)):
                    error = await refused(cache, f"{server.url}{number}")
                    assert error.code in ("protocol", "head-limit")

            await asyncio.gather(good(), evil(), good())
            assert cache.stats().stale_replays == 0

    wire.play(scene)
