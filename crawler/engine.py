"""A session: what one process owns for one database, and the loop that keeps it going.

Owns: store, client cache, robots cache, scheduler, the tasks of all visits; runs as they
begin; the heartbeat. Does not own: which request is next (`scheduler`), what an outcome
means (`run`), the steps of a visit (`visits`, `errands`), when the store is asked for
rows (`frontier`), how runs end (`endings`), figures (`gauges`), commands (`helm`).

Invariants: nothing waits but rows and timers: a task exists only for what is on the wire
or on its way to the store; `pump` is the one place that starts visits; what others see of
the session, and may do to it, passes through the heartbeat.
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Self

import msgspec

from crawler import turns
from crawler.access import Access, check, open_clients
from crawler.downloader import Downloader
from crawler.endings import Endings
from crawler.errands import Errands
from crawler.errors import FetchError, UsageError
from crawler.frontier import Frontier
from crawler.gauges import Gauges
from crawler.helm import Helm
from crawler.plugins import hooks as hooks_of
from crawler.pump import Pump
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
from crawler.seeding import start
from crawler.settings import Settings
from crawler.visits import Visits
from crawler.web.robots import RobotsCache
from crawler.wire import Wire
from crawler.wishes import Wishes
from storage import Beside, RunSpec, RunState, open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from crawler.live import Live
    from crawler.pool import CacheStats
    from crawler.result import CrawlResult
    from crawler.spider import Spider
    from crawler.urls import Target
    from crawler.wire import Slot
    from storage import RunRow, Store

__all__ = ["Session"]

HEARTBEAT_S = 1.0


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
        self._crawls: dict[int, Crawl] = {}
        self._named: set[str] = set()
        """Domains that the user named: on this machine's own network they need no pause."""
        self._wishes = Wishes(settings, self._crawls, self._named)
        self._access = Access(settings, self._wishes.of)
        self._downloader = Downloader(self._clients, key=self._access.key)
        self._scheduler = Scheduler(
            pace_for=self._wishes.pace_for,
            may_lease=self._downloader.may_lease,
            robots=self._robots,
            clients=settings.pool.clients,
        )
        self._tasks: dict[asyncio.Task[None], Crawl | None] = {}
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
        self._assemble(wake)
        self._is_stopped = False
        self._heart = loop.call_later(HEARTBEAT_S, self._beat)
        turns.hasten(self)

    def _assemble(self, wake: Callable[[], None]) -> None:
        """What stands on scheduler, frontier and wire."""
        store = self.store
        beside = Beside.open(store.path) if store.path is not None else None
        self._helm = Helm(
            beside,
            self._crawls,
            self._scheduler,
            self._wishes,
            self._wire,
            sockets=self._clients.budget.stats().derived,
            requests=self.settings.concurrency,
            stop=self.stop_run,
            woke=wake,
        )
        self._endings = Endings(
            store,
            self._scheduler,
            self._clients,
            self._crawls,
            self._tasks,
            spawn=self._spawn,
            looked_at=self._look_at,
            proceed=self._helm.proceed,
            left=self._runs_changed,
        )
        self._gauges = Gauges(
            store,
            self.settings,
            self._scheduler,
            self._clients,
            self._wire,
            self._crawls,
            spawn=self._spawn,
        )
        self._errands = Errands(self._wire, self._scheduler, store, self._robots, woke=wake)
        self._visits = Visits(
            self._wire,
            self._scheduler,
            self._frontier,
            store,
            self._crawls,
            woke=wake,
            settled=self._endings.settled,
            stop=self.stop_run,
        )

    @classmethod
    async def open(cls, db: str | Path | None = None, settings: Settings | None = None) -> Self:
        """Open a database (None: in memory). Raises StorageError when it cannot be had."""
        store = await open_store(db)
        try:
            return cls(store, settings or Settings())
        except BaseException:
            await store.aclose()
            raise

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

        `identity` is what a run is found again by; None: the spider's arguments. Raises
        UsageError when `resume` is running here.
        """
        settings = settings or self.settings
        check(settings, self.settings)
        row = await self._row_for(spider, settings, resume, code_hash, identity)
        counts, named = await self.store.count(row.id), await self.store.origins(row.id)
        if row.id in self._crawls:
            raise UsageError(f"{row.name} is running in this session", hint="wait for its end")
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
        crawl.queued = crawl.queued_before = counts.get("queued", 0)
        crawl.failed_before = counts.get("failed", 0)
        crawl.items_before = counts.get("items", 0)
        self._crawls[row.id] = crawl
        self._wire.forget_shortage()
        self._endings.expect(crawl)
        self._gauges.begin(crawl)
        spider._fetch = lambda request: self._errands.fetch(crawl, request)
        for name in named:
            self._named.add(name)
            crawl.admit(name)
        obeys = settings.robots.obey
        self._scheduler.open_run(row.id, obeys_robots=obeys, agent=crawl.agent, now=self._clock())
        self._runs_changed()
        if crawl.is_full or crawl.hooks.opened:  # what is queued waits for the hooks
            self._scheduler.hold(row.id)
        self._frontier.waits_until(time.time())
        self._frontier.want_claims()
        if self._is_stopped:
            crawl.seeding = False
            self.stop_run(crawl, "signal")
        else:
            crawl.seed_task = self._spawn(
                start(crawl, self._visits, self._named.add, self._opened, self.stop_run)
            )
            crawl.seed_task.add_done_callback(lambda _: self._seeded(crawl))
        return crawl

    async def ended(self, crawl: Crawl) -> CrawlResult:
        """The result of a run that `begin` gave; who waits may be cancelled, the run goes on."""
        return await self._endings.result(crawl)

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

    def _opened(self, crawl: Crawl) -> None:
        """The hooks have been called: what was queued before may start."""
        if crawl.hooks.opened and crawl.stopping is None and not crawl.is_full:
            self._scheduler.unhold(crawl.id, self._clock())
            self._pump.wake()

    def _seeded(self, crawl: Crawl) -> None:
        """`start()` is over, even where it was stopped before its first step."""
        crawl.seeding = False
        self._endings.settled(crawl)

    def stop(self, reason: str = "signal") -> None:
        """Stop all runs in good order: what is under way may end within 10 s.

        It is the session's end: a run that begins after it stops at once.
        """
        self._is_stopped = True
        for crawl in list(self._crawls.values()):
            self.stop_run(crawl, reason)

    def stop_run(self, crawl: Crawl, reason: str) -> None:
        """Start nothing more of one run; what is under way may end within 10 s."""
        self._endings.stop(crawl, reason)

    def _runs_changed(self) -> None:
        """A run has begun or ended: what the open ones ask for holds for all domains."""
        self._access.forget_keys()
        self._helm.changed()

    # -- figures ----------------------------------------------------------------------------

    def stats(self) -> CacheStats:
        """The client cache's counters."""
        return self._clients.stats()

    def live(self) -> Live:
        """Everything that views show, at this instant; quick: it waits for nothing."""
        return self._gauges.live(self._helm.answers)

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
        self._endings.broke(error)
        for task in self._tasks:
            task.cancel()

    def _forbids(self, crawl: Crawl, target: Target) -> bool:
        """robots.txt is known and says no."""
        if not crawl.settings.robots.obey:
            return False
        allowed = self._robots.allowed(target.origin, target.url, crawl.agent, self._clock())
        return allowed is False

    # -- heartbeat and patience --------------------------------------------------------------

    def _beat(self) -> None:
        """Once a second: renew claims, obey, look at everything, notice that nothing will
        happen."""
        self._heart = self._loop.call_later(HEARTBEAT_S, self._beat)
        now = self._clock()
        self._frontier.beat(now)
        self._helm.poll()
        self._gauges.beat(now)
        is_paused = self._wishes.has_paused
        self._endings.judge(now, self._pump, self._frontier, self._wire, is_paused=is_paused)
        self._pump.wake()
        self._helm.show(self.live)

    async def aclose(self) -> None:
        """Stop what still runs, keep what was done, close everything, however often the task
        that waits is cancelled meanwhile. Idempotent."""
        cancelled: asyncio.CancelledError | None = None
        closing = self._loop.create_task(self._close())
        while not closing.done() or closing.cancelled():
            if closing.cancelled():  # with all tasks of its loop: what it had begun goes on
                closing = self._loop.create_task(self._close())
            try:
                await asyncio.shield(closing)
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            closing.exception()  # who has gone does not hear of it
            raise cancelled

    async def _close(self) -> None:
        self._heart.cancel()
        self._frontier.close()
        self._pump.close()
        for task in self._tasks:
            task.cancel()
        while self._tasks:
            await asyncio.wait(self._tasks)
        async with AsyncExitStack() as last:  # each, whatever becomes of the one before it
            last.callback(turns.restore, self)
            last.push_async_callback(self.store.aclose)
            last.callback(self._helm.close)
            last.push_async_callback(self._clients.aclose)
            await self._endings.aclose()
