"""Proxies: what their URLs mean, and what the handshakes bear."""

from __future__ import annotations

import asyncio
import base64
import socket
import sys
import traceback
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from crawler.errors import FetchError, SettingsError
from crawler.pool.proxy import ProxyRoute, absolute_target, connect_tunnel, socks5_connect
from tests.proxy_server import shut

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

BASIC = b"Basic " + base64.b64encode(b"me:pass word")

on_both_loops = pytest.mark.parametrize("run", [asyncio.run, uvloop.run])


# URLs


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://proxy.test", ("http", "proxy.test", 80, None, b"")),
        ("HTTPS://Proxy.Test/", ("https", "proxy.test", 443, None, b"")),
        ("socks5://127.0.0.1", ("socks5", "127.0.0.1", 1080, None, b"")),
        ("socks5h://[::1]:9050", ("socks5h", "::1", 9050, None, b"")),
        ("http://bücher.test:8080", ("http", "xn--bcher-kva.test", 8080, None, b"")),
        ("http://me:pass%20word@h:1", ("http", "h", 1, b"me", b"pass word")),
        ("http://me@h", ("http", "h", 80, b"me", b"")),
        ("http://:token@h", ("http", "h", 80, b"", b"token")),
        ("http://a%40b:c:d@e@h", ("http", "h", 80, b"a@b", b"c:d@e")),
        ("socks5://m%FF:%00@h", ("socks5", "h", 1080, b"m\xff", b"\0")),
        ("http://@h", ("http", "h", 80, None, b"")),
        ("http://h:", ("http", "h", 80, None, b"")),
    ],
)
def test_a_url_of_a_proxy_says_where_and_as_whom(url: str, expected: tuple[object, ...]) -> None:
    route = ProxyRoute.parse(url)
    assert (route.scheme, route.host, route.port, route.username, route.password) == expected
    assert route.is_http is not route.is_socks


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:8080",
        "//me:secret@h",
        "http://",
        "http://me:secret@",
        "http://me:secret@h:0",
        "http://me:secret@h:65536",
        "http://me:secret@h:x",
        "http://me:secret@h:８０",
        "http://me:secret@h/path",
        "http://me:secret@h?query",
        "http://me:secret@h#part",
        "http://me:secret/rest@h",
        "http://me:1234/secret@h",
        "http://me:1234#secret@h",
        "http://me:1234\\secret@h",
        "http://me:sec ret@h",
        "http://me:secret@h\r\nX: y",
        "http://me:secret@a b",
        "http://me:secret@a%20b",
        "http://me:secret@\ud800",
        "http://me:\ud800secret@h",
        "http://me:secret@[::1",
        "http://me:secret@[::g]",
        "http://me:secret@[::1%25lo]",
        "http://me%3Ayou:secret@h",
        "ftp://me:secret@h",
        "socks4://me:secret@h",
        "socks5://:secret@h",
        "socks5://me:" + "secret" * 50 + "@h",
    ],
)
def test_a_url_that_cannot_be_used_is_refused_and_no_password_shown(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        ProxyRoute.parse(url)
    assert "secret" not in "".join(traceback.format_exception(caught.value))
    assert "secret" not in (caught.value.hint or "")


@given(user=st.text(max_size=60), password=st.text(max_size=60))
@settings(max_examples=200, deadline=None)
def test_any_user_and_password_come_through_a_url(user: str, password: str) -> None:
    pair = f"{quote(user, safe='')}:{quote(password, safe='')}"
    expected = (user.encode(), password.encode())
    if user:
        route = ProxyRoute.parse(f"socks5://{pair}@h:1")
        assert (route.username, route.password) == expected
        assert route.authorization() is None
        assert repr(route) == "<ProxyRoute socks5://***@h:1>"
    if ":" not in user:
        route = ProxyRoute.parse(f"http://{pair}@h:1")
        assert (route.username, route.password) == expected
        sent = route.authorization() or b""
        assert base64.b64decode(sent.removeprefix(b"Basic ")) == b":".join(expected)
        assert repr(route) == str(route) == "<ProxyRoute http://***@h:1>"


def test_socks_without_its_package_is_refused_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "socksio", None)
    with pytest.raises(SettingsError) as caught:
        ProxyRoute.parse("socks5://me:secret@h")
    assert caught.value.hint == 'pip install "poolcrawl[socks]"'
    assert ProxyRoute.parse("http://h").is_http


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"/", b"http://shop.test:81/"),
        (b"/a?b=c", b"http://shop.test:81/a?b=c"),
        (b"*", b"http://shop.test:81"),
    ],
)
def test_the_absolute_form_of_a_target(target: bytes, expected: bytes) -> None:
    assert absolute_target("http", b"shop.test:81", target) == expected


