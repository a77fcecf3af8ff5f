"""A session: what one process owns for one database, and the loop that keeps it going.

Owns: store, client cache, robots cache, scheduler, the tasks of all visits; runs as they
begin, stop and end. Does not own: which request is next (`scheduler`), what an outcome
means (`run`), the steps of a visit (`visits`, `errands`), when the store is asked for
rows (`frontier`).

Invariants: nothing waits but rows and timers: a task exists only for what is on the wire
or on its way to the store; `pump` is the one place that starts visits; a run ends only
when nothing of it is under way and the store says that nothing is queued, or when it was
told to stop; every ending is written into the run's row.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec

from crawler.access import Access, check, open_clients
from crawler.downloader import Downloader
from crawler.errands import Errands
from crawler.errors import FetchError, SpiderError, StopCrawl
from crawler.frontier import Frontier
from crawler.harvest import describe
from crawler.pace import Pace
from crawler.plugins import call, is_ours
from crawler.plugins import hooks as hooks_of
from crawler.pump import Pump
from crawler.result import ENDINGS, CrawlResult, Snapshot
from crawler.run import Crawl
from crawler.scheduler import (
    Action,
    Bury,
    Drop,
    Fetch,
    FetchAside,
    RefuseAside,
    Robots,
    Scheduler,
)
from crawler.seeding import seed
from crawler.settings import Settings
from crawler.urls import is_private
from crawler.visits import Visits
from crawler.web.robots import RobotsCache
from crawler.wire import Wire
from storage import RunSpec, RunState, StorageError, open_store

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from pathlib import Path

    from crawler.pool import CacheStats
    from crawler.settings import DomainSettings
    from crawler.spider import Spider
    from crawler.urls import Target
    from crawler.wire import Slot
    from storage import RunRow, Store

__all__ = ["Session"]

HEARTBEAT_S = 1.0
GRACE_S = 10.0
"""Seconds that requests under way are given to end after `stop`."""
SWITCH_S = 0.0001
"""The writer thread waits about this long for the interpreter lock at each statement; with
Python's own 5 ms a callback that computes holds up every commit."""


