"""One page at a time, through the engine of a crawl: what `fetch`, `shell` and `parse` use.

Owns: a session in memory that is kept open without a queue, the end of waits that nobody
would sit through, what is known of each request. Does not own: how a page is fetched
(`engine`), how any of it is shown (`crawler.cli`).

Invariants: robots.txt, pace, retries, redirects and deadlines are those of a crawl; an
answer of any status is an answer; one fetch at a time; nothing is written.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from crawler.about import user_agent
from crawler.engine import Session
from crawler.errors import FetchError, SpiderError
from crawler.harvest import collect
from crawler.layers import Layer, resolve
from crawler.plugins import call
from crawler.plugins import hooks as hooks_of
from crawler.request import Request, encode_body
from crawler.retry import Deliver, GiveUp, Requeue
from crawler.run import ACCEPT
from crawler.settings import Settings
from crawler.spider import Spider
from crawler.urls import canonicalise
from crawler.web.robots import is_verdict
from crawler.wire import response_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from crawler.downloader import Outcome
    from crawler.harvest import Harvest
    from crawler.response import Response
    from crawler.result import CrawlResult
    from crawler.retry import Decision
    from crawler.run import Crawl
    from crawler.web.redirects import Hop
    from storage import FetchRow

__all__ = ["Attempt", "Fetched", "Judged", "Single", "sent_as"]

MOST_WAIT_S: Final = 60.0
"""A pause that is asked for and longer than this is not waited for."""
ROBOTS_TRIES: Final = 3
"""Requests for a robots.txt that says neither yes nor no."""
DECISIONS: dict[type, str] = {Deliver: "deliver", GiveUp: "give-up", Requeue: "retry"}


class Attempt(NamedTuple):
    """One request on the wire, and what followed."""

    request: Request
    outcome: Outcome
    verdict: Decision | Hop | None
    """None: it was a robots.txt."""
    started_at: float
    """Wall clock."""
    wait_s: float
    """For the domain's pace, and for the pause before a retry."""

    @property
    def url(self) -> str:
        """Canonical."""
        return canonicalise(self.request.url).url

    @property
    def row(self) -> FetchRow:
        """As a crawl would store it, in the table `fetches`."""
        decision = "robots"
        if self.verdict is not None:
            decision = DECISIONS.get(type(self.verdict), "redirect")
        started_at, wait_s = self.started_at, self.wait_s
        return self.outcome.row(decision, started_at=started_at, wait_s=wait_s, url=self.url)

    @property
    def pause_s(self) -> float | None:
        """Until it is tried again, as seen when it ended; None: it is not."""
        if not isinstance(self.verdict, Requeue):
            return None
        ended_at = self.started_at + self.outcome.total_s
        return max(0.0, self.verdict.at - ended_at, self.verdict.domain_for or 0.0)


class Fetched(NamedTuple):
    """What became of a request."""

    request: Request
    """As it was asked for."""
    page: Response | None
    """The last answer, whatever its status; None: none came."""
    error: FetchError | None
    """Why a crawl would not deliver it; None: it would."""
    attempts: tuple[Attempt, ...]
    """Requests for robots.txt included."""

    @property
    def last(self) -> Attempt | None:
        """The last request of the page itself; None: none was sent."""
        own = [each for each in self.attempts if each.verdict is not None]
        return own[-1] if own else None


class Judged(NamedTuple):
    """A request that a callback gave, and what a crawl would do with it."""

    request: Request
    url: str
    """Canonical; as written where it has no canonical form."""
    refused: str | None
    """scope, robots, duplicate, or why it is no URL; None: it would be queued."""


class _Alone(Spider):
    """Asks for nothing by itself."""

    name = "fetch"

    def parse(self, page: Response) -> None:
        """Nothing is done with a page."""


