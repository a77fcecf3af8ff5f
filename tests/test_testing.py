"""The test server does what its names say, seen from a plain socket."""

from __future__ import annotations

import asyncio
import gzip
import socket
import time
from typing import TYPE_CHECKING

import pytest
import uvloop

from crawler.testing import Received, Reply, Site, dead_address, fail_first, files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def connect(site: Site, number: int = 0) -> socket.socket:
    host, port = site.addresses[number].rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=5)


def request(path: str = "/", *fields: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: Here", *fields, "", ""]).encode()


def read_answer(sock: socket.socket, *, head_only: bool = False) -> tuple[str, bytes]:
    """One answer with a length, as (head, body)."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += sock.recv(65_536)
    head, _, body = data.partition(b"\r\n\r\n")
    text = head.decode()
    length = int(text.lower().split("content-length: ")[1].split("\r\n")[0])
    while not head_only and len(body) < length:
        body += sock.recv(65_536)
    return text, body


def read_all(sock: socket.socket) -> bytes:
    data = b""
    while piece := sock.recv(65_536):
        data += piece
    return data


def ask(site: Site, path: str = "/", *fields: str, method: str = "GET") -> bytes:
    """Everything that the server sends to one request before it closes."""
    with connect(site) as sock:
        sock.sendall(request(path, *fields, "Connection: close", method=method))
        return read_all(sock)


def test_a_connection_is_kept_for_many_requests_and_counted_once() -> None:
    with Site({"/": Reply.html("hello")}).threaded() as site:
        with connect(site) as sock:
            for _ in range(5):
                sock.sendall(request())
                assert read_answer(sock)[1] == b"hello"
            stats = site.stats()
            assert (stats.requests, stats.opened, stats.open, stats.peak) == (5, 1, 1, 1)
        with connect(site) as sock:
            sock.sendall(request())
            read_answer(sock)
        assert [seen.connection for seen in site.log] == [1, 1, 1, 1, 1, 2]
    assert site.stats().open == 0
    assert "6 requests 0 open" in repr(site)


def test_the_peak_counts_connections_open_at_once_by_address() -> None:
    with Site({"/": Reply()}).threaded() as site:
        socks = [connect(site) for _ in range(3)]
        for sock in socks:
            sock.sendall(request())
            read_answer(sock)
        for sock in socks:
            sock.close()
        ask(site)
    stats = site.stats()
    assert (stats.opened, stats.peak) == (4, stats.peak_by_address[site.addresses[0]])
    assert stats.peak >= 3


def test_pipelined_requests_are_answered_in_order() -> None:
    routes = {f"/{n}": Reply.html(str(n)).slow(0.01 if n == 0 else 0) for n in range(3)}
    with Site(routes).threaded() as site, connect(site) as sock:
        sock.sendall(request("/0") + request("/1") + request("/2", "Connection: close"))
        bodies = [part[-1:] for part in read_all(sock).split(b"HTTP/1.1")[1:]]
    assert bodies == [b"0", b"1", b"2"]


def test_the_log_keeps_what_was_asked() -> None:
    with Site().threaded() as site, connect(site) as sock:
        sock.sendall(request("/p?q=1", "X-One: a", "Content-Length: 3", method="POST") + b"abc")
        head, _ = read_answer(sock)
        (seen,) = site.log
    assert head.startswith("HTTP/1.1 404 Not Found")
    assert (seen.method, seen.path, seen.host, seen.body) == ("POST", "/p?q=1", "here", b"abc")
    assert (seen.header("x-one"), seen.header("x-two")) == ("a", None)
    assert (seen.address, seen.number) == (site.addresses[0], 0)


def test_routes_may_belong_to_an_address_a_host_or_all() -> None:
    with Site({"/": Reply.html("any")}, addresses=2).threaded() as site:
        site.add("/", Reply.html("second"), at=1)
        site.add("/", Reply.html("named"), at="shop.test")
        with connect(site) as first, connect(site, 1) as second:
            first.sendall(request())
            second.sendall(request())
            assert (read_answer(first)[1], read_answer(second)[1]) == (b"any", b"second")
            first.sendall(b"GET / HTTP/1.1\r\nHost: shop.test:81\r\n\r\n")
            assert read_answer(first)[1] == b"named"


def test_an_exact_query_goes_before_the_path_alone() -> None:
    with Site({"/a": Reply.html("path"), "/a?b": Reply.html("query")}).threaded() as site:
        assert ask(site, "/a?b").endswith(b"query")
        assert ask(site, "/a?c").endswith(b"path")


def test_head_gets_the_length_without_the_body() -> None:
    with Site({"/": Reply.html("hello")}).threaded() as site:
        answer = ask(site, method="HEAD")
    assert b"Content-Length: 5\r\n" in answer
    assert answer.endswith(b"\r\n\r\n")


def test_chunks_replace_the_length() -> None:
    with Site({"/": Reply(body=b"x" * 1500, chunked=True)}).threaded() as site:
        head, _, body = ask(site).partition(b"\r\n\r\n")
    assert b"Transfer-Encoding: chunked" in head
    assert b"Content-Length" not in head
    assert body == b"400\r\n%b\r\n1dc\r\n%b\r\n0\r\n\r\n" % (b"x" * 1024, b"x" * 476)


def test_gzip_is_announced_and_the_same_bytes_every_time() -> None:
    reply = Reply.html("hello " * 50).gzip()
    with Site({"/": reply}).threaded() as site:
        head, _, body = ask(site).partition(b"\r\n\r\n")
    assert b"Content-Encoding: gzip" in head
    assert gzip.decompress(body) == b"hello " * 50
    assert reply == Reply.html("hello " * 50).gzip()


def test_a_big_body_has_exactly_its_size() -> None:
    with Site({"/": Reply.big(1_000_000)}).threaded() as site:
        assert len(ask(site).partition(b"\r\n\r\n")[2]) == 1_000_000


def test_a_slow_reply_waits_before_its_first_byte() -> None:
    with Site({"/": Reply.html("late").slow(0.08)}).threaded() as site:
        began = time.monotonic()
        assert ask(site).endswith(b"late")
        assert time.monotonic() - began >= 0.08


def test_a_status_carries_its_headers() -> None:
    with Site({"/": Reply.code(429, {"Retry-After": "7"})}).threaded() as site:
        answer = ask(site)
    assert answer.startswith(b"HTTP/1.1 429 Too Many Requests\r\n")
    assert b"Retry-After: 7\r\n" in answer


def test_a_redirect_names_its_target() -> None:
    with Site({"/": Reply.redirect("/there", 301)}).threaded() as site:
        answer = ask(site)
    assert answer.startswith(b"HTTP/1.1 301 ")
    assert b"Location: /there\r\n" in answer


def test_an_answer_without_a_body_has_no_length() -> None:
    with Site({"/": Reply(status=204)}).threaded() as site:
        assert ask(site) == b"HTTP/1.1 204 No Content\r\n\r\n"


def test_fail_first_counts_each_url_by_itself() -> None:
    def status(site: Site, path: str) -> bytes:
        return ask(site, path)[9:12]

    fails = fail_first(2, then=Reply.html("ok"))
    with Site(fallback=fails).threaded() as site:
        assert [status(site, "/a") for _ in range(4)] == [b"503", b"503", b"200", b"200"]
        assert status(site, "/b") == b"503"


def test_a_truncated_body_ends_early_and_in_order() -> None:
    with Site({"/": Reply.html("0123456789").truncated(4)}).threaded() as site:
        head, _, body = ask(site).partition(b"\r\n\r\n")
    assert b"Content-Length: 10" in head
    assert body == b"0123"


def test_truncated_chunks_have_no_last_chunk() -> None:
    reply = Reply(body=b"x" * 10, chunked=True).truncated(6)
    with Site({"/": reply}).threaded() as site:
        assert ask(site).endswith(b"\r\n\r\na\r\nxxx")


def test_a_reset_reaches_the_client_as_a_reset() -> None:
    routes = {"/": Reply.html("0123456789").reset(4)}
    with Site(routes).threaded() as site, pytest.raises(ConnectionResetError):
        ask(site)


def test_garbage_is_sent_as_it_is() -> None:
    with Site({"/": Reply.garbage(b"\x00nonsense")}).threaded() as site:
        assert ask(site) == b"\x00nonsense"


def test_a_hanging_reply_ends_when_the_site_closes() -> None:
    with Site({"/": Reply.hang()}).threaded() as site:
        sock = connect(site)
        sock.sendall(request())
        site.wait_for(1)
        assert site.stats().open == 1
    with sock:
        assert sock.recv(1) == b""
    assert site.stats().open == 0


def test_a_stalled_reply_sends_its_head_and_some_bytes_then_nothing() -> None:
    routes = {"/": Reply.html("0123456789").stalled(4)}
    with Site(routes).threaded() as site, connect(site) as sock:
        sock.sendall(request())
        data = b""
        while not data.endswith(b"0123"):
            data += sock.recv(100)
        sock.settimeout(0.02)
        with pytest.raises(TimeoutError):
            sock.recv(1)


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
)
def test_a_request_it_cannot_read_answers_400_and_closes(sent: bytes) -> None:
    with Site().threaded() as site, connect(site) as sock:
        sock.sendall(sent)
        assert read_all(sock).startswith(b"HTTP/1.1 400 ")


def test_handlers_may_be_async_and_see_the_request() -> None:
    async def echo(seen: Received) -> Reply:
        await asyncio.sleep(0)
        return Reply.html(seen.path)

    with Site(fallback=echo).threaded() as site:
        assert ask(site, "/what").endswith(b"/what")


def test_an_error_in_a_handler_answers_500_and_fails_the_block() -> None:
    def broken(seen: Received) -> Reply:
        raise LookupError(seen.path)

    async def also_broken(seen: Received) -> Reply:
        raise LookupError(seen.path)

    def scene() -> None:
        with Site({"/a": broken, "/b": also_broken}).threaded() as site:
            assert ask(site, "/a").startswith(b"HTTP/1.1 500 ")
            assert ask(site, "/b").startswith(b"HTTP/1.1 500 ")

    with pytest.raises(ExceptionGroup, match="routes") as caught:
        scene()
    assert [str(error) for error in caught.value.exceptions] == ["/a", "/b"]


def test_many_addresses_share_a_port_and_deaf_ones_refuse() -> None:
    with Site({"/": Reply()}, addresses=4, deaf=[3]).threaded() as site:
        assert len(set(site.addresses)) == 4
        for number in range(3):
            connect(site, number).close()
        with pytest.raises(ConnectionRefusedError):
            connect(site, 3)
        assert site.url("/x", at=2) == f"http://{site.addresses[2]}/x"


def test_an_address_that_the_machine_lacks_falls_back_to_ports() -> None:
    with Site({"/": Reply()}, addresses=["127.0.0.1", "203.0.113.7"]).threaded() as site:
        first, second = (address.rsplit(":", 1) for address in site.addresses)
    assert first[0] == second[0] == "127.0.0.1"
    assert first[1] != second[1]


def test_nothing_listens_on_a_dead_address() -> None:
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(dead_address(), timeout=5)


def test_a_folder_is_a_site(tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b" / "index.html").write_text("index")
    (tmp_path / "x.css").write_text("css")
    with Site(fallback=files(tmp_path)).threaded() as site:
        assert ask(site, "/a%20b/?q").endswith(b"index")
        assert b"Content-Type: text/css" in ask(site, "/x.css")
        for outside in ("/none", "/../x", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd", "/%00"):
            assert ask(site, outside).startswith(b"HTTP/1.1 404 "), outside


def test_clients_that_vanish_leave_nothing_open() -> None:
    routes = {"/slow": Reply.html("late").slow(5), "/big": Reply.big(5_000_000)}
    with Site(routes, addresses=20).threaded() as site:
        for number in range(20):
            with connect(site, number) as sock:
                sock.sendall(request("/slow" if number % 2 else "/big"))
                site.wait_for(number + 1)
        connect(site).close()
    assert site.stats().open == 0


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_it_runs_inside_a_loop_too(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def scene() -> bytes:
        async with Site({"/": Reply.html("hello")}) as site:
            host, port = site.addresses[0].split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(request("/", "Connection: close"))
            answer = await reader.read()
            writer.close()
            await writer.wait_closed()
            return answer

    with asyncio.Runner(loop_factory=new_loop) as runner:
        assert runner.run(scene()).endswith(b"hello")


def test_waiting_for_requests_that_never_come_is_an_error() -> None:
    with Site().threaded() as site, pytest.raises(TimeoutError, match="0 of 1"):
        site.wait_for(1, timeout=0.01)


def test_a_site_that_cannot_start_says_so() -> None:
    with pytest.raises(OSError, match=r"Name|nodename|service"):  # noqa: SIM117
        with Site(addresses=["not an address"]).threaded():
            pass


def test_two_thousand_requests_take_well_under_two_seconds() -> None:
    with Site({"/": Reply.html("x" * 5000)}).threaded() as site, connect(site) as sock:
        batch = request() * 100
        size = len(Reply.html("x" * 5000).encode()) * 100
        began = time.monotonic()
        for _ in range(20):
            sock.sendall(batch)
            received = 0
            while received < size:
                received += len(sock.recv(1_000_000))
        assert time.monotonic() - began < 2
        assert len(site.log) == 2000
