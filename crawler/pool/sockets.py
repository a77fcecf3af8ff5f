"""All channels of one budget: which are open, which idle, which of those go first.

Owns: tokens given back when a descriptor is closed, the order of idle channels, their
expiry. Does not own: how many may be open (`budget`), how one is opened (`dialer`).

Invariants: a channel holds one token from before its connect until its descriptor is
closed; while somebody waits for a token no idle channel stays open; an idle channel older
than its keep-alive lasts no longer than one sweep interval; a sweep costs O(expired).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crawler.pool.expiry import Expiries

if TYPE_CHECKING:
    from collections.abc import Callable

    from crawler.pool.budget import SocketBudget
    from crawler.pool.channel import Channel

__all__ = ["SocketStats", "SocketTable"]

SWEEP_S = 1.0
"""Seconds between two sweeps at least; an expired connection lasts no longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketStats:
    """Sockets since the start, and now."""

    connects: int
    """Connections made."""
    failures: int
    """Attempts that made none, cancelled ones included."""
    closes: int
    open: int
    peak: int
    idle: int
    closing: int
    expired: int
    """Closed because they were idle for longer than keep-alive allows."""
    relieved: int
    """Closed, the longest idle first, because somebody waited for a socket."""


class SocketTable:
    """Knows every channel that holds a token. Belongs to one event loop."""

    def __init__(self, budget: SocketBudget, *, clock: Callable[[], float]) -> None:
        self.budget = budget
        self.clock = clock
        budget.relieve = self.relieve
        self._channels: set[Channel] = set()
        self._idle: OrderedDict[Channel, None] = OrderedDict()
        self._expiries: Expiries[Channel] = Expiries()
        self._closing: set[Channel] = set()
        self._all_lost: asyncio.Event | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._sweep_at = 0.0
        self._peak = 0
        self._closes = 0
        self._expired = 0
        self._relieved = 0
        self.connects = 0
        self.failures = 0
        self.leaving = 0
        """Channels that are queued for a token and no longer want one."""

    def __repr__(self) -> str:
        return f"<SocketTable {len(self._channels)} open, {len(self._idle)} idle>"

    def opening(self, channel: Channel) -> None:
        """The channel has taken a token."""
        self._channels.add(channel)
        self._peak = max(self._peak, len(self._channels))

    @property
    def wanted(self) -> int:
        """How many wait for a socket in earnest."""
        return self.budget.waiting - self.leaving

    def holds(self, channel: Channel) -> bool:
        """Whether the channel has a token."""
        return channel in self._channels

    def rest(self, channel: Channel, keepalive: float) -> None:
        """The channel is idle from now on, for that many seconds at most."""
        now = self.clock()
        channel.idle_at = now
        self._idle[channel] = None
        self._expiries.set(channel, now + keepalive)
        if self.budget.waiting:
            self.relieve()
        self._sweep_by(now, max(keepalive, SWEEP_S))

    def use(self, channel: Channel) -> None:
        """The channel is no longer idle."""
        channel.idle_at = None
        self._idle.pop(channel, None)
        self._expiries.drop(channel)

    def relieve(self) -> None:
        """Close the longest idle channels, as many as wait for a token in vain."""
        while self._idle and self.wanted > len(self._closing):
            self._relieved += 1
            next(iter(self._idle)).close()

    def close_idle(self) -> None:
        """Close every idle channel: the system has run short."""
        while self._idle:
            self._relieved += 1
            next(iter(self._idle)).close()

    def sweep(self, now: float) -> int:
        """Close what has been idle for too long; how many."""
        due = self._expiries.due(now)
        for channel in due:
            channel.close()
        self._expired += len(due)
        return len(due)

    def closing(self, channel: Channel) -> None:
        """The channel is closed for us; its descriptor lasts until `lost`."""
        self._forget_idle(channel)
        if channel in self._channels:
            self._closing.add(channel)

    def lost(self, channel: Channel) -> None:
        """The channel's descriptor is closed: the token goes back. Idempotent."""
        if channel not in self._channels:
            return
        self._channels.remove(channel)
        self._forget_idle(channel)
        self._closing.discard(channel)
        self._closes += 1
        self.budget.release()
        if channel.on_lost is not None:
            channel.on_lost(channel)
        if self._all_lost is not None and not self._channels:
            self._all_lost.set()

    async def aclose(self) -> None:
        """Close every channel and wait until their descriptors are closed."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        for channel in list(self._channels):
            channel.close()
        while self._channels:
            self._all_lost = self._all_lost or asyncio.Event()
            self._all_lost.clear()
            await self._all_lost.wait()

    def stats(self) -> SocketStats:
        """Sockets since the start, and now."""
        return SocketStats(
            connects=self.connects,
            failures=self.failures,
            closes=self._closes,
            open=len(self._channels),
            peak=self._peak,
            idle=len(self._idle),
            closing=len(self._closing),
            expired=self._expired,
            relieved=self._relieved,
        )

    def _forget_idle(self, channel: Channel) -> None:
        if self._idle.pop(channel, self) is None:
            self._expiries.drop(channel)

    def _sweep_by(self, now: float, within: float) -> None:
        """One timer for all: it is set anew when somebody is due before it."""
        if self._sweeper is not None:
            if self._sweep_at <= now + within:
                return
            self._sweeper.cancel()
        self._sweep_at = now + within
        self._sweeper = asyncio.get_running_loop().call_later(within, self._swept)

    def _swept(self) -> None:
        self._sweeper = None
        now = self.clock()
        self.sweep(now)
        self.budget.recover()
        next_at = self._expiries.next_at()
        if next_at is not None:
            self._sweep_by(now, max(next_at - now, SWEEP_S))