class _Told(Session):
    """A session whose errands are heard, and that lets a person name hosts."""

    def listen(self, heard: Callable[..., None]) -> None:
        """Call `heard` with every request of an errand."""
        self._errands.heard = heard

    def name(self, domain: str) -> None:
        """The person named it: on this machine's own network it needs no pause."""
        self._named.add(domain)


class _Trace:
    """The requests of one fetch, and the end of its wait."""

    def __init__(self, told: Callable[[Attempt], None] | None) -> None:
        self.attempts: list[Attempt] = []
        self.page: Response | None = None
        self.stopped: asyncio.Future[FetchError] = asyncio.get_running_loop().create_future()
        self._told = told
        self._since = time.time()
        self._robots = 0

    def hear(
        self, request: Request, outcome: Outcome, verdict: Decision | Hop | None, at: float
    ) -> None:
        """A request has ended."""
        attempt = Attempt(request, outcome, verdict, at, max(0.0, at - self._since))
        self._since = time.time()
        self.attempts.append(attempt)
        if verdict is not None and outcome.status is not None:
            self.page = response_of(request, attempt.url, outcome, 0)
        if self._told is not None:
            self._told(attempt)
        error = self._too_long(attempt)
        if error is not None and not self.stopped.done():
            self.stopped.set_result(error)

    def _too_long(self, attempt: Attempt) -> FetchError | None:
        """Why nobody would wait for what follows; None: it is not long."""
        outcome, pause_s = attempt.outcome, attempt.pause_s
        if attempt.verdict is None:
            self._robots += outcome.status is None or not is_verdict(outcome.status)
            if self._robots < ROBOTS_TRIES:
                return None
            told = f"its robots.txt answered {outcome.status}: what it allows is unknown"
            return outcome.error or FetchError("robots", told, url=attempt.url)
        if pause_s is None or pause_s <= MOST_WAIT_S:
            return None
        told = f"it asks for a pause of {pause_s:.0f} s, which is not waited for"
        return FetchError(outcome.code, told, url=attempt.url)


