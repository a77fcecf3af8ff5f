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
import inspect
import os
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec

from crawler.downloader import Downloader
from crawler.errands import Errands
from crawler.errors import FetchError
from crawler.frontier import Frontier
from crawler.harvest import describe
from crawler.pace import Pace
from crawler.plugins import hooks as hooks_of
from crawler.pool import ClientCache, SocketBudget, TlsProfile
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
    Wait,
)
from crawler.seeding import seed
from crawler.settings import Settings
from crawler.urls import is_private
from crawler.visits import Visits
from crawler.web.robots import RobotsCache
from crawler.wire import Wire
from storage import RunSpec, RunState, open_store

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from pathlib import Path

    from crawler.pool import CacheStats, Lease
    from crawler.scheduler import Domain
    from crawler.spider import Spider
    from crawler.urls import Target
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
        self._clients = ClientCache(
            settings.pool.clients,
            budget=SocketBudget(settings.pool.sockets),
            keepalive=settings.pool.keepalive,
            clock=loop.time,
        )
        tls = TlsProfile(verify=settings.tls.verify, ca_file=settings.tls.ca_file)
        self._downloader = Downloader(self._clients, tls=tls)
        self._scheduler = Scheduler(
            pace_for=self._pace_for,
            may_lease=self._downloader.may_lease,
            robots=self._robots,
            clients=settings.pool.clients,
        )
        self._crawls: dict[int, Crawl] = {}
        self._ends: dict[int, asyncio.Future[CrawlResult]] = {}
        self._named: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._frontier = Frontier(
            store,
            self._scheduler,
            runs=lambda: list(self._crawls),
            spawn=self._spawn,
            woke=self._wake,
        )
        self._wire = Wire(self._downloader, self._scheduler, clock=loop.time, woke=self._wake)
        self._errands = Errands(self._wire, self._scheduler, store, self._robots, woke=self._wake)
        self._visits = Visits(
            self._wire,
            self._scheduler,
            self._frontier,
            store,
            self._crawls,
            woke=self._wake,
            settled=self._settled,
        )
        self._pump_at: asyncio.TimerHandle | asyncio.Handle | None = None
        self._next_start: float | None = None
        self._force_at: asyncio.TimerHandle | None = None
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
        """Run a spider to its end. `resume` goes on with that run; None begins a new one.

        Raises CrawlerError or StorageError when the run could not be carried on.
        """
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
        """Begin or go on with a run, without waiting for its end (`ended`).

        `identity` is what a run is found again by; None: the spider's arguments.
        """
        if self._force_at is not None:
            raise RuntimeError(f"{self!r} has been stopped: open another one")
        settings = settings or self.settings
        row = await self._row_for(spider, settings, resume, code_hash, identity)
        counts = await self.store.count(row.id)
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
        self._ends[row.id] = self._loop.create_future()
        spider._fetch = lambda request: self._errands.fetch(crawl, request)
        for name in await self.store.origins(row.id):
            self.name(name)
            crawl.admit(name)
        obeys = settings.robots.obey
        self._scheduler.open_run(row.id, obeys_robots=obeys, agent=crawl.agent, now=self._clock())
        if settings.max_time is not None:
            self._loop.call_later(settings.max_time, self.stop_run, crawl, "max-time")
        self._frontier.waits_until(time.time())
        self._frontier.want_claims()
        self._spawn(self._start(crawl))
        return crawl

    async def ended(self, crawl: Crawl) -> CrawlResult:
        """The result of a run that `begin` gave."""
        return await self._ends[crawl.id]

    async def _row_for(
        self,
        spider: Spider,
        settings: Settings,
        resume: RunRow | None,
        code_hash: str,
        identity: str | None,
    ) -> RunRow:
        given = msgspec.json.encode(settings.given()).decode()
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
                if inspect.isawaitable(given := hook()):
                    await given
            if crawl.row.seeded_at is None:
                await seed(crawl, self._visits, self.name)
        except Exception as error:
            crawl.broken_by = describe(error)
            self.stop_run(crawl, "error")
        crawl.seeding = False
        self._settled(crawl)

    def name(self, domain: str) -> None:
        """The user named this domain: on this machine's own network it needs no pause."""
        self._named.add(domain)

    def stop(self, reason: str = "signal") -> None:
        """Stop all runs in good order: what is under way may end within 10 s.

        It is the session's end: no run begins after it.
        """
        for crawl in list(self._crawls.values()):
            self.stop_run(crawl, reason)
        if self._force_at is None:
            self._force_at = self._loop.call_later(GRACE_S, self._end_by_force)

    def _end_by_force(self) -> None:
        """The grace is over: what is under way stays queued."""
        self._cancel_tasks()
        for crawl in self._crawls.values():
            crawl.unfinished = 0
            crawl.seeding = False
            self._loop.call_soon(self._settled, crawl)

    def stop_run(self, crawl: Crawl, reason: str) -> None:
        """Start nothing more of one run."""
        if crawl.id not in self._crawls:
            return
        crawl.stop(reason)
        self._scheduler.hold(crawl.id)
        self.store.hurry()
        self._settled(crawl)

    def _cancel_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()

    # -- ends -----------------------------------------------------------------------------

    def _settled(self, crawl: Crawl) -> None:
        """Something of the run ended: is it over?"""
        if crawl.unfinished or crawl.is_ending or crawl.id not in self._crawls:
            return
        if crawl.stopping is not None and not crawl.seeding:
            crawl.is_ending = True
            self._spawn(self._end(crawl, crawl.stopping))
        elif crawl.is_at_limit:
            crawl.is_ending = True
            self._spawn(self._end(crawl, "limit"))
        elif not crawl.seeding and not crawl.is_asking:
            crawl.is_asking = True
            self._spawn(self._end_if_finished(crawl))

    async def _end_if_finished(self, crawl: Crawl) -> None:
        try:
            is_finished = await self.store.is_finished(crawl.id)
        finally:
            crawl.is_asking = False
        if is_finished and not crawl.unfinished and not crawl.is_ending:
            crawl.is_ending = True
            await self._end(crawl, "finished")

    async def _end(self, crawl: Crawl, reason: str) -> None:
        state = ENDINGS.get(reason, RunState.INTERRUPTED)
        self._scheduler.close_run(crawl.id)
        stats = self._clients.stats()
        kept = {"clients_peak": stats.clients_peak, "evictions": stats.evictions}
        await self.store.end(
            crawl.id,
            state,
            at=time.time(),
            ended_by=reason,
            stats=msgspec.json.encode(kept).decode(),
        )
        result = CrawlResult.of(crawl, state, reason)
        try:
            for hook in crawl.hooks.closed:
                if inspect.isawaitable(given := hook(result)):
                    await given
        except Exception as error:
            broken = describe(error)
            result = replace(result, message=broken.message, detail=broken.detail)
        self._crawls.pop(crawl.id, None)
        end = self._ends[crawl.id]
        if not end.done():
            end.set_result(result)

    def stats(self) -> CacheStats:
        """The client cache's counters."""
        return self._clients.stats()

    def snapshot(self, crawl: Crawl) -> Snapshot:
        """What a progress line shows."""
        scheduler, clients = self._scheduler.stats(), self._clients.stats()
        used = clients.new_connections + clients.reused_connections
        worst = max(
            (d for d in self._scheduler.domains() if d.pace.failures),
            key=lambda d: d.pace.failures,
            default=None,
        )
        return Snapshot(
            run=crawl.row.name,
            delivered=crawl.delivered,
            queued=crawl.queued,
            failed=crawl.failed,
            items=crawl.items,
            retries=crawl.retries,
            on_wire=scheduler.on_wire,
            domains=scheduler.domains,
            clients=clients.clients,
            reuse=clients.reused_connections / used if used else 0.0,
            worst=f"{worst.name}:{worst.pace.last_code}" if worst else None,
        )

    # -- the pump ---------------------------------------------------------------------------

    def _wake(self) -> None:
        """Pump soon; many calls in one turn of the loop are one."""
        if isinstance(self._pump_at, asyncio.TimerHandle):
            self._pump_at.cancel()
            self._pump_at = None
        if self._pump_at is None:
            self._pump_at = self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Start all that may start now."""
        self._pump_at = None
        now = self._clock()
        self._next_start = None
        while self._has_room():
            action = self._scheduler.pop(now)
            if isinstance(action, Wait):
                self._sleep_until(action.until, now)
                break
            self._act(action)
        self._frontier.fill()
        if not self._scheduler.has_ready:
            self.store.hurry()

    def _has_room(self) -> bool:
        bounds = self.settings.unfinished
        return (
            self._scheduler.on_wire < self.settings.concurrency
            and len(self._tasks) < bounds.pages
            and self._visits.unfinished_bytes < bounds.bytes
        )

    def _act(self, action: Action) -> None:
        """Begin what the scheduler asks for; the client is leased in the same breath."""
        if isinstance(action, Fetch):
            crawl = self._crawls[action.ready.row.run]
            crawl.in_flight += 1
            crawl.unfinished += 1
            if crawl.is_full:
                self._scheduler.hold(crawl.id)
            self._spawn(self._visits.visit(crawl, action, self._lease(action.domain)))
        elif isinstance(action, Robots):
            crawl = self._crawls[action.run]
            self._spawn(self._errands.robots(crawl, action, self._lease(action.domain)))
        elif isinstance(action, FetchAside):
            self._spawn(self._errands.run(action, self._lease(action.domain)))
        elif isinstance(action, Drop):
            crawl = self._crawls[action.ready.row.run]
            crawl.unfinished += 1
            self._spawn(self._visits.drop(crawl, action))
        elif isinstance(action, RefuseAside):
            action.aside.order.refuse(FetchError("robots", url=action.aside.url))
        elif isinstance(action, Bury):
            self._spawn(self._visits.bury(action.domain))

    def _lease(self, domain: Domain) -> Lease:
        return self._downloader.lease(domain.name, domain.pace.limit)

    def _sleep_until(self, until: float | None, now: float) -> None:
        self._next_start = until
        if until is not None and self._pump_at is None:
            self._pump_at = self._loop.call_at(max(until, now), self._pump)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._reap)

    def _reap(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            self._break(error)

    def _break(self, error: BaseException) -> None:
        """The store failed, or we did: nothing can go on."""
        for end in self._ends.values():
            if not end.done():
                end.set_exception(error)
        self._cancel_tasks()

    def _forbids(self, crawl: Crawl, target: Target) -> bool:
        """robots.txt is known and says no."""
        if not crawl.settings.robots.obey:
            return False
        allowed = self._robots.allowed(target.origin, target.url, crawl.agent, self._clock())
        return allowed is False

    def _pace_for(self, domain: str) -> Pace:
        """The strictest of what the open runs ask for; no pause on this machine's own
        network where the user named the host."""
        wishes = [crawl.settings.for_domain(domain) for crawl in self._crawls.values()]
        wishes = wishes or [self.settings.for_domain(domain)]
        is_near = domain in self._named and is_private(domain)
        return Pace.strictest(wishes, is_near=is_near)

    # -- heartbeat and patience --------------------------------------------------------------

    def _beat(self) -> None:
        """Once a second: sweep connections, renew claims, notice that nothing will happen."""
        self._heart = self._loop.call_later(HEARTBEAT_S, self._beat)
        now = self._clock()
        self._clients.sweep(now)
        self._frontier.beat(now)
        if not self._is_busy():
            self._judge_patience(now)
        self._wake()

    def _is_busy(self) -> bool:
        return bool(self._scheduler.on_wire or self._frontier.is_claiming) or any(
            crawl.unfinished or crawl.seeding or crawl.is_ending for crawl in self._crawls.values()
        )

    def _judge_patience(self, now: float) -> None:
        starts = [self._next_start - now] if self._next_start is not None else []
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
        for handle in (self._pump_at, self._force_at):
            if handle is not None:
                handle.cancel()
        self._cancel_tasks()
        while self._tasks:
            await asyncio.wait(self._tasks)
        for crawl in list(self._crawls.values()):
            crawl.is_ending = True
            await self._end(crawl, crawl.stopping or "signal")
        await self._clients.aclose()
        await self.store.aclose()
        sys.setswitchinterval(self._switch_s)
