"""Requests that have no row in the queue: robots.txt, and `Spider.fetch`.

Owns: their way from slot to answer, redirects of robots.txt (RFC 9309 §2.3.1.2), retries
of an aside. Does not own: when they start (`scheduler`), rows of the queue (`visits`).

Invariants: they take a slot of their domain and keep its pace like any other request;
whoever asked gets an answer or an error under success, refusal, burial and cancellation;
the gate of a domain is opened again whatever became of its robots.txt.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, NamedTuple

from crawler.downloader import Outcome
from crawler.errors import FetchError
from crawler.plugins import call
from crawler.request import Request
from crawler.retry import Deliver, GiveUp, Requeue
from crawler.scheduler import Aside
from crawler.urls import canonicalise
from crawler.web.redirects import REDIRECTS, Hop, next_hop
from crawler.web.robots import is_verdict, verdict_for
from crawler.wire import response_of, told
from storage import Commit

if TYPE_CHECKING:
    from collections.abc import Callable

    from crawler.response import Response
    from crawler.retry import Decision
    from crawler.run import Crawl
    from crawler.scheduler import Domain, FetchAside, Robots, Scheduler
    from crawler.web.robots import RobotsCache
    from crawler.wire import Slot, Wire
    from storage import Store

__all__ = ["Errand", "Errands"]

ROBOTS_REDIRECTS = 5
"""At least five; more allow everything."""


class Answer(NamedTuple):
    """What came of an errand."""

    outcome: Outcome
    verdict: Decision | Hop


class Errand:
    """What is asked for, and the future its asker waits on."""

    __slots__ = ("answer", "attempt", "crawl", "request", "via")

    def __init__(
        self, crawl: Crawl, request: Request, *, attempt: int = 1, via: tuple[str, ...] = ()
    ) -> None:
        self.crawl = crawl
        self.request = request
        self.attempt = attempt
        self.via = via
        self.answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def __repr__(self) -> str:
        return f"<Errand {self.request.url} {'done' if self.answer.done() else 'waiting'}>"

    def refuse(self, error: FetchError) -> None:
        """There will be no answer; an asker that has gone does not mind."""
        if not self.answer.done():
            self.answer.set_exception(error)


class Errands:
    """The errands of one session; `woke` is called when something may have become possible."""

    heard: Callable[[Request, Outcome, Decision | Hop | None, float], None] | None = None
    """Called with each request of an errand, what came of it, what follows from that (None:
    it is a robots.txt) and when it was sent (wall clock)."""

    def __init__(
        self,
        wire: Wire,
        scheduler: Scheduler,
        store: Store,
        robots: RobotsCache,
        *,
        woke: Callable[[], None],
    ) -> None:
        self._wire = wire
        self._scheduler = scheduler
        self._store = store
        self._robots = robots
        self._woke = woke

    def __repr__(self) -> str:
        return f"<Errands {self._robots!r}>"

    # -- asides ---------------------------------------------------------------------------

    async def fetch(self, crawl: Crawl, request: Request) -> Response:
        """`Spider.fetch`: the page, after retries and redirects. Raises FetchError."""
        for hook in crawl.hooks.before_request:
            request = await call(hook, request) or request
        attempts = crawl.policy_for(request).attempts
        errand = Errand(crawl, request)
        while True:
            crawl.asking += 1
            try:
                outcome, verdict = await self._run(errand)
            finally:
                crawl.asking -= 1
            asked = errand.request
            if isinstance(verdict, Deliver):
                return response_of(asked, canonicalise(asked.url).url, outcome, 0)
            if isinstance(verdict, Hop):
                there = crawl.follow(asked, verdict)
                errand = Errand(crawl, there, via=verdict.via)
            elif isinstance(verdict, Requeue) and errand.attempt < attempts:
                await asyncio.sleep(max(0.0, verdict.at - time.time()))
                errand = Errand(crawl, asked, attempt=errand.attempt + 1, via=errand.via)
            elif isinstance(verdict, GiveUp):
                raise FetchError(verdict.code, verdict.message, url=asked.url) from outcome.error
            else:
                raise FetchError(outcome.code, "given up", url=asked.url) from outcome.error

    async def _run(self, errand: Errand, *, obeys_robots: bool = True) -> Answer:
        crawl, target = errand.crawl, canonicalise(errand.request.url)
        aside = Aside(crawl.queue_of(target), target.url, crawl.id, errand, obeys_robots)
        self._scheduler.ask(aside, self._wire.clock())
        self._woke()
        return await errand.answer

    async def run(self, action: FetchAside, slot: Slot) -> None:
        """Fetch an aside and hand its outcome to whoever asked."""
        domain, aside = action
        errand: Errand = aside.order
        crawl = errand.crawl
        started_at = time.time()
        try:
            is_robots = not aside.obeys_robots
            outcome = await self._wire.send(
                crawl, slot, errand.request, aside.url, is_robots=is_robots
            )
            verdict = crawl.decide(
                errand.request,
                aside.url,
                outcome,
                attempt=errand.attempt,
                failures=domain.pace.failures,
                via=errand.via,
                now=time.time(),
            )
            if aside.obeys_robots:  # of a robots.txt only the last answer says anything
                self._wire.learn(domain, outcome, verdict)
            if self.heard is not None:
                of_page = verdict if aside.obeys_robots else None
                self.heard(errand.request, outcome, of_page, started_at)
        except BaseException:
            errand.refuse(FetchError("cancelled", url=aside.url))
            raise
        finally:
            slot.free()
        if not errand.answer.done():
            errand.answer.set_result(Answer(outcome, verdict))
        row = outcome.row("aside", started_at=started_at, url=aside.url)
        commit = Commit(run=crawl.id, domain=domain.name, at=time.time(), fetches=(row,))
        await self._store.commit([commit])

    # -- robots.txt -----------------------------------------------------------------------

    async def robots(self, crawl: Crawl, action: Robots, slot: Slot) -> None:
        """Fetch an origin's robots.txt under its domain's slot; its requests wait for it."""
        domain, origin, _ = action
        request = Request(f"{origin}/robots.txt")
        started_at = time.time()
        try:
            try:
                bytes_ = crawl.settings.robots.bytes
                outcome = await self._wire.send(
                    crawl, slot, request, request.url, cut_at=bytes_, is_robots=True
                )
                if self.heard is not None:
                    self.heard(request, outcome, None, started_at)
                if outcome.status not in REDIRECTS:
                    self._hear(crawl, domain, outcome)
            finally:
                slot.free()
            final = await self._followed(crawl, request.url, outcome)
            if outcome.status in REDIRECTS:
                self._hear(crawl, domain, final)
            if final.status is not None and is_verdict(final.status):
                self._rule(crawl, domain, origin, final)
        finally:
            self._scheduler.open_gate(domain, self._wire.clock())
            self._woke()
        commit = Commit(
            run=crawl.id,
            domain=domain.name,
            epoch=domain.epoch,
            at=time.time(),
            fetches=(outcome.row("robots", started_at=started_at, url=request.url),),
            pace=self._wire.pace_row(domain, outcome),
        )
        await self._store.commit([commit])

    def _hear(self, crawl: Crawl, domain: Domain, outcome: Outcome) -> None:
        """No verdict is no answer: the domain rests, its requests stay queued."""
        now, pace = self._wire.clock(), domain.pace
        if outcome.status is not None and is_verdict(outcome.status):
            pace.answered_in(outcome.ttfb_s)
            domain.meter.worked()
            return
        domain.meter.failed(outcome.code, told(outcome))
        if outcome.error is not None and outcome.error.fault == "local":
            pace.rest(now, outcome.error.pause_s)
        else:
            pace.refused(
                now, crawl.retry.rest_s(pace.failures + 1, now), outcome.code, outcome.message
            )

    async def _followed(self, crawl: Crawl, url: str, outcome: Outcome) -> Outcome:
        via: tuple[str, ...] = ()
        while outcome.status in REDIRECTS:
            try:
                hop = next_hop(
                    url=url,
                    method="GET",
                    status=outcome.status,
                    location=outcome.header("location"),
                    via=via,
                    limit=ROBOTS_REDIRECTS,
                )
                url, via = hop.target.url, hop.via
                outcome, _ = await self._run(Errand(crawl, Request(url)), obeys_robots=False)
            except FetchError:
                outcome = Outcome(status=404)
        return outcome

    def _rule(self, crawl: Crawl, domain: Domain, origin: str, outcome: Outcome) -> None:
        rules = crawl.settings.robots
        verdict = verdict_for(outcome.status or 404, outcome.body, rules.bytes)
        lifetime = max(rules.cache, 1.0)
        self._robots.store(origin, verdict, now=self._wire.clock(), lifetime=lifetime)
        domain.pace.floor_s = self._robots.crawl_delay(origin, crawl.agent)
