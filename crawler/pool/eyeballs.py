"""Happy eyeballs (RFC 8305 §5): the first address that connects, over anything that connects.

Owns: which attempts run, when the next begins, what becomes of those that lose.
Does not own: sockets, names, the order of the addresses (`resolver`), deadlines.

Tokens: the caller holds one for the whole call; afterwards it stands for what was
returned, and for nothing where the call raised. Each True of `may_race` is one more, given
back by one `raced()` before the call ends. An attempt that failed leaves its token to the
next one at once.

Invariants: no more attempts run than tokens are held; when the call ends, however it ends,
no attempt runs, every extra token is back, and what had connected and was not returned was
given to `discard`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from errno import ETIMEDOUT
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from crawler.pool.faults import EXHAUSTED

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

__all__ = ["STAGGER", "first_connected"]

A = TypeVar("A")
T = TypeVar("T")

STAGGER = 0.25
"""Seconds between two attempts: the "Connection Attempt Delay" of RFC 8305 §5."""


async def first_connected(
    addresses: Sequence[A],
    connect: Callable[[A], Coroutine[Any, Any, T]],
    *,
    may_race: Callable[[], bool],
    raced: Callable[[], None],
    discard: Callable[[T], None],
    failed: Callable[[A, OSError], None],
    stagger: float = STAGGER,
) -> T:
    """What `connect` made of the first address that answers, tried in the order given.

    The next address is tried when one failed, or when `stagger` seconds have passed and
    `may_race` finds another token without waiting; after a False it waits until an attempt
    has ended. `connect` leaves nothing open when it raises or is cancelled; `discard` closes
    before it returns; no callback raises. `failed` hears of every address that did not
    connect, and, with a TimeoutError, of those a later one overtook.

    Raises the last OSError when all failed. Want of descriptors or buffers, and whatever is
    no OSError, ends the call at once, and `failed` does not hear of it.
    """
    if not addresses:
        raise ValueError("no address to connect to")
    if len(addresses) == 1:
        return await _only(addresses[0], connect, failed)
    return await _Race(addresses, connect, may_race, raced, discard, failed, stagger).run()


async def _only(
    address: A, connect: Callable[[A], Coroutine[Any, Any, T]], failed: Callable[[A, OSError], None]
) -> T:
    """The common case, without a task."""
    try:
        return await connect(address)
    except OSError as error:
        if error.errno not in EXHAUSTED:
            failed(address, error)
        raise


class _Race(Generic[A, T]):
    """One call of `first_connected` with a choice of addresses."""

    def __init__(
        self,
        addresses: Sequence[A],
        connect: Callable[[A], Coroutine[Any, Any, T]],
        may_race: Callable[[], bool],
        raced: Callable[[], None],
        discard: Callable[[T], None],
        failed: Callable[[A, OSError], None],
        stagger: float,
    ) -> None:
        self._left = deque(addresses)
        self._connect = connect
        self._may_race = may_race
        self._raced = raced
        self._discard = discard
        self._failed = failed
        self._stagger = stagger
        self._running: dict[asyncio.Task[T], A] = {}
        """In the order of their start."""
        self._extra = 0
        """Tokens held beside the caller's."""
        self._overtaken: set[asyncio.Task[T]] = set()

    def __repr__(self) -> str:
        return f"<_Race {len(self._running)} running, {len(self._left)} left>"

    async def run(self) -> T:
        try:
            winner = await self._first()
        except BaseException:
            await self._end()
            raise
        try:
            await self._end()
        except BaseException:
            self._discard(winner)
            raise
        return winner

    async def _first(self) -> T:
        """Start attempts until one connects; raises the last error when none did."""
        last: OSError | None = None
        try:
            while self._left or self._running:
                is_granted = self._start_next()
                self._give_back(max(0, len(self._running) - 1))
                await asyncio.wait(
                    self._running,
                    timeout=self._stagger if is_granted and self._left else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if winner := self._winner():
                    return winner.result()
                last = self._failures() or last
            assert last is not None
            raise last
        finally:
            del last  # else error and frame hold each other

    def _start_next(self) -> bool:
        """Start the next attempt, if there is one and a token for it; whether it did."""
        if not self._left:
            return False
        if len(self._running) > self._extra:
            if not self._may_race():
                return False
            self._extra += 1
        address = self._left.popleft()
        self._running[asyncio.create_task(self._connect(address))] = address
        return True

    def _winner(self) -> asyncio.Task[T] | None:
        """The earliest attempt that has connected, no longer among the running; None: none."""
        for place, task in enumerate(self._running):
            if task.done() and not task.cancelled() and task.exception() is None:
                self._overtaken.update(list(self._running)[:place])
                del self._running[task]
                return task
        return None

    def _failures(self) -> OSError | None:
        """Take out what has failed; the last error. Raises the one that ends the race."""
        last: OSError | None = None
        for task in [task for task in self._running if task.done()]:
            address = self._running.pop(task)
            error = task.exception()
            assert error is not None, "a winner is taken out before"
            if not isinstance(error, OSError) or error.errno in EXHAUSTED:
                raise error
            self._failed(address, error)
            last = error
        return last

    async def _end(self) -> None:
        """Cancel what runs, wait for its end, give all tokens back; only then be cancelled."""
        cancelled: asyncio.CancelledError | None = None
        for task in self._running:
            task.cancel()
        while pending := [task for task in self._running if not task.done()]:
            try:
                await asyncio.wait(pending)
            except asyncio.CancelledError as error:
                cancelled = error
        for task, address in self._running.items():
            self._drop(task, address)
        self._running.clear()
        self._give_back(0)
        if cancelled is not None:
            raise cancelled

    def _drop(self, task: asyncio.Task[T], address: A) -> None:
        """What becomes of one that has lost."""
        if task.cancelled():
            if task in self._overtaken:
                self._failed(address, TimeoutError(ETIMEDOUT, "overtaken by a later address"))
            return
        error = task.exception()
        if error is None:
            self._discard(task.result())
        elif isinstance(error, OSError) and error.errno not in EXHAUSTED:
            self._failed(address, error)

    def _give_back(self, keep: int) -> None:
        while self._extra > keep:
            self._extra -= 1
            self._raced()
