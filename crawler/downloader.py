"""One order to one outcome: send through a leased client, read, decode.

Owns: the sizes of an answer, the mapping of everything that can happen to an Outcome.
Does not own: what follows from it (`retry`), sockets and deadlines (`pool`), when a lease
begins and ends (`visits`).

Invariants: the response is closed under success, error and cancellation; no more than
`wire_bytes` are read and no more than the decoded bound is kept; an Outcome has either a
status or an error, never both.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from msgspec import Struct

from crawler.access import forwards
from crawler.errors import FetchError, UsageError
from crawler.pool import BodyDecoder, Deadlines, ProxyRoute, parse_codings
from storage import FetchRow

if TYPE_CHECKING:
    from collections.abc import Callable

    from crawler.pool import Answer, ClientCache, ClientKey, ConnectionInfo, Lease
    from storage import DomainRow

__all__ = ["Downloader", "Order", "Outcome"]

MIB = 1024 * 1024
TEXT_BYTES = 10 * MIB
OTHER_BYTES = 32 * MIB
TEXT_TYPES = (b"text/", b"application/json", b"application/xhtml", b"application/xml")


class Order(Struct, frozen=True, kw_only=True):
    """What to send, how long to wait and how much to take, in bytes."""

    method: str
    url: str
    headers: dict[str, str]
    content: bytes
    deadlines: Deadlines
    wire_bytes: int
    decoded_bytes: int | None
    """None: 10 MiB of text, 32 MiB of anything else."""
    cut_at: int | None = None
    """Decoded bytes that are enough: more than that is not read; None: all of it."""


class Outcome(Struct, kw_only=True):
    """What came of an order."""

    status: int | None = None
    headers: list[tuple[bytes, bytes]] = []
    body: bytes = b""
    error: FetchError | None = None
    ttfb_s: float | None = None
    """Seconds from sending to the head of the answer."""
    total_s: float = 0.0
    bytes_received: int = 0
    connection: ConnectionInfo | None = None
    """What served it; None: nothing did."""
    proxy: str | None = None
    """What it was sent through, without credentials; None: direct."""
    generation: int | None = None
    """Which client of its domain it was sent through, from 1."""
    open_connections: int = 0
    """Of the client, when the answer had been read."""
    peer_closes: int = 0
    """Idle connections of the client that the server has closed so far."""
    pace: DomainRow | None = None
    """What the domain's pace had learned when its slot was given back."""

    @property
    def code(self) -> str:
        """The error's code, or `http-<status>`."""
        return self.error.code if self.error is not None else f"http-{self.status}"

    @property
    def message(self) -> str:
        """What the error says; empty: there is none."""
        return str(self.error.args[0]) if self.error is not None else ""

    def header(self, name: str) -> str | None:
        """The first header of that name, in lower case; None: there is none."""
        wanted = name.encode()
        for key, value in self.headers:
            if key.lower() == wanted:
                return value.decode("latin-1")
        return None

    def row(
        self,
        decision: str,
        *,
        started_at: float,
        attempt: int = 1,
        wait_s: float = 0.0,
        url: str | None = None,
    ) -> FetchRow:
        """This attempt for the statistics; `url` None: the committed request's own."""
        connection = self.connection
        return FetchRow(
            attempt=attempt,
            status=self.status,
            error=self.error.code if self.error else None,
            decision=decision,
            started_at=started_at,
            wait_s=wait_s,
            connect_s=connection.connect_s if connection else None,
            dns_s=connection.dns_s if connection else None,
            tls_s=connection.tls_s if connection else None,
            ttfb_s=self.ttfb_s,
            total_s=self.total_s,
            bytes_received=self.bytes_received,
            reused=connection.reused if connection else None,
            nth=connection.nth if connection else None,
            replays=connection.replays if connection else 0,
            http_version=connection.http_version if connection else None,
            peer=connection.peer if connection else None,
            generation=self.generation,
            proxy=self.proxy,
            url=url,
        )


