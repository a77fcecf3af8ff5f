"""A row's way from its slot to its acknowledgement: fetch, decide, harvest, commit.

Owns: the order of these steps. Does not own: which row is next (`scheduler`), when
anything starts or ends (`engine`), requests without a row (`errands`).

Invariants: the client's lease and the domain's slot are given back after the last body
byte and before anything is parsed, under success, error and cancellation alike; a row is
settled in the scheduler only after the store's acknowledgement; links reach the scheduler
only through it; a cancelled visit leaves its row queued.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from msgspec import structs

from crawler.errors import FetchError, ItemError, SpiderError, StopCrawl
from crawler.harvest import Harvest, collect, describe, describe_bug
from crawler.items import table_of
from crawler.plugins import call
from crawler.request import Request, decode, via_of
from crawler.retry import Deliver, GiveUp, Requeue
from crawler.run import Task
from crawler.web.redirects import Hop
from crawler.wire import response_of
from crawler.wording import plural
from storage import Commit, ErrorRow, QueuedRequest, State, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from crawler.downloader import Outcome
    from crawler.errands import Errand
    from crawler.frontier import Frontier
    from crawler.plugins import Hook
    from crawler.retry import Decision
    from crawler.run import Crawl
    from crawler.scheduler import Domain, Drop, Fetch, Scheduler
    from crawler.wire import Slot, Wire
    from storage import Ack, Store

__all__ = ["Visits"]


class Visits:
    """The visits of one session; `woke` is called when something may have become possible,
    `settled(crawl)` when a visit of that run has ended; `stop(crawl, reason)` stops it."""

    def __init__(
        self,
        wire: Wire,
        scheduler: Scheduler,
        frontier: Frontier,
        store: Store,
        crawls: Mapping[int, Crawl],
        *,
        woke: Callable[[], None],
        settled: Callable[[Crawl], None],
        stop: Callable[[Crawl, str], None],
    ) -> None:
        self._wire = wire
        self._scheduler = scheduler
        self._frontier = frontier
        self._store = store
        self._crawls = crawls
        self._woke = woke
        self._settled = settled
        self._stop = stop
        self._declared: set[type] = set()
        self.unfinished_bytes = 0
        self.made = 0

    def __repr__(self) -> str:
        return f"<Visits {self.made} made, {self.unfinished_bytes} bytes unfinished>"

    async def visit(self, crawl: Crawl, action: Fetch, slot: Slot) -> None:
        """Fetch a popped row and see it through to its acknowledgement."""
        domain = action.domain
        self.made += 1
        task: Task | None = None
        broken: ErrorRow | None = None
        try:
            task = await self._prepare(crawl, action)
            outcome = await self._wire.send(crawl, slot, task.request, task.row.url)
            verdict = crawl.judge(task, outcome, time.time())
            self._wire.learn(domain, outcome, verdict)
            crawl.delivered += isinstance(verdict, Deliver)
        except StopCrawl:
            self._stop(crawl, "spider")
        except SpiderError as error:
            broken = describe(error)
        except Exception as error:
            broken = describe_bug(error)
        finally:
            crawl.in_flight -= 1
            slot.free()
        if not crawl.is_full and crawl.stopping is None:
            self._scheduler.unhold(crawl.id, self._wire.clock())
        if task is None or broken is not None:
            await self._leave(crawl, action, broken)
        else:
            outcome.pace = self._wire.pace_row(domain, outcome)
            await self._weigh(crawl, task, outcome, verdict)

    async def _leave(self, crawl: Crawl, action: Fetch, broken: ErrorRow | None) -> None:
        """Fail a row that was not fetched; broken None: it stays queued, the run stops."""
        if broken is not None:
            commit = crawl.broken(action.ready.row, action.domain.epoch, broken, time.time())
            await self._commit(crawl, action.domain, action.ready.row, commit)
            return
        crawl.unfinished -= 1
        self._settled(crawl)

    async def _weigh(
        self, crawl: Crawl, task: Task, outcome: Outcome, verdict: Decision | Hop
    ) -> None:
        """From here to the acknowledgement the body counts as unfinished."""
        size = len(outcome.body)
        self.unfinished_bytes += size
        try:
            await self._conclude(crawl, task, outcome, verdict)
        finally:
            self.unfinished_bytes -= size
            self._woke()

    async def drop(self, crawl: Crawl, action: Drop) -> None:
        """Settle a row that a rule forbids."""
        domain, ready, reason = action
        commit = crawl.dropped(ready.row, domain.epoch, reason, time.time())
        await self._commit(crawl, domain, ready.row, commit)

    async def bury(self, domain: Domain) -> None:
        """Fail everything queued for a domain that has been given up.

        The windows are emptied after the store's answer: by then all rows that it failed
        have come through the acknowledgements of earlier commits.
        """
        pace = domain.pace
        message = f"{pace.last_code}: given up after {plural(pace.failures, 'attempt')} to reach it"
        if pace.last_message:
            message = f"{message}: {pace.last_message}"
        crawls = [self._crawls[run] for run in domain.windows]
        for crawl in crawls:
            failed = await self._store.fail_domain(
                crawl.id,
                domain.name,
                domain.epoch,
                reason="domain-unreachable",
                message=message,
                at=time.time(),
            )
            crawl.failed += failed
            crawl.queued -= failed
            crawl.problems["domain-unreachable"] += failed
        for aside in self._scheduler.clear(domain):
            errand: Errand = aside.order
            errand.refuse(FetchError(pace.last_code, message, url=aside.url))
        self._scheduler.open_gate(domain, self._wire.clock())
        for crawl in crawls:
            self._settled(crawl)

    async def _prepare(self, crawl: Crawl, action: Fetch) -> Task:
        domain, ready = action
        row = ready.row
        before = decode(row.url, row.method, row.priority, row.payload, crawl.spider)
        request = before
        for hook in crawl.hooks.before_request:
            request = await call(hook, request) or request
        if request.url != before.url:
            raise SpiderError(f"before_request may not change the URL: {request.url}")
        return Task(
            row=row,
            domain=domain,
            epoch=domain.epoch,
            request=request,
            via=via_of(row.payload),
            wait_s=max(0.0, self._wire.clock() - ready.at),
            started_at=time.time(),
        )

    async def _conclude(
        self, crawl: Crawl, task: Task, outcome: Outcome, verdict: Decision | Hop
    ) -> None:
        harvest: Harvest | None = None
        try:
            if isinstance(verdict, Deliver):
                harvest = await self._harvest(crawl, task, outcome)
                commit = crawl.harvested(task, outcome, harvest, time.time())
            else:
                commit = await self._decided(crawl, task, outcome, verdict)
        except StorageError:
            raise
        except Exception as error:
            harvest = None
            commit = crawl.broken(task.row, task.epoch, describe_bug(error), time.time())
        await self._commit(crawl, task.domain, task.row, commit, harvest)

    async def _decided(
        self, crawl: Crawl, task: Task, outcome: Outcome, verdict: Requeue | GiveUp | Hop
    ) -> Commit:
        """What a hook raises is added to the page's errors; what was fetched is kept."""
        now, hooks = time.time(), crawl.hooks
        if isinstance(verdict, Hop):
            return crawl.redirected(task, outcome, verdict, now)
        if isinstance(verdict, Requeue):
            error = outcome.error or FetchError(outcome.code, "answered so", url=task.row.url)
            wait_s = max(0.0, verdict.at - now, verdict.domain_for or 0.0)
            raised = await self._tell(crawl, hooks.before_retry, task.request, error, wait_s)
            commit = crawl.requeued(task, outcome, verdict, now)
        else:
            error = FetchError(verdict.code, verdict.message, url=task.row.url)
            error.__cause__ = outcome.error
            raised = await self._tell(crawl, hooks.on_error, task.request, error)
            commit = crawl.given_up(task, outcome, verdict, now)
        return structs.replace(commit, errors=(*commit.errors, *raised)) if raised else commit

    async def _tell(self, crawl: Crawl, hooks: list[Hook], *given: Any) -> list[ErrorRow]:
        """Call hooks that only listen; what they raise, as rows."""
        errors = []
        for hook in hooks:
            try:
                await call(hook, *given)
            except StopCrawl:
                self._stop(crawl, "spider")
            except SpiderError as error:
                errors.append(describe(error))
        return errors

    async def _harvest(self, crawl: Crawl, task: Task, outcome: Outcome) -> Harvest:
        page = response_of(task.request, task.row.url, outcome, task.row.depth)
        callback = task.request.callback or crawl.spider.parse
        args = task.request.args
        refused = await self._tell(crawl, crawl.hooks.after_response, page)
        if refused:
            harvest = Harvest()
            harvest.errors = refused
        else:
            harvest = await collect(
                lambda: callback(page, **args),
                page=page,
                on_item=crawl.hooks.on_item,
                default_table=crawl.default_table,
            )
        await self._declare(harvest)
        if harvest.errors and crawl.hooks.on_error:
            error = SpiderError(harvest.errors[0].message)
            harvest.errors += await self._tell(crawl, crawl.hooks.on_error, task.request, error)
        return harvest

    async def _commit(
        self,
        crawl: Crawl,
        domain: Domain,
        row: QueuedRequest,
        commit: Commit,
        harvest: Harvest | None = None,
    ) -> None:
        (ack,) = await self._store.commit([commit])
        self._scheduler.settle(domain, row)
        if ack.applied:
            crawl.count(commit)
            if commit.state is State.FAILED and harvest is not None:
                domain.meter.failed(commit.errors[0].code, commit.errors[0].message)
            self._dispatch(crawl, commit, ack)
        elif ack.error is not None:
            crawl.failed += 1
            crawl.errors += 1
            crawl.problems["store"] += 1
            await self._keep_links(crawl, commit)
        if commit.state is State.QUEUED:
            self._put_back(commit)
        else:
            crawl.queued -= 1
        if crawl.told is not None:
            crawl.told(row, commit)
        if harvest is not None:
            await self._hand_on(crawl, harvest, is_stored=ack.applied)
        crawl.unfinished -= 1
        self._settled(crawl)
        self._woke()

    async def _keep_links(self, crawl: Crawl, refused: Commit) -> None:
        """The store refused a page's items and failed it: where it led is not lost."""
        commit = Commit(run=crawl.id, at=time.time(), links=refused.links)
        (ack,) = await self._store.commit([commit])
        if ack.applied:
            self._dispatch(crawl, commit, ack)

    async def _hand_on(self, crawl: Crawl, harvest: Harvest, *, is_stored: bool) -> None:
        if is_stored and crawl.sink is not None:
            for value in harvest.values:
                await crawl.sink(value)
        if harvest.stops:
            self._stop(crawl, "spider")

    async def _declare(self, harvest: Harvest) -> None:
        """Item tables are made when their first item comes.

        Items of a class that does not fit its table are an error of the page.
        """
        for kind in dict.fromkeys(type(value) for value in harvest.values):
            if kind in self._declared or issubclass(kind, Mapping):
                continue
            try:
                await self._store.declare(table_of(kind))
                self._declared.add(kind)
            except StorageError as error:
                hint = f" ({error.hint})" if error.hint else ""
                harvest.errors.append(ErrorRow(code=ItemError.code, message=f"{error}{hint}"))
                harvest.remove(kind)

    def _dispatch(self, crawl: Crawl, commit: Commit, ack: Ack) -> None:
        """Links go to the scheduler through the acknowledgement that inserted them."""
        now = self._wire.clock()
        for link, row_id in zip(commit.links, ack.inserted, strict=True):
            if row_id is None:
                continue
            crawl.queued += 1
            crawl.found += 1
            if link.not_before is not None:
                self._frontier.waits_until(link.not_before)
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
                self._frontier.want_claims()

    def _put_back(self, commit: Commit) -> None:
        if commit.not_before is not None:
            self._frontier.waits_until(commit.not_before)
        elif not self._scheduler.more_in_store(commit.run, commit.domain, self._wire.clock()):
            self._frontier.want_claims()

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
        crawl.problems.update(error.code for error in links.errors)
        self._dispatch(crawl, commit, ack)
        self._woke()
