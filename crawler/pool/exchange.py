"""One request among several on a connection: its events, its deadlines, its end.

Owns: what has come for its reader, waiting for more under the deadlines of the request.
Does not own: frames (`multiplex`), where events come from, the place it takes (`bounded`).

Invariants: a deadline that passed is acted upon only after the loop has looked at the
socket once more; what came before an error is read before it; many small parts of a body
cost no more memory than a few large ones.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import h2.events

from crawler.errors import FetchError
from crawler.pool.deadlines import RateFloor

if TYPE_CHECKING:
    from crawler.pool.call import Call

__all__ = ["WINDOW", "Exchange", "Lost", "Wait", "again"]

WINDOW = 256 * 1024
"""Bytes of one stream that the server may send ahead of its reader."""
SMALL = 16 * 1024
"""Parts of a body below this many bytes are joined, lest tiny frames fill the memory."""
SECOND_LOOK_S = 0.001
"""Between a deadline's passing and its effect: some loops run timers before sockets."""


class Wait:
    """One task waiting to be woken; a deadline counts only after one more look."""

    __slots__ = ("_future", "_timer")

    def __init__(self) -> None:
        self._future: asyncio.Future[bool] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Wait {'idle' if self._future is None else 'waiting'}>"

    async def until(self, due_at: float | None) -> bool:
        """Wait; False: nobody woke it before that instant of the loop's clock."""
        loop = asyncio.get_running_loop()
        self._future = loop.create_future()
        if due_at is not None:
            self._timer = loop.call_at(due_at, self._look_again, loop)
        try:
            return await self._future
        finally:
            self._future = None
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def wake(self, is_in_time: bool = True) -> None:
        """Let the task look."""
        if self._future is not None and not self._future.done():
            self._future.set_result(is_in_time)

    def _look_again(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = loop.call_later(SECOND_LOOK_S, self.wake, False)


class Lost(FetchError):
    """The server closed the connection, whatever it had still to send."""


class Exchange:
    """One stream: a request on its way out, an answer on its way in."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.stream_id = 0
        """0: none yet."""
        self.events: list[Any] = []
        """Of h2, not yet taken."""
        self.error: FetchError | None = None
        """What ends it, after the events."""
        self.upload: asyncio.Task[None] | None = None
        self.sent_at: float | None = None
        """When the request's last byte left; None: it has not."""
        self.is_answered = False
        """The head has come."""
        self.is_ended = False
        """The server has nothing more to send."""
        self.is_over = False
        """Its place is given back."""
        self.interim = 0
        self.expected: int | None = None
        """Bytes the body must have; None: any."""
        self.received = 0
        """Bytes of the body."""
        self.unread = 0
        """Bytes of the body that are still in `events`."""
        self.floor: RateFloor | None = None
        self.reader = Wait()
        self.sender = Wait()

    def __repr__(self) -> str:
        return f"<Exchange {self.stream_id}, {len(self.events)} events, {self.received} bytes>"

    def fail(self, error: FetchError) -> None:
        """End it: the first error counts."""
        self.error = self.error or error
        self.reader.wake()
        self.sender.wake()

    def keep(self, event: Any) -> None:
        """An event for the reader; small parts of a body become one."""
        if isinstance(event, h2.events.DataReceived):
            self.received += len(event.data or b"")
            self.unread += len(event.data or b"")
            if self.unread > WINDOW // 2 and self.floor is not None:
                self.floor.pause()
            last = self.events[-1] if self.events else None
            if isinstance(last, h2.events.DataReceived) and len(last.data or b"") < SMALL:
                last.data = (last.data or b"") + (event.data or b"")
                last.flow_controlled_length += event.flow_controlled_length
                return
        self.events.append(event)
        self.reader.wake()

    async def next_event(self) -> Any:
        """The next event. Raises FetchError."""
        due_at = self._read_by() if self.is_answered else None
        while not self.events:
            if self.error is not None:
                raise again(self.error)
            if self.is_answered:
                await self._more(due_at)
            else:
                await self._head()
        event = self.events.pop(0)
        if isinstance(event, h2.events.DataReceived):
            self.unread -= len(event.data or b"")
        return event

    def _read_by(self) -> float | None:
        within = self.call.deadlines.read
        return None if within is None else asyncio.get_running_loop().time() + within

    async def _head(self) -> None:
        """Wait for the head, which is due from when the request has left."""
        within = self.call.deadlines.head
        due_at = None if within is None or self.sent_at is None else self.sent_at + within
        if not await self.reader.until(due_at):
            raise FetchError("head-timeout", f"no answer in {within:g} s (timeout.head)")

    async def _more(self, due_at: float | None) -> None:
        """Wait for more of the body, at the pace that is due."""
        deadlines, now = self.call.deadlines, asyncio.get_running_loop().time
        if self.floor is None:
            self.floor = RateFloor(deadlines.rate, deadlines.rate_over, now(), self.received)
        elif self.floor.ends_at is None:
            self.floor.restart(now(), self.received)
        look_at = self.floor.ends_at
        is_look = look_at is not None and (due_at is None or look_at < due_at)
        is_in_time = await self.reader.until(look_at if is_look else due_at)
        if self.floor.is_too_slow(now(), self.received):
            floor = f"under {deadlines.rate:g} bytes/s over {deadlines.rate_over:g} s"
            raise FetchError("too-slow", f"{floor}, {self.received} in all (timeout.rate)")
        if not is_in_time and not is_look:
            raise FetchError(
                "read-timeout", f"nothing came for {deadlines.read:g} s (timeout.read)"
            )


def again(error: FetchError) -> FetchError:
    """The same error, for one more who waits."""
    copy = type(error)(error.code, str(error.args[0]))
    copy.__cause__ = error.__cause__
    return copy
