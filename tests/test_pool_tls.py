"""TLS and proxies on the wire: what is checked, who sees what, and what a failure is called."""

from __future__ import annotations

import asyncio
import base64
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from crawler.errors import FetchError, SettingsError
from crawler.pool import ClientKey, TlsProfile
from tests.pool_server import Peer, Server
from tests.test_pool_wire import RUNNERS, answering, fetch, open_cache

if TYPE_CHECKING:
    from collections.abc import Callable

CERTIFICATE = Path(__file__).with_name("pool_server.pem")


def server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return context


@pytest.mark.parametrize("run", RUNNERS)
def test_a_certificate_is_checked_and_the_message_says_what_failed(
    run: Callable[..., None],
) -> None:
    async def scene() -> None:
        trusting = TlsProfile(ca_file=str(CERTIFICATE))
        async with (
            Server(tls=server_context()) as server,
            Server(tls=server_context(), host="127.0.0.2") as other,
            open_cache() as cache,
        ):
            for url, profile, reason in (
                (server.url, TlsProfile(), "self-signed"),
                (other.url, trusting, "IP address mismatch"),
            ):
                with pytest.raises(FetchError, match=reason) as caught:
                    await fetch(cache, url, key=ClientKey("shop", tls=profile))
                assert caught.value.code == "tls"
            loose = ClientKey(other.domain, tls=TlsProfile(verify=False))
            assert await fetch(cache, other.url, key=loose) == (200, b"ok", False)
            for expected in (False, True):
                key = ClientKey(server.domain, tls=trusting)
                assert await fetch(cache, server.url, key=key) == (200, b"ok", expected)
            assert cache.contexts.stats().built == 3
            assert cache.contexts.stats().asked == 4

    run(scene())


def test_a_port_that_speaks_no_tls_and_one_that_says_nothing() -> None:
    async def banner(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
        await reader.read(65536)
        writer.close()

    async def scene() -> None:
        async with Server() as silent, open_cache() as cache:
            with pytest.raises(FetchError, match="TLS handshake") as caught:
                await fetch(cache, silent.url.replace("http:", "https:"), connect=0.1)
            assert caught.value.code == "connect-timeout"
        other = await asyncio.start_server(banner, "127.0.0.1", 0)
        port = other.sockets[0].getsockname()[1]
        async with other, open_cache() as cache:
            with pytest.raises(FetchError, match="the handshake failed") as caught:
                await fetch(cache, f"https://127.0.0.1:{port}/")
            assert caught.value.code == "tls"

    asyncio.run(scene())


def test_a_ca_file_that_is_missing_is_a_settings_error() -> None:
    async def scene() -> None:
        async with Server(tls=server_context()) as server, open_cache() as cache:
            key = ClientKey("shop", tls=TlsProfile(ca_file="/nowhere.pem"))
            with pytest.raises(SettingsError, match=r"tls\.ca_file"):
                await fetch(cache, server.url, key=key)

    asyncio.run(scene())


# Proxies


def test_a_proxy_is_asked_in_absolute_form_and_alone_gets_its_credentials() -> None:
    async def scene() -> None:
        async with Server() as proxy, open_cache() as cache:
            key = ClientKey("shop.test", proxy=f"http://me:pass%20word@{proxy.domain}")
            for expected in (False, True):
                got = await fetch(cache, "http://shop.test/a?b", key=key)
                assert got == (200, b"ok", expected)
            head = proxy.heads[0].lower()
            assert head.startswith(b"get http://shop.test/a?b http/1.1\r\n")
            pair = base64.b64encode(b"me:pass word").lower()
            assert b"proxy-authorization: basic " + pair in head
            assert "pass" not in repr(key)

    asyncio.run(scene())


def test_a_tunnel_carries_tls_to_the_origin() -> None:
    async def scene() -> None:
        async with Server(tls=server_context()) as origin:

            async def tunnel(peer: Peer, head: bytes) -> bool:
                reader, writer = await asyncio.open_connection("127.0.0.1", origin.port)
                await peer.send(b"HTTP/1.1 200 Connection established\r\n\r\n")

                async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
                    while data := await source.read(65536):
                        sink.write(data)

                back = asyncio.create_task(pump(reader, peer.writer))
                try:
                    await pump(peer.reader, writer)
                finally:
                    back.cancel()
                    writer.close()
                    await asyncio.wait([back])
                return False

            async with Server(tunnel) as proxy, open_cache() as cache:
                profile = TlsProfile(ca_file=str(CERTIFICATE))
                url = f"http://u:p@{proxy.domain}"
                key = ClientKey(origin.domain, proxy=url, tls=profile)
                for expected in (False, True):
                    assert await fetch(cache, origin.url, key=key) == (200, b"ok", expected)
                assert proxy.heads[0].startswith(b"CONNECT " + origin.domain.encode())
                assert not any(b"proxy-authorization" in h.lower() for h in origin.heads)
                assert proxy.connections == 1

    asyncio.run(scene())


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\ngarbage"],
)
def test_a_tunnel_that_fails_leaves_nothing_open(answer: bytes) -> None:
    async def scene() -> None:
        async with Server(answering(answer)) as proxy, open_cache() as cache:
            key = ClientKey("shop.test", proxy=f"http://{proxy.domain}")
            with pytest.raises(FetchError) as caught:
                await fetch(cache, "https://shop.test/", key=key)
            assert caught.value.code in ("connect", "tls", "reset")
            await proxy.until_open(0)

    asyncio.run(scene())


@pytest.mark.parametrize("url", ["socks5://127.0.0.1:1", "127.0.0.1:8080", "http://", "http://h:x"])
def test_a_proxy_that_cannot_be_used_is_refused_before_any_connection(url: str) -> None:
    async def scene() -> None:
        async with open_cache(1) as cache:
            with pytest.raises(SettingsError):
                cache.lease(ClientKey("shop.test", proxy=url))
            assert cache.stats().clients == 0

    asyncio.run(scene())
