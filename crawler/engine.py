"""A session: what one process owns for one database, and the loop that keeps it going.

Owns: store, client cache, robots cache, scheduler, the tasks of all visits; runs as they
begin, go on, stop and end. Does not own: which request is next (`scheduler`), what an
outcome means (`run`), the steps of a visit (`visits`).

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
from typing import TYPE_CHECKING, Any

import msgspec

from crawler.downloader import Downloader
from crawler.errors import FetchError
from crawler.harvest import describe
from crawler.pace import Pace
from crawler.plugins import hooks as hooks_of
from crawler.pool import ClientCache, SocketBudget, TlsProfile
from crawler.result import CrawlResult, Snapshot
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
from crawler.settings import Settings
from crawler.urls import canonicalise, is_private
from crawler.visits import Visits
from crawler.web.robots import RobotsCache
from storage import RunSpec, RunState, open_store

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from pathlib import Path

    from crawler.pool import CacheStats, Lease
    from crawler.scheduler import Domain
    from crawler.spider import Spider
    from crawler.window import Window
    from storage import RunRow, Store

__all__ = ["Session"]

CLAIM_LIMIT = 1_000
HEARTBEAT_S = 1.0
RENEW_S = 20.0
GRACE_S = 10.0
"""Seconds that requests under way are given to end after `stop`."""
SEED_BATCH = 500
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
        self._worker = f"{os.getpid()}"
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
            pace_for=self._pace_for, may_lease=self._downloader.may_lease, robots=self._robots
        )
        self._crawls: dict[int, Crawl] = {}
        self._ends: dict[int, asyncio.Future[CrawlResult]] = {}
        self._named: set[str] = set()
        self._visits = Visits(
            crawls=self._crawls,
            downloader=self._downloader,
            scheduler=self._scheduler,
            store=store,
            robots=self._robots,
            clock=loop.time,
            woke=self._wake,
            waits_until=self._wait_until,
            unclaimed=self._want_claims,
            settled=self._settled,
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._pump_at: asyncio.TimerHandle | asyncio.Handle | None = None
        self._rows_due: float | None = None
        self._rows_timer: asyncio.TimerHandle | None = None
        self._next_start: float | None = None
        self._claiming = False
        self._claim_again = False
        self._broken: BaseException | None = None
        self._heart = loop.call_later(HEARTBEAT_S, self._beat)
        self._renewed_at = loop.time()
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
        settings = settings or self.settings
        row = await self._row_for(spider, settings, resume, code_hash, identity)
        counts = await self.store.count(row.id)
        is_new_limit = resume is None or resume.state is RunState.FINISHED
        crawl = Crawl(
            spider,
            settings,
            row,
            hooks=hooks_of(spider),
            knows=self.store.knows,
            done_before=counts.get("done", 0),
            limit_from=counts.get("done", 0) if is_new_limit else 0,
        )
        crawl.queued = counts.get("queued", 0)
        self._crawls[row.id] = crawl
        self._ends[row.id] = self._loop.create_future()
        spider._fetch = lambda request: self._visits.fetch_for(crawl, request)
        for name in await self.store.origins(row.id):
            self._name(name)
            crawl.admit(name)
        for hook in crawl.hooks.opened:
            if inspect.isawaitable(given := hook()):
                await given
        obeys = settings.robots.obey
        self._scheduler.open_run(row.id, obeys_robots=obeys, agent=crawl.agent, now=self._clock())
        if settings.max_time is not None:
            self._loop.call_later(settings.max_time, self.stop_run, crawl, "max-time")
        self._wait_until(time.time())
        self._want_claims()
        self._spawn(self._seed(crawl))
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

    async def _seed(self, crawl: Crawl) -> None:
        """Iterate `start()` from its beginning unless it has once ended; repeats are absorbed."""
        try:
            if crawl.row.seeded_at is None:
                await self._seed_all(crawl)
        except Exception as error:
            crawl.broken_by = describe(error)
            self.stop_run(crawl, "error")
        crawl.seeding = False
        self._settled(crawl)

    async def _seed_all(self, crawl: Crawl) -> None:
        batch: list[Any] = []
        requests: Any = crawl.spider.start()
        if inspect.isawaitable(requests):
            requests = await requests
        if hasattr(requests, "__aiter__"):
            async for request in requests:
                batch.append(request)
                if len(batch) >= SEED_BATCH:
                    batch = await self._sow(crawl, batch)
        else:
            for request in requests:
                batch.append(request)
                if len(batch) >= SEED_BATCH:
                    batch = await self._sow(crawl, batch)
        if crawl.stopping is None:
            await self._sow(crawl, batch, is_last=True)

    async def _sow(self, crawl: Crawl, batch: list[Any], *, is_last: bool = False) -> list[Any]:
        for request in batch:
            try:
                self._name(canonicalise(request.url).domain)
            except FetchError:
                continue
        await self._visits.seed(crawl, batch, is_last=is_last)
        return []

    def _name(self, domain: str) -> None:
        self._named.add(domain)

    def stop(self, reason: str = "signal") -> None:
        """Stop all runs in good order: what is under way may end within 10 s."""
        for crawl in list(self._crawls.values()):
            self.stop_run(crawl, reason)
        self._loop.call_later(GRACE_S, self._end_by_force)

    def _end_by_force(self) -> None:
        """The grace is over: what is under way stays queued."""
        self._cancel_tasks()
        for crawl in self._crawls.values():
            crawl.unfinished = 0
            crawl.seeding = False
            self._loop.call_soon(self._settled, crawl)

    def stop_run(self, crawl: Crawl, reason: str) -> None:
        """Start nothing more of one run."""
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
        for hook in crawl.hooks.closed:
            if inspect.isawaitable(given := hook(result)):
                await given
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
        while (read := self._scheduler.next_read()) is not None:
            self._spawn(self._read(*read))
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
        visits = self._visits
        if isinstance(action, Fetch):
            crawl = self._crawls[action.ready.row.run]
            crawl.in_flight += 1
            crawl.unfinished += 1
            if crawl.is_full:
                self._scheduler.hold(crawl.id)
            self._spawn(visits.visit(action, self._lease(action.domain)))
        elif isinstance(action, Robots):
            self._spawn(visits.robots(action, self._lease(action.domain)))
        elif isinstance(action, FetchAside):
            self._spawn(visits.aside(action, self._lease(action.domain)))
        elif isinstance(action, Drop):
            self._crawls[action.ready.row.run].unfinished += 1
            self._spawn(visits.drop(action.domain, action.ready.row, action.reason))
        elif isinstance(action, RefuseAside):
            visits.refuse(action.aside)
        elif isinstance(action, Bury):
            self._spawn(visits.bury(action.domain))

    def _lease(self, domain: Domain) -> Lease:
        return self._downloader.lease(domain.name, domain.pace.limit)

    def _sleep_until(self, until: float | None, now: float) -> None:
        self._next_start = until
        if until is not None and self._pump_at is None:
            self._pump_at = self._loop.call_at(max(until, now), self._pump)

    async def _read(self, window: Window, asked: int) -> None:
        rows = await self.store.window(window.run, window.domain, asked)
        self._scheduler.end_read(window, rows, asked, self._clock())
        self._wake()

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
        self._broken = self._broken or error
        for end in self._ends.values():
            if not end.done():
                end.set_exception(error)
        self._cancel_tasks()

    # -- rows that wait, domains nobody works on ------------------------------------------------

    def _wait_until(self, at: float) -> None:
        """Some row waits until a wall-clock instant."""
        if self._rows_due is None or at < self._rows_due:
            self._rows_due = at
            if self._rows_timer is not None:
                self._rows_timer.cancel()
            self._rows_timer = self._loop.call_later(max(0.0, at - time.time()), self._rows_come)

    def _rows_come(self) -> None:
        self._rows_due = self._rows_timer = None
        self._spawn(self._wake_rows())

    async def _wake_rows(self) -> None:
        woken = await self.store.wake(list(self._crawls), time.time())
        for run, domain in woken.ready:
            if not self._scheduler.more_in_store(run, domain, self._clock()):
                self._want_claims()
        if woken.next_at is not None:
            self._wait_until(woken.next_at)
        self._wake()

    def _want_claims(self) -> None:
        self._claim_again = True
        if not self._claiming:
            self._claiming = True
            self._spawn(self._claim())

    async def _claim(self) -> None:
        try:
            while self._claim_again:
                self._claim_again = False
                claims = await self.store.claim(
                    self._worker, list(self._crawls), CLAIM_LIMIT, time.time()
                )
                for claim in claims:
                    self._scheduler.adopt(claim, self._clock())
                self._claim_again = self._claim_again or len(claims) == CLAIM_LIMIT
                self._wake()
        finally:
            self._claiming = False

    def _pace_for(self, domain: str) -> Pace:
        """The strictest of what the open runs ask for; no pause on this machine's own
        network where the user named the host."""
        wishes = [crawl.settings.for_domain(domain) for crawl in self._crawls.values()]
        wishes = wishes or [self.settings.for_domain(domain)]
        fixed = [wish.delay for wish in wishes if not isinstance(wish.delay, str)]
        delay: float | None = max(fixed) if len(fixed) == len(wishes) else None
        if not fixed and domain in self._named and is_private(domain):
            delay = 0.0
        return Pace(
            limit=min(wish.concurrency for wish in wishes),
            delay=delay,
            probes=min(wish.probes for wish in wishes),
            give_up=min(wish.give_up for wish in wishes),
        )

    # -- heartbeat and patience --------------------------------------------------------------

    def _beat(self) -> None:
        """Once a second: sweep connections, renew claims, notice that nothing will happen."""
        self._heart = self._loop.call_later(HEARTBEAT_S, self._beat)
        now = self._clock()
        self._clients.sweep(now)
        if now - self._renewed_at > RENEW_S:
            self._renewed_at = now
            self._spawn(self.store.renew(self._worker, time.time()))
        if not self._is_busy():
            self._judge_patience(now)
        self._wake()

    def _is_busy(self) -> bool:
        return bool(self._scheduler.on_wire or self._claiming) or any(
            crawl.unfinished or crawl.seeding or crawl.is_ending for crawl in self._crawls.values()
        )

    def _judge_patience(self, now: float) -> None:
        starts = [self._next_start - now] if self._next_start is not None else []
        if self._rows_due is not None:
            starts.append(self._rows_due - time.time())
        if not starts:
            self._want_claims()
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
        for handle in (self._pump_at, self._rows_timer):
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


ENDINGS = {
    "finished": RunState.FINISHED,
    "limit": RunState.FINISHED,
    "max-time": RunState.FINISHED,
    "spider": RunState.FINISHED,
    "waiting": RunState.WAITING,
    "signal": RunState.INTERRUPTED,
    "error": RunState.INTERRUPTED,
}
"""Run state by reason of ending."""
