"""A connection that speaks HTTP/2 where the server chose it, and HTTP/1.1 where it did not.

Owns: several requests at once over one channel, each with its own deadlines and its own
end; what a server's GOAWAY, RST_STREAM and SETTINGS mean for them. Does not own: frames
and header compression (`multiplex` and h2), how many requests a domain may have under way
(`bounded`), opening (`route`).

Invariants: a request that fails, is late, or is given up ends its own stream and no other;
the place of a stream goes back exactly once, when neither side has more to send or the
stream was reset; a connection that is told to go takes no new request and ends with its
last one; what a server says it has not looked at is `Unserved`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import httpcore

from crawler.errors import FetchError
from crawler.pool.core import CoreAnswer, CoreLink, aborted, request_of
from crawler.pool.exchange import Exchange, Lost, again
from crawler.pool.faults import wire_fault
from crawler.pool.link import Unsent, Unserved
from crawler.pool.multiplex import Multiplex

if TYPE_CHECKING:
    from crawler.pool.call import Call, Origin
    from crawler.pool.channel import ChannelOwner
    from crawler.pool.link import Home

__all__ = ["Http2Answer", "Http2Link"]

PER_CONNECTION = frozenset((b"connection", b"keep-alive", b"proxy-connection", b"te", b"upgrade"))
"""Fields that HTTP/2 forbids (RFC 9113 §8.2.2), but for the one that httpcore drops itself;
`te` is not worth its one permitted value."""
PING_S = 5.0
"""Seconds in which a server that let a request time out must give a sign of life."""


class Http2Link(CoreLink):
    """One connection, used by several requests at once if the server speaks HTTP/2."""

    def __init__(self, owner: ChannelOwner, home: Home, origin: Origin) -> None:
        super().__init__(owner, home, origin)
        self._multiplex: Multiplex | None = None
        self._died_of: FetchError | None = None
        self._probe: asyncio.TimerHandle | None = None

    def ready(self) -> None:
        """Begin HTTP/2 if the handshake has chosen it (RFC 7301)."""
        tls = self.extra("ssl_object")
        if tls is None or tls.selected_alpn_protocol() != "h2":
            return
        self._multiplex = Multiplex(self)
        self.streams = 1
        self._multiplex.begin()
        early = bytes(self._raw)
        self._raw.clear()
        if early:
            self._multiplex.receive(early)
        if self._is_eof:
            self._die(_ended())

    async def exchange(self, call: Call, head: bytes, begun: float) -> CoreAnswer:
        """Send a request and wait for the head of its answer."""
        if self._multiplex is None:
            return await super().exchange(call, head, begun)
        self.requests += 1
        if self.active <= 1:
            self._received_before = self.received
        total = call.deadlines.total
        total_at = None if total is None else begun + total
        answer = Http2Answer(self, self._multiplex, call, total_at)
        try:
            if self.is_aborted:
                raise aborted()
            if self.is_closed or self.is_retired:
                raise Unsent("reset", "the server had closed the kept connection")
            await answer.begin(self._multiplex, answer.request(call, head))
        except BaseException:
            answer.drop()
            raise
        return answer

    def limit(self, streams: int) -> None:
        """The server takes so many requests at once."""
        self.streams = streams
        self.home.changed(self)

    def retire(self) -> None:
        """Take no new request; close when the last one has ended. Idempotent."""
        if self.is_retired or self.is_closed:
            return
        self.is_retired = True
        if self.active:
            self.home.changed(self)
        else:
            self._tell_if_idle()
            self.close()

    def probe(self) -> None:
        """Ask whether the server is there; without a word in PING_S it gets no new request."""
        if self._probe is None and self._multiplex is not None and not self.is_closed:
            self._multiplex.ping()
            self._probe = self._loop.call_later(PING_S, self._judge, self.received)

    def _judge(self, received: int) -> None:
        self._probe = None
        if self.received == received:
            self.retire()

    def fail(self, error: FetchError) -> None:
        """Close; requests still under way fail with that."""
        self._died_of = self._died_of or error
        self.close()

    def freed(self) -> None:
        """A stream has ended: its place goes back."""
        self.home.freed(self)

    def flush(self, data: bytes) -> int:
        """Send frames, never waiting; how many bytes the peer has not taken yet."""
        if self.is_closed or self._transport is None:
            return 0
        if data:
            self._transport.write(data)
        return self._transport.get_write_buffer_size()

    @property
    def is_full(self) -> bool:
        """True while the peer does not read as fast as we write."""
        return self._is_full

    # The loop's side

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        if self._multiplex is None:
            super().data_received(data)
        elif not self.is_closed:
            self.received += len(data)
            self._multiplex.receive(data)

    def eof_received(self) -> None:
        """The peer will send no more."""
        super().eof_received()
        if self._multiplex is not None:
            self._die(_ended())

    def connection_lost(self, exc: Exception | None) -> None:
        """The descriptor is closed."""
        if not self.is_closed:
            self._died_of = self._died_of or (_ended() if exc is None else wire_fault(exc))
        super().connection_lost(exc)

    def resume_writing(self) -> None:
        """The write buffer has room again."""
        super().resume_writing()
        if self._multiplex is not None:
            self._multiplex.wake_senders()

    def close(self) -> None:
        """Close now, with a word to the server. Idempotent."""
        if not self.is_closed and self._multiplex is not None:
            self._multiplex.take_leave()
        super().close()

    def _end(self) -> None:
        super()._end()
        if self._probe is not None:
            self._probe.cancel()
            self._probe = None
        if self._multiplex is not None:
            self._multiplex.end(
                self._died_of or FetchError("cancelled", "the connection was closed")
            )

    def _die(self, error: FetchError) -> None:
        if not self.is_closed:
            self.fail(error)


class Http2Answer(CoreAnswer, Exchange):
    """An answer on a stream of its own; iterate over its body, then close it."""

    def __init__(
        self, link: Http2Link, multiplex: Multiplex, call: Call, total_at: float | None
    ) -> None:
        CoreAnswer.__init__(self, link, call, total_at)
        Exchange.__init__(self, call)
        self._multiplex = multiplex
        self._http2 = link
        self._silent_since = link.received

    def __repr__(self) -> str:
        return f"<Http2Answer {self.status} on stream {self.stream_id}, {self._size} bytes>"

    @property
    def _is_silent(self) -> bool:
        """True when the connection has brought nothing since this request began."""
        return self._http2.received == self._silent_since

    async def aclose(self) -> None:
        """Give the place back; what was not read makes room for others. Idempotent."""
        self.drop()

    def drop(self) -> None:
        """Want no more of it: the stream is reset unless it has ended."""
        self._multiplex.leave(self)

    async def begin(
        self, http: httpcore.AsyncConnectionInterface, request: httpcore.Request
    ) -> None:
        """Send and read the head."""
        try:
            async with asyncio.timeout_at(self._total_at):
                self._accept(await http.handle_async_request(request))
        except Exception as error:
            raise self._explain(error, in_body=False) from error

    def request(self, call: Call, head: bytes) -> httpcore.Request:
        """The request as HTTP/2 may carry it, leading back to this answer."""
        request = request_of(call, head, self.timeouts)
        request.headers = [
            field for field in request.headers if field[0].lower() not in PER_CONNECTION
        ]
        request.extensions["exchange"] = self
        return request

    def _explain(self, error: Exception, *, in_body: bool) -> FetchError:
        if self._link.is_aborted:
            return aborted()
        is_late = isinstance(error, (FetchError, TimeoutError)) and not isinstance(error, Unserved)
        if is_late and self._is_silent:
            self._http2.probe()
        if isinstance(error, FetchError):
            return again(error)
        if isinstance(error, httpcore.ConnectionNotAvailable):
            self._http2.retire()
            return Unsent("reset", "the connection takes no more requests")
        return super()._explain(error, in_body=in_body)


def _ended() -> FetchError:
    return Lost("reset", "the server closed the connection without an answer")