class Downloader:
    """Sends orders through the client cache; `key` says whose client serves a domain."""

    def __init__(self, clients: ClientCache, *, key: Callable[[str], ClientKey]) -> None:
        self._clients = clients
        self._key = key
        self._sent = 0
        self._failed = 0

    def __repr__(self) -> str:
        return f"<Downloader {self._sent} sent, {self._failed} failed>"

    def may_lease(self, domain: str) -> bool:
        """A client for the domain can be had at once."""
        return self._clients.may_lease(self._key(domain))

    def lease(self, domain: str, connections: int) -> Lease:
        """The domain's client, with at most that many connections from now on.

        Raises RuntimeError when every client is in use: ask `may_lease` first.
        """
        return self._bound(self._clients.lease(self._key(domain), connections), connections)

    def routed(self, lease: Lease, proxy: str) -> Lease:
        """The lease of the domain's client through a proxy, in place of the direct one.

        One client is enough: where there is no room the direct one makes it. Raises
        FetchError, the direct lease still held: `local` when every client is in use,
        `bad-request` for a proxy that cannot be used.
        """
        connections = lease.client.transport.pool.connections
        key = lease.key._replace(proxy=proxy)
        if key == lease.key:
            return lease
        try:
            ProxyRoute.parse(proxy)
            if self._clients.may_lease(key):
                other = self._bound(self._clients.lease(key, connections), connections)
                lease.release()
                return other
        except UsageError as error:
            raise FetchError("bad-request", str(error)) from error
        if self._clients.leases(lease.key) > 1:
            raise FetchError("local", "every client is in use (pool.clients)")
        lease.release()
        return self._bound(self._clients.lease(key, connections), connections)

    def _bound(self, lease: Lease, connections: int) -> Lease:
        """The bound may have changed since the client was made."""
        if lease.client.transport.pool.connections != connections:
            self._clients.bind(lease, connections)
        return lease

    async def fetch(self, lease: Lease, order: Order) -> Outcome:
        """Send an order under a lease. Never raises FetchError: it is in the Outcome."""
        outcome = Outcome(generation=lease.nth)
        begun = time.monotonic()
        self._sent += 1
        try:
            await self._exchange(lease, order, outcome, begun)
        except FetchError as error:
            self._fail(outcome, error)
        outcome.total_s = time.monotonic() - begun
        pool = lease.client.transport.pool
        outcome.open_connections = pool.open_connections
        outcome.peer_closes = pool.tally.peer_closes
        return outcome

    def _fail(self, outcome: Outcome, error: FetchError) -> None:
        self._failed += 1
        outcome.status = None
        outcome.body = b""
        outcome.error = error

    async def _exchange(self, lease: Lease, order: Order, outcome: Outcome, begun: float) -> None:
        answer = await lease.client.exchange(
            order.method,
            order.url,
            headers=order.headers.items(),
            content=order.content,
            deadlines=order.deadlines,
        )
        try:
            connection = outcome.connection = answer.info
            outcome.ttfb_s = time.monotonic() - begun - (connection.connect_s or 0.0)
            outcome.headers = answer.headers
            outcome.status = answer.status
            if answer.status == 407 and forwards(lease.key.proxy, order.url):
                raise FetchError("proxy", "the proxy refuses our credentials (407)")
            await self._read(answer, order, outcome)
        except FetchError as error:
            error.url = error.url or order.url
            raise
        finally:
            await answer.aclose()

    async def _read(self, answer: Answer, order: Order, outcome: Outcome) -> None:
        """The body, bounded on the wire and after decoding."""
        decoder = BodyDecoder(
            parse_codings(outcome.header("content-encoding") or ""), _decoded_bound(order, outcome)
        )
        parts = []
        async for chunk in answer:
            outcome.bytes_received += len(chunk)
            if outcome.bytes_received > order.wire_bytes:
                seen = f"body.wire={order.wire_bytes}, seen {outcome.bytes_received}"
                raise FetchError("too-large", seen, url=order.url)
            parts.append(decoder.feed(chunk))
            if order.cut_at is not None and decoder.size > order.cut_at:
                outcome.body = b"".join(parts)
                return
        decoder.finish()
        outcome.body = parts[0] if len(parts) == 1 else b"".join(parts)


def _decoded_bound(order: Order, outcome: Outcome) -> int:
    if order.decoded_bytes is not None:
        return order.decoded_bytes
    kind = (outcome.header("content-type") or "").lower().encode()
    return TEXT_BYTES if not kind or kind.startswith(TEXT_TYPES) else OTHER_BYTES
