"""One HTTP/1.1 connection in httpcore's pool: opened, used again, given up.

Owns: how a connection is opened (direct, or through an HTTP proxy by absolute form or
CONNECT), what a request learns about the connection that served it, when one may serve
again. Does not own: sockets (`backend`), the wire's grammar (httpcore and h11).

httpcore's HTTP/1.1 connection is used through a subclass: its lock is replaced, for it
yields to the loop in the middle of state changes and so loses connections on
cancellation (httpcore #1093); nothing else here suspends between two states.

Invariants: bytes after a response end the connection; a connection that failed or was
cancelled while opening holds no socket; proxy credentials go to the proxy only.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote, urlsplit

import httpcore

from crawler.errors import SettingsError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from crawler.pool.backend import CountingBackend
    from crawler.pool.stream import Stream

__all__ = ["ConnectionInfo", "Exchange", "Link", "ProxyRoute", "Route"]

HEAD_BYTES = 64 * 1024
"""Most bytes of one response head, and of one chunk line."""


class ConnectionInfo(NamedTuple):
    """The connection that served a response."""

    reused: bool
    """False: it was opened for this request."""
    connect_s: float | None
    """Seconds it took to open, proxy and TLS included; None: reused."""
    peer: str | None
    """Address of the other end, the proxy's when there is one."""


class Exchange:
    """What one request learns on its way; travels in the request's extensions."""

    __slots__ = ("link", "received")

    def __init__(self) -> None:
        self.link: Link | None = None
        self.received = 0
        """Bytes the connection had received before this request."""

    def is_stale(self) -> bool:
        """True when a reused connection gave no byte for this request."""
        link = self.link
        if link is None or link.requests < 2 or link.channel is None:
            return False
        return link.channel.received == self.received


class _Unlocked:
    """A lock for what only ever one task touches."""

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, *_: object) -> None:
        return None


