"""The pool as httpx has it; the one module that imports httpx.

    async with httpx.AsyncClient(transport=PoolTransport(connections=8)) as client:
        response = await client.get("https://example.org/")

Owns: httpx's requests and responses to and from the pool's calls and answers, errors that
are httpx's and ours at once. Does not own: connections (`bounded`), which client serves
what and for how long (`clients`).

Invariants: every error of head or body is a FetchError, and for httpx one of its
TransportErrors too; nothing is taken from the environment; no redirect is followed and no
cookie kept by a client of ours.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, cast

import httpx

from crawler.errors import FetchError, SettingsError
from crawler.pool.bounded import BoundedPool
from crawler.pool.call import Call, origin_of
from crawler.pool.deadlines import DEADLINES, from_httpx
from crawler.pool.dialer import Dialer
from crawler.pool.http1 import Http1
from crawler.pool.proxy import ProxyRoute
from crawler.pool.route import Route
from crawler.pool.tls import TlsContexts, TlsProfile
from crawler.units import Address, Count, Seconds, convert, expected

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Iterable

    from crawler.pool.bounded import PoolStats
    from crawler.pool.call import Answer, Body, ConnectionInfo, HeadLimits
    from crawler.pool.deadlines import Deadlines
    from crawler.pool.link import Link

__all__ = ["Engine", "PoolClient", "PoolTransport", "connection_of"]

Engine = Literal["native", "httpcore"]
INFO = "crawler"
"""Where a response's extensions hold its ConnectionInfo."""


class PoolTransport(httpx.AsyncBaseTransport):
    """At most `connections` connections to each domain, over one socket budget.

    `keepalive`: seconds an idle connection is kept, 0: none is used twice; it counts only
    where `dialer` is None and one is made here, which `aclose` then closes. Share a dialer
    to share its budget, names and learned keep-alive. `proxy`: URL of an HTTP or SOCKS
    proxy; None: direct. `local_address`: address that connections leave from. `engine`:
    who speaks HTTP; `http2`: HTTP/2 is spoken where the server can, always by httpcore.
    `deadlines` hold where a request's `extensions["timeout"]` names none.

    Raises SettingsError for a value that none of these can be, for a proxy or TLS profile
    that cannot be used.
    """

    def __init__(
        self,
        *,
        connections: int = 8,
        keepalive: float = 15.0,
        proxy: str | None = None,
        tls: TlsProfile | None = None,
        local_address: str | None = None,
        engine: Engine = "native",
        http2: bool = False,
        limits: HeadLimits | None = None,
        deadlines: Deadlines = DEADLINES,
        dialer: Dialer | None = None,
        contexts: TlsContexts | None = None,
    ) -> None:
        _check(
            connections=(connections, Count, "a whole number, 1 or more"),
            keepalive=(keepalive, Seconds, "seconds, 0 or more"),
            local_address=(local_address, Address | None, "an IP address, or None"),
            engine=(engine, Engine, expected(Engine)),
        )
        if not isinstance(proxy, str | None):
            raise SettingsError(
                f"proxy of type {type(proxy).__name__}: expected a URL, or none",
                hint="pass its URL as text: proxy='http://user:password@host:3128'",
            )
        self.dialer = dialer or Dialer(keepalive=keepalive)
        """Give it to another transport to share sockets, names and learned keep-alive."""
        self._is_dialer_ours = dialer is None
        self._deadlines = deadlines
        profile = tls or TlsProfile()
        contexts = contexts or TlsContexts()
        self.pool = BoundedPool(
            route=Route(
                dialer=self.dialer,
                context=lambda: contexts.context(profile, http2=http2),
                proxy_context=lambda: contexts.context(profile),
                proxy=None if proxy is None else ProxyRoute.parse(proxy),
                local_address=local_address,
            ),
            speaking=_speaking(engine, http2=http2),
            connections=connections,
            limits=limits,
            http2=http2,
        )

    def __repr__(self) -> str:
        return f"<PoolTransport over {self.pool!r}>"

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request. Raises a FetchError that is an httpx.TransportError too."""
        try:
            answer = await self.pool.send(self._call(request))
        except FetchError as error:
            raise _both(error, request) from error
        return httpx.Response(
            answer.status,
            headers=answer.headers,
            stream=_Body(answer, request),
            extensions={
                "http_version": answer.info.http_version.encode(),
                "reason_phrase": answer.reason,
                INFO: answer.info,
            },
        )

    async def aclose(self) -> None:
        """Close every connection, those in use too. Idempotent."""
        await self.pool.aclose()
        if self._is_dialer_ours:
            await self.dialer.aclose()

    def stats(self) -> PoolStats:
        """The pool, now."""
        return self.pool.stats()

    def _call(self, request: httpx.Request) -> Call:
        url = request.url
        try:
            deadlines = from_httpx(request.extensions.get("timeout"), self._deadlines)
        except ValueError as error:
            raise FetchError("bad-request", str(error)) from error
        body: Body
        if isinstance(request.stream, httpx.ByteStream):
            body = request.content or None
        else:
            body = cast("AsyncIterable[bytes]", request.stream)
        return Call(
            request.method.encode("ascii", "replace"),
            origin_of(url.scheme, url.netloc.decode("ascii")),
            url.raw_path,
            request.headers.raw,
            body,
            deadlines,
        )


class _Body(httpx.AsyncByteStream):
    """A response's bytes as they come, errors mapped."""

    def __init__(self, answer: Answer, request: httpx.Request) -> None:
        self._answer = answer
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for part in self._answer:
                yield part
        except FetchError as error:
            raise _both(error, self._request) from error

    async def aclose(self) -> None:
        await self._answer.aclose()


