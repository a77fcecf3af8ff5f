"""Whole requests through proxies: they arrive, nobody sees what is not theirs, nothing leaks."""

from __future__ import annotations

import asyncio
import base64
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Literal

import pytest
import uvloop

from crawler.errors import FetchError
from crawler.pool import ClientCache, ClientKey, SocketBudget, TlsProfile, connection_of
from tests.proxy_server import (
    CERTIFICATE,
    Asked,
    HttpProxy,
    Listener,
    Origin,
    Scripted,
    SocksProxy,
    fields_of,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

Transport = Literal["native", "httpcore"]
TRUSTING = TlsProfile(ca_file=str(CERTIFICATE))
SECRETS = {
    "Authorization": "Bearer of-the-origin",
    "Cookie": "sid=of-the-origin",
    "Proxy-Authorization": "Basic of-the-caller",
}
TURNS = 400
ESTABLISHED = b"HTTP/1.1 200 OK\r\n\r\n"
NO_LOGIN = b"\x05\x00"
LOGIN = b"\x05\x02"
LOGGED_IN = b"\x01\x00"
HERE = b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50"

on_both_loops = pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
on_both_transports = pytest.mark.parametrize("transport", ["native", "httpcore"])
through_every_kind = pytest.mark.parametrize("kind", ["http", "https", "socks5", "socks5h"])


@asynccontextmanager
async def opened(transport: Transport) -> AsyncIterator[ClientCache]:
    """A cache that must hold nothing when the scene has ended."""
    budget = SocketBudget(32)
    cache = ClientCache(8, budget=budget, transport=transport)
    try:
        async with asyncio.timeout(10):
            yield cache
        assert cache.stats().leases == 0
        assert cache.stats().orphans == 0
    finally:
        await cache.aclose()
    assert cache.stats().open_connections == 0
    assert budget.stats().open == 0


async def get(
    cache: ClientCache, url: str, key: ClientKey, *, secrets: bool = False, connect: float = 5
) -> tuple[int, bytes, bool]:
    """Status, body and whether the connection was reused; one connection at a time."""
    lease = cache.lease(key, 1)
    try:
        request = lease.client.build_request(
            "GET",
            url,
            headers=SECRETS if secrets else {},
            extensions={"timeout": {"connect": connect, "head": 5, "read": 5, "write": 5}},
        )
        response = await lease.client.send(request, stream=True)
        try:
            body = b"".join([part async for part in response.aiter_raw()])
        finally:
            await response.aclose()
        return response.status_code, body, connection_of(response).reused
    finally:
        lease.release()


async def code_of(cache: ClientCache, url: str, key: ClientKey, **options: Any) -> str:
    """The code of a request that must fail."""
    with pytest.raises(FetchError) as caught:
        await get(cache, url, key, **options)
    assert "secret" not in str(caught.value)
    return caught.value.code


async def until_free(cache: ClientCache, proxy: Listener) -> None:
    """Neither socket nor token is held, here and there."""
    await proxy.until_open(0)
    for _ in range(TURNS):
        if not cache.budget.stats().open:
            return
        await asyncio.sleep(0)
    raise AssertionError(f"{cache.budget!r} after {TURNS} turns of the loop")


def proxy_of(kind: str, names: dict[str, int]) -> HttpProxy | SocksProxy:
    if kind.startswith("socks"):
        return SocksProxy(names)
    return HttpProxy(names, tls=kind == "https")


def key_of(kind: str, proxy: Listener, login: str = "") -> ClientKey:
    url = f"{kind}://{login}127.0.0.1:{proxy.port}"
    return ClientKey("shop.test", proxy=url, tls=TRUSTING)


# Arrival


@on_both_loops
@on_both_transports
@through_every_kind
@pytest.mark.parametrize("tls", [False, True])
def test_a_request_reaches_its_origin_by_name_through_every_kind_of_proxy(
    tls: bool, kind: str, transport: Transport, run: Callable[..., None]
) -> None:
    host = "localhost" if tls else "shop.test"
    url = f"{'https' if tls else 'http'}://{host}:4321/a?b"

    async def scene() -> None:
        async with (
            Origin(tls=tls) as origin,
            proxy_of(kind, {host: origin.port}) as proxy,
            opened(transport) as cache,
        ):
            for expected in (False, True):
                assert await get(cache, url, key_of(kind, proxy)) == (200, b"ok", expected)
            assert proxy.connections == 1
            for head in origin.heads:
                assert head.startswith(b"GET /a?b HTTP/1.1\r\n")
                assert fields_of(head)[b"host"] == f"{host}:4321".encode()
            if isinstance(proxy, SocksProxy):
                assert proxy.asked == [Asked(3, host, 4321)]
            elif tls:
                assert [head.split(b"\r\n")[0] for head in proxy.heads] == [
                    b"CONNECT localhost:4321 HTTP/1.1"
                ]
            else:
                assert [head.split(b"\r\n")[0] for head in proxy.heads] == [
                    b"GET http://shop.test:4321/a?b HTTP/1.1"
                ] * 2

    run(scene())


# Who sees what


@on_both_loops
@on_both_transports
@pytest.mark.parametrize("kind", ["http", "https"])
@pytest.mark.parametrize("tls", [False, True])
def test_each_http_proxy_sees_its_own_credentials_and_no_other(
    tls: bool, kind: str, transport: Transport, run: Callable[..., None]
) -> None:
    async def scene() -> None:
        async with AsyncExitStack() as stack:
            origin = await stack.enter_async_context(Origin(tls=tls))
            cache = await stack.enter_async_context(opened(transport))
            url = f"{'https' if tls else 'http'}://localhost:{origin.port}/"
            for name in ("a", "b"):
                wanted = b"Basic " + base64.b64encode(b"%b:secret of %b" % ((name.encode(),) * 2))
                proxy = HttpProxy(credentials=wanted, tls=kind == "https")
                await stack.enter_async_context(proxy)
                key = key_of(kind, proxy, f"{name}:secret%20of%20{name}@")
                for expected in (False, True):
                    got = await get(cache, url, key, secrets=True)
                    assert got == (200, b"ok", expected)
                for head in proxy.heads:
                    seen = fields_of(head)
                    assert seen[b"proxy-authorization"] == wanted
                    assert head.lower().count(b"proxy-authorization") == 1
                    assert (b"authorization" in seen) is (b"cookie" in seen) is not tls
                    if tls:
                        assert set(seen) == {b"host", b"proxy-authorization"}
                assert b"of-the-origin" not in proxy.carried
            check_origin(origin, 4)

    run(scene())


@on_both_loops
@on_both_transports
@pytest.mark.parametrize("tls", [False, True])
def test_each_socks_proxy_sees_its_own_login_and_no_other(
    tls: bool, transport: Transport, run: Callable[..., None]
) -> None:
    async def scene() -> None:
        async with AsyncExitStack() as stack:
            origin = await stack.enter_async_context(Origin(tls=tls))
            cache = await stack.enter_async_context(opened(transport))
            url = f"{'https' if tls else 'http'}://localhost:{origin.port}/"
            for name in ("a", "b"):
                login = name.encode(), b"secret of " + name.encode()
                proxy = SocksProxy(credentials=login)
                await stack.enter_async_context(proxy)
                key = key_of("socks5", proxy, f"{name}:secret%20of%20{name}@")
                for expected in (False, True):
                    got = await get(cache, url, key, secrets=True)
                    assert got == (200, b"ok", expected)
                assert proxy.logins == [login]
                assert proxy.asked == [Asked(3, "localhost", origin.port)]
                assert (b"of-the-origin" in proxy.carried) is not tls
                assert b"secret" not in proxy.carried
            check_origin(origin, 4)

    run(scene())


@on_both_transports
def test_credentials_for_a_proxy_do_not_go_to_an_origin_that_is_asked_directly(
    transport: Transport,
) -> None:
    async def scene() -> None:
        async with Origin() as origin, opened(transport) as cache:
            url = f"http://127.0.0.1:{origin.port}/"
            assert (await get(cache, url, ClientKey("shop.test"), secrets=True))[0] == 200
            check_origin(origin, 1)

    asyncio.run(scene())


def check_origin(origin: Origin, requests: int) -> None:
    """It got what is its own, and nothing that is a proxy's."""
    assert len(origin.heads) == requests
    for head in origin.heads:
        seen = fields_of(head)
        assert b"proxy-authorization" not in seen
        assert seen[b"authorization"] == b"Bearer of-the-origin"
        assert seen[b"cookie"] == b"sid=of-the-origin"


# Failure


@on_both_loops
@on_both_transports
@pytest.mark.parametrize("kind", ["http", "https", "socks5"])
def test_a_proxy_that_refuses_costs_nothing_and_may_serve_the_next_request(
    kind: str, transport: Transport, run: Callable[..., None]
) -> None:
    async def scene() -> None:
        async with (
            Origin(tls=True) as origin,
            proxy_of(kind, {"localhost": origin.port}) as proxy,
            opened(transport) as cache,
        ):
            key = key_of(kind, proxy, "me:secret@")
            if isinstance(proxy, SocksProxy):
                proxy.credentials = (b"me", b"other")
            else:
                proxy.authorization = b"Basic other"
            for _ in range(2):
                assert await code_of(cache, "https://localhost/", key) == "proxy"
                await until_free(cache, proxy)
            if isinstance(proxy, SocksProxy):
                proxy.credentials = (b"me", b"secret")
                proxy.code = 5
                assert await code_of(cache, "https://localhost/", key) == "proxy"
                await until_free(cache, proxy)
                proxy.code = 0
            else:
                proxy.authorization = None
            assert origin.connections == 0
            assert await get(cache, "https://localhost/", key) == (200, b"ok", False)

    run(scene())


class HangsUp(Listener):
    """Closes at the first bytes."""

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65_536)