class _Http11(httpcore.AsyncHTTP11Connection):
    """httpcore's connection, telling when it has become idle."""

    MAX_INCOMPLETE_EVENT_SIZE = HEAD_BYTES
    _state_lock: Any
    _h11_state: Any

    def __init__(
        self, origin: httpcore.Origin, stream: Stream, rest: Callable[[Stream], None]
    ) -> None:
        super().__init__(origin=origin, stream=stream)
        self._state_lock = _Unlocked()
        self._stream = stream
        self._rest = rest

    async def _response_closed(self) -> None:
        if self.is_closed():
            return
        if self._h11_state.trailing_data[0] or self._stream.get_extra_info("is_readable"):
            await self.aclose()
            return
        await super()._response_closed()
        if self.is_idle():
            self._rest(self._stream)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyRoute:
    """An HTTP proxy, reached in clear or under TLS."""

    origin: httpcore.Origin
    headers: tuple[tuple[bytes, bytes], ...] = ()

    @classmethod
    def parse(cls, url: str) -> ProxyRoute:
        """Read `http[s]://[user:password@]host[:port]`.

        Raises SettingsError for anything else: a proxy that is set but cannot be used
        never means a direct connection.
        """
        try:
            parts = urlsplit(url)
            port, host = parts.port, parts.hostname
        except ValueError as error:
            raise SettingsError(f"not a proxy URL: {error}") from error
        if parts.scheme not in ("http", "https") or not host:
            raise SettingsError(
                f"a proxy of kind {parts.scheme or 'nothing'!r} cannot be used",
                hint="write http://host:port or https://host:port",
            )
        headers: tuple[tuple[bytes, bytes], ...] = ()
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
            headers = ((b"Proxy-Authorization", b"Basic " + base64.b64encode(pair)),)
        default = 443 if parts.scheme == "https" else 80
        origin = httpcore.Origin(parts.scheme.encode(), host.encode("idna"), port or default)
        return cls(origin=origin, headers=headers)

    def __repr__(self) -> str:
        return f"<ProxyRoute {self.origin}>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """All that a connection needs to be opened."""

    backend: CountingBackend
    context: Callable[[], ssl.SSLContext]
    """Asked only when TLS is spoken."""
    proxy: ProxyRoute | None
    opened: Callable[[Stream], None]
    """Called with each new stream before anything is sent on it."""
    expired: Callable[[float], bool]
    """True when a stream idle since that instant must not be used again."""
    rested: Callable[[Stream], None]
    """Called when a stream has become idle."""


class Link(httpcore.AsyncConnectionInterface):
    """A place in httpcore's pool, filled by at most one stream."""

    def __init__(self, origin: httpcore.Origin, route: Route) -> None:
        self._origin = origin
        self._route = route
        self._http: _Http11 | None = None
        self._is_given_up = False
        self._info: ConnectionInfo | None = None
        self.channel: Stream | None = None
        self.requests = 0

    def __repr__(self) -> str:
        return f"<Link {self.info()}>"

    async def handle_async_request(self, request: httpcore.Request) -> httpcore.Response:
        """Send, opening the connection at the first request."""
        exchange: Exchange = request.extensions["crawler"]
        exchange.link = self
        if self._http is None:
            self._http = await self._open_or_give_up(request)
        assert self.channel is not None
        self.requests += 1
        exchange.received = self.channel.received
        self._route.backend.use(self.channel)
        if self._route.proxy is not None and self._origin.scheme == b"http":
            request = _absolute(request, self._route.proxy)
        response = await self._http.handle_async_request(request)
        response.extensions["crawler"] = self._told()
        return response

    async def _open_or_give_up(self, request: httpcore.Request) -> _Http11:
        try:
            return await self._open(request)
        except BaseException:
            self.give_up()
            raise

    async def _open(self, request: httpcore.Request) -> _Http11:
        route, origin = self._route, self._origin
        first = route.proxy.origin if route.proxy is not None else origin
        timeout = request.extensions["timeout"].get("connect")
        stream = await route.backend.connect_tcp(first.host.decode(), first.port, timeout)
        self.channel = stream
        route.opened(stream)
        if first.scheme == b"https":
            await stream.start_tls(route.context(), first.host.decode(), timeout)
        if route.proxy is not None and origin.scheme == b"https":
            await _tunnel(stream, origin, route.proxy, request)
            await stream.start_tls(route.context(), origin.host.decode(), timeout)
            first = origin
        return _Http11(first, stream, route.rested)

    def _told(self) -> ConnectionInfo:
        """One value serves all reused responses of a connection."""
        if self.requests < 2 or self._info is None:
            assert self.channel is not None
            address = self.channel.get_extra_info("server_addr")
            peer = str(address[0]) if address else None
            self._info = ConnectionInfo(True, None, peer)
            if self.requests < 2:
                return ConnectionInfo(False, self.channel.connect_s, peer)
        return self._info

    async def aclose(self) -> None:
        """Give the connection up; never waits."""
        self.give_up()

    def give_up(self) -> None:
        """Close now, opened or not; idempotent."""
        self._is_given_up = True
        if self.channel is not None:
            self.channel.close()

    def info(self) -> str:
        """One line for logs."""
        state = "closed" if self.is_closed() else "idle" if self.is_idle() else "active"
        return f"{self._origin} {state}, {self.requests} requests"

    def can_handle_request(self, origin: httpcore.Origin) -> bool:
        """Only its own origin's."""
        return origin == self._origin

    def is_available(self) -> bool:
        """True when it can take a request now."""
        return self.is_idle()

    def has_expired(self) -> bool:
        """True when it is idle for longer than keep-alive allows."""
        channel = self.channel
        if channel is None or channel.idle_at is None:
            return False
        return self._route.expired(channel.idle_at)

    def is_idle(self) -> bool:
        """True between two requests."""
        return self.channel is not None and self.channel.idle_at is not None

    def is_closed(self) -> bool:
        """True when it will not serve again."""
        return self._is_given_up or (self.channel is not None and self.channel.is_closed)


def _absolute(request: httpcore.Request, proxy: ProxyRoute) -> httpcore.Request:
    """The request as a forwarding proxy wants it (RFC 9112 §3.2.2)."""
    origin = proxy.origin
    target = httpcore.URL(
        scheme=origin.scheme, host=origin.host, port=origin.port, target=bytes(request.url)
    )
    return httpcore.Request(
        request.method,
        target,
        headers=[*proxy.headers, *request.headers],
        content=request.stream,
        extensions=request.extensions,
    )


async def _tunnel(
    stream: Stream, origin: httpcore.Origin, proxy: ProxyRoute, request: httpcore.Request
) -> None:
    """Ask the proxy for a tunnel (RFC 9110 §9.3.6). Raises httpcore.ProxyError."""
    target = b"%b:%d" % (origin.host, origin.port)
    via = proxy.origin
    ask = httpcore.Request(
        b"CONNECT",
        httpcore.URL(scheme=via.scheme, host=via.host, port=via.port, target=target),
        headers=[(b"Host", target), *proxy.headers],
        extensions={"timeout": request.extensions["timeout"]},
    )
    answer = await httpcore.AsyncHTTP11Connection(via, stream).handle_async_request(ask)
    if not 200 <= answer.status <= 299:
        raise httpcore.ProxyError(f"status {answer.status}")
