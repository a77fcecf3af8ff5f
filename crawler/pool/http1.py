"""A connection of the native transport: one HTTP/1.1 request at a time over one channel.

Owns: sending a request, waiting for its answer under deadlines, back-pressure, telling
whether the connection may serve again. Does not own: the grammar (`parsing`), opening
(`route`), which connection serves whom (`bounded`).

Invariants: the connection is given back only after the parser has returned, so that what
came with the last byte is seen; one that was not read to the end, or whose request was
not sent to the end, is closed; a deadline that passed is acted upon only after the loop
has looked at the socket once more; at most HIGH_WATER bytes and one read wait unread.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING

from crawler.errors import FetchError
from crawler.pool.call import ConnectionInfo
from crawler.pool.deadlines import RateFloor
from crawler.pool.faults import wire_fault
from crawler.pool.link import Link, Unsent
from crawler.pool.parsing import Phase, Reading

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterable

    from crawler.pool.call import Call, HeadLimits, Origin
    from crawler.pool.channel import ChannelOwner
    from crawler.pool.deadlines import Deadlines
    from crawler.pool.link import Home

__all__ = ["Http1", "Http1Answer"]

HIGH_WATER = 256 * 1024
"""Unread bytes at which a connection stops reading from its socket."""
ONE_WRITE = 64 * 1024
"""Bytes up to which head and body leave in one write."""
SECOND_LOOK_S = 0.001
"""Between a deadline's passing and its effect: some loops run timers before sockets."""
NEVER = float("inf")


class Http1Answer(Reading):
    """An answer of the native transport; iterate over its body, then close it."""

    __slots__ = (
        "_floor",
        "_is_held",
        "_link",
        "_waited_s",
        "deadlines",
        "info",
        "is_sent",
        "total_at",
        "waiter",
    )

    def __init__(self, link: Http1, call: Call, limits: HeadLimits, total_at: float) -> None:
        super().__init__(limits, is_bodiless=call.method == b"HEAD")
        self.total_at = total_at
        self._waited_s = 0.0
        """Seconds spent waiting for the body: the floor's clock, for a reader's own pauses
        are not the server's."""
        self._link = link
        self._floor: RateFloor | None = None
        self._is_held = False
        self.deadlines = call.deadlines
        self.info: ConnectionInfo
        self.is_sent = True
        """The request has left to its last byte."""
        self.waiter: asyncio.Future[None] | None = None

    def __aiter__(self) -> Http1Answer:
        return self

    async def __anext__(self) -> bytes:
        """The next bytes of the body, still encoded. Raises FetchError."""
        while not self.parts:
            if self.error is not None:
                raise self.error
            if self.phase is Phase.WHOLE:
                raise StopAsyncIteration
            await self._more()
        if self.phase is not Phase.WHOLE and self._link.now() > self.total_at:
            self.fail(overdue("total-timeout", self.deadlines))
            raise self.error or StopAsyncIteration
        parts = self.parts
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        self.parts = []
        if self._is_held:
            self._is_held = False
            self._link.resume()
        return data

    async def head(self) -> None:
        """Wait until the head is complete. Raises FetchError."""
        while self.phase is Phase.HEAD and self.error is None:
            await self._wait()
        if self.phase is Phase.HEAD and self.error is not None:
            raise self.error

    async def aclose(self) -> None:
        """Close the connection unless the whole body has come. Idempotent."""
        if self.phase is not Phase.WHOLE:
            self.fail(FetchError("cancelled", "the answer was closed before its end"))

    def fail(self, error: Exception) -> None:
        """End the exchange: whoever reads gets the error, the first one counts."""
        self.error = self.error or error
        self._link.end(self)
        self.wake()

    def wake(self) -> None:
        """Let the reader look again."""
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    def hold_if_full(self) -> None:
        """Stop reading from the socket while the reader is behind."""
        parts = self.parts
        if len(parts) > 1:
            parts[:] = [b"".join(parts)]
        if not self._is_held and parts and len(parts[0]) > HIGH_WATER:
            self._is_held = True
            self._link.hold()

    async def _more(self) -> None:
        """Wait for more of the body, at the pace that is due."""
        link, deadlines = self._link, self.deadlines
        floor = self._floor = self._floor or RateFloor(deadlines.rate, deadlines.rate_over, 0.0)
        begun = link.now()
        look_at = None if floor.ends_at is None else begun + floor.ends_at - self._waited_s
        link.expect(deadlines.read, "read-timeout", self.total_at, look_at=look_at)
        await self._wait()
        self._waited_s += link.now() - begun
        if self.phase is Phase.BODY and floor.is_too_slow(self._waited_s, self.size):
            self.fail(self._slow())
            self.parts = []

    def _slow(self) -> FetchError:
        deadlines = self.deadlines
        floor = f"under {deadlines.rate:g} bytes/s over {deadlines.rate_over:g} s"
        return FetchError("too-slow", f"{floor}, {self.size} in all (timeout.rate)")

    async def _wait(self) -> None:
        self.waiter = self._link.future()
        try:
            await self.waiter
        finally:
            self.waiter = None