# Handshakes


class Wire:
    """One end of a socket pair, read at most `step` bytes at a time."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, step: int
    ) -> None:
        self.reader = reader
        self.writer = writer
        self.step = step

    def write(self, data: bytes) -> None:
        self.writer.write(data)

    async def read(self) -> bytes:
        return await self.reader.read(self.step)


@asynccontextmanager
async def wired(
    step: int,
) -> AsyncIterator[tuple[Wire, asyncio.StreamReader, asyncio.StreamWriter]]:
    """Our end, and the peer's."""
    here, there = socket.socketpair()
    wire = Wire(*await asyncio.open_unix_connection(sock=here), step)
    reader, writer = await asyncio.open_unix_connection(sock=there)
    try:
        async with asyncio.timeout(5):
            yield wire, reader, writer
    finally:
        await shut(wire.writer)
        await shut(writer)


Handshake = Callable[[Wire], Awaitable[None]]


async def granted(handshake: Handshake, *answers: bytes, step: int = 65_536) -> list[bytes]:
    """What the peer heard until the way was open; it must be open, and nothing lost."""
    heard = []
    async with wired(step) as (wire, reader, writer):
        task = asyncio.ensure_future(handshake(wire))
        for answer in answers:
            heard.append(await reader.read(65_536))
            writer.write(answer)
        await task
        writer.write(b"origin")
        assert await wire.reader.readexactly(6) == b"origin"
    return heard


async def refused(handshake: Handshake, *answers: bytes, step: int = 65_536) -> str:
    """What is said of a peer that gives these answers and hangs up."""
    async with wired(step) as (wire, reader, writer):
        task = asyncio.ensure_future(handshake(wire))
        for answer in answers:
            await reader.read(65_536)
            writer.write(answer)
        if not answers:
            await reader.read(65_536)
        writer.write_eof()
        with pytest.raises(FetchError) as caught:
            await task
    assert caught.value.code == "proxy"
    assert "secret" not in str(caught.value)
    return str(caught.value)


def tunnel(host: str = "shop.test", proxy: str = "http://proxy.test") -> Handshake:
    return lambda wire: connect_tunnel(wire, host, 443, ProxyRoute.parse(proxy))


def socks(host: str = "shop.test", proxy: str = "socks5://proxy.test") -> Handshake:
    return lambda wire: socks5_connect(wire, host, 443, ProxyRoute.parse(proxy))


@on_both_loops
@pytest.mark.parametrize(
    ("host", "authority"),
    [("shop.test", b"shop.test:443"), ("::1", b"[::1]:443"), ("[::1]", b"[::1]:443")],
)
def test_a_tunnel_is_asked_for_by_name_and_nothing_else(
    host: str, authority: bytes, run: Callable[..., Any]
) -> None:
    expected = b"CONNECT %b HTTP/1.1\r\nHost: %b\r\n\r\n" % (authority, authority)
    assert run(granted(tunnel(host), b"HTTP/1.1 200 OK\r\n\r\n")) == [expected]
    secret = tunnel(host, "http://me:pass%20word@proxy.test")
    expected = expected[:-2] + b"Proxy-Authorization: %b\r\n\r\n" % BASIC
    assert run(granted(secret, b"HTTP/1.1 200 OK\r\n\r\n")) == [expected]


