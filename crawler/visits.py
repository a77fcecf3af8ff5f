"""A request's way from its slot to its acknowledgement: fetch, decide, harvest, commit.

Owns: the order of these steps, robots.txt fetches, asides (`Spider.fetch`).
Does not own: which request is next (`scheduler`), when anything starts or ends (`engine`).

Invariants: the client's lease and the domain's slot are given back after the last body
byte and before anything is parsed, under success, error and cancellation alike; a row is
settled in the scheduler only after the store's acknowledgement; links reach the scheduler
only through it; a cancelled visit leaves its row queued.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from crawler.downloader import Order
from crawler.errors import FetchError, SpiderError
from crawler.harvest import Harvest, collect, describe
from crawler.items import table_of
from crawler.request import Request, decode, encode_body, via_of
from crawler.response import Response
from crawler.retry import Deliver, GiveUp, Requeue
from crawler.run import Task
from crawler.scheduler import Aside
from crawler.urls import canonicalise
from crawler.web.redirects import REDIRECTS, Hop, next_hop
from crawler.web.robots import is_verdict, verdict_for
from storage import Commit, ErrorRow, FetchRow, QueuedRequest, State

if TYPE_CHECKING:
    from collections.abc import Callable

    from crawler.downloader import Downloader, Outcome
    from crawler.pool import Lease
    from crawler.retry import Decision
    from crawler.run import Crawl
    from crawler.scheduler import Domain, Fetch, FetchAside, Robots, Scheduler
    from crawler.web.robots import RobotsCache
    from storage import Ack, Store

__all__ = ["AsideOrder", "Visits"]

ROBOTS_REDIRECTS = 5
"""RFC 9309 §2.3.1.2: at least five; more allow everything."""


class AsideOrder:
    """An aside's request, and the future its asker waits on."""

    __slots__ = ("answer", "request")

    def __init__(self, request: Request) -> None:
        self.request = request
        self.answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

    def __repr__(self) -> str:
        return f"<AsideOrder {self.request.url} {'done' if self.answer.done() else 'waiting'}>"