class Http1(Link):
    """One connection, used by one request after another."""

    __slots__ = (
        "_answer",
        "_due_at",
        "_due_code",
        "_is_second_look",
        "_room",
        "_timer",
        "_unsent",
        "_upload",
    )

    def __init__(self, owner: ChannelOwner, home: Home, origin: Origin) -> None:
        super().__init__(owner, home, origin)
        self._answer: Http1Answer | None = None
        self._upload: asyncio.Task[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due_at = NEVER
        self._due_code = ""
        self._is_second_look = False
        self._unsent = 0

    async def exchange(self, call: Call, head: bytes, begun: float) -> Http1Answer:
        """Send a request and wait for the head of its answer."""
        self.requests = nth = self.requests + 1
        self._received_before = self.received
        total = call.deadlines.total
        total_at = NEVER if total is None else begun + total
        answer = self._answer = Http1Answer(self, call, self.home.limits, total_at)
        try:
            self._begin(call, head, answer, is_first=nth == 1)
            await answer.head()
        except BaseException:
            # It may be whole, and the connection another request's, before this one wakes.
            if self._answer is answer:
                self.close()
            raise
        answer.info = self._told(answer, nth)
        return answer

    # The loop's side

    def data_received(self, data: bytes) -> None:
        """Bytes of the answer, or none that anybody asked for."""
        answer = self._answer
        if answer is None:
            super().data_received(data)
            return
        self.received += len(data)
        answer.feed(data)
        if answer.error is not None:
            answer.fail(answer.error)
            return
        if answer.phase is Phase.HEAD:
            return
        answer.wake()
        if answer.phase is Phase.WHOLE:
            self._finish(answer)
        else:
            answer.hold_if_full()

    def eof_received(self) -> None:
        """The peer will send no more."""
        answer = self._answer
        if answer is not None:
            self._end_answer(answer, is_clean=self._ended_cleanly())
        super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """The descriptor is closed."""
        answer = self._answer
        if answer is not None:
            if exc is not None and answer.phase is not Phase.WHOLE:
                answer.error = answer.error or wire_fault(exc)
            self._end_answer(answer, is_clean=False)
            self._answer = None
        super().connection_lost(exc)
        self._wake_upload()

    def resume_writing(self) -> None:
        """The write buffer has room again."""
        super().resume_writing()
        self._wake_upload()
        if self._upload is None and self._answer is not None and not self._answer.is_sent:
            self._sent(self._answer)

    # The answer's side

    def future(self) -> asyncio.Future[None]:
        """One of this loop's."""
        return self._loop.create_future()

    def hold(self) -> None:
        """Stop reading from the socket."""
        if self._transport is not None and not self.is_closed:
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read from the socket again."""
        if self._transport is not None and not self.is_closed:
            self._transport.resume_reading()

    def expect(
        self, within: float | None, code: str, total_at: float, *, look_at: float | None = None
    ) -> None:
        """Something must come within that many seconds, everything by `total_at`; `look_at`:
        wake the reader then.

        One timer serves many waits: when it is early it sets itself anew.
        """
        due_at = NEVER if within is None else self._loop.time() + within
        if look_at is not None and look_at < due_at:
            due_at, code = look_at, "look"
        if total_at < due_at:
            due_at, code = total_at, "total-timeout"
        self._due_at, self._due_code = due_at, code
        self._is_second_look = False
        if due_at == NEVER:
            return
        if self._timer is not None:
            if self._timer.when() <= due_at:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(due_at, self._late)

    def close(self) -> None:
        """Close now; whoever waits for an answer is told. Idempotent."""
        if self.is_closed:
            return
        super().close()
        answer = self._answer
        if answer is not None and answer.phase is not Phase.WHOLE:
            answer.error = answer.error or FetchError("cancelled", "the client was closed")
            answer.wake()

    def end(self, answer: Http1Answer) -> None:
        """Close, if the answer is still this connection's."""
        if self._answer is answer:
            self.close()

    # Inside

    def _begin(self, call: Call, head: bytes, answer: Http1Answer, *, is_first: bool) -> None:
        """Send. On a new connection the server may have answered before it was asked."""
        early = bytes(self._raw)
        if self.is_closed or ((self._is_eof or early) and not is_first):
            raise Unsent("reset", "the server had closed the connection")
        self._raw.clear()
        self._send(call, head, answer)
        if early:
            self.received -= len(early)
            self.data_received(early)
        if self._is_eof and self._answer is answer:
            self._end_answer(answer, is_clean=self._ended_cleanly())

    def _send(self, call: Call, head: bytes, answer: Http1Answer) -> None:
        body = call.body
        if body is None or (isinstance(body, bytes) and len(body) < ONE_WRITE):
            self.write(head + body if body else head)
        elif isinstance(body, bytes):
            self.write(head)
            self.write(body)
        else:
            self.write(head)
            answer.is_sent = False
            self._upload = self._loop.create_task(self._stream(answer, call, body))
        if self._is_full:
            answer.is_sent = False
        if answer.is_sent:
            self.expect(call.deadlines.head, "head-timeout", answer.total_at)
        else:
            self._expect_room(answer)

    def _sent(self, answer: Http1Answer) -> None:
        """The request has left; from now on the answer is due."""
        answer.is_sent = True
        if answer.phase is Phase.HEAD:
            self.expect(answer.deadlines.head, "head-timeout", answer.total_at)

    def _expect_room(self, answer: Http1Answer) -> None:
        """The peer must take some of what waits in the write buffer; nothing waits: no clock."""
        self._unsent = self._buffered()
        within = answer.deadlines.write if self._is_full else None
        self.expect(within, "write-timeout", answer.total_at)

    async def _stream(self, answer: Http1Answer, call: Call, body: AsyncIterable[bytes]) -> None:
        """Send a body part by part, beside the waiting for its answer."""
        try:
            async with aclosing(_framed(body, call)) as parts:
                async for part in parts:
                    if self.is_closed:
                        return
                    self.write(part)
                    await self._until_room(answer)
        except BaseException as error:
            self._upload = None
            failed = FetchError("bad-request", f"the body could not be produced: {error!r}")
            failed.__cause__ = error
            answer.fail(failed)
            if not isinstance(error, Exception):
                raise
            return
        self._upload = None
        self._sent(answer)

    async def _until_room(self, answer: Http1Answer) -> None:
        while self._is_full and not self.is_closed:
            if answer.phase is Phase.HEAD:
                self._expect_room(answer)
            self._room = self._loop.create_future()
            await self._room
        if answer.phase is Phase.HEAD:
            self._expect_room(answer)

    def _finish(self, answer: Http1Answer) -> None:
        self._answer = None
        may_last = answer.is_lasting and answer.is_sent and not answer.is_surplus
        may_last = may_last and not self._is_eof and not self.is_closed
        self.home.done(self, answer.hint, may_last)

    def _end_answer(self, answer: Http1Answer, *, is_clean: bool) -> None:
        answer.end(is_clean=is_clean)
        answer.wake()
        if answer.phase is Phase.WHOLE:
            self._finish(answer)

    def _late(self) -> None:
        self._timer = None
        answer = self._answer
        if answer is None:
            return
        if answer.waiter is None or answer.waiter.done():
            self._watch_unread(answer)
        elif self._loop.time() < self._due_at:
            if self._due_at != NEVER:
                self._timer = self._loop.call_at(self._due_at, self._late)
        elif self._due_code == "look":
            answer.wake()
        elif not self._is_second_look:
            self._is_second_look = True
            self._timer = self._loop.call_later(SECOND_LOOK_S, self._late)
        elif self._due_code == "write-timeout" and self._buffered() < self._unsent:
            self._expect_room(answer)
        else:
            answer.fail(overdue(self._due_code, answer.deadlines))

    def _watch_unread(self, answer: Http1Answer) -> None:
        """Nobody waits now: of the deadlines only the total one goes on."""
        if self._loop.time() >= answer.total_at:
            answer.fail(overdue("total-timeout", answer.deadlines))
        elif answer.total_at != NEVER:
            self._timer = self._loop.call_at(answer.total_at, self._late)

    def _buffered(self) -> int:
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def _told(self, answer: Http1Answer, nth: int) -> ConnectionInfo:
        """`nth`: another request may have the connection by the time this one wakes."""
        version = f"HTTP/{answer.http_version}"
        if nth > 1:
            return ConnectionInfo(True, nth, None, None, None, self.peer, version, 0)
        return ConnectionInfo(
            False, 1, self.connect_s, self.dns_s, self.tls_s, self.peer, version, 0
        )

    def _end(self) -> None:
        super()._end()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._upload is not None:
            self._upload.cancel()
            self._upload = None

    def _wake_upload(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)


async def _framed(body: AsyncIterable[bytes], call: Call) -> AsyncGenerator[bytes, None]:
    """The parts as they are sent: to the length that was promised, else in chunks."""
    promised = [value for name, value in call.headers if name.lower() == b"content-length"]
    size = 0
    try:
        async for part in body:
            size += len(part)
            if promised and size > int(promised[0]):
                break
            if part:
                yield part if promised else b"%x\r\n%b\r\n" % (len(part), part)
    finally:
        if isinstance(body, AsyncGenerator):
            await body.aclose()
    if not promised:
        yield b"0\r\n\r\n"
    elif size != int(promised[0]):
        raise ValueError(f"{size} bytes or more where Content-Length said {int(promised[0])}")


def overdue(code: str, deadlines: Deadlines) -> FetchError:
    """The error of a deadline that has passed."""
    if code == "total-timeout":
        return FetchError(code, f"not done in {deadlines.total:g} s (timeout.total)")
    if code == "head-timeout":
        return FetchError(code, f"no answer in {deadlines.head:g} s (timeout.head)")
    if code == "write-timeout":
        return FetchError(
            code, f"the server took nothing for {deadlines.write:g} s (timeout.write)"
        )
    return FetchError(code, f"nothing came for {deadlines.read:g} s (timeout.read)")
