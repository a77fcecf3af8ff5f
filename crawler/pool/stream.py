"""A link that is read and written by awaiting, each time with a timeout of its own.

Owns: the way bytes go between the loop and httpcore. Does not own: HTTP (`core`, httpcore
and what it is built on).

Invariants: a timeout is acted upon only after the loop has looked at the socket once
more; at most HIGH_WATER bytes and one read wait unread; a stream that TLS cut off is never
taken for one that ended.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import httpcore

from crawler.errors import FetchError
from crawler.pool.link import Link

if TYPE_CHECKING:
    from crawler.pool.call import Origin
    from crawler.pool.channel import ChannelOwner
    from crawler.pool.deadlines import RateFloor
    from crawler.pool.link import Home

__all__ = ["Stream", "Unlocked"]

HIGH_WATER = 256 * 1024
"""Unread bytes at which a stream stops reading from its socket."""
SECOND_LOOK_S = 0.001
FIRST_BYTES = 64


class Stream(Link):
    """A link with the two verbs httpcore needs. They raise httpcore's errors."""

    def __init__(self, owner: ChannelOwner, home: Home, origin: Origin) -> None:
        super().__init__(owner, home, origin)
        self._is_cut = False
        self._is_held = False
        self._writer: asyncio.Future[None] | None = None
        self._read_by = 0.0
        self._all_by: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_second_look = False
        self.waited_s = 0.0
        """Seconds spent waiting for bytes: the floor's clock."""
        self._wait_begun = 0.0
        self.floor: RateFloor | None = None
        """How slowly bytes may come while somebody waits for them; None: as they like."""
        self.first_bytes = b""
        """What the present answer began with, for messages."""

    # The loop's side

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        super().data_received(data)
        self._wake_writer()
        if len(self._raw) > HIGH_WATER and not self._is_held and self._transport is not None:
            self._is_held = True
            self._transport.pause_reading()

    def eof_received(self) -> None:
        """The peer will send no more."""
        self._is_cut = not self._ended_cleanly()
        super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """The descriptor is closed."""
        if not self._is_eof and self.extra("ssl_object") is not None:
            self._is_cut = True
        super().connection_lost(exc)
        self._wake_writer()

    def resume_writing(self) -> None:
        """The write buffer has room again."""
        super().resume_writing()
        self._wake_writer()

    # httpcore's side

    def read_by(self, within: float | None) -> None:
        """All reads from now on end within that many seconds together; None: each alone."""
        self._all_by = None if within is None else self._loop.time() + within

    async def receive(self, max_bytes: int, timeout: float | None) -> bytes:
        """What has come, waiting for the first byte; empty: the peer has ended.

        Raises FetchError (`truncated`) where TLS was cut off.
        """
        if not self._raw:
            await self._wait_for_data(timeout)
        if not self._raw:
            if self._error is not None:
                raise httpcore.ReadError(self._error)
            if self._is_cut:
                raise FetchError("truncated", "TLS was cut off without its closing alert")
            return b""
        data = bytes(self._raw[:max_bytes])
        del self._raw[:max_bytes]
        if len(self.first_bytes) < FIRST_BYTES:
            self.first_bytes += data[:FIRST_BYTES]
            if not b"HTTP/".startswith(self.first_bytes.lstrip()[:5]):
                raise httpcore.RemoteProtocolError("no status line")
        if self._is_held and len(self._raw) <= HIGH_WATER // 2 and not self.is_closed:
            self._is_held = False
            assert self._transport is not None
            self._transport.resume_reading()
        return data

    async def send(self, buffer: bytes, timeout: float | None) -> None:
        """Send, waiting while the peer does not read."""
        if not buffer:
            return
        try:
            self.write(buffer)
        except OSError as error:
            raise httpcore.WriteError(error) from error
        if not self._is_full:
            return
        self._writer = self._loop.create_future()
        try:
            async with asyncio.timeout(timeout):
                await self._writer
            if self._raw:
                raise httpcore.WriteError("answered before the request had left")
        except TimeoutError as error:
            raise httpcore.WriteTimeout(
                f"the server took nothing for {timeout} s (timeout.write)"
            ) from error
        finally:
            self._writer = None
        if self._error is not None:
            raise httpcore.WriteError(self._error)

    # Inside

    def _end(self) -> None:
        super()._end()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._wake_writer()

    async def _wait_for_data(self, timeout: float | None) -> None:
        if self._is_eof or self.is_closed:
            return
        self._reader = self._loop.create_future()
        self._wait_begun = self._loop.time()
        if self._all_by is not None or timeout is not None:
            self._expect_by(self._all_by or self._loop.time() + (timeout or 0.0))
        try:
            await self._reader
        except TimeoutError as error:
            raise httpcore.ReadTimeout(f"nothing came for {timeout} s") from error
        finally:
            self._reader = None
            self.waited_s += self._loop.time() - self._wait_begun

    def _expect_by(self, deadline: float) -> None:
        """One timer serves many reads: when early, it sets itself anew."""
        self._read_by = deadline
        self._is_second_look = False
        look_at = self._look_at()
        if self._timer is not None:
            if self._timer.when() <= look_at:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(look_at, self._late)

    def _look_at(self) -> float:
        ends_at = self.floor.ends_at if self.floor is not None else None
        if ends_at is None:
            return self._read_by
        return min(self._read_by, self._wait_begun + ends_at - self.waited_s)

    def _late(self) -> None:
        self._timer = None
        if self._reader is None or self._reader.done():
            return
        now = self._loop.time()
        if self.floor is not None and self.floor.is_too_slow(
            self.waited_s + now - self._wait_begun, self.received
        ):
            self._reader.set_exception(FetchError("too-slow"))
        elif now < self._read_by:
            self._timer = self._loop.call_at(self._look_at(), self._late)
        elif not self._is_second_look:
            self._is_second_look = True
            self._timer = self._loop.call_later(SECOND_LOOK_S, self._late)
        else:
            self._reader.set_exception(TimeoutError())

    def _wake_writer(self) -> None:
        if self._writer is not None and not self._writer.done():
            self._writer.set_result(None)


class Unlocked:
    """A lock for state that is never changed across an await."""

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, *_: object) -> None:
        return None
