"""The httpx transport over httpcore's pool; the one module that imports httpx.

Owns: the way of a request from httpx to httpcore and back, the one replay on a stale
connection, errors as FetchError, the connections of one client.
Does not own: which client serves what and for how long (`clients`), sockets (`backend`).

Invariants: every error of head or body is a FetchError; a request is replayed at most
once, only when it is idempotent, and only after a reused connection gave no byte; the
keep-alive bound equals the connection bound (httpcore #920); nothing waits in the pool as
long as callers keep within `connections`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpcore
import httpx

from crawler.errors import FetchError, UsageError
from crawler.pool.connection import ConnectionInfo, Exchange, Link, ProxyRoute, Route
from crawler.pool.faults import fault
from crawler.pool.tls import TlsContexts, TlsProfile

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from crawler.pool.backend import CountingBackend
    from crawler.pool.stream import Stream

__all__ = ["HttpcoreTransport", "PoolClient", "Tally", "connection_of"]

IDEMPOTENT = frozenset(("GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"))
"""RFC 9110 §9.2.2."""
STALE = (httpcore.ReadError, httpcore.WriteError, httpcore.RemoteProtocolError)
POOL_TIMEOUT = 2.0
"""Seconds: nothing ever waits inside httpcore, so reaching it means a bug of ours."""


@dataclass(slots=True)
class Tally:
    """Counters that several transports share."""

    new_connections: int = 0
    """Responses on a connection opened for them."""
    reused_connections: int = 0
    stale_replays: int = 0


class HttpcoreTransport(httpx.AsyncBaseTransport):
    """At most `connections` connections, to one domain or through one proxy.

    `keepalive` is in seconds; 0: no connection is used twice. Timeouts come with each
    request, in `extensions["timeout"]`: connect, head (or read), read, write, pool, in
    seconds, None: no bound. Raises SettingsError for a proxy it cannot use.
    """

    def __init__(
        self,
        *,
        backend: CountingBackend,
        connections: int,
        keepalive: float = 15.0,
        proxy: str | None = None,
        profile: TlsProfile | None = None,
        contexts: TlsContexts | None = None,
        tally: Tally | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if connections < 1:
            raise ValueError(f"a pool of {connections} connections serves nobody")
        self._backend = backend
        self._keepalive = keepalive
        self._clock = clock
        self._streams: set[Stream] = set()
        self._is_closed = False
        self.connections = connections
        self.tally = tally if tally is not None else Tally()
        self.is_poisoned = False
        """True once a request waited inside the pool: it must be built anew."""
        profile = profile or TlsProfile()
        contexts = contexts or TlsContexts()
        route = Route(
            backend=backend,
            context=lambda: contexts.context(profile),
            proxy=ProxyRoute.parse(proxy) if proxy else None,
            opened=self._opened,
            expired=self._has_expired,
            rested=self._rested,
        )
        self._pool = _Pool(route, connections)

    def __repr__(self) -> str:
        return f"<HttpcoreTransport {len(self._streams)}/{self.connections} open>"

    @property
    def open_connections(self) -> int:
        """Connections of this transport whose descriptors are open."""
        return len(self._streams)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request. Raises FetchError; the body raises it too while it is read."""
        if self._is_closed:
            raise FetchError("cancelled", "the client is closed", url=str(request.url))
        exchange = Exchange()
        timeouts = _timeouts(request.extensions.get("timeout"))
        core = _core_request(request, exchange, timeouts)
        try:
            try:
                answer = await self._pool.handle_async_request(core)
            except STALE:
                if self._is_closed or not (exchange.is_stale() and _is_repeatable(request)):
                    raise
                self.tally.stale_replays += 1
                self.close_idle()
                answer = await self._pool.handle_async_request(core)
        except UsageError:
            raise
        except Exception as error:
            raise self.explain(error, request) from error
        if "head" in timeouts:
            timeouts["read"] = timeouts["rest"]
        info: ConnectionInfo = answer.extensions["crawler"]
        if info.reused:
            self.tally.reused_connections += 1
        else:
            self.tally.new_connections += 1
        return httpx.Response(
            answer.status,
            headers=answer.headers,
            stream=_Body(answer, request, self),
            extensions=answer.extensions,
        )

    def close_idle(self) -> int:
        """Close the connections that serve nobody now; how many."""
        idle = [stream for stream in self._streams if stream.idle_at is not None]
        for stream in idle:
            stream.close()
        return len(idle)

    def reclaim(self) -> int:
        """Close what is neither idle nor closed although no request is under way.

        To be called only while nobody uses the transport. The number of such orphans.
        """
        orphans = 0
        for link in self._pool.links():
            if not link.is_idle() and not link.is_closed():
                orphans += 1
                link.give_up()
        return orphans

    async def aclose(self) -> None:
        """Close every connection, those in use too. Idempotent."""
        self.abort()
        await self._pool.aclose()

    def abort(self) -> None:
        """Close every socket now; no request is taken any more."""
        self._is_closed = True
        for stream in list(self._streams):
            stream.close()

    def explain(
        self, error: Exception, request: httpx.Request, *, in_body: bool = False
    ) -> FetchError:
        """The FetchError to raise; what broke because we closed it is `cancelled`."""
        if self._is_closed:
            return FetchError("cancelled", "the client was closed", url=str(request.url))
        found = fault(error, in_body=in_body, url=str(request.url))
        self.is_poisoned = self.is_poisoned or found.code == "pool-timeout"
        return found

    def _opened(self, stream: Stream) -> None:
        self._streams.add(stream)
        stream.on_lost = self._lost

    def _rested(self, stream: Stream) -> None:
        self._backend.rest(stream)
        self._pool.serve_queue()

    def _lost(self, stream: Stream) -> None:
        self._streams.discard(stream)
        self._pool.serve_queue()

    def _has_expired(self, idle_at: float) -> bool:
        return self._clock() - idle_at >= self._keepalive