class _NoCookies(httpx.Cookies):
    """Remembers nothing: sessions live outside the clients and survive eviction."""

    def extract_cookies(self, response: httpx.Response) -> None:
        """Keep none."""


class PoolClient(httpx.AsyncClient):
    """An httpx client over our transport: no environment, redirects, cookies, default
    timeouts."""

    def __init__(self, transport: PoolTransport) -> None:
        super().__init__(transport=transport, trust_env=False, follow_redirects=False, timeout=None)
        self.transport = transport
        self._no_cookies = _NoCookies()

    def __repr__(self) -> str:
        return f"<PoolClient over {self.transport!r}>"

    async def exchange(
        self,
        method: str,
        url: str,
        *,
        headers: Iterable[tuple[str, str]],
        content: bytes = b"",
        deadlines: Deadlines = DEADLINES,
    ) -> Answer:
        """Send a request, for the head of its answer; the body is still to be read.

        `url` as `crawler.urls.canonicalise` writes it. Goes straight to the pool: httpx's
        request, URL and response objects would cost more than the exchange itself, and
        `send` parses a redirect's Location, which is the server's to write. Raises
        FetchError (`bad-request`) for what cannot be sent, and those of the transport.
        """
        scheme, _, rest = url.partition("://")
        authority, slash, path = rest.partition("/")
        try:
            call = Call(
                method.encode("ascii"),
                origin_of(scheme, authority),
                (slash + path).encode("ascii"),
                [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers],
                content or None,
                deadlines,
            )
            return await self.transport.pool.send(call)
        except UnicodeError as error:
            raise FetchError("bad-request", str(error), url=url) from error
        except FetchError as error:
            error.url = error.url or url
            raise

    @property
    def cookies(self) -> httpx.Cookies:
        """Always empty."""
        return self._no_cookies

    @cookies.setter
    def cookies(self, cookies: object) -> None:
        raise TypeError("a pool's client keeps no cookies; send them as a header")


def _check(**given: tuple[object, Any, str]) -> None:
    """Refuse the first value that is not of its type, which the text tells."""
    for name, (value, kind, wanted) in given.items():
        try:
            if isinstance(convert(value, kind), str) is not isinstance(value, str):
                raise ValueError("text, where code has a number")
        except (TypeError, ValueError, OverflowError) as error:
            raise SettingsError(
                f"{name} = {value!r}: expected {wanted}", hint="left out, its default holds"
            ) from error


def _speaking(engine: Engine, *, http2: bool) -> type[Link]:
    """What makes connections; httpcore is imported only where it speaks."""
    if http2:
        if find_spec("h2") is None:
            raise SettingsError(
                "HTTP/2 needs the package h2", hint='pip install "poolcrawl[http2]"'
            )
        from crawler.pool.http2 import Http2Link

        return Http2Link
    if engine == "native":
        return Http1
    from crawler.pool.core import CoreLink

    return CoreLink


def connection_of(response: httpx.Response) -> ConnectionInfo:
    """The connection that served a response of our transport."""
    info: ConnectionInfo = response.extensions[INFO]
    return info


_KINDS: dict[str, type[httpx.TransportError]] = {
    "address": httpx.ConnectError,
    "bad-request": httpx.LocalProtocolError,
    "connect": httpx.ConnectError,
    "connect-refused": httpx.ConnectError,
    "connect-timeout": httpx.ConnectTimeout,
    "dns": httpx.ConnectError,
    "head-limit": httpx.RemoteProtocolError,
    "head-timeout": httpx.ReadTimeout,
    "local": httpx.PoolTimeout,
    "pool-timeout": httpx.PoolTimeout,
    "protocol": httpx.RemoteProtocolError,
    "proxy": httpx.ProxyError,
    "read-timeout": httpx.ReadTimeout,
    "tls": httpx.ConnectError,
    "tls-timeout": httpx.ConnectTimeout,
    "too-slow": httpx.ReadTimeout,
    "total-timeout": httpx.ReadTimeout,
    "truncated": httpx.RemoteProtocolError,
    "write-timeout": httpx.WriteTimeout,
}
"""What httpx would call it; all else is its ReadError."""
_classes: dict[type[httpx.TransportError], type[FetchError]] = {}


def _both(error: FetchError, request: httpx.Request) -> FetchError:
    """The error as one that `except httpx.TransportError` catches too."""
    kind = _KINDS.get(error.code, httpx.ReadError)
    if kind not in _classes:
        _classes[kind] = type(f"Pool{kind.__name__}", (FetchError, kind), {})
    return _classes[kind](error.code, str(error.args[0]), url=error.url or str(request.url))