class Single:
    """Fetches single requests. Use `async with Single(...)`.

    `spider` None: one without hooks. `told` is called with each Attempt when it has ended.
    """

    def __init__(
        self,
        spider: Spider | None = None,
        settings: Settings | None = None,
        *,
        told: Callable[[Attempt], None] | None = None,
    ) -> None:
        self.spider = spider or _Alone()
        given = Layer("settings", (settings or Settings()).given())
        self.settings = resolve([given, Layer("one page", {"max_time": None})])
        self._told = told
        self._turn = asyncio.Lock()
        self._trace: _Trace | None = None
        self._session: _Told | None = None
        self._is_spoilt = False
        """A domain was given up, or a fetch left behind: the session is not used again."""

    def __repr__(self) -> str:
        return f"<Single {self.spider.name} {self._session!r}>"

    async def __aenter__(self) -> Single:
        """Ready to fetch, the spider's `opened` hooks called. Raises SpiderError for what
        such a hook raised."""
        try:
            await self._begin()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def fetch(self, request: Request) -> Fetched:
        """Fetch a request, redirects and retries included; one that fails is told of in
        the answer. Raises SpiderError for what a hook raised."""
        async with self._turn:
            if self._is_spoilt:
                await self.aclose()
                await self._begin()
            trace = self._trace = _Trace(self._told)
            page: Response | None = None
            error: FetchError | None = None
            try:
                page = await self._sent(request, trace)
            except FetchError as raised:
                error = raised
                self._is_spoilt = self._is_spoilt or raised.fault in ("domain", "local")
            finally:
                self._trace = None
            return Fetched(request, page or trace.page, error, tuple(trace.attempts))

    async def _sent(self, request: Request, trace: _Trace) -> Response:
        assert self._session is not None
        self._session.name(canonicalise(request.url).domain)
        work = asyncio.ensure_future(self.spider.fetch(request))
        try:
            either: set[asyncio.Future[Any]] = {work, trace.stopped}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
            raise trace.stopped.result()
        finally:
            if not work.done():
                self._is_spoilt = True
                work.cancel()
                await asyncio.wait({work})

    async def harvest(
        self, page: Response, callback: Callable[..., Any], args: Mapping[str, Any]
    ) -> Harvest:
        """What a callback gives for a page, the spider's hooks called as in a crawl.

        Raises SpiderError for what an `after_response` hook raised.
        """
        hooks = self._crawl.hooks
        for hook in hooks.after_response:
            await call(hook, page)
        return await collect(
            lambda: callback(page, **args),
            page=page,
            on_item=hooks.on_item,
            default_table=self._crawl.default_table,
        )

    def judged(self, requests: Sequence[Request], page: Response) -> list[Judged]:
        """What a crawl would do with requests that the callback of a page gave."""
        seen = {canonicalise(page.url).fingerprint}
        return [self._judge(request, page, seen) for request in requests]

    def _judge(self, request: Request, page: Response, seen: set[bytes]) -> Judged:
        links = self._crawl.links([request], parent=1, depth=page.depth + 1)
        if not links.rows:
            return Judged(request, request.url, links.errors[0].message)
        (row,) = links.rows
        refused = row.dropped
        if refused is None and row.fingerprint in seen and not request.revisit:
            refused = "duplicate"
        seen.add(row.fingerprint)
        return Judged(request, row.url, refused)

    # -- the session ------------------------------------------------------------------------

    async def _begin(self) -> None:
        self._is_spoilt = False
        self._ready, self._over = asyncio.Event(), asyncio.Event()
        session = self._session = await _Told.open(None, self.settings)
        session.listen(self._hear)
        vars(self.spider)["start"] = self._hold
        self._crawl: Crawl = await session.begin(self.spider, settings=self.settings)
        self._ended = asyncio.ensure_future(session.ended(self._crawl))
        ready = asyncio.ensure_future(self._ready.wait())
        try:
            either: set[asyncio.Future[Any]] = {ready, self._ended}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
        if not self._ready.is_set():
            raise _broken(self._ended.result())

    async def _hold(self) -> AsyncIterator[Request]:
        """In place of the spider's `start`: nothing is queued, and the run does not end."""
        self._ready.set()
        await self._over.wait()
        nothing: tuple[Request, ...] = ()
        for request in nothing:
            yield request

    def _hear(
        self, request: Request, outcome: Outcome, verdict: Decision | Hop | None, at: float
    ) -> None:
        if self._trace is not None:
            self._trace.hear(request, outcome, verdict, at)

    async def aclose(self) -> None:
        """End the run, call the `closed` hooks, close all connections. Idempotent."""
        session, self._session = self._session, None
        if session is None:
            return
        try:
            self._over.set()
            if self._ready.is_set() and not self._is_spoilt:
                await self._ended
        finally:
            vars(self.spider).pop("start", None)
            await session.aclose()


def _broken(result: CrawlResult) -> SpiderError:
    """What an `opened` hook raised."""
    error = SpiderError(result.message or "the spider ended the crawl in `opened`")
    if result.detail:
        error.add_note(result.detail)
    return error


async def sent_as(
    request: Request, settings: Settings, spider: Spider | None = None
) -> tuple[Request, dict[str, str]]:
    """A request as its spider's hooks leave it, and the header fields that go with it by
    lower-case name, but for the codings that every request asks for; nothing is sent.

    Raises SpiderError for what a hook raised."""
    for hook in hooks_of(spider).before_request if spider is not None else ():
        request = await call(hook, request) or request
    headers = {
        "user-agent": user_agent(settings.user_agent, settings.contact),
        "accept": ACCEPT,
    }
    kind = encode_body(request).content_type
    headers |= {"content-type": kind} if kind is not None else {}
    given = {name.lower(): value for name, value in (request.headers or {}).items()}
    return request, headers | given