BROKEN_TLS = [
    ("certificate refused: Hostname mismatch", "other.test", lambda: Origin(tls=True)),
    ("the handshake failed", "localhost", lambda: Scripted(b"HTTP/1.1 400 Bad Request\r\n\r\n")),
    ("closed the connection during the handshake", "localhost", HangsUp),
]


@on_both_loops
@on_both_transports
@pytest.mark.parametrize("kind", ["http", "https", "socks5"])
@pytest.mark.parametrize(("words", "host", "make"), BROKEN_TLS)
def test_tls_that_fails_inside_a_tunnel_says_why_and_leaves_nothing_open(
    words: str,
    host: str,
    make: Callable[[], Listener],
    kind: str,
    transport: Transport,
    run: Callable[..., None],
) -> None:
    async def scene() -> None:
        async with (
            make() as broken,
            Origin(tls=True) as origin,
            proxy_of(kind, {host: broken.port}) as proxy,
            opened(transport) as cache,
        ):
            key = key_of(kind, proxy)
            for _ in range(2):
                with pytest.raises(FetchError, match=words) as caught:
                    await get(cache, f"https://{host}/", key)
                assert caught.value.code == "tls"
                await until_free(cache, proxy)
            proxy.names["localhost"] = origin.port
            assert await get(cache, "https://localhost/", key) == (200, b"ok", False)

    run(scene())


