"""The one place that starts work: asks the scheduler until it says wait, then sleeps.

Owns: when the scheduler is asked. Does not own: what it answers (`scheduler`), what is
done about it (`act`).

Invariants: at most one call is pending on the loop, and at most one timer; a wake in a
turn of the loop is answered in the next one, whatever timer is set; a full house keeps
queued rows waiting, but never an aside, for a page may be waiting for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crawler.scheduler import Wait

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from crawler.scheduler import Action, Scheduler

__all__ = ["Pump"]


class Pump:
    """`has_room()` tells whether another row may be fetched, `act` begins an action,
    `pumped` is called after each round."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        scheduler: Scheduler,
        *,
        has_room: Callable[[], bool],
        act: Callable[[Action], None],
        pumped: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._scheduler = scheduler
        self._has_room = has_room
        self._act = act
        self._pumped = pumped
        self._soon: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.next_start: float | None = None
        """Instant of the loop's clock at which something may start; None: none is known."""

    def __repr__(self) -> str:
        return f"<Pump {'due' if self._soon else 'idle'}, next start at {self.next_start}>"

    def wake(self) -> None:
        """Something may have become possible; many calls in one turn of the loop are one."""
        if self._soon is None:
            self._soon = self._loop.call_soon(self._run)

    def close(self) -> None:
        """Start nothing more."""
        for handle in (self._soon, self._timer):
            if handle is not None:
                handle.cancel()
        self._soon = self._loop.call_soon(lambda: None)

    def _run(self) -> None:
        self._soon = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = self._loop.time()
        while True:
            action = self._scheduler.pop(now, asides_only=not self._has_room())
            if isinstance(action, Wait):
                break
            self._act(action)
        self.next_start = action.until
        if action.until is not None:
            self._timer = self._loop.call_at(action.until, self.wake)
        self._pumped()
