"""One order to one outcome: send through a leased client, read, decode.

Owns: deadlines and sizes of a whole exchange, the mapping of everything that can happen
to an Outcome. Does not own: what follows from it (`retry`), the sockets (`pool`), when a
lease begins and ends (`visits`).

Invariants: the response is closed under success, error and cancellation; no more than
`wire_bytes` are read and no more than the decoded bound is kept; an Outcome has either a
status or an error, never both.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, cast

from msgspec import Struct

from crawler.errors import FetchError, UsageError
from crawler.pool import BodyDecoder, ClientKey, TlsProfile, connection_of, parse_codings
from storage import FetchRow

if TYPE_CHECKING:
    from collections.abc import AsyncIterable

    from crawler.pool import ClientCache, Lease, PoolClient
    from storage import DomainRow

__all__ = ["Downloader", "Order", "Outcome"]

MIB = 1024 * 1024
TEXT_BYTES = 10 * MIB
OTHER_BYTES = 32 * MIB
TEXT_TYPES = (b"text/", b"application/json", b"application/xhtml", b"application/xml")
SLOWEST = 1024.0
"""Bytes per second a body must bring, averaged since the head, once GRACE_S have passed."""
GRACE_S = 20.0


class Order(Struct, frozen=True, kw_only=True):
    """What to send and how long to wait; seconds and bytes."""

    method: str
    url: str
    headers: dict[str, str]
    content: bytes
    connect_s: float
    head_s: float
    read_s: float
    total_s: float
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
    connect_s: float | None = None
    ttfb_s: float | None = None
    """Seconds from sending to the head of the answer."""
    total_s: float = 0.0
    bytes_received: int = 0
    reused: bool | None = None
    pace: DomainRow | None = None
    """What the domain's pace had learned when its slot was given back."""

    @property
    def code(self) -> str:
        """The error's code, or `http-<status>`."""
        return self.error.code if self.error is not None else f"http-{self.status}"

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
        proxy: str | None = None,
        url: str | None = None,
    ) -> FetchRow:
        """This attempt for the statistics; `url` None: the committed request's own."""
        return FetchRow(
            attempt=attempt,
            status=self.status,
            error=self.error.code if self.error else None,
            decision=decision,
            started_at=started_at,
            wait_s=wait_s,
            connect_s=self.connect_s,
            ttfb_s=self.ttfb_s,
            total_s=self.total_s,
            bytes_received=self.bytes_received,
            reused=self.reused,
            proxy=proxy,
            url=url,
        )


class Downloader:
    """Sends orders through the client cache."""

    def __init__(self, clients: ClientCache, *, tls: TlsProfile) -> None:
        self._clients = clients
        self._tls = tls
        self._sent = 0
        self._failed = 0

    def __repr__(self) -> str:
        return f"<Downloader {self._sent} sent, {self._failed} failed>"

    def may_lease(self, domain: str) -> bool:
        """A client for the domain can be had at once."""
        return self._clients.may_lease(ClientKey(domain, tls=self._tls))

    def connections(self, domain: str) -> int:
        """Connections open to the domain now."""
        return self._clients.open_connections(ClientKey(domain, tls=self._tls))

    def lease(self, domain: str, connections: int) -> Lease:
        """The domain's client, with at most that many connections should it be made now.

        Raises RuntimeError when every client is in use: ask `may_lease` first.
        """
        return self._clients.lease(ClientKey(domain, tls=self._tls), connections)

    def routed(self, lease: Lease, proxy: str) -> Lease:
        """The lease of the domain's client through a proxy, in place of the direct one.

        One client is enough: where there is no room the direct one makes it. Raises
        FetchError, the direct lease still held: `local` when every client is in use,
        `bad-request` for a proxy that cannot be used.
        """
        connections = lease.client.transport.connections
        key = ClientKey(lease.key.domain, proxy, self._tls)
        try:
            if self._clients.may_lease(key):
                other = self._clients.lease(key, connections)
                lease.release()
                return other
        except UsageError as error:
            raise FetchError("bad-request", str(error)) from error
        if self._clients.leases(lease.key) > 1:
            raise FetchError("local", "every client is in use (pool.clients)")
        lease.release()
        return self._clients.lease(key, connections)

    async def fetch(self, lease: Lease, order: Order) -> Outcome:
        """Send an order under a lease. Never raises FetchError: it is in the Outcome."""
        outcome = Outcome()
        begun = time.monotonic()
        self._sent += 1
        try:
            async with asyncio.timeout(order.total_s):
                await self._exchange(lease.client, order, outcome, begun)
        except FetchError as error:
            self._fail(outcome, _of_proxy(error) if lease.key.proxy else error)
        except TimeoutError as error:
            late = FetchError("total-timeout", f"timeout.total={order.total_s:g} s", url=order.url)
            late.__cause__ = error
            self._fail(outcome, late)
        outcome.total_s = time.monotonic() - begun
        return outcome

    def _fail(self, outcome: Outcome, error: FetchError) -> None:
        self._failed += 1
        outcome.status = None
        outcome.body = b""
        outcome.error = error

    async def _exchange(
        self, client: PoolClient, order: Order, outcome: Outcome, begun: float
    ) -> None:
        response = await client.exchange(
            order.method,
            order.url,
            headers=order.headers,
            content=order.content,
            timeouts={
                "connect": order.connect_s,
                "head": order.head_s,
                "read": order.read_s,
                "write": order.head_s,
            },
        )
        try:
            headed = time.monotonic()
            connection = connection_of(response)
            outcome.reused = connection.reused
            outcome.connect_s = connection.connect_s
            outcome.ttfb_s = headed - begun - (connection.connect_s or 0.0)
            outcome.headers = response.headers.raw
            outcome.status = response.status_code
            await self._read(cast("AsyncIterable[bytes]", response.stream), order, outcome, headed)
        finally:
            await response.aclose()

    async def _read(
        self, stream: AsyncIterable[bytes], order: Order, outcome: Outcome, headed: float
    ) -> None:
        """The body, bounded on the wire, after decoding, and in slowness."""
        decoder = BodyDecoder(
            parse_codings(outcome.header("content-encoding") or ""), _decoded_bound(order, outcome)
        )
        parts = []
        async for chunk in stream:
            outcome.bytes_received += len(chunk)
            if outcome.bytes_received > order.wire_bytes:
                seen = f"body.wire={order.wire_bytes}, seen {outcome.bytes_received}"
                raise FetchError("too-large", seen, url=order.url)
            parts.append(decoder.feed(chunk))
            if order.cut_at is not None and decoder.size > order.cut_at:
                outcome.body = b"".join(parts)
                return
            passed = time.monotonic() - headed
            if passed > GRACE_S and outcome.bytes_received < SLOWEST * passed:
                slow = f"under {SLOWEST:g} bytes/s over {passed:.0f} s"
                raise FetchError("read-timeout", slow, url=order.url)
        decoder.finish()
        outcome.body = parts[0] if len(parts) == 1 else b"".join(parts)


def _of_proxy(error: FetchError) -> FetchError:
    """What failed before the target was reached is not the target's fault."""
    if error.fault != "domain":
        return error
    found = FetchError("proxy", str(error.args[0]), url=error.url)
    found.__cause__ = error
    return found


def _decoded_bound(order: Order, outcome: Outcome) -> int:
    if order.decoded_bytes is not None:
        return order.decoded_bytes
    kind = (outcome.header("content-type") or "").lower().encode()
    return TEXT_BYTES if not kind or kind.startswith(TEXT_TYPES) else OTHER_BYTES
