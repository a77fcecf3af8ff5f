"""Sockets opened under the budget, counted, and given back exactly once.

Owns: httpcore's network backend; names and addresses; which streams are open, which of
them are idle and since when, the order in which idle ones go.
Does not own: how many may be open (`budget`), what a stream does (`stream`), HTTP.

Invariants: a stream holds one token from before its connect until its descriptor is
closed; an idle stream is closed while somebody waits for a token.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpcore

from crawler.pool.faults import EXHAUSTED
from crawler.pool.stream import Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from crawler.pool.budget import SocketBudget

__all__ = ["BackendStats", "CountingBackend"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendStats:
    """Sockets since the start, and now."""

    connects: int
    """Connections made."""
    failures: int
    """Attempts that made none, cancelled ones included."""
    closes: int
    open: int
    idle: int
    closing: int
    connect_s: float
    """Seconds spent in successful connects, names and TLS included."""


class CountingBackend(httpcore.AsyncNetworkBackend):
    """Opens streams under a budget and knows every one that is open or idle."""

    def __init__(
        self, budget: SocketBudget, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._budget = budget
        self._clock = clock
        budget.relieve = self.relieve
        self._streams: set[Stream] = set()
        self._idle: OrderedDict[Stream, None] = OrderedDict()
        self._closing: set[Stream] = set()
        self._all_lost: asyncio.Event | None = None
        self._connects = 0
        self._failures = 0
        self._closes = 0
        self.connect_s = 0.0
        """Seconds spent in successful connects."""

    def __repr__(self) -> str:
        return f"<CountingBackend {len(self._streams)} open, {len(self._idle)} idle>"

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> Stream:
        """Connect under a token; `timeout` covers the token, the name and the socket.

        Raises httpcore.ConnectError and ConnectTimeout with the system's error as first
        argument, and FetchError (`local`) when no token came free in time.
        """
        loop = asyncio.get_running_loop()
        begun = time.monotonic()
        deadline = None if timeout is None else loop.time() + timeout
        await self._budget.acquire(deadline)
        stream = Stream(self)
        self._streams.add(stream)
        try:
            async with asyncio.timeout_at(deadline):
                await self._connect(stream, host, port, local_address, socket_options or ())
            if stream.is_closed:
                raise ConnectionAbortedError("closed while it was being opened")
        except BaseException as error:
            self._failures += 1
            stream.close()
            loop.call_soon(self.lost, stream)
            if isinstance(error, TimeoutError):
                late = f"no connection to {host}:{port} in {timeout} s"
                raise httpcore.ConnectTimeout(late) from error
            if isinstance(error, OSError):
                if error.errno in EXHAUSTED:
                    self._budget.shrink()
                    self.relieve()
                raise httpcore.ConnectError(error) from error
            raise
        self._connects += 1
        stream.connect_s = time.monotonic() - begun
        self.connect_s += stream.connect_s
        return stream

    async def _connect(
        self,
        stream: Stream,
        host: str,
        port: int,
        local_address: str | None,
        options: Iterable[httpcore.SOCKET_OPTION],
    ) -> None:
        """Try the addresses one after another; the last one's error is the answer."""
        loop = asyncio.get_running_loop()
        found = await self._addresses(host, port)
        for place, (family, kind, proto, _, address) in enumerate(found, 1):
            sock = None
            try:
                sock = socket.socket(family, kind, proto)
                sock.setblocking(False)
                for option in options:
                    sock.setsockopt(*option)
                if local_address is not None:
                    sock.bind((local_address, 0))
                await loop.sock_connect(sock, address)
            except BaseException as error:
                if sock is not None:
                    sock.close()
                if not isinstance(error, OSError) or isinstance(error, TimeoutError):
                    raise
                if place == len(found) or error.errno in EXHAUSTED:
                    raise
            else:
                await loop.create_connection(lambda: stream, sock=sock)
                return

    async def _addresses(self, host: str, port: int) -> list[Any]:
        """Where the host may be reached: the one place for resolver and address policy."""
        loop = asyncio.get_running_loop()
        try:
            return _literal(host, port) or await loop.getaddrinfo(
                host, port, type=socket.SOCK_STREAM
            )
        except socket.gaierror:
            # Without a free descriptor every name is unknown: then this raises EMFILE.
            socket.socket().close()
            raise
        except UnicodeError as error:
            raise socket.gaierror(socket.EAI_NONAME, f"not a host name: {host}") from error

    # What becomes of streams

    def rest(self, stream: Stream) -> None:
        """The stream is idle from now on; closed at once while somebody waits for one."""
        stream.idle_at = self._clock()
        self._idle[stream] = None
        self.relieve()

    def use(self, stream: Stream) -> None:
        """The stream is no longer idle."""
        stream.idle_at = None
        self._idle.pop(stream, None)

    def relieve(self) -> None:
        """Close the longest idle streams, as many as wait for a token in vain."""
        while self._idle and self._budget.waiting > len(self._closing):
            next(iter(self._idle)).close()

    def sweep(self, before: float) -> int:
        """Close the streams idle since before that instant; how many."""
        closed = 0
        while self._idle:
            stream = next(iter(self._idle))
            if stream.idle_at is not None and stream.idle_at >= before:
                break
            stream.close()
            closed += 1
        return closed

    def closing(self, stream: Stream) -> None:
        """The stream is closed for us; its descriptor lasts until `lost`."""
        self._idle.pop(stream, None)
        self._closing.add(stream)

    def lost(self, stream: Stream) -> None:
        """The stream's descriptor is closed: the token goes back. Idempotent."""
        if stream not in self._streams:
            return
        self._streams.remove(stream)
        self._idle.pop(stream, None)
        self._closing.discard(stream)
        self._closes += 1
        self._budget.release()
        if stream.on_lost is not None:
            stream.on_lost(stream)
        if self._all_lost is not None and not self._streams:
            self._all_lost.set()

    async def aclose(self) -> None:
        """Close every stream and wait until their descriptors are closed."""
        for stream in list(self._streams):
            stream.close()
        await self.until_quiet()

    async def until_quiet(self) -> None:
        """Wait until no descriptor is open."""
        while self._streams:
            self._all_lost = self._all_lost or asyncio.Event()
            self._all_lost.clear()
            await self._all_lost.wait()

    def stats(self) -> BackendStats:
        """Sockets since the start, and now."""
        return BackendStats(
            connects=self._connects,
            failures=self._failures,
            closes=self._closes,
            open=len(self._streams),
            idle=len(self._idle),
            closing=len(self._closing),
            connect_s=self.connect_s,
        )


def _literal(host: str, port: int) -> list[Any]:
    """An address needs no look-up, and none of the resolver's threads."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    host = host.strip("[]")
    try:
        socket.inet_pton(family, host)
    except OSError:
        return []
    address = (host, port) if family == socket.AF_INET else (host, port, 0, 0)
    return [(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", address)]
