"""Sockets: a token, the name, one of its addresses, a connection.

Owns: the order of these steps, what each costs in time, that a failed one leaves nothing
behind; what lasts beyond the clients: budget, names, learned keep-alive.
Does not own: what is spoken on a connection (`route`, `http1`, `stream`).

Invariants: no socket is created before its token was taken; no address is connected to
that the resolver's policy has not seen; whatever ends a connect, cancellation too, its
token and socket are given back.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from crawler.errors import FetchError
from crawler.pool.budget import BudgetStats, SocketBudget
from crawler.pool.channel import Channel
from crawler.pool.eyeballs import first_connected
from crawler.pool.faults import EXHAUSTED, connect_fault
from crawler.pool.keepalive import KeepAlive
from crawler.pool.resolver import Resolver, ResolverStats
from crawler.pool.sockets import SocketStats, SocketTable

if TYPE_CHECKING:
    from collections.abc import Callable

    from crawler.pool.call import Origin
    from crawler.pool.resolver import Address

__all__ = ["Dialer", "DialerStats"]

C = TypeVar("C", bound=Channel)

LEARNED = 10_000
"""Domains whose keep-alive is remembered, and origins whose HTTP version is."""
UNREAD_MS = 30_000
"""Milliseconds that sent data may stay unacknowledged (TCP_USER_TIMEOUT)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DialerStats:
    """Everything below the clients."""

    sockets: SocketStats
    budget: BudgetStats
    names: ResolverStats


class Dialer:
    """Opens channels under one budget; shared by all pools of a loop.

    `keepalive`: seconds an idle connection lives, less where a server has taught better;
    0: no connection is used twice. `clock` must be monotonic. None: made here.
    """

    def __init__(
        self,
        budget: SocketBudget | None = None,
        *,
        resolver: Resolver | None = None,
        keepalive: float = 15.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.budget = budget if budget is not None else SocketBudget()
        self.resolver = resolver if resolver is not None else Resolver()
        self.sockets = SocketTable(self.budget, clock=clock)
        self.clock = clock
        self._is_closed = False
        self._keepalive = keepalive
        self.keeps_alive = keepalive > 0
        """False: every connection serves one request."""
        self._learned: OrderedDict[str, KeepAlive] = OrderedDict()
        self._plain: OrderedDict[Origin, None] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Dialer {self.sockets!r}, {self.budget!r}>"

    def keepalive(self, domain: str) -> KeepAlive:
        """What is known of a domain's keep-alive."""
        return self._learned.get(domain) or KeepAlive(self._keepalive)

    def remember(self, domain: str, keepalive: KeepAlive) -> None:
        """Keep what a domain has taught beyond its clients."""
        self._learned[domain] = keepalive
        self._learned.move_to_end(domain)
        if len(self._learned) > LEARNED:
            self._learned.popitem(last=False)

    def is_plain(self, origin: Origin) -> bool:
        """Whether the origin was last found to speak HTTP/1.1 only, though asked for more."""
        return origin in self._plain

    def remember_plain(self, origin: Origin, *, is_plain: bool) -> None:
        """Keep what a handshake has chosen."""
        self._plain.pop(origin, None)
        if is_plain:
            self._plain[origin] = None
            if len(self._plain) > LEARNED:
                self._plain.popitem(last=False)

    async def connect(
        self,
        channel: C,
        host: str,
        port: int,
        *,
        timeout: float | None = None,
        local_address: str | None = None,
    ) -> C:
        """Connect a new channel; `timeout` covers the name and the socket, and as much again
        the waiting for a token.

        Raises FetchError: dns, address, connect-refused, connect-timeout, connect, reset,
        and `local` when no token or descriptor was to be had.
        """
        loop = asyncio.get_running_loop()
        begun = time.monotonic()
        await self._take_token(channel, timeout)
        deadline = None if timeout is None else loop.time() + timeout
        self.sockets.opening(channel)
        try:
            async with asyncio.timeout_at(deadline) as channel.opening:
                sock = await self._socket(channel, host, port, local_address)
                await loop.create_connection(lambda: channel, sock=sock)
            if channel.is_closed:
                raise ConnectionAbortedError("closed while it was being opened")
        except BaseException as error:
            self.sockets.failures += 1
            channel.opening = None
            channel.close()
            loop.call_soon(self.sockets.lost, channel)
            if channel.is_aborted or (self._is_closed and isinstance(error, Exception)):
                raise FetchError("cancelled", "closed while it was being opened") from error
            if isinstance(error, TimeoutError):
                self.resolver.forget(host)
                late = f"no connection to {host}:{port} in {timeout} s (timeout.connect)"
                raise FetchError("connect-timeout", late) from error
            if isinstance(error, Exception):
                raise self._fault(error) from error
            raise
        channel.opening = None
        self.sockets.connects += 1
        channel.connect_s = time.monotonic() - begun
        return channel

    async def _take_token(self, channel: Channel, timeout: float | None) -> None:
        if self._is_closed:
            raise FetchError("cancelled", "the dialer is closed")
        deadline = None if timeout is None else asyncio.get_running_loop().time() + timeout
        channel.is_queued = True
        try:
            async with asyncio.timeout(None) as channel.opening:
                await self.budget.acquire(deadline)
        finally:
            channel.is_queued = False
            self.sockets.leaving -= channel.is_leaving
            channel.opening = None
        if self._is_closed:
            self.budget.release()
            raise FetchError("cancelled", "the dialer is closed")

    async def _socket(
        self, channel: Channel, host: str, port: int, local_address: str | None
    ) -> socket.socket:
        """A connected socket to one of the host's addresses."""
        begun = time.monotonic()
        addresses = await self.resolver.resolve(host, port)
        if local_address is not None:
            addresses = _reachable_from(local_address, addresses)
        if addresses[0].literal != host:
            channel.dns_s = time.monotonic() - begun
        try:
            return await first_connected(
                addresses,
                lambda address: _connected(address, local_address),
                may_race=self.budget.try_acquire,
                raced=self.budget.release,
                discard=socket.socket.close,
                failed=lambda address, _: self.resolver.demote(host, address),
            )
        except OSError as error:
            if error.errno not in EXHAUSTED:
                self.resolver.forget(host)
            raise

    def _fault(self, error: Exception) -> FetchError:
        if isinstance(error, OSError) and error.errno in EXHAUSTED:
            self.budget.shrink()
            self.sockets.close_idle()
        return connect_fault(error)

    async def aclose(self) -> None:
        """Close every socket, wait for the last descriptor, end the look-ups. Idempotent."""
        self._is_closed = True
        await self.sockets.aclose()
        self.resolver.close()

    def stats(self) -> DialerStats:
        """Everything below the clients, now."""
        return DialerStats(
            sockets=self.sockets.stats(), budget=self.budget.stats(), names=self.resolver.stats()
        )


def _reachable_from(local_address: str, addresses: tuple[Address, ...]) -> tuple[Address, ...]:
    family = socket.AF_INET6 if ":" in local_address else socket.AF_INET
    found = tuple(address for address in addresses if address.family == family)
    if not found:
        raise FetchError("address", f"none can be reached from {local_address} (local_address)")
    return found


async def _connected(address: Address, local_address: str | None) -> socket.socket:
    """Connect to one address, from `local_address` where one is given."""
    sock = socket.socket(address.family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_MS)
        if local_address is not None:
            sock.bind((local_address, 0))
        await asyncio.get_running_loop().sock_connect(sock, address.sockaddr)
    except BaseException:
        sock.close()
        raise
    return sock
