"""One socket as asyncio's protocol: bytes in, bytes out, TLS, its end.

Owns: reading and writing before a protocol takes over (proxy handshakes), TLS, closing,
what is known about the peer. Does not own: connecting and tokens (`dialer`), which
channels are open or idle (`sockets`), HTTP (`http1`, `stream`).

Invariants: an idle channel is read by the loop, so that a peer's end, or bytes nobody
asked for, close it at once; closing never waits; the owner learns exactly once that the
descriptor is gone (`lost`).
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Protocol, cast

from crawler.errors import FetchError
from crawler.pool.faults import tls_fault

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

__all__ = ["Channel", "ChannelOwner"]


class ChannelOwner(Protocol):
    """Who is told what becomes of a channel."""

    def closing(self, channel: Channel) -> None:
        """Closed by us; the descriptor lasts until `lost`."""
        ...

    def lost(self, channel: Channel) -> None:
        """The descriptor is closed. May be told again."""
        ...


class Channel(asyncio.Protocol):
    """A socket under a token."""

    __slots__ = (
        "_error",
        "_is_eof",
        "_is_full",
        "_loop",
        "_owner",
        "_raw",
        "_reader",
        "_socket_transport",
        "_transport",
        "connect_s",
        "dns_s",
        "idle_at",
        "is_aborted",
        "is_closed",
        "is_leaving",
        "is_queued",
        "on_lost",
        "opening",
        "peer",
        "received",
        "requests",
        "tls_s",
    )

    def __init__(self, owner: ChannelOwner) -> None:
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._socket_transport: asyncio.Transport | None = None
        self._raw = bytearray()
        self._reader: asyncio.Future[None] | None = None
        self._is_eof = False
        self._error: Exception | None = None
        self._is_full = False
        self.is_closed = False
        """True once it can no longer be used; its descriptor may last one loop turn."""
        self.idle_at: float | None = None
        """Instant since which it has been idle; None: in use."""
        self.received = 0
        """Bytes read from the peer, after TLS."""
        self.requests = 0
        """Requests sent on it."""
        self.dns_s: float | None = None
        self.connect_s = 0.0
        """Seconds the opening took, all of it."""
        self.tls_s: float | None = None
        self.peer: str | None = None
        """Address of the other end."""
        self.is_aborted = False
        """True once we gave it up while it was in use."""
        self.is_queued = False
        """It waits for a socket."""
        self.is_leaving = False
        """It is about to stop waiting: another connection was given in its place."""
        self.opening: asyncio.Timeout | None = None
        """The step under way before the channel is ready; closing ends it."""
        self.on_lost: Callable[[Channel], None] | None = None
        """Called once, when the descriptor is closed."""

    def __repr__(self) -> str:
        state = "closed" if self.is_closed else "idle" if self.idle_at is not None else "in use"
        return f"<{type(self).__name__} to {self.peer}, {state}, {self.requests} requests>"

    # The loop's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is connected."""
        self._transport = self._socket_transport = cast("asyncio.Transport", transport)
        address = transport.get_extra_info("peername")
        self.peer = str(address[0]) if address else None
        if self.is_closed:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Bytes came; on an idle channel nobody asked for them."""
        self.received += len(data)
        if self.idle_at is not None:
            self.close()
            return
        self._raw += data
        self._wake()

    def eof_received(self) -> None:
        """The peer will send no more: asyncio closes the transport after this."""
        self._is_eof = True
        if self.idle_at is not None:
            self.close()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """The descriptor is closed: the token goes back."""
        self._error = self._error or exc
        self._is_eof = True
        self._end()
        self._wake()
        self._owner.lost(self)

    def pause_writing(self) -> None:
        """The peer does not read as fast as we write."""
        self._is_full = True

    def resume_writing(self) -> None:
        """The write buffer has room again."""
        self._is_full = False

    # Before HTTP: handshakes with proxies, TLS

    def write(self, data: bytes) -> None:
        """Send; what the peer does not read yet is kept."""
        if self.is_closed or self._transport is None:
            raise self._error or ConnectionResetError("closed by the peer")
        self._transport.write(data)

    async def read(self) -> bytes:
        """The next bytes, empty at the end. Raises what the connection died of."""
        if not self._raw and not self._is_eof and not self.is_closed:
            self._reader = self._loop.create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        if self._error is not None and not self._raw:
            raise self._error
        data = bytes(self._raw)
        self._raw.clear()
        return data

    async def start_tls(self, context: ssl.SSLContext, host: str, *, timeout: float | None) -> None:
        """Go on under TLS, `host` verified by name; closed when the handshake fails.

        Raises FetchError: `tls`, saying which check failed, or `tls-timeout`.
        """
        assert self._transport is not None
        if self._raw:
            self.close()
            raise FetchError("tls", "bytes came before the TLS handshake")
        begun = time.monotonic()
        try:
            async with asyncio.timeout(timeout) as self.opening:
                self._transport = await self._loop.start_tls(
                    _nestable(self._transport), self, context, server_hostname=host
                )
        except BaseException as error:
            self.opening = None
            self.close()
            # No loop calls connection_lost for a handshake that failed: after the
            # descriptor, which goes in this turn of the loop, the token goes.
            self._loop.call_soon(self._owner.lost, self)
            if isinstance(error, TimeoutError):
                late = f"{host}: no TLS handshake in {timeout} s (timeout.tls)"
                raise FetchError("tls-timeout", late) from error
            if isinstance(error, Exception):
                raise tls_fault(error, host) from error
            raise
        self.opening = None
        if self._transport is None or self.is_closed:
            self.close()
            raise FetchError("tls", f"{host} closed the connection during the handshake")
        self.tls_s = time.monotonic() - begun

    def now(self) -> float:
        """The loop's clock."""
        return self._loop.time()

    def extra(self, name: str) -> Any:
        """asyncio's `get_extra_info`: ssl_object, peername, sockname, socket."""
        return self._transport.get_extra_info(name) if self._transport is not None else None

    # The pool's side

    def close(self) -> None:
        """Close now, without waiting and without flushing; idempotent."""
        if self.is_closed:
            return
        self._end()
        if self.opening is not None and not self.opening.expired():
            self.opening.reschedule(self._loop.time())
        self._owner.closing(self)
        if self._transport is not None:
            self._transport.abort()
        if self._socket_transport is not None:
            self._socket_transport.abort()
        self._wake()

    def abort(self) -> None:
        """Close a channel that may be in use: whoever uses it is told `cancelled`."""
        self.is_aborted = self.is_aborted or not self.is_closed
        self.close()

    def _end(self) -> None:
        self.is_closed = True
        self.idle_at = None

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _ended_cleanly(self) -> bool:
        """True unless TLS was cut off without its closing alert (RFC 8446 §6.1).

        To be asked at the end of the stream: then the TLS object still gives an empty
        read where the alert has come, and wants more where it has not.
        """
        tls = self.extra("ssl_object")
        if tls is None:
            return True
        try:
            return not tls.read(1)
        except (OSError, ValueError):
            return False


class _Outer:
    """A TLS transport that another TLS session may fail in.

    Before 3.11.8 and 3.12.2 asyncio's has no `_force_close`, so that the reason of a
    handshake that fails inside it is lost (cpython gh-113214).
    """

    _start_tls_compatible = True

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def __repr__(self) -> str:
        return f"<_Outer {self._transport!r}>"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def _force_close(self, error: BaseException | None) -> None:
        self._transport.abort()


def _nestable(transport: asyncio.Transport) -> asyncio.Transport:
    if type(transport).__module__ == "asyncio.sslproto":
        return cast("asyncio.Transport", _Outer(transport))
    return transport