class Visits:
    """The visits of one session; `woke` is called when something may have become possible,
    `waits_until(at)` when a row was put back until a wall-clock instant."""

    def __init__(
        self,
        *,
        crawls: Mapping[int, Crawl],
        downloader: Downloader,
        scheduler: Scheduler,
        store: Store,
        robots: RobotsCache,
        clock: Callable[[], float],
        woke: Callable[[], None],
        waits_until: Callable[[float], None],
        unclaimed: Callable[[], None],
        settled: Callable[[Crawl], None],
    ) -> None:
        self._crawls = crawls
        self._downloader = downloader
        self._scheduler = scheduler
        self._store = store
        self._robots = robots
        self._clock = clock
        self._woke = woke
        self._waits_until = waits_until
        self._unclaimed = unclaimed
        self._settled = settled
        self._declared: set[type] = set()
        self.unfinished_bytes = 0
        self.made = 0

    def __repr__(self) -> str:
        return f"<Visits {self.made} made, {self.unfinished_bytes} bytes unfinished>"

    # -- rows -----------------------------------------------------------------------------

    async def visit(self, action: Fetch, lease: Lease) -> None:
        """Fetch a popped row and see it through to its acknowledgement."""
        domain, ready = action
        crawl = self._crawls[ready.row.run]
        self.made += 1
        try:
            task = await self._prepare(crawl, action)
            outcome = await self._fetch(crawl, lease, task.request, task.row.url)
            verdict = crawl.judge(task, outcome, time.time())
            self._learn(domain, outcome, verdict)
            crawl.delivered += isinstance(verdict, Deliver)
        except SpiderError as error:
            await self._commit_broken(crawl, action, describe(error))
            return
        finally:
            self._off_wire(domain, lease)
            crawl.in_flight -= 1
        if not crawl.is_full and crawl.stopping is None:
            self._scheduler.unhold(crawl.id, self._clock())
        outcome.pace = self._pace_row(domain)
        size = len(outcome.body)
        self.unfinished_bytes += size
        try:
            await self._conclude(crawl, task, outcome, verdict)
        finally:
            self.unfinished_bytes -= size
            self._woke()

    def _off_wire(self, domain: Domain, lease: Lease) -> None:
        lease.release()
        self._scheduler.release(domain, self._clock())
        self._woke()

    async def drop(self, domain: Domain, row: QueuedRequest, reason: str) -> None:
        """Settle a row that a rule forbids."""
        crawl = self._crawls[row.run]
        await self._commit(
            crawl, domain, row, crawl.dropped(row, domain.epoch, reason, time.time())
        )

    async def bury(self, domain: Domain) -> None:
        """Fail everything queued for a domain that has been given up."""
        pace = domain.pace
        message = f"{pace.last_code}: given up after {pace.failures} attempts to reach it"
        for aside in self._scheduler.clear(domain):
            _refuse(aside, FetchError(pace.last_code, message, url=aside.url))
        for run in list(domain.windows):
            crawl = self._crawls[run]
            failed = await self._store.fail_domain(
                run,
                domain.name,
                domain.epoch,
                reason="domain-unreachable",
                message=message,
                at=time.time(),
            )
            crawl.failed += failed
            crawl.queued -= failed
            self._settled(crawl)

    async def _prepare(self, crawl: Crawl, action: Fetch) -> Task:
        domain, ready = action
        row = ready.row
        request = decode(row.url, row.method, row.priority, row.payload, crawl.spider)
        for hook in crawl.hooks.before_request:
            request = await _settle_hook(hook(request)) or request
        return Task(
            row=row,
            domain=domain,
            epoch=domain.epoch,
            request=request,
            via=via_of(row.payload),
            wait_s=max(0.0, self._clock() - ready.at),
            started_at=time.time(),
        )

    async def _conclude(
        self, crawl: Crawl, task: Task, outcome: Outcome, verdict: Decision | Hop
    ) -> None:
        now = time.time()
        harvest: Harvest | None = None
        if isinstance(verdict, Hop):
            commit = crawl.redirected(task, outcome, verdict, now)
        elif isinstance(verdict, Requeue):
            await self._tell_retry(crawl, task, outcome, verdict, now)
            commit = crawl.requeued(task, outcome, verdict, now)
        elif isinstance(verdict, GiveUp):
            error = outcome.error or FetchError(verdict.code, verdict.message, url=task.row.url)
            for hook in crawl.hooks.on_error:
                await _settle_hook(hook(task.request, error))
            commit = crawl.given_up(task, outcome, verdict, now)
        else:
            harvest = await self._harvest(crawl, task, outcome)
            commit = crawl.harvested(task, outcome, harvest, time.time())
        await self._commit(crawl, task.domain, task.row, commit, harvest)

    async def _tell_retry(
        self, crawl: Crawl, task: Task, outcome: Outcome, verdict: Requeue, now: float
    ) -> None:
        if crawl.hooks.before_retry:
            code = f"http-{outcome.status}"
            error = outcome.error or FetchError(code, "answered so", url=task.row.url)
            for hook in crawl.hooks.before_retry:
                await _settle_hook(hook(task.request, error, max(0.0, verdict.at - now)))

    async def _harvest(self, crawl: Crawl, task: Task, outcome: Outcome) -> Harvest:
        page = response_of(task.request, task.row.url, outcome, task.row.depth)
        for hook in crawl.hooks.after_response:
            await _settle_hook(hook(page))
        callback = task.request.callback or crawl.spider.parse
        args = task.request.args
        harvest = await collect(
            lambda: callback(page, **args),
            page=page,
            on_item=crawl.hooks.on_item,
            default_table=crawl.default_table,
        )
        if harvest.errors and crawl.hooks.on_error:
            error = SpiderError(harvest.errors[0].message)
            for hook in crawl.hooks.on_error:
                await _settle_hook(hook(task.request, error))
        return harvest

    async def _commit_broken(self, crawl: Crawl, action: Fetch, error: ErrorRow) -> None:
        domain, ready = action
        commit = crawl.broken(ready.row, domain.epoch, error, time.time())
        await self._commit(crawl, domain, ready.row, commit)

    async def _commit(
        self,
        crawl: Crawl,
        domain: Domain,
        row: QueuedRequest,
        commit: Commit,
        harvest: Harvest | None = None,
    ) -> None:
        if harvest is not None:
            await self._declare(harvest)
        (ack,) = await self._store.commit([commit])
        self._scheduler.settle(domain, row)
        crawl.unfinished -= 1
        if ack.applied:
            self._dispatch(crawl, commit, ack)
        elif ack.error is not None:
            crawl.errors += 1
        if commit.state is State.QUEUED:
            self._put_back(commit)
        else:
            crawl.queued -= 1
        if harvest is not None:
            if ack.applied and crawl.sink is not None:
                for value in harvest.values:
                    await crawl.sink(value)
            if harvest.stops:
                crawl.stop("spider")
        self._settled(crawl)
        self._woke()

    async def _declare(self, harvest: Harvest) -> None:
        """Item tables are made when their first item comes."""
        for value in harvest.values:
            kind = type(value)
            if kind not in self._declared and not isinstance(value, Mapping):
                self._declared.add(kind)
                await self._store.declare(table_of(kind))

    def _dispatch(self, crawl: Crawl, commit: Commit, ack: Ack) -> None:
        """Links go to the scheduler through the acknowledgement that inserted them."""
        now = self._clock()
        for link, row_id in zip(commit.links, ack.inserted, strict=True):
            if row_id is None:
                continue
            crawl.queued += 1
            if link.not_before is not None:
                self._waits_until(link.not_before)
                continue
            row = QueuedRequest(
                id=row_id,
                run=commit.run,
                domain=link.domain,
                url=link.url,
                method=link.method,
                priority=link.priority,
                depth=link.depth,
                payload=link.payload,
            )
            if not self._scheduler.offer(row, now):
                self._unclaimed()

    def _put_back(self, commit: Commit) -> None:
        if commit.not_before is not None:
            self._waits_until(commit.not_before)
        elif not self._scheduler.more_in_store(commit.run, commit.domain, self._clock()):
            self._unclaimed()

    async def seed(self, crawl: Crawl, requests: list[Request], *, is_last: bool) -> None:
        """Commit a batch of start requests; `is_last` marks the run as seeded."""
        links = crawl.links(requests, parent=None, depth=0)
        commit = Commit(
            run=crawl.id,
            at=time.time(),
            links=links.rows,
            errors=links.errors,
            duplicates=links.duplicates,
            seeded=is_last,
            size=links.size,
        )
        (ack,) = await self._store.commit([commit])
        self._dispatch(crawl, commit, ack)
        self._woke()

    # -- the wire -------------------------------------------------------------------------

    async def _fetch(self, crawl: Crawl, lease: Lease, request: Request, url: str) -> Outcome:
        limits = crawl.settings
        body = None if request.is_plain else encode_body(request)
        order = Order(
            method=request.method,
            url=url,
            headers=crawl.headers_for(request, body),
            content=body.content if body else b"",
            connect_s=limits.timeout.connect,
            head_s=limits.timeout.head,
            read_s=limits.timeout.read,
            total_s=request.timeout or limits.timeout.total,
            wire_bytes=limits.body.wire,
            decoded_bytes=limits.body.decoded,
            proxy=request.proxy,
            connections=lease.client.transport.connections,
        )
        return await self._downloader.fetch(lease, order)

    def _learn(self, domain: Domain, outcome: Outcome, verdict: Decision | Hop) -> None:
        """The pace hears of the outcome before the slot is given back."""
        now = self._clock()
        if isinstance(verdict, Requeue) and verdict.domain_for is not None:
            code = outcome.error.code if outcome.error else f"http-{outcome.status}"
            domain.pace.refused(now, verdict.domain_for, code)
        elif outcome.error is None:
            domain.pace.answered_in(outcome.ttfb_s)
        elif outcome.error.fault == "local":
            domain.pace.next_at = max(domain.pace.next_at, now + 1.0)

    def _pace_row(self, domain: Domain) -> Any:
        return domain.pace.row(
            offset=time.time() - self._clock(),
            connections=self._downloader.connections(domain.name),
        )

    # -- robots.txt -----------------------------------------------------------------------

    async def robots(self, action: Robots, lease: Lease) -> None:
        """Fetch an origin's robots.txt under its domain's slot; its requests wait for it."""
        domain, origin, run = action
        crawl = self._crawls[run]
        request = Request(f"{origin}/robots.txt")
        started_at = time.time()
        try:
            outcome = await self._fetch(crawl, lease, request, request.url)
            self._hear(crawl, domain, outcome)
        finally:
            self._off_wire(domain, lease)
        try:
            final = await self._follow_robots(crawl, request.url, outcome)
            if final.error is None and final.status is not None and is_verdict(final.status):
                self._rule(crawl, domain, origin, final)
        finally:
            self._scheduler.open_gate(domain, self._clock())
            self._woke()
        row = robots_row(request.url, started_at, outcome)
        commit = Commit(
            run=crawl.id,
            domain=domain.name,
            epoch=domain.epoch,
            at=time.time(),
            fetches=(row,),
            pace=self._pace_row(domain),
        )
        await self._store.commit([commit])

    def _hear(self, crawl: Crawl, domain: Domain, outcome: Outcome) -> None:
        now, pace = self._clock(), domain.pace
        if outcome.error is not None and outcome.error.fault == "local":
            pace.next_at = max(pace.next_at, now + 1.0)
        elif outcome.error is not None or not is_verdict(outcome.status or 500):
            code = outcome.error.code if outcome.error else f"http-{outcome.status}"
            pace.refused(now, crawl.retry.rest_s(pace.failures + 1, now), code)
        else:
            pace.answered_in(outcome.ttfb_s)

    async def _follow_robots(self, crawl: Crawl, url: str, outcome: Outcome) -> Outcome:
        via: tuple[str, ...] = ()
        while outcome.error is None and outcome.status in REDIRECTS:
            try:
                hop = next_hop(
                    url=url,
                    method="GET",
                    status=outcome.status,
                    location=outcome.header("location"),
                    via=via,
                    limit=ROBOTS_REDIRECTS,
                )
            except FetchError:
                outcome.status = 404
                break
            url, via = hop.target.url, hop.via
            outcome = await self.ask(crawl, Request(url), obeys_robots=False)
        return outcome

    def _rule(self, crawl: Crawl, domain: Domain, origin: str, outcome: Outcome) -> None:
        rules = crawl.settings.robots
        verdict = verdict_for(outcome.status or 500, outcome.body, rules.bytes)
        lifetime = max(rules.cache, 1.0)
        self._robots.store(origin, verdict, now=self._clock(), lifetime=lifetime)
        domain.pace.floor_s = self._robots.crawl_delay(origin, crawl.agent)

    # -- asides ---------------------------------------------------------------------------

    async def ask(self, crawl: Crawl, request: Request, *, obeys_robots: bool = True) -> Outcome:
        """Have a request fetched outside the queue, under its domain's slot and pace."""
        order = AsideOrder(request)
        aside = Aside(canonicalise(request.url).url, crawl.id, order, obeys_robots)
        self._scheduler.ask(aside, self._clock())
        self._woke()
        return await order.answer

    async def fetch_for(self, crawl: Crawl, request: Request) -> Response:
        """`Spider.fetch`: the page, after retries and redirects. Raises FetchError."""
        policy = crawl.policy_for(request)
        via: tuple[str, ...] = ()
        attempt = 0
        while True:
            outcome = await self.ask(crawl, request)
            attempt += 1
            url = canonicalise(request.url).url
            verdict = crawl.decide(request, url, outcome, attempt=attempt, via=via, now=time.time())
            if isinstance(verdict, Hop):
                via, attempt = verdict.via, 0
                request = request.replace(url=verdict.target.url, method=verdict.method)
            elif isinstance(verdict, Requeue) and attempt < policy.attempts:
                await asyncio.sleep(max(0.0, verdict.at - time.time()))
            elif isinstance(verdict, GiveUp | Requeue):
                code = f"http-{outcome.status}"
                raise outcome.error or FetchError(code, "answered so", url=request.url)
            else:
                return response_of(request, url, outcome, 0)

    async def aside(self, action: FetchAside, lease: Lease) -> None:
        """Fetch an aside and hand its outcome to whoever asked."""
        domain, aside = action
        order: AsideOrder = aside.order
        crawl = self._crawls[aside.run]
        started_at = time.time()
        try:
            outcome = await self._fetch(crawl, lease, order.request, aside.url)
            self._hear(crawl, domain, outcome) if outcome.error else domain.pace.answered_in(
                outcome.ttfb_s
            )
        except asyncio.CancelledError:
            _refuse(aside, FetchError("cancelled", url=aside.url))
            raise
        finally:
            self._off_wire(domain, lease)
        if not order.answer.done():
            order.answer.set_result(outcome)
        row = robots_row(aside.url, started_at, outcome, decision="aside")
        commit = Commit(run=crawl.id, domain=domain.name, at=time.time(), fetches=(row,))
        await self._store.commit([commit])

    def refuse(self, aside: Aside) -> None:
        """robots.txt forbids an aside."""
        _refuse(aside, FetchError("robots", url=aside.url))


def _refuse(aside: Aside, error: FetchError) -> None:
    order: AsideOrder = aside.order
    if not order.answer.done():
        order.answer.set_exception(error)


async def _settle_hook(given: Any) -> Any:
    return await given if inspect.isawaitable(given) else given


def response_of(request: Request, url: str, outcome: Outcome, depth: int) -> Response:
    """The page a callback gets."""
    return Response(request, url, outcome.status or 0, outcome.headers, outcome.body, depth=depth)


def robots_row(
    url: str, started_at: float, outcome: Outcome, *, decision: str = "robots"
) -> FetchRow:
    """The statistics of a fetch that has no row in the queue."""
    return FetchRow(
        attempt=1,
        status=outcome.status,
        error=outcome.error.code if outcome.error else None,
        decision=decision,
        started_at=started_at,
        connect_s=outcome.connect_s,
        ttfb_s=outcome.ttfb_s,
        total_s=outcome.total_s,
        bytes_received=outcome.bytes_received,
        reused=outcome.reused,
        url=url,
    )
