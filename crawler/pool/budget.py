"""The socket budget: no socket is opened without a token, whatever the number of domains.

Owns: how many sockets may be open, who waits for one, in which order; the descriptor limit
of the process. Does not own: sockets. Who opens one takes a token before each connect and
gives it back when the descriptor is closed.

Invariants: open <= limit at every grant; a token that comes free belongs to the first
waiter before anybody else runs (nobody barges in); a waiter that is cancelled or late
after it was given a token passes it on; waiters are served in the order they came; the
limit never passes what was derived at the start; nobody waits while a token is free, but
for one that time alone has freed: the next call of any method finds it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crawler.errors import FetchError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "BudgetStats",
    "SocketBudget",
    "check_descriptors",
    "derive_limit",
    "open_descriptors",
    "raise_descriptor_limit",
    "restore_descriptor_limit",
]

log = logging.getLogger("crawler.pool")

DEFAULT_LIMIT = 1024
FLOOR = 4
"""Below this a shortage does not shrink the budget."""
BURST_S = 0.1
"""Seconds after a halving in which further shortages are the same one."""
RECOVER_S = 10.0
STEP = 16
"""A recovery gives back the derived limit divided by this."""
MOST_DESCRIPTORS = 1_048_576
"""More is never asked for: some systems size tables by the limit."""
FEWEST_DESCRIPTORS = 24
"""A crawl of one host takes 17: its loop, the database with its log and locks, a socket.
Look-ups of names and files with certificates, URLs or items come on top."""
OPEN_MAX = 10_240
"""What macOS grants when its hard limit says more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetStats:
    """The budget at one instant, and its counters."""

    limit: int
    derived: int
    """The limit at the start, which it recovers to after a shortage."""
    open: int
    peak: int
    """Most tokens out at once."""
    waiting: int
    refused: int
    """Waiters whose deadline passed."""
    shrunk: int
    """Bursts of shortages: the system had no descriptor although the budget had a token."""
    granted_after_wait: int
    """Tokens that somebody had to wait for."""
    waited_s: float
    """Seconds those waited, summed up."""


