"""A web server for tests on real loopback sockets.

Owns: `Site` (routes, addresses, the log of requests, connection statistics) and
`dead_address`. Does not own: what is answered (`replies`); TLS and proxies.

Invariants:
- one request at a time on a connection; pipelined ones are answered in order;
- every socket that a site opened or accepted is closed when its block ends;
- a delay is a timer of the site's own loop, nothing ever blocks it;
- an error inside a route's handler answers 500 and is raised when the block ends.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
import threading
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Self, cast

from crawler.testing.replies import Received, Reply

if TYPE_CHECKING:
    from collections.abc import Awaitable, Collection, Iterator, Mapping, Sequence

    from crawler.testing.replies import Route

__all__ = ["Site", "SiteStats", "dead_address"]

_RESET = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteStats:
    """Counts since the site opened; the last two by "ip:port".

    `requests` received; connections `opened` in all, `open` now, and the `peak` that were
    open at once.
    """

    requests: int
    opened: int
    open: int
    peak: int
    opened_by_address: Mapping[str, int]
    peak_by_address: Mapping[str, int]


class Site:
    """A server on one or many loopback addresses that share a port.

    `routes`: path (with or without query) → a Reply or a handler, plain or async; others
    go to `fallback` (404). `addresses`: how many, from 127.0.0.1 on, or which; where the
    system has only 127.0.0.1, each gets a port of its own. `port` 0: any that is free;
    opening raises OSError where another one is taken. `deaf`: numbers of addresses that are
    bound but never listen, so connecting to them is refused for sure.
    Use: `async with Site({"/": Reply.html("hi")}) as site` in a loop, or
    `with Site(…).threaded() as site` beside synchronous code and subprocesses.
    """

    def __init__(
        self,
        routes: Mapping[str, Route] | None = None,
        *,
        addresses: int | Sequence[str] = 1,
        port: int = 0,
        deaf: Collection[int] = (),
        fallback: Route | None = None,
    ) -> None:
        if isinstance(addresses, int):
            addresses = [f"127.0.0.{n}" for n in range(1, addresses + 1)]
        self.log: list[Received] = []
        self.addresses: tuple[str, ...] = ()
        self._wanted = tuple(addresses)
        self._port = port
        self._deaf = frozenset(deaf)
        self._routes: dict[tuple[int | str | None, str], Route] = {}
        self._fallback = fallback if fallback is not None else Reply.code(404)
        self._connections: set[_Connection] = set()
        self._accepted: set[asyncio.Task[object]] = set()
        self._counts: tuple[Counter[str], Counter[str], Counter[str]]
        self._counts = (Counter(), Counter(), Counter())
        self._peak = 0
        self._errors: list[Exception] = []
        self._arrived = threading.Condition()
        for path, route in (routes or {}).items():
            self.add(path, route)

    def __repr__(self) -> str:
        s = self.stats()
        where = self.addresses[0] if self.addresses else "closed"
        return f"<{type(self).__name__} {where} {s.requests} requests {s.open} open>"

    def stats(self) -> SiteStats:
        """Counts so far; still there after the site closed."""
        opened, now, peaks = self._counts
        return SiteStats(
            requests=len(self.log),
            opened=opened.total(),
            open=now.total(),
            peak=self._peak,
            opened_by_address=dict(opened),
            peak_by_address=dict(peaks),
        )

    def add(self, path: str, route: Route, *, at: int | str | None = None) -> None:
        """Adds or replaces a route.

        `at`: only for that number of the site's addresses, or for requests whose Host
        field has that name (without port); None: for all.
        """
        self._routes[at, path] = route

    def url(self, path: str = "/", at: int = 0) -> str:
        """The URL of a path on the address with that number; the site must be open."""
        return f"http://{self.addresses[at].removesuffix(':80')}{path}"

    def wait_for(self, requests: int, timeout: float = 10.0) -> None:
        """Blocks until that many requests came; for threads other than the site's own.

        Raises TimeoutError after `timeout` seconds.
        """
        with self._arrived:
            if not self._arrived.wait_for(lambda: len(self.log) >= requests, timeout):
                raise TimeoutError(f"{len(self.log)} of {requests} requests came")

    @contextmanager
    def threaded(self) -> Iterator[Self]:
        """Runs the site on a loop in a thread of its own, until the block ends."""
        ready: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

        async def live() -> None:
            stop = asyncio.Event()
            async with self:
                ready.set_result((asyncio.get_running_loop(), stop))
                await stop.wait()

        def run() -> None:
            try:
                asyncio.run(live())
            except BaseException as error:
                if ready.done():
                    raise
                ready.set_exception(error)

        with ThreadPoolExecutor(1, thread_name_prefix="site") as threads:
            done = threads.submit(run)
            loop, stop = ready.result()
            try:
                yield self
            finally:
                loop.call_soon_threadsafe(stop.set)
            done.result()

    async def __aenter__(self) -> Self:
        self._sockets = _bind(self._wanted, self._port)
        self.addresses = tuple(_name(sock) for sock in self._sockets)
        self._quiet = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number, sock in enumerate(self._sockets):
            if number not in self._deaf:
                sock.listen(1024)
                loop.add_reader(sock, self._accept, sock, number)
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        loop = asyncio.get_running_loop()
        for sock in self._sockets:
            loop.remove_reader(sock)
            sock.close()
        await asyncio.gather(*self._accepted)
        while self._connections:
            self._quiet.clear()
            for connection in tuple(self._connections):
                connection.abort()
            await self._quiet.wait()
        if self._errors and error is None:
            raise ExceptionGroup("routes of the site raised", self._errors)

    def _accept(self, listener: socket.socket, number: int) -> None:
        """Takes what is there; asyncio's own server leaks what it accepts while closing."""
        loop = asyncio.get_running_loop()
        with suppress(OSError):
            while True:
                sock, _ = listener.accept()
                sock.setblocking(False)
                connection = partial(_Connection, self, number)
                task = loop.create_task(loop.connect_accepted_socket(connection, sock))
                self._accepted.add(task)
                task.add_done_callback(self._accepted.discard)

    def _joined(self, connection: _Connection) -> int:
        opened, now, peaks = self._counts
        address = self.addresses[connection.number]
        self._connections.add(connection)
        opened[address] += 1
        now[address] += 1
        peaks[address] = max(peaks[address], now[address])
        self._peak = max(self._peak, len(self._connections))
        return opened.total()

    def _left(self, connection: _Connection) -> None:
        self._connections.discard(connection)
        self._counts[1][self.addresses[connection.number]] -= 1
        if not self._connections:
            self._quiet.set()

    def _take(self, request: Received) -> Route:
        with self._arrived:
            self.log.append(request)
            self._arrived.notify_all()
        host = request.host.rpartition(":")[0] or request.host
        for path in (request.path, request.path.split("?")[0]):
            for at in (request.number, host, None):
                if (at, path) in self._routes:
                    return self._routes[at, path]
        return self._fallback