class Session:
    """Runs crawls over one store. Use `await Session.open(...)` and `aclose`."""

    def __init__(self, store: Store, settings: Settings) -> None:
        loop = asyncio.get_running_loop()
        self.store = store
        self.settings = settings
        self._loop = loop
        self._clock = loop.time
        self._robots = RobotsCache()
        self._clients = open_clients(settings, clock=loop.time)
        self._access = Access(settings, self._wishes)
        self._downloader = Downloader(self._clients, key=self._access.key)
        self._scheduler = Scheduler(
            pace_for=self._pace_for,
            may_lease=self._downloader.may_lease,
            robots=self._robots,
            clients=settings.pool.clients,
        )
        self._crawls: dict[int, Crawl] = {}
        self._ends: dict[int, asyncio.Future[CrawlResult]] = {}
        self._named: set[str] = set()
        """Domains that the user named: on this machine's own network they need no pause."""
        self._tasks: dict[asyncio.Task[None], Crawl | None] = {}
        self._endings: set[asyncio.Task[None]] = set()
        self._pump = Pump(
            loop, self._scheduler, has_room=self._has_room, act=self._act, pumped=self._pumped
        )
        wake = self._pump.wake
        self._frontier = Frontier(
            store,
            self._scheduler,
            runs=lambda: list(self._crawls),
            spawn=self._spawn,
            woke=wake,
        )
        self._wire = Wire(
            self._downloader,
            self._scheduler,
            self._access,
            keepalive=settings.pool.keepalive,
            clock=loop.time,
            woke=wake,
        )
        self._errands = Errands(self._wire, self._scheduler, store, self._robots, woke=wake)
        self._visits = Visits(
            self._wire,
            self._scheduler,
            self._frontier,
            store,
            self._crawls,
            woke=wake,
            settled=self._settled,
            stop=self.stop_run,
        )
        self._is_stopped = False
        self._heart = loop.call_later(HEARTBEAT_S, self._beat)
        self._switch_s = sys.getswitchinterval()
        sys.setswitchinterval(min(SWITCH_S, self._switch_s))

    @classmethod
    async def open(cls, db: str | Path | None = None, settings: Settings | None = None) -> Session:
        """Open a database (None: in memory). Raises StorageError when it cannot be had."""
        return cls(await open_store(db), settings or Settings())

    async def __aenter__(self) -> Session:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<Session {len(self._crawls)} runs, {self._scheduler!r}, {self._clients!r}>"

    # -- runs -----------------------------------------------------------------------------

    async def crawl(
        self,
        spider: Spider,
        *,
        settings: Settings | None = None,
        resume: RunRow | None = None,
    ) -> CrawlResult:
        """`begin` and `ended` in one. Raises StorageError when the store failed."""
        return await self.ended(await self.begin(spider, settings=settings, resume=resume))

    async def begin(
        self,
        spider: Spider,
        *,
        settings: Settings | None = None,
        resume: RunRow | None = None,
        code_hash: str = "",
        identity: str | None = None,
    ) -> Crawl:
        """Begin a run, or go on with `resume`, without waiting for its end (`ended`).

        `identity` is what a run is found again by; None: the spider's arguments.
        """
        settings = settings or self.settings
        check(settings, self.settings)
        row = await self._row_for(spider, settings, resume, code_hash, identity)
        counts, named = await self.store.count(row.id), await self.store.origins(row.id)
        crawl = Crawl(
            spider,
            settings,
            row,
            hooks=hooks_of(spider),
            knows=self.store.knows,
            forbids=self._forbids,
            done_before=counts.get("done", 0) - counts.get("redirected", 0),
            is_new_limit=resume is None or resume.state is RunState.FINISHED,
        )
        crawl.queued = counts.get("queued", 0)
        self._crawls[row.id] = crawl
        self._access.forget_keys()
        self._wire.forget_shortage()
        self._ends[row.id] = self._loop.create_future()
        spider._fetch = lambda request: self._errands.fetch(crawl, request)
        for name in named:
            self._named.add(name)
            crawl.admit(name)
        obeys = settings.robots.obey
        self._scheduler.open_run(row.id, obeys_robots=obeys, agent=crawl.agent, now=self._clock())
        if settings.max_time is not None:
            timer = self._loop.call_later(settings.max_time, self.stop_run, crawl, "max-time")
            crawl.timers.append(timer)
        if crawl.is_full:
            self._scheduler.hold(row.id)
        self._frontier.waits_until(time.time())
        self._frontier.want_claims()
        if self._is_stopped:
            crawl.seeding = False
            self.stop_run(crawl, "signal")
        else:
            crawl.seed_task = self._spawn(self._start(crawl))
        return crawl

    async def ended(self, crawl: Crawl) -> CrawlResult:
        """The result of a run that `begin` gave; who waits may be cancelled, the run goes on."""
        return await asyncio.shield(self._ends[crawl.id])

    async def _row_for(
        self,
        spider: Spider,
        settings: Settings,
        resume: RunRow | None,
        code_hash: str,
        identity: str | None,
    ) -> RunRow:
        given = msgspec.json.encode(settings.shown()).decode()
        if resume is not None:
            return await self.store.resume(
                resume.id, settings=given, code_hash=code_hash, pid=os.getpid()
            )
        spec = RunSpec(
            spider=spider.name,
            arguments=identity or spider.canonical_arguments(),
            settings=given,
            code_hash=code_hash,
            started_at=time.time(),
            pid=os.getpid(),
        )
        return await self.store.begin(spec)

    async def _start(self, crawl: Crawl) -> None:
        """Call the hooks, then store the start requests unless they all were before."""
        try:
            for hook in crawl.hooks.opened:
                await call(hook)
            if crawl.row.seeded_at is None:
                await seed(crawl, self._visits, self._named.add)
        except StopCrawl:
            self.stop_run(crawl, "spider")
        except StorageError:
            raise
        except (Exception, SystemExit, asyncio.CancelledError) as error:
            if is_ours(error):
                raise
            crawl.broken_by = describe(error)
            self.stop_run(crawl, "error")
        finally:
            crawl.seeding = False
            self._loop.call_soon(self._settled, crawl)

    def stop(self, reason: str = "signal") -> None:
        """Stop all runs in good order: what is under way may end within 10 s.

        It is the session's end: a run that begins after it stops at once.
        """
        self._is_stopped = True
        for crawl in list(self._crawls.values()):
            self.stop_run(crawl, reason)

    def stop_run(self, crawl: Crawl, reason: str) -> None:
        """Start nothing more of one run; what is under way may end within 10 s."""
        if crawl.id not in self._crawls or crawl.is_ending:
            return
        crawl.stop(reason)
        self._scheduler.hold(crawl.id)
        if crawl.seed_task is not None and crawl.seeding and not crawl.broken_by:
            crawl.seed_task.cancel()
        if not crawl.is_in_grace:
            crawl.is_in_grace = True
            crawl.timers.append(self._loop.call_later(GRACE_S, self._end_by_force, crawl))
        self.store.hurry()
        self._settled(crawl)

    def _end_by_force(self, crawl: Crawl) -> None:
        """The grace is over: what is under way stays queued."""
        for task, owner in self._tasks.items():
            if owner is crawl:
                task.cancel()
        crawl.unfinished = 0
        crawl.seeding = False
        self._loop.call_soon(self._settled, crawl)

    # -- ends -----------------------------------------------------------------------------

    def _settled(self, crawl: Crawl) -> None:
        """Something of the run ended: is it over?"""
        if crawl.unfinished or crawl.is_ending or crawl.id not in self._crawls:
            return
        if crawl.stopping is not None and not crawl.seeding:
            self._end_soon(crawl, crawl.stopping)
        elif crawl.is_at_limit:
            self._end_soon(crawl, "limit")
        elif not crawl.seeding and not crawl.is_asking:
            crawl.is_asking = True
            self._spawn(self._end_if_finished(crawl), crawl)

    async def _end_if_finished(self, crawl: Crawl) -> None:
        is_finished = await self.store.is_finished(crawl.id)
        crawl.is_asking = False
        if is_finished and not crawl.unfinished:
            self._end_soon(crawl, "finished")

    def _end_soon(self, crawl: Crawl, reason: str) -> None:
        if crawl.is_ending:
            return
        crawl.is_ending = True
        task = self._loop.create_task(self._end(crawl, reason))
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)
        task.add_done_callback(self._look_at)

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
        await self.store.end(crawl.id, state, at=time.time(), ended_by=reason, stats=kept_json)
        result = CrawlResult.of(crawl, state, reason)
        try:
            async with asyncio.timeout(GRACE_S):
                for hook in crawl.hooks.closed:
                    await call(hook, result)
        except (SpiderError, StopCrawl, TimeoutError) as error:
            broken = describe(error)
            result = replace(result, message=broken.message, detail=broken.detail)
        self._crawls.pop(crawl.id, None)
        self._access.forget_keys()
        end = self._ends.pop(crawl.id)
        if not end.done():
            end.set_result(result)

    def stats(self) -> CacheStats:
        """The client cache's counters."""
        return self._clients.stats()

    def snapshot(self, crawl: Crawl) -> Snapshot:
        """What a progress line shows."""
        clients, shortage = self._clients.stats(), self._wire.shortage
        return Snapshot.of(crawl, self._scheduler, clients, shortage=shortage)

    # -- work -----------------------------------------------------------------------------

    def _has_room(self) -> bool:
        return self._scheduler.on_wire < self.settings.concurrency and not self._is_full()

    def _is_full(self) -> bool:
        """Too much is unfinished; pages whose callback waits in `fetch` do not count."""
        bounds = self.settings.unfinished
        tasks = len(self._tasks) - sum(crawl.asking for crawl in self._crawls.values())
        return tasks >= bounds.pages or self._visits.unfinished_bytes >= bounds.bytes

    def _pumped(self) -> None:
        """Where nothing can start, what was handed to the store is what everybody waits for."""
        self._frontier.fill()
        if not self._scheduler.lacks_room or self._is_full():
            self.store.hurry()

    def _act(self, action: Action) -> None:
        """Begin what the scheduler asks for; the client is leased in the same breath."""
        if isinstance(action, Fetch):
            crawl = self._crawls[action.ready.row.run]
            crawl.in_flight += 1
            crawl.unfinished += 1
            if crawl.is_full:
                self._scheduler.hold(crawl.id)
            slot = self._wire.take(action.domain)
            self._spawn(self._visits.visit(crawl, action, slot), crawl, slot)
        elif isinstance(action, Robots):
            crawl, slot = self._crawls[action.run], self._wire.take(action.domain)
            self._spawn(self._errands.robots(crawl, action, slot), crawl, slot)
        elif isinstance(action, FetchAside):
            slot = self._wire.take(action.domain)
            self._spawn(self._errands.run(action, slot), action.aside.order.crawl, slot)
        elif isinstance(action, Drop):
            crawl = self._crawls[action.ready.row.run]
            crawl.unfinished += 1
            self._spawn(self._visits.drop(crawl, action), crawl)
        elif isinstance(action, RefuseAside):
            action.aside.order.refuse(FetchError("robots", url=action.aside.url))
        elif isinstance(action, Bury):
            self._spawn(self._visits.bury(action.domain))

    def _spawn(
        self,
        work: Coroutine[Any, Any, None],
        crawl: Crawl | None = None,
        slot: Slot | None = None,
    ) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks[task] = crawl
        task.add_done_callback(self._reap)
        if slot is not None:
            task.add_done_callback(lambda _: slot.free())
        return task

    def _reap(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        self._look_at(task)

    def _look_at(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._break(error)

    def _break(self, error: BaseException) -> None:
        """The store failed, or we did: nothing can go on."""
        for end in self._ends.values():
            if not end.done():
                end.set_exception(error)
                end.exception()  # who has gone does not hear of it
        for task in self._tasks:
            task.cancel()

    def _forbids(self, crawl: Crawl, target: Target) -> bool:
        """robots.txt is known and says no."""
        if not crawl.settings.robots.obey:
            return False
        allowed = self._robots.allowed(target.origin, target.url, crawl.agent, self._clock())
        return allowed is False

    def _pace_for(self, domain: str) -> Pace:
        """The strictest of what the open runs ask for; no pause on this machine's own
        network where the user named the host."""
        is_near = domain in self._named and is_private(domain)
        return Pace.strictest(self._wishes(domain), is_near=is_near)

    def _wishes(self, domain: str) -> list[DomainSettings]:
        """What the open runs ask of a domain."""
        wishes = [crawl.settings.for_domain(domain) for crawl in self._crawls.values()]
        return wishes or [self.settings.for_domain(domain)]

    # -- heartbeat and patience --------------------------------------------------------------

    def _beat(self) -> None:
        """Once a second: renew claims, notice that nothing will happen."""
        self._heart = self._loop.call_later(HEARTBEAT_S, self._beat)
        now = self._clock()
        self._frontier.beat(now)
        if not self._is_busy():
            self._judge_patience(now)
        for crawl in list(self._crawls.values()):
            if self._wire.is_short_for(now) > crawl.settings.patience:
                self.stop_run(crawl, "waiting")
        self._pump.wake()

    def _is_busy(self) -> bool:
        return bool(self._scheduler.on_wire or self._frontier.is_claiming) or any(
            crawl.unfinished > crawl.asking or crawl.seeding or crawl.is_ending
            for crawl in self._crawls.values()
        )

    def _judge_patience(self, now: float) -> None:
        next_start = self._pump.next_start
        starts = [next_start - now] if next_start is not None else []
        if self._frontier.due_at is not None:
            starts.append(self._frontier.due_at - time.time())
        if not starts:
            self._frontier.want_claims()
            for crawl in list(self._crawls.values()):
                self._settled(crawl)
            return
        wait = min(starts)
        for crawl in list(self._crawls.values()):
            if wait > crawl.settings.patience:
                crawl.waits_s = wait
                self.stop_run(crawl, "waiting")

    async def aclose(self) -> None:
        """Stop what still runs, keep what was done, close everything. Idempotent."""
        self._heart.cancel()
        self._frontier.close()
        self._pump.close()
        for task in self._tasks:
            task.cancel()
        while self._tasks:
            await asyncio.wait(self._tasks)
        try:
            for crawl in list(self._crawls.values()):
                self._end_soon(crawl, crawl.stopping or "signal")
            while self._endings:
                await asyncio.wait(self._endings)
        finally:
            await self._clients.aclose()
            await self.store.aclose()
            sys.setswitchinterval(self._switch_s)
