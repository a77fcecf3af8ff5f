"""One crawl of one spider: what is accepted, what an outcome means, what gets committed.

Owns: a run's rules (scope, limit, redirects, retries), its counters, the making of
Commits. Does not own: sockets, the store, tasks or the clock; the engine asks and acts.

Invariants: every popped row ends in exactly one Commit, or stays queued; a Commit carries
all that the page changed; `in_flight` counts rows popped and not yet decided, so that a
limit of N delivers N pages and never one more.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crawler.about import user_agent
from crawler.errors import FetchError
from crawler.pool import ACCEPT_ENCODING, Deadlines
from crawler.request import body_bytes, decode, encode
from crawler.retry import DELIVER, GiveUp, Requeue, Retry
from crawler.urls import canonicalise, fingerprint, site_of
from crawler.web.redirects import REDIRECTS, next_hop
from crawler.web.robots import agent_token
from storage import Commit, ErrorRow, NewRequest, State

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Iterable

    from crawler.downloader import Outcome
    from crawler.harvest import Harvest
    from crawler.plugins import Hooks
    from crawler.request import Body, Request
    from crawler.retry import Decision
    from crawler.scheduler import Domain
    from crawler.settings import Settings
    from crawler.spider import Spider
    from crawler.urls import Target
    from crawler.web.redirects import Hop
    from storage import QueuedRequest, RunRow

__all__ = ["Crawl", "Links", "Task"]

ROW_BYTES = 40
"""What a queued row takes beside its texts, about."""
ACCEPT = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@dataclass(frozen=True, slots=True)
class Links:
    """Requests as rows to be offered, and how many the store knew already."""

    rows: tuple[NewRequest, ...]
    errors: tuple[ErrorRow, ...]
    """Of requests whose URL cannot be fetched."""
    duplicates: int
    size: int


@dataclass(slots=True)
class Task:
    """A popped row on its way to a Commit."""

    row: QueuedRequest
    domain: Domain
    epoch: int
    request: Request
    via: tuple[str, ...]
    wait_s: float
    started_at: float
    """Wall clock."""


class Crawl:
    """A run inside a session."""

    sink: Callable[[Any], Awaitable[None]] | None = None
    """Gets each item after the commit that stored it."""
    told: Callable[[QueuedRequest, Commit], None] | None = None
    """Hears of each page that was stored or put back."""
    seed_task: asyncio.Task[None] | None = None
    seeding = True
    """`start()` has not ended, and was not cut off."""
    stopping: str | None = None
    """Why nothing more is started; None: the run goes on."""
    broken_by: ErrorRow | None = None
    """What `start()` raised."""
    waits_s: float | None = None
    """Seconds until something can start, when that passed the patience."""
    is_asking = is_unasked = False
    """The store is being asked whether the run is finished; something settled since."""
    is_in_grace = False
    """It was stopped: what is under way may end, for a while."""
    is_ending = False
    is_paused = False
    """Nothing of it starts until somebody says so."""
    found = queued_before = 0
    """Rows queued since the session began with it, and before."""
    failed_before = items_before = 0
    """What the run had of these before this session."""
    asking = 0
    """Pages whose callback waits in `Spider.fetch`."""
    queued = 0
    """Rows waiting or under way, as far as this session knows."""
    delivered = 0
    """Pages that were given to callbacks: what a limit counts."""
    pages = 0
    """Of these, those that are stored and whose callback did not fail; no redirects."""
    failed = 0
    """Requests given up, and pages whose callback failed."""
    errors = 0
    """Of the failed ones, those that failed in the spider's own code."""
    items = 0
    retries = 0
    in_flight = 0
    unfinished = 0

    def __init__(
        self,
        spider: Spider,
        settings: Settings,
        row: RunRow,
        *,
        hooks: Hooks,
        knows: Callable[[int, bytes], bool],
        forbids: Callable[[Crawl, Target], bool],
        done_before: int = 0,
        is_new_limit: bool = True,
    ) -> None:
        self.spider = spider
        self.settings = settings
        self.row = row
        self.hooks = hooks
        self._headers = {
            "user-agent": user_agent(settings.user_agent, settings.contact),
            "accept": ACCEPT,
            "accept-encoding": ACCEPT_ENCODING,
        }
        timeout = settings.timeout
        self._deadlines = Deadlines(
            connect=timeout.connect,
            tls=timeout.tls,
            head=timeout.head,
            read=timeout.read,
            write=timeout.write,
            total=timeout.total,
            rate=timeout.rate,
        )
        self.agent = agent_token(self._headers["user-agent"])
        self.retry = spider.retry or Retry()
        self.statuses = frozenset(spider.statuses)
        self.default_table = spider.table or "items"
        self._knows = knows
        self._forbids = forbids
        self._scope = None if spider.allowed_domains is None else set(spider.allowed_domains)
        self.done_before = done_before
        """Pages done before this session."""
        self._counted_before = 0 if is_new_limit else done_before
        self.kept: list[Any] = []
        """Items kept in memory, where somebody asked for them."""
        self.problems: Counter[str] = Counter()
        """Errors of this session by code."""
        self.timers: list[asyncio.TimerHandle] = []
        self.began_at = time.time()

    def __repr__(self) -> str:
        return (
            f"<Crawl {self.row.name} {self.delivered} delivered, {self.failed} failed, "
            f"{self.in_flight} in flight>"
        )

    def stop(self, reason: str) -> None:
        """Start nothing more; the first reason counts."""
        self.stopping = self.stopping or reason

    @property
    def id(self) -> int:
        """The store's number of this run."""
        return self.row.id

    @property
    def is_full(self) -> bool:
        """Another page could pass the limit."""
        limit = self.settings.limit
        return limit is not None and self._counted + self.in_flight >= limit

    @property
    def is_at_limit(self) -> bool:
        """The limit of pages has been delivered."""
        limit = self.settings.limit
        return limit is not None and self._counted >= limit

    @property
    def pages_left(self) -> int | None:
        """Pages to its limit; None: it has none."""
        limit = self.settings.limit
        return None if limit is None else max(0, limit - self._counted)

    @property
    def _counted(self) -> int:
        """Pages that count for the limit: all of the run, or those since it was resumed."""
        return self._counted_before + self.delivered

    def count(self, commit: Commit) -> None:
        """A page's commit is stored: count it as the database does."""
        self.items += len(commit.items)
        self.problems.update(error.code for error in commit.errors)
        if commit.state is State.DONE:
            self.pages += commit.reason != "redirected"
        elif commit.state is State.FAILED:
            self.failed += 1
            self.errors += all(fetch.decision != "give-up" for fetch in commit.fetches)

    # -- links ----------------------------------------------------------------------------

    def links(self, requests: Iterable[Request], *, parent: int | None, depth: int) -> Links:
        """Requests of a page (or of `start()`: parent None, depth 0) as rows to offer."""
        rows: list[NewRequest] = []
        errors: list[ErrorRow] = []
        duplicates = size = 0
        met: set[bytes] = set()
        for ordinal, request in enumerate(requests):
            try:
                target = canonicalise(request.url)
            except FetchError as error:
                errors.append(ErrorRow(code=error.code, message=str(error)))
                continue
            digest = _digest(request, target, parent, ordinal)
            if digest in met or self._knows(self.id, digest):
                duplicates += 1
                continue
            met.add(digest)
            row = NewRequest(
                fingerprint=digest,
                domain=self.queue_of(target),
                url=target.url,
                method=request.method,
                priority=request.priority,
                depth=depth,
                not_before=request.not_before,
                payload=encode(request, target.url),
                dropped=self._refusal(target, depth=depth),
            )
            size += len(row.url) + len(row.payload or "") + ROW_BYTES
            rows.append(row)
        return Links(tuple(rows), tuple(errors), duplicates, size)

    def queue_of(self, target: Target) -> str:
        """The domain whose queue, pool and pace a URL belongs to (`domain.group`)."""
        by_site = self.settings.domain.group == "site"
        return site_of(target.domain) if by_site else target.domain

    def _refusal(self, target: Target, *, depth: int) -> str | None:
        """Why a new URL is not accepted, as far as it is known now; None: it is."""
        if depth and not self.is_in_scope(target.domain):
            return "scope"
        return "robots" if self._forbids(self, target) else None

    def is_in_scope(self, domain: str) -> bool:
        """No scope, a listed domain, or a subdomain of one."""
        if self._scope is None or domain in self._scope:
            return True
        host = domain.partition(":")[0]
        return any(host == known or host.endswith(f".{known}") for known in self._scope)

    def admit(self, domain: str) -> None:
        """A start URL's redirects ended here: it belongs to the scope."""
        if self._scope is not None:
            self._scope.add(domain)

    # -- requests and outcomes ------------------------------------------------------------

    def headers_for(self, request: Request, body: Body | None) -> dict[str, str]:
        """What is sent: the defaults, the body's type, then what the request says."""
        headers = self._headers.copy()
        if body is not None and body.content_type is not None:
            headers["content-type"] = body.content_type
        for name, value in (request.headers or {}).items():
            headers[name.lower()] = value
        return headers

    def deadlines_for(self, request: Request) -> Deadlines:
        """How long each step of the request may take."""
        if request.timeout is None:
            return self._deadlines
        return self._deadlines._replace(total=request.timeout)

    def judge(self, task: Task, outcome: Outcome, now: float) -> Decision | Hop:
        """What follows from an outcome; a Hop where the page redirects."""
        return self.decide(
            task.request,
            task.row.url,
            outcome,
            attempt=task.row.attempts + 1,
            failures=task.domain.pace.failures,
            via=task.via,
            now=now,
        )

    def decide(
        self,
        request: Request,
        url: str,
        outcome: Outcome,
        *,
        attempt: int,
        failures: int,
        via: tuple[str, ...],
        now: float,
    ) -> Decision | Hop:
        """The same for a request that has no row."""
        status = outcome.status
        if status is not None and 200 <= status < 300:
            return DELIVER
        wanted = self.statuses.union(request.statuses)
        if status in REDIRECTS and status not in wanted:
            try:
                return next_hop(
                    url=url,
                    method=request.method,
                    status=status,
                    location=outcome.header("location"),
                    via=via,
                    limit=self.settings.redirects,
                )
            except FetchError as error:
                return GiveUp(code=error.code, message=str(error.args[0]))
        return self.policy_for(request).decide(
            method=request.method,
            attempt=attempt,
            failures=failures,
            now=now,
            status=status,
            retry_after=outcome.header("retry-after"),
            error=outcome.error,
            deliver=wanted,
        )

    def policy_for(self, request: Request) -> Retry:
        """The request's own retry policy, or the spider's."""
        return request.retry if isinstance(request.retry, Retry) else self.retry

    def requeued(self, task: Task, outcome: Outcome, decision: Requeue, now: float) -> Commit:
        """Back into the queue; the wait is the row's `not_before`."""
        self.retries += 1
        return self._commit(
            task,
            outcome,
            now,
            "retry",
            state=State.QUEUED,
            not_before=decision.at if decision.at > now else None,
            attempts=task.row.attempts + decision.spent,
        )

    def given_up(self, task: Task, outcome: Outcome, decision: GiveUp, now: float) -> Commit:
        """Failed, with the last error."""
        error = ErrorRow(code=decision.code, message=decision.message)
        return self._commit(
            task,
            outcome,
            now,
            "give-up",
            state=State.FAILED,
            reason=decision.code,
            attempts=task.row.attempts + 1,
            errors=(error,),
        )

    def follow(self, request: Request, hop: Hop) -> Request:
        """The request for a redirect's target; headers travel only within an origin."""
        request = request.replace(url=hop.target.url, method=hop.method)
        if not hop.keeps_body:
            request = request.replace(body=None, json=None, data=None, files=None)
        return request if hop.keeps_headers else request.replace(headers=None)

    def redirected(self, task: Task, outcome: Outcome, hop: Hop, now: float) -> Commit:
        """Settled as `redirected`; the target, without what hooks put on, is queued with it."""
        row, spider = task.row, self.spider
        request = self.follow(decode(row.url, row.method, row.priority, row.payload, spider), hop)
        if not task.row.depth:
            self.admit(hop.target.domain)
        link = NewRequest(
            fingerprint=_digest(request, hop.target, task.row.id, 0),
            domain=self.queue_of(hop.target),
            url=hop.target.url,
            method=hop.method,
            priority=task.row.priority,
            depth=task.row.depth,
            payload=encode(request, hop.target.url, via=hop.via),
            is_redirect=True,
            dropped=self._refusal(hop.target, depth=task.row.depth),
        )
        return self._commit(
            task,
            outcome,
            now,
            "redirect",
            reason="redirected",
            attempts=task.row.attempts + 1,
            links=(link,),
        )

    def harvested(self, task: Task, outcome: Outcome, harvest: Harvest, now: float) -> Commit:
        """A delivered page with everything its callback gave."""
        if harvest.errors and self.settings.on_error == "drop":
            harvest.discard()
        links = self.links(harvest.requests, parent=task.row.id, depth=task.row.depth + 1)
        harvest.errors.extend(links.errors)
        size = sum(len(v) for i in harvest.items for v in i.values if isinstance(v, str | bytes))
        return self._commit(
            task,
            outcome,
            now,
            "deliver",
            state=State.FAILED if harvest.errors else State.DONE,
            reason=harvest.errors[0].code if harvest.errors else None,
            attempts=task.row.attempts + 1,
            items=tuple(harvest.items),
            links=links.rows,
            errors=tuple(harvest.errors),
            duplicates=links.duplicates,
            size=links.size + size,
        )

    def dropped(self, row: QueuedRequest, epoch: int, reason: str, now: float) -> Commit:
        """A row that a rule forbids: settled without having been sent."""
        return Commit(
            run=self.id,
            domain=row.domain,
            epoch=epoch,
            request=row.id,
            state=State.DROPPED,
            reason=reason,
            attempts=row.attempts,
            at=now,
        )

    def broken(self, row: QueuedRequest, epoch: int, error: ErrorRow, now: float) -> Commit:
        """A row that cannot become a request, or whose hooks forbid it."""
        return Commit(
            run=self.id,
            domain=row.domain,
            epoch=epoch,
            request=row.id,
            state=State.FAILED,
            reason=error.code,
            attempts=row.attempts,
            at=now,
            errors=(error,),
        )

    def _commit(
        self, task: Task, outcome: Outcome, now: float, decision: str, **changes: Any
    ) -> Commit:
        return Commit(
            run=self.id,
            domain=task.domain.name,
            epoch=task.epoch,
            request=task.row.id,
            at=now,
            fetches=(
                outcome.row(
                    decision,
                    started_at=task.started_at,
                    attempt=task.row.attempts + 1,
                    wait_s=task.wait_s,
                ),
            ),
            pace=outcome.pace,
            **changes,
        )


def _digest(request: Request, target: Target, parent: int | None, ordinal: int) -> bytes:
    """The fingerprint of a request; plain GETs have theirs from the URL's cache.

    A revisit is unlike every other request, and the same one when its page is repeated.
    """
    key = request.key or ""
    if request.revisit and parent is not None:
        key = f"{key}\0{parent}.{ordinal}"
    if request.is_plain:
        return target.fingerprint
    return fingerprint(request.method, target.url, body_bytes(request), key)
