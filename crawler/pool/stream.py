"""One connection as bytes: asyncio's protocol and httpcore's stream in one object.

Owns: reading, writing, TLS, closing, the timeouts of each.
Does not own: connecting and tokens (`backend`), HTTP (`connection`).

Invariants: an idle stream is read by the loop, so that a peer's FIN, or bytes nobody asked
for, close it at once; closing never waits; the owner learns of the end exactly once.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Protocol, cast

import httpcore

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

__all__ = ["Stream", "StreamOwner"]

HIGH_WATER = 256 * 1024
"""Unread bytes at which a stream stops reading from its socket."""


class StreamOwner(Protocol):
    """Who is told what becomes of a stream."""

    connect_s: float

    def closing(self, stream: Stream) -> None:
        """Closed by us; the descriptor lasts until `lost`."""
        ...

    def lost(self, stream: Stream) -> None:
        """The descriptor is closed. May be told again."""
        ...


class Stream(asyncio.Protocol, httpcore.AsyncNetworkStream):
    """One connection: the loop's protocol and httpcore's stream in one object."""

    def __init__(self, backend: StreamOwner) -> None:
        self._backend = backend
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._socket_transport: asyncio.Transport | None = None
        self._data = bytearray()
        self._is_eof = False
        self._is_held = False
        self._error: Exception | None = None
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._is_full = False
        self._read_by = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.connect_s = 0.0
        """Seconds the connection took, TLS included."""
        self.received = 0
        """Bytes read from the peer, after TLS."""
        self.idle_at: float | None = None
        """Instant since which it has been idle; None: in use."""
        self.is_closed = False
        """True once it can no longer be used; its descriptor may last one loop turn."""
        self.on_lost: Callable[[Stream], None] | None = None
        """Called once, when the descriptor is closed."""

    def __repr__(self) -> str:
        state = "closed" if self.is_closed else "idle" if self.idle_at is not None else "open"
        return f"<Stream {state}, {self.received} bytes received>"

    # The loop's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is connected."""
        self._transport = self._socket_transport = cast("asyncio.Transport", transport)
        if self.is_closed:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Bytes came; on an idle connection nobody asked for them."""
        self.received += len(data)
        if self.idle_at is not None:
            self.close()
            return
        self._data += data
        if len(self._data) > HIGH_WATER and not self._is_held:
            self._is_held = True
            assert self._transport is not None
            self._transport.pause_reading()
        self._wake_reader()

    def eof_received(self) -> None:
        """The peer will send no more: asyncio closes the transport after this."""
        self._is_eof = True
        if self.idle_at is not None:
            self.close()
        self._wake_reader()

    def connection_lost(self, exc: Exception | None) -> None:
        """The descriptor is closed: the token goes back."""
        self._error = self._error or exc
        self._is_eof = True
        self._end()
        self._wake_reader()
        self._wake_writer()
        self._backend.lost(self)

    def pause_writing(self) -> None:
        """The peer does not read as fast as we write."""
        self._is_full = True

    def resume_writing(self) -> None:
        """The write buffer has room again."""
        self._is_full = False
        self._wake_writer()

    # httpcore's side

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """What has come, waiting for the first byte; empty: the peer has ended."""
        if not self._data:
            if self._error is not None:
                raise httpcore.ReadError(self._error)
            if self._is_eof or self.is_closed:
                return b""
            await self._wait_for_data(timeout)
            if not self._data and self._error is not None:
                raise httpcore.ReadError(self._error)
        if len(self._data) <= max_bytes:
            data = bytes(self._data)
            self._data.clear()
        else:
            data = bytes(self._data[:max_bytes])
            del self._data[:max_bytes]
        if self._is_held and len(self._data) <= HIGH_WATER // 2 and not self.is_closed:
            self._is_held = False
            assert self._transport is not None
            self._transport.resume_reading()
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send, waiting while the peer does not read."""
        if not buffer:
            return
        if self.is_closed or self._transport is None:
            raise httpcore.WriteError(self._error or ConnectionResetError("closed by the peer"))
        self._transport.write(buffer)
        if self._is_full:
            self._writer = self._loop.create_future()
            try:
                async with asyncio.timeout(timeout):
                    await self._writer
            except TimeoutError as error:
                raise httpcore.WriteTimeout(f"not sent in {timeout} s") from error
            if self._error is not None:
                raise httpcore.WriteError(self._error)

    async def aclose(self) -> None:
        """Close; idempotent, never waits."""
        self.close()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> Stream:
        """Go on under TLS, on this same stream; closed when the handshake fails."""
        begun = time.monotonic()
        assert self._transport is not None
        if self._data:
            self.close()
            early = httpcore.RemoteProtocolError("bytes came before the TLS handshake")
            raise httpcore.ConnectError(early)
        try:
            async with asyncio.timeout(timeout):
                self._transport = await self._loop.start_tls(
                    self._transport, self, ssl_context, server_hostname=server_hostname
                )
        except BaseException as error:
            self.close()
            # No loop calls connection_lost for a handshake that failed: after the
            # descriptor, which goes in this turn of the loop, the token goes.
            self._loop.call_soon(self._backend.lost, self)
            if isinstance(error, TimeoutError):
                late = f"the TLS handshake took longer than {timeout} s"
                raise httpcore.ConnectTimeout(late) from error
            if isinstance(error, OSError):
                raise httpcore.ConnectError(error) from error
            raise
        if self._transport is None:
            raise httpcore.ConnectError(ConnectionResetError("closed during the TLS handshake"))
        self._backend.connect_s += time.monotonic() - begun
        self.connect_s += time.monotonic() - begun
        return self

    def get_extra_info(self, info: str) -> Any:
        """httpcore's names: ssl_object, client_addr, server_addr, socket, is_readable."""
        if info == "is_readable":
            return self.is_closed or bool(self._data) or self._is_eof
        names = {"client_addr": "sockname", "server_addr": "peername"}
        if self._transport is None:
            return None
        return self._transport.get_extra_info(names.get(info, info))

    # The pool's side

    def close(self) -> None:
        """Close now, without waiting and without flushing; idempotent."""
        if self.is_closed:
            return
        self._end()
        self._backend.closing(self)
        if self._transport is not None:
            self._transport.abort()
        if self._socket_transport is not None:
            self._socket_transport.abort()
        self._wake_reader()
        self._wake_writer()

    def _end(self) -> None:
        self.is_closed = True
        self.idle_at = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _wait_for_data(self, timeout: float | None) -> None:
        self._reader = self._loop.create_future()
        if timeout is not None:
            self._expect_by(self._loop.time() + timeout)
        try:
            await self._reader
        except TimeoutError as error:
            raise httpcore.ReadTimeout(f"nothing came for {timeout} s") from error
        finally:
            self._reader = None

    def _expect_by(self, deadline: float) -> None:
        """One timer serves many reads: when early, it sets itself anew."""
        self._read_by = deadline
        if self._timer is not None:
            if self._timer.when() <= deadline:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(deadline, self._late)

    def _late(self) -> None:
        self._timer = None
        if self._reader is None or self._reader.done():
            return
        if self._loop.time() < self._read_by:
            self._timer = self._loop.call_at(self._read_by, self._late)
        else:
            self._reader.set_exception(TimeoutError())

    def _wake_reader(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _wake_writer(self) -> None:
        if self._writer is not None and not self._writer.done():
            self._writer.set_result(None)