class SocketBudget:
    """Tokens for open sockets, first come first served.

    `configured` is the setting pool.sockets; None: 1024. Either is lowered to what the
    descriptor limit of the process leaves now: call `raise_descriptor_limit` before, for
    the budget never touches it. `relieve` is called, without arguments, when somebody
    begins to wait: it may close idle connections, whose tokens come back later.

    After a shortage the limit grows back by a sixteenth for every `recover_s` seconds of
    `clock`, a monotonic one, without another.
    """

    def __init__(
        self,
        configured: int | None = None,
        *,
        relieve: Callable[[], None] | None = None,
        recover_s: float = RECOVER_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not recover_s > 0:
            raise ValueError(f"a budget cannot recover every {recover_s} s")
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._derived = derive_limit(configured, soft, open_descriptors())
        self._limit = self._derived
        self.relieve = relieve
        self._recover_s = recover_s
        self._clock = clock
        self._open = 0
        self._peak = 0
        self._refused = 0
        self._shrunk = 0
        self._granted_after_wait = 0
        self._waited_s = 0.0
        self._halved_at: float | None = None
        self._recovered_at = 0.0
        """Up to here the time without a shortage has been paid out."""
        self._waiters: OrderedDict[asyncio.Future[None], None] = OrderedDict()

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
        if self.try_acquire():
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = None
        begun = self._clock()
        if self.relieve is not None:
            self.relieve()
        try:
            async with asyncio.timeout_at(deadline):
                await waiter
        except BaseException as error:
            self._leave(waiter)
            if isinstance(error, TimeoutError):
                self._refused += 1
                raise FetchError("local", self._shortage()) from error
            raise
        self._granted_after_wait += 1
        self._waited_s += self._clock() - begun

    def try_acquire(self) -> bool:
        """Take a token if one is free and nobody waits; True: give it back as usual."""
        self.recover()
        if self._open >= self._limit or self._waiters:
            return False
        self._take()
        return True

    def release(self) -> None:
        """Give a token back; the first waiter has it from now on."""
        if self._open <= 0:
            raise RuntimeError("a socket token was given back that nobody had taken")
        self._open -= 1
        self.recover()
        self._grant()

    def shrink(self) -> None:
        """The system refused a descriptor (EMFILE, ENFILE): halve the limit, 4 at least.

        Connects fail in bursts: within 0.1 s of a halving there is no second one.
        """
        now = self._clock()
        self._recovered_at = now
        if self._halved_at is not None and now - self._halved_at < BURST_S:
            return
        self._halved_at = now
        self._shrunk += 1
        self._limit = max(min(FLOOR, self._limit), self._limit // 2)

    def recover(self) -> int:
        """Let the limit grow by what the time since the last shortage allows; by how much.

        `acquire` and `release` do it by themselves; call it now and then where waiters
        shall not have to wait for the next release.
        """
        if self._limit >= self._derived:
            return 0
        steps = int((self._clock() - self._recovered_at) / self._recover_s)
        if steps < 1:
            return 0
        self._recovered_at += steps * self._recover_s
        before = self._limit
        self._limit = min(self._derived, before + steps * max(1, self._derived // STEP))
        self._grant()
        return self._limit - before

    def stats(self) -> BudgetStats:
        """The budget at this instant."""
        return BudgetStats(
            limit=self._limit,
            derived=self._derived,
            open=self._open,
            peak=self._peak,
            waiting=self.waiting,
            refused=self._refused,
            shrunk=self._shrunk,
            granted_after_wait=self._granted_after_wait,
            waited_s=self._waited_s,
        )

    def _shortage(self) -> str:
        return (
            f"no socket came free in time: {self._open} open, limit {self._limit},"
            f" {self.waiting} more waiting (pool.sockets)"
        )

    def _take(self) -> None:
        self._open += 1
        self._peak = max(self._peak, self._open)

    def _grant(self) -> None:
        while self._waiters and self._open < self._limit:
            waiter, _ = self._waiters.popitem(last=False)
            if not waiter.done():
                self._take()
                waiter.set_result(None)

    def _leave(self, waiter: asyncio.Future[None]) -> None:
        if waiter.done() and not waiter.cancelled():
            self.release()
        else:
            self._waiters.pop(waiter, None)


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


def check_descriptors() -> None:
    """Raise the descriptor limit as `raise_descriptor_limit` does, and see that a crawl can
    live with it. Raises UsageError where it cannot."""
    _, soft = raise_descriptor_limit()
    in_use = open_descriptors()
    if soft != resource.RLIM_INFINITY and soft - in_use < FEWEST_DESCRIPTORS:
        raise UsageError(
            f"this process may have {soft} files and sockets open, and has {in_use}:"
            f" a crawl needs {FEWEST_DESCRIPTORS} more",
            hint="ulimit -n 1024",
        )


def raise_descriptor_limit() -> tuple[int, int]:
    """Raise the process's soft descriptor limit to its hard one; (before, after).

    At most 1,048,576 are asked for, and 10,240 where the system refuses that; a limit that
    is higher already stays. A raise is logged, a refusal leaves everything as it was;
    nothing is raised as an exception. Child processes inherit the new limit: programs that
    close every possible descriptor, or use select(), then suffer. Give them the old one:
    call `restore_descriptor_limit(before)` in the child, or around the start of it.
    """
    before, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    for wanted in (most, min(most, OPEN_MAX)):
        if before != resource.RLIM_INFINITY and before < wanted and _set_soft_limit(wanted):
            log.info("raised the limit of open descriptors from %d to %d", before, wanted)
            return before, wanted
    return before, before


def restore_descriptor_limit(before: int) -> bool:
    """Set the soft descriptor limit back to what `raise_descriptor_limit` found.

    What is open stays open, though nothing new opens while it is more than the limit.
    False: the system refused, and nothing has changed.
    """
    return _set_soft_limit(before)


def _set_soft_limit(soft: int) -> bool:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    except (OSError, ValueError):
        return False
    return True
