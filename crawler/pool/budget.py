"""The socket budget: no socket is opened without a token, whatever the number of domains.

Owns: how many sockets may be open, who waits for one, in which order.
Does not own: sockets. `backend` takes a token before each connect and gives it back when
the descriptor is closed.

Invariants: open <= limit at every grant; a token that comes free belongs to the first
waiter before anybody else runs (nobody barges in); a waiter that is cancelled or late
after it was given a token passes it on; waiters are served in the order they came.
"""

from __future__ import annotations

import asyncio
import os
import resource
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crawler.errors import FetchError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["BudgetStats", "SocketBudget", "derive_limit", "open_descriptors"]

DEFAULT_LIMIT = 1024
FLOOR = 4
"""Below this a shortage does not shrink the budget."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetStats:
    """The budget at one instant, and its counters."""

    limit: int
    open: int
    peak: int
    """Most tokens out at once."""
    waiting: int
    refused: int
    """Waiters whose deadline passed."""
    shrunk: int
    """Times the system had no descriptor although the budget had a token."""


class SocketBudget:
    """Tokens for open sockets, first come first served.

    `configured` is the setting pool.sockets; None: 1024. Either is lowered to what the
    descriptor limit of the process leaves. `relieve` is called, without arguments, when
    somebody begins to wait: it may close idle connections, whose tokens come back later.
    """

    def __init__(
        self, configured: int | None = None, *, relieve: Callable[[], None] | None = None
    ) -> None:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._limit = derive_limit(configured, soft, open_descriptors())
        self.relieve = relieve
        self._open = 0
        self._peak = 0
        self._refused = 0
        self._shrunk = 0
        self._waiters: deque[asyncio.Future[None]] = deque()

    def __repr__(self) -> str:
        return f"<SocketBudget {self._open}/{self._limit} open, {self.waiting} waiting>"

    @property
    def waiting(self) -> int:
        """How many wait for a token now."""
        return len(self._waiters)

    async def acquire(self, deadline: float | None = None) -> None:
        """Take a token; give it back with `release`, exactly once.

        `deadline` is an instant of the loop's clock; None: wait as long as it takes.
        Raises FetchError (`local`) when it passes.
        """
        if self._open < self._limit and not self._waiters:
            self._take()
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        if self.relieve is not None:
            self.relieve()
        try:
            async with asyncio.timeout_at(deadline):
                await waiter
        except BaseException as error:
            self._leave(waiter)
            if isinstance(error, TimeoutError):
                self._refused += 1
                raise FetchError(
                    "local", f"no free socket: {self._open} of {self._limit} (pool.sockets)"
                ) from error
            raise

    def release(self) -> None:
        """Give a token back; the first waiter has it from now on."""
        if self._open <= 0:
            raise RuntimeError("a socket token was given back that nobody had taken")
        self._open -= 1
        self._grant()

    def shrink(self) -> None:
        """The system refused a descriptor (EMFILE, ENFILE): halve the limit, 4 at least."""
        self._shrunk += 1
        self._limit = max(min(FLOOR, self._limit), self._limit // 2)

    def stats(self) -> BudgetStats:
        """The budget at this instant."""
        return BudgetStats(
            limit=self._limit,
            open=self._open,
            peak=self._peak,
            waiting=self.waiting,
            refused=self._refused,
            shrunk=self._shrunk,
        )

    def _take(self) -> None:
        self._open += 1
        self._peak = max(self._peak, self._open)

    def _grant(self) -> None:
        while self._waiters and self._open < self._limit:
            waiter = self._waiters.popleft()
            if not waiter.done():
                self._take()
                waiter.set_result(None)

    def _leave(self, waiter: asyncio.Future[None]) -> None:
        if waiter.done() and not waiter.cancelled():
            self.release()
        elif waiter in self._waiters:
            self._waiters.remove(waiter)


def derive_limit(configured: int | None, soft: int, in_use: int) -> int:
    """Sockets that may be open, from the setting, the descriptor limit and what is open.

    A reserve for files, pipes and name look-ups stays: a quarter of the limit, within
    16 to 64. At least 1; a `soft` of RLIM_INFINITY bounds nothing.
    """
    wanted = DEFAULT_LIMIT if configured is None else configured
    if wanted < 1:
        raise ValueError(f"a budget of {wanted} sockets opens none")
    if soft == resource.RLIM_INFINITY:
        return wanted
    reserve = min(64, max(16, soft // 4))
    return max(1, min(wanted, soft - in_use - reserve))


def open_descriptors() -> int:
    """Descriptors this process has open now; 32 where the system does not tell."""
    for folder in ("/proc/self/fd", "/dev/fd"):
        try:
            return len(os.listdir(folder)) - 1
        except OSError:
            continue
    return 32
