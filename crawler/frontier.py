"""Brings rows from the store to the scheduler: claims, windows, rows whose time has come.

Owns: when the store is asked, and that each question is asked once at a time.
Does not own: rows (the store), their order (`scheduler`).

Invariants: a domain with queued rows that nobody works on is claimed soon after it is
heard of; a row that waits is woken at its instant by one statement for all that are due;
nothing is asked in a loop: every question follows an event.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine

    from crawler.scheduler import Scheduler
    from crawler.window import Window
    from storage import Store

__all__ = ["Frontier"]

CLAIM_LIMIT = 1_000
RENEW_S = 20.0
KEPT_DOMAINS = 4_096
"""Domains kept in memory though nothing of theirs is queued."""


class Frontier:
    """The store's side of a session's scheduler.

    `runs()` names the open runs, `spawn` runs a coroutine as a task of the session,
    `woke` is called when rows have come.
    """

    def __init__(
        self,
        store: Store,
        scheduler: Scheduler,
        *,
        runs: Callable[[], Collection[int]],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        woke: Callable[[], None],
    ) -> None:
        self._store = store
        self._scheduler = scheduler
        self._runs = runs
        self._spawn = spawn
        self._woke = woke
        self._loop = asyncio.get_running_loop()
        self._worker = str(os.getpid())
        self._due_at: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_claiming = False
        self._claims_again = False
        self._renewed_at = self._loop.time()

    def __repr__(self) -> str:
        return f"<Frontier of {self._worker}, {'rows wait' if self._due_at else 'no row waits'}>"

    @property
    def due_at(self) -> float | None:
        """Wall-clock instant of the earliest row that waits; None: none is known."""
        return self._due_at

    @property
    def is_claiming(self) -> bool:
        """The store is being asked for domains."""
        return self._is_claiming

    def fill(self) -> None:
        """Read the windows that run low."""
        while (read := self._scheduler.next_read()) is not None:
            self._spawn(self._read(*read))

    def waits_until(self, at: float) -> None:
        """Some row waits until a wall-clock instant."""
        if self._due_at is None or at < self._due_at:
            self._due_at = at
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_later(max(0.0, at - time.time()), self._come)

    def want_claims(self) -> None:
        """There is, or may be, a domain with queued rows that is not claimed."""
        self._claims_again = True
        if not self._is_claiming:
            self._is_claiming = True
            self._spawn(self._claim())

    def beat(self, now: float) -> None:
        """Called about once a second: renews the claims in time."""
        if now - self._renewed_at > RENEW_S:
            self._renewed_at = now
            self._spawn(self._store.renew(self._worker, time.time()))
            self._forget_idle(now)

    def close(self) -> None:
        """Wake nothing more."""
        if self._timer is not None:
            self._timer.cancel()

    def _forget_idle(self, now: float) -> None:
        """Give up domains beyond KEPT_DOMAINS whose pace needs no memory."""
        domains = list(self._scheduler.domains())
        surplus = len(domains) - KEPT_DOMAINS
        idle = [d for d in domains if d.is_idle and not d.pace.failures and d.pace.next_at <= now]
        given_up = idle[: max(0, surplus)]
        for domain in given_up:
            self._scheduler.forget(domain)
        if given_up:
            self._spawn(self._store.release(self._worker, [d.name for d in given_up]))

    async def _read(self, window: Window, asked: int) -> None:
        rows = await self._store.window(window.run, window.domain, asked)
        self._scheduler.end_read(window, rows, asked, self._loop.time())
        self._woke()

    def _come(self) -> None:
        self._due_at = self._timer = None
        self._spawn(self._wake_rows())

    async def _wake_rows(self) -> None:
        woken = await self._store.wake(self._runs(), time.time())
        for run, domain in woken.ready:
            if not self._scheduler.more_in_store(run, domain, self._loop.time()):
                self.want_claims()
        if woken.next_at is not None:
            self.waits_until(woken.next_at)
        self._woke()

    async def _claim(self) -> None:
        try:
            while self._claims_again:
                self._claims_again = False
                claims = await self._store.claim(
                    self._worker, self._runs(), CLAIM_LIMIT, time.time()
                )
                for claim in claims:
                    self._scheduler.adopt(claim, self._loop.time())
                self._claims_again = self._claims_again or len(claims) == CLAIM_LIMIT
                self._woke()
        finally:
            self._is_claiming = False