@on_both_transports
@through_every_kind
def test_a_proxy_that_cannot_be_reached_never_means_a_direct_connection(
    kind: str, transport: Transport
) -> None:
    async def scene() -> None:
        async with Origin() as origin, opened(transport) as cache:
            async with Origin() as gone:
                pass
            url = f"http://127.0.0.1:{origin.port}/"
            assert await code_of(cache, url, key_of(kind, gone, "me:secret@")) == "proxy"
            assert origin.connections == 0

    asyncio.run(scene())


@on_both_transports
def test_a_proxy_under_tls_is_verified(transport: Transport) -> None:
    async def scene() -> None:
        async with HttpProxy(tls=True) as proxy, opened(transport) as cache:
            key = ClientKey("shop.test", proxy=f"https://me:secret@127.0.0.1:{proxy.port}")
            for url in ("http://shop.test/", "https://shop.test/"):
                assert await code_of(cache, url, key) == "proxy"
            assert proxy.heads == []

    asyncio.run(scene())


# Cancellation and silence

STALLS = [
    ("http", "proxy", Scripted),
    ("http", "tls-timeout", lambda: Scripted(ESTABLISHED)),
    ("https", "proxy", Scripted),
    ("https", "proxy", lambda: Scripted(tls=True)),
    ("https", "tls-timeout", lambda: Scripted(ESTABLISHED, tls=True)),
    ("socks5", "proxy", Scripted),
    ("socks5", "proxy", lambda: Scripted(LOGIN)),
    ("socks5", "proxy", lambda: Scripted(LOGIN, LOGGED_IN)),
    ("socks5", "tls-timeout", lambda: Scripted(NO_LOGIN, HERE)),
]


@on_both_loops
@on_both_transports
@pytest.mark.parametrize(("kind", "code", "make"), STALLS)
def test_a_request_cancelled_while_a_proxy_is_silent_leaves_nothing_open(
    kind: str,
    code: str,
    make: Callable[[], Scripted],
    transport: Transport,
    run: Callable[..., None],
) -> None:
    async def scene() -> None:
        async with make() as proxy, opened(transport) as cache:
            key = key_of(kind, proxy, "me:secret@")
            for _ in range(2):
                proxy.is_silent.clear()
                task = asyncio.create_task(get(cache, "https://localhost/", key))
                await proxy.is_silent.wait()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                await until_free(cache, proxy)

    run(scene())


@on_both_transports
@pytest.mark.parametrize(("kind", "code", "make"), STALLS)
def test_a_proxy_that_falls_silent_is_given_up_in_time(
    kind: str, code: str, make: Callable[[], Scripted], transport: Transport
) -> None:
    async def scene() -> None:
        async with make() as proxy, opened(transport) as cache:
            key = key_of(kind, proxy, "me:secret@")
            found = await code_of(cache, "https://localhost/", key, connect=0.03)
            assert found == code
            await until_free(cache, proxy)

    asyncio.run(scene())


@on_both_loops
@on_both_transports
@pytest.mark.parametrize("kind", ["http", "https", "socks5"])
def test_a_request_cancelled_at_any_turn_of_the_loop_leaves_nothing_open(
    kind: str, transport: Transport, run: Callable[..., None]
) -> None:
    async def scene() -> None:
        async with (
            Origin(tls=True) as origin,
            proxy_of(kind, {"localhost": origin.port}) as proxy,
            opened(transport) as cache,
        ):
            key = key_of(kind, proxy)
            for turns in range(TURNS):
                task = asyncio.create_task(get(cache, "https://localhost/", key))
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
                if origin.heads:
                    break
                await until_free(cache, proxy)
            assert turns > 5
            assert (await get(cache, "https://localhost/", key))[:2] == (200, b"ok")

    run(scene())