@on_both_loops
@pytest.mark.parametrize("step", [1, 2, 3, 7, 65_536])
@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.0 200 Connection established\r\n\r\n",
        b"HTTP/1.1 200\r\n\r\n",
        b"HTTP/1.1 200 OK\nVia: x\n\n",
        b"HTTP/1.1 204 No Content\r\nContent-Length: 9\r\nContent-Length: 8\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\n" * 8 + b"HTTP/1.1 200 OK\r\n\r\n",
    ],
)
def test_a_tunnel_is_open_after_any_2xx_in_any_pieces(
    answer: bytes, step: int, run: Callable[..., Any]
) -> None:
    assert len(run(granted(tunnel(), answer, step=step))) == 1


REFUSALS = [
    ("status 403 (it does not allow that host)", b"HTTP/1.1 403 Forbidden\r\n\r\n"),
    ("status 407 (it wants a user and password)", b"HTTP/1.1 407 No\r\n\r\n"),
    ("status 502 (it could not reach", b"HTTP/1.1 502 Bad\r\nContent-Length: 4\r\n\r\nbody"),
    ("status 302", b"HTTP/1.1 302 Found\r\nLocation: /login\r\n\r\n"),
    ("status 101", b"HTTP/1.1 101 Switching\r\n\r\n"),
    ("before it had answered", b""),
    ("before it had answered", b"HTTP/1.1 200 OK\r\nVia: x\r\n"),
    ("before it had answered", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ("speaks no HTTP: 'SSH-2.0-OpenSSH_9.2\\r\\n'", b"SSH-2.0-OpenSSH_9.2\r\n"),
    ("speaks no HTTP", b"\r\n\r\n"),
    ("speaks no HTTP", b"HTTP/2 200\r\n\r\n"),
    ("speaks no HTTP", b"HTTP/1.1 2000 OK\r\n\r\n"),
    ("speaks no HTTP", b"HTTP/1.1 099 OK\r\n\r\n"),
    ("speaks no HTTP", b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n"),
    ("speaks no HTTP", b"HTTP/1.1 200 OK\r\nA: b\r\n folded\r\n\r\n"),
    ("speaks no HTTP", b"HTTP/1.1 200 OK\r\nA: \0\r\n\r\n"),
    ("passed 65536 bytes", b"HTTP/1.1 200 OK\r\n" + b"A: bcdefgh\r\n" * 6_000),
    ("passed 65536 bytes", b"HTTP/1.1 200 OK\r\nA: " + b"a" * 65_536 + b"\r\n\r\n"),
    ("passed 65536 bytes", (b"HTTP/1.1 103 E\r\nA: " + b"a" * 30_000 + b"\r\n\r\n") * 3),
    ("more than 8 interim", b"HTTP/1.1 100 Continue\r\n\r\n" * 9),
    ("sent '\\x16\\x03' after its answer", b"HTTP/1.1 200 OK\r\n\r\n\x16\x03"),
    ("sent 'ok' after", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
]


@on_both_loops
@pytest.mark.parametrize(("words", "answer"), REFUSALS)
def test_all_that_can_go_wrong_with_a_tunnel_is_the_proxys(
    words: str, answer: bytes, run: Callable[..., Any]
) -> None:
    assert words in run(refused(tunnel(), answer))


@pytest.mark.parametrize(("words", "answer"), REFUSALS[:-6])
def test_what_goes_wrong_in_single_bytes_is_told_as_well(words: str, answer: bytes) -> None:
    assert words.split(":")[0] in asyncio.run(refused(tunnel(), answer, step=1))


@on_both_loops
def test_a_proxy_that_hangs_up_or_knows_another_password_is_told_as_that(
    run: Callable[..., Any],
) -> None:
    assert "before it had answered" in run(refused(tunnel()))
    assert "before it had answered" in run(refused(socks()))
    known = tunnel(proxy="http://me:secret@h")
    assert "status 407 (its user or password)" in run(
        refused(known, b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
    )


class Broken:
    """A connection that dies at the first write, or the first read."""

    def __init__(self, *, at_write: bool) -> None:
        self.at_write = at_write

    def write(self, data: bytes) -> None:
        if self.at_write:
            raise BrokenPipeError("gone")

    async def read(self) -> bytes:
        raise ConnectionResetError("gone")


@pytest.mark.parametrize("at_write", [True, False])
def test_a_proxy_that_breaks_the_connection_is_the_proxys_fault(at_write: bool) -> None:
    async def scene() -> None:
        for connect, url in ((connect_tunnel, "http://h"), (socks5_connect, "socks5://h")):
            with pytest.raises(FetchError, match="broke the connection: gone") as caught:
                await connect(Broken(at_write=at_write), "shop.test", 80, ProxyRoute.parse(url))
            assert caught.value.code == "proxy"

    asyncio.run(scene())


@pytest.mark.parametrize("host", ["", "a b", "a\r\nX: y", "bücher.test", "a\0b"])
@pytest.mark.parametrize("open_way", [tunnel, socks])
def test_a_host_that_cannot_be_sent_is_not(host: str, open_way: Callable[[str], Handshake]) -> None:
    async def scene() -> None:
        async with wired(65_536) as (wire, reader, _):
            with pytest.raises(FetchError) as caught:
                await open_way(host)(wire)
            assert caught.value.code == "bad-request"
            await shut(wire.writer)
            assert await reader.read() == b""

    asyncio.run(scene())


GREETING = b"\x05\x01\x00"
NO_LOGIN = b"\x05\x00"
LOGIN = b"\x05\x02"
HERE = b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50"
BOUND = [
    HERE,
    b"\x05\x00\x00\x03\x09localhost\x00\x50",
    b"\x05\x00\x00\x03\x00\x00\x50",
    b"\x05\x00\x00\x04" + b"\x00" * 15 + b"\x01\x00\x50",
]


@on_both_loops
@pytest.mark.parametrize("step", [1, 2, 3, 5, 65_536])
@pytest.mark.parametrize("reply", BOUND)
def test_socks_tells_the_name_and_bears_any_bound_address_in_any_pieces(
    reply: bytes, step: int, run: Callable[..., Any]
) -> None:
    heard = run(granted(socks(), NO_LOGIN, reply, step=step))
    assert heard == [GREETING, b"\x05\x01\x00\x03\x09shop.test\x01\xbb"]


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
@pytest.mark.parametrize(
    ("host", "asked"),
    [
        ("shop.test", b"\x03\x09shop.test"),
        ("127.0.0.2", b"\x01\x7f\x00\x00\x02"),
        ("::1", b"\x04" + b"\x00" * 15 + b"\x01"),
        ("[::1]", b"\x04" + b"\x00" * 15 + b"\x01"),
    ],
)
def test_socks_sends_names_as_names_and_addresses_as_addresses(
    host: str, asked: bytes, scheme: str
) -> None:
    handshake = socks(host, f"{scheme}://h")
    heard = asyncio.run(granted(handshake, NO_LOGIN, HERE))
    assert heard[1] == b"\x05\x01\x00" + asked + b"\x01\xbb"


@on_both_loops
@pytest.mark.parametrize("step", [1, 65_536])
def test_socks_logs_in_where_it_is_asked_to(step: int, run: Callable[..., Any]) -> None:
    handshake = socks(proxy="socks5://me:p%FF@h")
    heard = run(granted(handshake, LOGIN, b"\x01\x00", HERE, step=step))
    assert heard[:2] == [b"\x05\x02\x00\x02", b"\x01\x02me\x02p\xff"]
    heard = run(granted(handshake, NO_LOGIN, HERE, step=step))
    assert heard[0] == b"\x05\x02\x00\x02"
    assert heard[1].startswith(b"\x05\x01")


SOCKS_FAULTS = [
    ("the proxy wants a user and password", [b"\x05\xff"]),
    ("chose method 2, which was not offered", [LOGIN]),
    ("chose method 1, which was not offered", [b"\x05\x01"]),
    ("chose method 128, which was not offered", [b"\x05\x80"]),
    ("speaks no SOCKS5: '\\x04", [b"\x04\x00"]),
    ("speaks no SOCKS5: 'HTTP/1.1 400", [b"HTTP/1.1 400 Bad Request\r\n\r\n"]),
    ("before it had answered", [b"\x05"]),
    ("before it had answered", [NO_LOGIN]),
    ("before it had answered", [NO_LOGIN, b"\x05"]),
    ("before it had answered", [NO_LOGIN, HERE[:-1]]),
    ("before it had answered", [NO_LOGIN, b"\x05\x00\x00\x03\x09local"]),
    ("speaks no SOCKS5", [NO_LOGIN, b"\x04" + HERE[1:]]),
    ("an address of type 2", [NO_LOGIN, b"\x05\x00\x00\x02" + HERE[4:]]),
    ("handshake failed", [NO_LOGIN, b"\x05\x00\x00\x03\x01\xff\x00\x50"]),
    ("speaks no SOCKS5", [NO_LOGIN + b"HT", b"TP"]),
    ("general SOCKS server failure", [NO_LOGIN, b"\x05\x01" + HERE[2:]]),
    ("connection not allowed by ruleset", [NO_LOGIN, b"\x05\x02" + HERE[2:]]),
    ("network unreachable", [NO_LOGIN, b"\x05\x03" + HERE[2:]]),
    ("host unreachable", [NO_LOGIN, b"\x05\x04" + HERE[2:]]),
    ("connection refused", [NO_LOGIN, b"\x05\x05" + HERE[2:]]),
    ("TTL expired", [NO_LOGIN, b"\x05\x06" + HERE[2:]]),
    ("command not supported", [NO_LOGIN, b"\x05\x07" + HERE[2:]]),
    ("address type not supported", [NO_LOGIN, b"\x05\x08" + HERE[2:]]),
    ("reply 9, which has no meaning", [NO_LOGIN, b"\x05\x09" + HERE[2:]]),
    ("connection refused", [NO_LOGIN, b"\x05\x05"]),
]


@on_both_loops
@pytest.mark.parametrize("step", [1, 65_536])
@pytest.mark.parametrize(("words", "answers"), SOCKS_FAULTS)
def test_all_that_can_go_wrong_with_socks_is_the_proxys(
    words: str, answers: list[bytes], step: int, run: Callable[..., Any]
) -> None:
    said = run(refused(socks(), *answers, step=step))
    assert (words if step > 1 else words.split(":")[0]) in said


@on_both_loops
@pytest.mark.parametrize(
    ("words", "verdict"),
    [
        ("refused its user or password", b"\x01\x01"),
        ("refused its user or password", b"\x01\xff"),
        ("speaks no SOCKS5", b"\x05\x00"),
        ("before it had answered", b"\x01"),
    ],
)
def test_a_login_that_fails_is_told_without_the_password(
    words: str, verdict: bytes, run: Callable[..., Any]
) -> None:
    handshake = socks(proxy="socks5://me:secret@h")
    assert words in run(refused(handshake, LOGIN, verdict))
    assert "another way to log in" in run(refused(handshake, b"\x05\xff"))


@on_both_loops
def test_bytes_that_come_with_the_grant_are_refused(run: Callable[..., Any]) -> None:
    said = run(refused(socks(), NO_LOGIN, HERE + b"\x16\x03"))
    assert "sent '\\x16\\x03' after its answer" in said


def test_a_name_too_long_for_socks_is_not_cut() -> None:
    assert "handshake failed" in asyncio.run(refused(socks("a" * 256), NO_LOGIN))


@given(answers=st.lists(st.binary(max_size=40), max_size=3), step=st.integers(1, 50))
@settings(max_examples=60, deadline=None)
def test_whatever_a_proxy_sends_a_handshake_ends_in_success_or_a_proxy_fault(
    answers: list[bytes], step: int
) -> None:
    class Script:
        """A peer without a socket: these bytes, then the end."""

        def __init__(self) -> None:
            data = b"".join(answers)
            self.pieces = [data[at : at + step] for at in range(0, len(data), step)]

        def write(self, data: bytes) -> None:
            assert data

        async def read(self) -> bytes:
            return self.pieces.pop(0) if self.pieces else b""

    async def scene() -> None:
        for proxy in ("socks5://h", "socks5://me:x@h"):
            with suppress(FetchError):
                await socks5_connect(Script(), "shop.test", 80, ProxyRoute.parse(proxy))
        with suppress(FetchError):
            await connect_tunnel(Script(), "shop.test", 80, ProxyRoute.parse("http://h"))

    asyncio.run(scene())
