"""One page at a time, through the engine of a crawl: what `fetch`, `shell` and `parse` use.

Owns: a session in memory that is kept open without a queue, the end of waits that nobody
would sit through. Does not own: how a page is fetched (`engine`), what is known of each
request (`attempts`), how any of it is shown (`crawler.cli`).

Invariants: robots.txt, pace, retries, redirects and deadlines are those of a crawl; an
answer of any status is an answer; one fetch at a time; nothing is written.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from crawler.about import user_agent
from crawler.attempts import Attempt, Fetched, attempt_of
from crawler.engine import Session
from crawler.errors import FetchError, SpiderError
from crawler.harvest import collect
from crawler.plugins import call
from crawler.plugins import hooks as hooks_of
from crawler.request import Request, encode_body
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
    from crawler.retry import Decision
    from crawler.run import Crawl
    from crawler.web.redirects import Hop

__all__ = ["Judged", "Single", "sent_as"]

MOST_WAIT_S: Final = 60.0
"""A pause that is asked for and longer than this is not waited for."""
ROBOTS_TRIES: Final = 3
"""Requests for a robots.txt that says neither yes nor no."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
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
        attempt = attempt_of(request, outcome, verdict, at, max(0.0, at - self._since))
        self._since = time.time()
        self.attempts.append(attempt)
        if verdict is not None and outcome.status is not None:
            url = canonicalise(request.url).url
            self.page = response_of(request, url, outcome, 0)
        if self._told is not None:
            self._told(attempt)
        error = self._too_long(attempt, outcome)
        if error is not None and not self.stopped.done():
            self.stopped.set_result(error)

    def _too_long(self, attempt: Attempt, outcome: Outcome) -> FetchError | None:
        """Why nobody would wait for what follows; None: it is not long."""
        if attempt.decision == "robots":
            status = outcome.status
            self._robots += status is None or not is_verdict(status)
            if self._robots < ROBOTS_TRIES:
                return None
            if outcome.error is not None:
                return outcome.error
            told = f"robots.txt answered {status} {self._robots} times: what it allows is unknown"
            return FetchError("robots", told, url=attempt.url)
        if attempt.pause_s is None or attempt.pause_s <= MOST_WAIT_S:
            return None
        told = f"it asks for a pause of {attempt.pause_s:.0f} s, which is not waited for"
        return FetchError(outcome.code, told, url=attempt.url)


class Single:
    """Fetches single requests. Use `await Single.open(...)` and `aclose`.

    `told` is called with each Attempt when it has ended.
    """

    def __init__(
        self, spider: Spider, settings: Settings, told: Callable[[Attempt], None] | None
    ) -> None:
        self.spider = spider
        self.settings = settings
        self._told = told
        self._turn = asyncio.Lock()
        self._trace: _Trace | None = None
        self._session: _Told | None = None
        self._crawl: Crawl | None = None
        self._ready = asyncio.Event()
        self._over = asyncio.Event()
        self._fetched = 0
        self._is_spoilt = False
        """A domain was given up, or a fetch left behind: the session is not used again."""

    def __repr__(self) -> str:
        return f"<Single {self.spider.name} {self._fetched} fetched, {self._session!r}>"

    @classmethod
    async def open(
        cls,
        spider: Spider | None = None,
        settings: Settings | None = None,
        *,
        told: Callable[[Attempt], None] | None = None,
    ) -> Single:
        """Ready to fetch, the spider's `opened` hooks called. None: a spider without any.

        Raises SpiderError for what such a hook raised.
        """
        single = cls(spider or _Alone(), settings or Settings(), told)
        try:
            await single._begin()
        except BaseException:
            await single.aclose()
            raise
        return single

    async def __aenter__(self) -> Single:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    @property
    def crawl(self) -> Crawl:
        """The run that the requests belong to."""
        assert self._crawl is not None
        return self._crawl

    async def fetch(self, request: Request) -> Fetched:
        """Fetch a request, redirects and retries included; one that fails is told of in
        the answer. Raises SpiderError for what a hook raised."""
        async with self._turn:
            if self._is_spoilt:
                await self.aclose()
                await self._begin()
            begun = time.monotonic()
            trace = self._trace = _Trace(self._told)
            error: FetchError | None = None
            page = None
            try:
                page = await self._sent(request, trace)
            except FetchError as raised:
                error = raised
                self._is_spoilt = self._is_spoilt or raised.fault in ("domain", "local")
            finally:
                self._trace = None
            self._fetched += 1
            return Fetched(
                request=request,
                page=page or trace.page,
                error=error,
                attempts=tuple(trace.attempts),
                seconds=time.monotonic() - begun,
            )

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
        hooks = self.crawl.hooks
        for hook in hooks.after_response:
            await call(hook, page)
        return await collect(
            lambda: callback(page, **args),
            page=page,
            on_item=hooks.on_item,
            default_table=self.crawl.default_table,
        )

    def judged(self, requests: Sequence[Request], page: Response) -> list[Judged]:
        """What a crawl would do with requests that the callback of a page gave."""
        seen = {canonicalise(page.url).fingerprint}
        return [self._judge(request, page, seen) for request in requests]

    def _judge(self, request: Request, page: Response, seen: set[bytes]) -> Judged:
        links = self.crawl.links([request], parent=1, depth=page.depth + 1)
        if not links.rows:
            return Judged(request=request, url=request.url, refused=links.errors[0].message)
        (row,) = links.rows
        refused = row.dropped
        if refused is None and row.fingerprint in seen and not request.revisit:
            refused = "duplicate"
        seen.add(row.fingerprint)
        return Judged(request=request, url=row.url, refused=refused)

    # -- the session ------------------------------------------------------------------------

    async def _begin(self) -> None:
        self._ready, self._over = asyncio.Event(), asyncio.Event()
        self._is_spoilt = False
        self._session = await _open(self.settings)
        self._session.listen(self._hear)
        vars(self.spider)["start"] = self._hold
        self._crawl = await self._session.begin(self.spider, settings=self.settings)
        ready = asyncio.ensure_future(self._ready.wait())
        ended = asyncio.ensure_future(self._session.ended(self._crawl))
        try:
            either: set[asyncio.Future[Any]] = {ready, ended}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not ready.done():
                broken = ended.result()
                error = SpiderError(broken.message or "the spider ended the crawl in `opened`")
                if broken.detail:
                    error.add_note(broken.detail)
                raise error
        finally:
            ready.cancel()
            ended.cancel()

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
            if self._crawl is not None and not self._is_spoilt and self._ready.is_set():
                await session.ended(self._crawl)
        finally:
            vars(self.spider).pop("start", None)
            await session.aclose()


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


async def _open(settings: Settings) -> _Told:
    session = await _Told.open(None, settings)
    assert isinstance(session, _Told)
    return session
