"""How runs end: finished, at a limit, stopped, or because nothing can start for too long.

Owns: the question whether a run is over, the grace of a stopped one, the row, hooks and
result of an ending, patience. Does not own: beginning (`engine`), what starts (`pump`),
which reasons there are (`result`).

Invariants: a run ends only when nothing of it is under way and the store says that nothing
is queued, or when it was told to stop; every ending is written into the run's row; who
waits for a run gets its result or the error that broke the session; a paused run never
ends for want of patience.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import msgspec

from crawler.errors import SpiderError, StopCrawl
from crawler.harvest import describe
from crawler.plugins import call
from crawler.result import ENDINGS, CrawlResult
from storage import RunState

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping
    from typing import Any

    from crawler.frontier import Frontier
    from crawler.pool import ClientCache
    from crawler.pump import Pump
    from crawler.run import Crawl
    from crawler.scheduler import Scheduler
    from crawler.wire import Wire
    from storage import Store

__all__ = ["GRACE_S", "Endings"]

GRACE_S = 10.0
"""Seconds that requests under way are given to end after `stop`."""


class Endings:
    """The endings of one session.

    `tasks` are the session's, with the run each belongs to; `spawn` makes one; `looked_at`
    hears of each ending's task; `left` is called when a run is no more among `crawls`,
    `proceed` ends its pause.
    """

    def __init__(
        self,
        store: Store,
        scheduler: Scheduler,
        clients: ClientCache,
        crawls: dict[int, Crawl],
        tasks: Mapping[asyncio.Task[None], Crawl | None],
        *,
        spawn: Callable[[Coroutine[Any, Any, None], Crawl], object],
        looked_at: Callable[[asyncio.Task[None]], None],
        proceed: Callable[[Crawl], None],
        left: Callable[[], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._store = store
        self._scheduler = scheduler
        self._clients = clients
        self._crawls = crawls
        self._tasks = tasks
        self._spawn = spawn
        self._looked_at = looked_at
        self._proceed = proceed
        self._left = left
        self._results: WeakKeyDictionary[Crawl, asyncio.Future[CrawlResult]]
        self._results = WeakKeyDictionary()
        """Of ended runs too, as long as somebody holds them: he may ask late."""
        self._under_way: dict[asyncio.Task[None], Crawl] = {}
        self._is_broken = False
        """The store failed, or we did."""

    def __repr__(self) -> str:
        return f"<Endings {len(self._results)} awaited, {len(self._under_way)} under way>"

    def expect(self, crawl: Crawl) -> None:
        """A run has begun: there will be a result."""
        self._results[crawl] = self._loop.create_future()
        if crawl.settings.max_time is not None:
            timer = self._loop.call_later(crawl.settings.max_time, self.stop, crawl, "max-time")
            crawl.timers.append(timer)

    async def result(self, crawl: Crawl) -> CrawlResult:
        """The result; who waits may be cancelled, the run goes on."""
        return await asyncio.shield(self._results[crawl])

    def stop(self, crawl: Crawl, reason: str) -> None:
        """Start nothing more of a run; what is under way may end within 10 s."""
        if crawl.id not in self._crawls or crawl.is_ending:
            return
        crawl.stop(reason)
        self._scheduler.hold(crawl.id)
        self._proceed(crawl)
        if crawl.seed_task is not None and crawl.seeding and not crawl.broken_by:
            crawl.seed_task.cancel()
        if not crawl.is_in_grace:
            crawl.is_in_grace = True
            crawl.timers.append(self._loop.call_later(GRACE_S, self._end_by_force, crawl))
        self._store.hurry()
        self.settled(crawl)

    def settled(self, crawl: Crawl) -> None:
        """Something of the run ended: is it over?"""
        if crawl.unfinished or crawl.is_ending or crawl.id not in self._crawls:
            return
        if crawl.stopping is not None and not crawl.seeding:
            self._end_soon(crawl, crawl.stopping)
        elif crawl.is_at_limit:
            self._end_soon(crawl, "limit")
        elif not crawl.seeding:
            crawl.is_unasked = True
            if not crawl.is_asking:
                crawl.is_asking = True
                self._spawn(self._end_if_finished(crawl), crawl)

    def broke(self, error: BaseException) -> None:
        """The store failed, or we did: nobody gets a result any more."""
        self._is_broken = True
        for result in list(self._results.values()):
            if not result.done():
                result.set_exception(error)
                result.exception()  # who has gone does not hear of it

    def judge(
        self, now: float, pump: Pump, frontier: Frontier, wire: Wire, *, is_paused: bool
    ) -> None:
        """Once a second: end runs that would have to wait for too long.

        `is_paused`: some domain is, so nobody knows how long that will be.
        """
        if not self._is_busy(frontier):
            self._judge_patience(now, pump, frontier, is_paused=is_paused)
        for crawl in list(self._crawls.values()):
            if wire.is_short_for(now) > crawl.settings.patience and not crawl.is_paused:
                self.stop(crawl, "waiting")

    async def aclose(self) -> None:
        """End every run that is left, and wait for it. `looked_at` hears of what they raise."""
        for crawl in list(self._crawls.values()):
            self._end_soon(crawl, "error" if self._is_broken else crawl.stopping or "signal")
        while self._under_way:
            await asyncio.wait(self._under_way)

    # -- inside -----------------------------------------------------------------------------

    def _is_busy(self, frontier: Frontier) -> bool:
        return bool(self._scheduler.on_wire or frontier.is_claiming) or any(
            crawl.unfinished > crawl.asking or crawl.seeding or crawl.is_ending
            for crawl in self._crawls.values()
        )

    def _judge_patience(
        self, now: float, pump: Pump, frontier: Frontier, *, is_paused: bool
    ) -> None:
        """Nothing is under way: when can something start?"""
        next_start = pump.next_start
        starts = [next_start - now] if next_start is not None else []
        if frontier.due_at is not None:
            starts.append(frontier.due_at - time.time())
        crawls = [crawl for crawl in self._crawls.values() if not crawl.is_paused]
        if not starts and crawls:
            frontier.want_claims()
            for crawl in crawls:
                self.settled(crawl)
        for crawl in crawls if starts and not is_paused else ():
            if min(starts) > crawl.settings.patience:
                crawl.waits_s = min(starts)
                self.stop(crawl, "waiting")

    def _end_by_force(self, crawl: Crawl) -> None:
        """The grace is over: what is under way stays queued."""
        for task, owner in self._tasks.items():
            if owner is crawl:
                task.cancel()
        crawl.unfinished = 0
        crawl.seeding = False
        self._loop.call_soon(self.settled, crawl)

    async def _end_if_finished(self, crawl: Crawl) -> None:
        is_finished = False
        while crawl.is_unasked:  # what settles during a question wants another one
            crawl.is_unasked = False
            is_finished = await self._store.is_finished(crawl.id)
        crawl.is_asking = False
        if is_finished and not crawl.unfinished:
            self._end_soon(crawl, "finished")

    def _end_soon(self, crawl: Crawl, reason: str) -> None:
        if crawl.is_ending:
            return
        crawl.is_ending = True
        task = self._loop.create_task(self._end(crawl, reason))
        self._under_way[task] = crawl
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        crawl = self._under_way.pop(task)
        if task.cancelled():  # by a hook, or with all tasks of the loop: who waits hears of it
            self._crawls.pop(crawl.id, None)
            self._left()
            self._results[crawl].cancel()
        self._looked_at(task)

    async def _end(self, crawl: Crawl, reason: str) -> None:
        for timer in crawl.timers:
            timer.cancel()
        if crawl.seed_task is not None:
            crawl.seed_task.cancel()
        self._scheduler.close_run(crawl.id)
        stats = self._clients.stats()
        kept = {"clients_peak": stats.clients_peak, "evictions": stats.evictions}
        state = ENDINGS.get(reason, RunState.INTERRUPTED)
        kept_json = msgspec.json.encode(kept).decode()
        await self._store.end(crawl.id, state, at=time.time(), ended_by=reason, stats=kept_json)
        result = CrawlResult.of(crawl, state, reason)
        try:
            async with asyncio.timeout(GRACE_S):
                for hook in crawl.hooks.closed:
                    await call(hook, result)
        except (SpiderError, StopCrawl, TimeoutError) as error:
            broken = describe(error)
            result = replace(result, message=broken.message, detail=broken.detail)
        self._crawls.pop(crawl.id, None)
        self._left()
        end = self._results[crawl]
        if not end.done():
            end.set_result(result)