class _Pool(httpcore.AsyncConnectionPool):
    """httpcore's pool, filled with our connections and spared its queue.

    httpcore queues every request and assigns all requests to all connections anew, twice
    each time, under anyio's events and shields: 110 µs that a crawl, which never has more
    requests than connections, need not pay. A request that finds a free connection, or
    room for one, goes there at once; only others join httpcore's queue.
    """

    def __init__(self, route: Route, connections: int) -> None:
        super().__init__(
            max_connections=connections,
            max_keepalive_connections=connections,
            network_backend=route.backend,
        )
        self._route = route

    def create_connection(self, origin: httpcore.Origin) -> Link:
        return Link(origin, self._route)

    async def handle_async_request(self, request: httpcore.Request) -> httpcore.Response:
        link = None if self._requests else self._free(request.url.origin)
        if link is None:
            return await super().handle_async_request(request)
        try:
            return await link.handle_async_request(request)
        except BaseException:
            self.serve_queue()
            raise

    def serve_queue(self) -> None:
        """A connection came free: let those that wait in httpcore's queue have it."""
        if self._requests:
            for connection in self._assign_requests_to_connections():
                assert isinstance(connection, Link)
                connection.give_up()

    def _free(self, origin: httpcore.Origin) -> Link | None:
        """A connection that can serve now, idle or new; None: the pool is full."""
        for link in self._connections:
            assert isinstance(link, Link)
            if link.is_idle() and link.can_handle_request(origin):
                if not link.has_expired():
                    return link
                link.give_up()
        self._connections = [link for link in self._connections if not link.is_closed()]
        if len(self._connections) >= self._max_connections:
            return None
        link = self.create_connection(origin)
        self._connections.append(link)
        return link

    async def _close_connections(self, closing: list[httpcore.AsyncConnectionInterface]) -> None:
        """Ours close without waiting: httpcore's shield, 30 µs each, guards nothing."""
        for connection in closing:
            await connection.aclose()

    def links(self) -> list[Link]:
        """The connections, the closed ones not yet cleared away included."""
        return [link for link in self.connections if isinstance(link, Link)]


class _Body(httpx.AsyncByteStream):
    """A response's bytes as they come, errors mapped."""

    def __init__(
        self, answer: httpcore.Response, request: httpx.Request, owner: HttpcoreTransport
    ) -> None:
        self._stream: Any = answer.stream
        self._request = request
        self._owner = owner

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for part in self._stream:
                yield part
        except Exception as error:
            raise self._owner.explain(error, self._request, in_body=True) from error

    async def aclose(self) -> None:
        await self._stream.aclose()


class _NoCookies(httpx.Cookies):
    """Remembers nothing: sessions live outside the clients and survive eviction."""

    def extract_cookies(self, response: httpx.Response) -> None:
        """Keep none."""


class PoolClient(httpx.AsyncClient):
    """An httpx client over our transport: no environment, redirects, cookies, default
    timeouts."""

    def __init__(self, transport: HttpcoreTransport) -> None:
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
        headers: Mapping[str, str],
        content: bytes,
        timeouts: Mapping[str, float | None],
    ) -> httpx.Response:
        """Send a request, for the head of its answer; the body is still to be read.

        Goes straight to the transport: `send` would parse a redirect's Location, which is
        the server's to write, and raise for some. Raises FetchError (`bad-request`) for
        what cannot be sent, and those of the transport.
        """
        try:
            request = httpx.Request(
                method,
                url,
                headers=dict(headers),
                content=content or None,
                extensions={"timeout": dict(timeouts)},
            )
        except (httpx.InvalidURL, ValueError, TypeError) as error:
            raise FetchError("bad-request", f"{type(error).__name__}: {error}", url=url) from error
        return await self.transport.handle_async_request(request)

    @property
    def cookies(self) -> httpx.Cookies:
        """Always empty."""
        return self._no_cookies

    @cookies.setter
    def cookies(self, cookies: object) -> None:
        raise TypeError("a pool's client keeps no cookies; send them as a header")


def connection_of(response: httpx.Response) -> ConnectionInfo:
    """The connection that served a response of our transport."""
    info: ConnectionInfo = response.extensions["crawler"]
    return info


def _is_repeatable(request: httpx.Request) -> bool:
    return request.method in IDEMPOTENT and isinstance(request.stream, httpx.ByteStream)


def _timeouts(given: dict[str, float | None] | None) -> dict[str, float | None]:
    """httpcore knows one `read` for head and body: it holds `head` until the head is in."""
    timeouts: dict[str, float | None] = {"pool": POOL_TIMEOUT}
    timeouts.update(given or {})
    if timeouts["pool"] is None:
        timeouts["pool"] = POOL_TIMEOUT
    if "head" in timeouts:
        timeouts["rest"] = timeouts.get("read")
        timeouts["read"] = timeouts["head"]
    return timeouts


def _core_request(
    request: httpx.Request, exchange: Exchange, timeouts: dict[str, float | None]
) -> httpcore.Request:
    url = request.url
    return httpcore.Request(
        request.method,
        httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
        headers=request.headers.raw,
        content=request.stream,
        extensions={"timeout": timeouts, "crawler": exchange},
    )