class _Connection(asyncio.Protocol):
    """One accepted connection; answers its requests one after the other."""

    def __init__(self, site: Site, number: int) -> None:
        self.number = number
        self._site = site
        self._buffer = bytearray()
        self._busy = False
        self._waiting: asyncio.TimerHandle | asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        self._serial = self._site._joined(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
        self._site._left(self)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._proceed()

    def abort(self) -> None:
        """Closes at once; what was not sent yet is lost."""
        self._transport.abort()

    def _proceed(self) -> None:
        while not self._busy and not self._transport.is_closing():
            try:
                request = self._parse()
            except ValueError:
                self._finish(replace(Reply.code(400), end="close"), head_only=False)
                return
            if request is None:
                return
            self._busy = True
            self._answer(request, self._site._take(request))

    def _parse(self) -> Received | None:
        """The next complete request of the buffer; None: more bytes are needed."""
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return None
        first, *lines = self._buffer[:end].decode("latin-1").split("\r\n")
        method, path, _version = first.split(" ")
        pairs = [line.split(":", 1) for line in lines]
        headers = tuple((name.lower(), value.strip()) for name, value in pairs)
        fields = dict(headers)
        if "transfer-encoding" in fields:
            raise ValueError("request bodies need a length here")
        stop = end + 4 + int(fields.get("content-length", 0))
        if len(self._buffer) < stop:
            return None
        body = bytes(self._buffer[end + 4 : stop])
        del self._buffer[:stop]
        return Received(
            at=asyncio.get_running_loop().time(),
            method=method,
            host=fields.get("host", "").lower(),
            path=path,
            headers=headers,
            body=body,
            connection=self._serial,
            address=self._site.addresses[self.number],
            number=self.number,
        )

    def _answer(self, request: Received, route: Route) -> None:
        try:
            reply = route if isinstance(route, Reply) else route(request)
        except Exception as error:
            reply = self._failed(error)
        if isinstance(reply, Reply):
            self._hold(request, reply)
        else:
            self._waiting = asyncio.ensure_future(self._later(request, reply))

    async def _later(self, request: Received, reply: Awaitable[Reply]) -> None:
        try:
            answer = await reply
        except Exception as error:
            answer = self._failed(error)
        self._hold(request, answer)
        self._proceed()

    def _failed(self, error: Exception) -> Reply:
        self._site._errors.append(error)
        return Reply.text(repr(error), 500)

    def _hold(self, request: Received, reply: Reply) -> None:
        if request.header("connection") == "close" and reply.end == "keep":
            reply = replace(reply, end="close")
        head_only = request.method == "HEAD"
        if reply.after <= 0:
            self._finish(reply, head_only=head_only)
            return

        def fire() -> None:
            self._finish(reply, head_only=head_only)
            self._proceed()

        loop = asyncio.get_running_loop()
        self._waiting = loop.call_later(reply.after, fire)

    def _finish(self, reply: Reply, *, head_only: bool) -> None:
        if self._transport.is_closing():
            return
        self._transport.write(reply.encode(head_only=head_only))
        if reply.end == "keep":
            self._busy = False
        elif reply.end == "close":
            self._transport.close()
        elif reply.end == "reset":
            sock = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._transport.abort()


def dead_address() -> tuple[str, int]:
    """A loopback address and port on which nothing listens: connecting is refused."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        host, port = sock.getsockname()
        return str(host), int(port)


def _name(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _bind(hosts: Sequence[str], port: int = 0) -> list[socket.socket]:
    """One socket per host, all on one port; 0: one that is free on each of them."""
    for _ in range(1 if port else 100):
        bound: list[socket.socket] = []
        try:
            for host in hosts:
                shared = bound[0].getsockname()[1] if bound else port
                bound.append(_bound(host, shared, is_chosen=bool(port)))
        except OSError as error:
            for sock in bound:
                sock.close()
            if error.errno == errno.EADDRNOTAVAIL:
                ports = [port, *(0 for _ in hosts[1:])]
                return [_bound("127.0.0.1", each, is_chosen=bool(each)) for each in ports]
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            return bound
    raise OSError(errno.EADDRINUSE, f"port {port or 'whatever'} is not free on {', '.join(hosts)}")


def _bound(host: str, port: int, *, is_chosen: bool = False) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        if is_chosen:  # or the port could not be used again for a minute
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
    except (OSError, OverflowError):
        sock.close()
        raise
    sock.setblocking(False)
    return sock
