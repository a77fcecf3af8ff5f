"""From a place on the wire to an outcome, and what the domain's pace learns from it.

Owns: slots (a domain's place on the wire with a client's lease), making a crawl's request
into an order. Does not own: bytes and deadlines (`downloader`), what follows (`visits`,
`errands`).

Invariants: a slot is freed exactly once, whatever becomes of its task, even one that is
cancelled before its first step; `learn` comes before it is freed, so that the next start
already keeps to what was learned.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from crawler.access import AllRest, NextProxy, forwards, without_credentials
from crawler.downloader import Order, Outcome
from crawler.errors import FetchError
from crawler.request import encode_body
from crawler.response import Response
from crawler.retry import GiveUp, Requeue

if TYPE_CHECKING:
    from collections.abc import Callable

    from crawler.access import Access
    from crawler.downloader import Downloader
    from crawler.pool import Lease
    from crawler.request import Request
    from crawler.retry import Decision
    from crawler.run import Crawl
    from crawler.scheduler import Domain, Scheduler
    from crawler.settings import Settings
    from crawler.web.redirects import Hop
    from storage import DomainRow

log = logging.getLogger("crawler")

__all__ = ["Slot", "Wire", "response_of", "told"]

SILENT = frozenset(("reset", "protocol", "head-timeout"))
"""Ends of a request before any answer."""


class Slot:
    """A domain's place on the wire, and the lease of its client."""

    __slots__ = ("_free", "_is_taken", "domain", "lease")

    def __init__(self, domain: Domain, lease: Lease, free: Callable[[Slot], None]) -> None:
        self.domain = domain
        self.lease = lease
        self._free = free
        self._is_taken = True

    def __repr__(self) -> str:
        return f"<Slot {self.domain.name} {'taken' if self._is_taken else 'free'}>"

    def free(self) -> None:
        """Give both back. Idempotent: the task's end is the net below it."""
        if self._is_taken:
            self._is_taken = False
            self._free(self)


class Wire:
    """Sends requests; `woke` is called when a slot has come free.

    `keepalive`: seconds after which a client that is not used has no connection left.
    """

    def __init__(
        self,
        downloader: Downloader,
        scheduler: Scheduler,
        access: Access,
        *,
        keepalive: float,
        clock: Callable[[], float],
        woke: Callable[[], None],
    ) -> None:
        self._downloader = downloader
        self._scheduler = scheduler
        self._access = access
        self._keepalive = keepalive
        self._short_since: float | None = None
        self._shortage = ""
        self._woke = woke
        self.clock = clock

    def __repr__(self) -> str:
        return f"<Wire {self._downloader!r}>"

    def take(self, domain: Domain) -> Slot:
        """The slot that the scheduler has just granted, with the domain's client."""
        lease = self._downloader.lease(domain.name, domain.pace.limit)
        self._access.taken(domain.name)
        return Slot(domain, lease, self._off)

    async def send(
        self,
        crawl: Crawl,
        slot: Slot,
        request: Request,
        url: str,
        *,
        cut_at: int | None = None,
        is_robots: bool = False,
    ) -> Outcome:
        """Send a request of a crawl to `url` in a slot; `is_robots`: no page is asked for.

        `cut_at`: bytes of the body that are enough, the rest is not read; None: the
        settings bound the body, and what passes them is an error.
        """
        limits = crawl.settings
        body = None if request.is_plain else encode_body(request)
        order = Order(
            method=request.method,
            url=url,
            headers=crawl.headers_for(request, body),
            content=body.content if body else b"",
            deadlines=crawl.deadlines_for(request),
            wire_bytes=limits.body.wire,
            decoded_bytes=limits.body.decoded,
            cut_at=cut_at,
        )
        outcome = await self._sent(slot, order, request.proxy, limits)
        meter = slot.domain.meter
        meter.ended(self.clock(), outcome.status, outcome.ttfb_s, is_robots=is_robots)
        self._note_shortage(outcome)
        return outcome

    async def _sent(
        self, slot: Slot, order: Order, proxy: str | None, settings: Settings
    ) -> Outcome:
        if proxy is not None:
            return await self._through(slot, order, proxy)
        proxies = settings.for_domain(slot.domain.name).proxies
        if not proxies:
            return await self._downloader.fetch(slot.lease, order)
        return await self._through_one_of(slot, order, proxies)

    async def _through(self, slot: Slot, order: Order, proxy: str) -> Outcome:
        try:
            slot.lease = self._downloader.routed(slot.lease, proxy)
        except FetchError as error:
            return Outcome(error=error)
        outcome = await self._downloader.fetch(slot.lease, order)
        outcome.proxy = without_credentials(proxy)
        return outcome

    async def _through_one_of(self, slot: Slot, order: Order, proxies: tuple[str, ...]) -> Outcome:
        """One of a domain's proxies; where it fails and another is well, nothing is charged."""
        try:
            proxy = self._access.proxy(proxies, slot.lease.key.proxy)
        except AllRest as error:
            return Outcome(error=error)
        outcome = await self._through(slot, order, proxy)
        if outcome.code == "proxy" or _is_suspect(outcome, proxy, order):
            self._access.heard(proxies, proxy, has_failed=True)
        elif outcome.connection is not None:
            self._access.heard(proxies, proxy, has_failed=False)
        if outcome.code == "proxy" and self._access.has_ready(proxies):
            outcome.error = NextProxy(outcome.message)
        return outcome

    def learn(self, domain: Domain, outcome: Outcome, verdict: Decision | Hop) -> None:
        """The pace hears of an outcome."""
        now = self.clock()
        if isinstance(verdict, Requeue) and verdict.domain_for is not None:
            domain.pace.refused(now, verdict.domain_for, outcome.code, outcome.message)
        elif outcome.error is None:
            domain.pace.answered_in(outcome.ttfb_s)
        elif outcome.error.fault == "local":
            domain.pace.rest(now, outcome.error.pause_s)
        if isinstance(verdict, Requeue | GiveUp):
            domain.meter.failed(outcome.code, told(outcome))
        else:
            domain.meter.worked()

    def is_short_for(self, now: float) -> float:
        """Seconds since which nothing at all could be sent for want of this machine's own."""
        return 0.0 if self._short_since is None else now - self._short_since

    @property
    def shortage(self) -> str | None:
        """What this machine lacks, while nothing else comes of requests; None: nothing."""
        return None if self._short_since is None else f"local:{self._shortage}"

    def forget_shortage(self) -> None:
        """A run begins: what held another one up need not hold it up."""
        self._short_since = None

    def _note_shortage(self, outcome: Outcome) -> None:
        is_short = outcome.code == "local" and not isinstance(outcome.error, AllRest)
        if not is_short:
            self._short_since = None
        elif self._short_since is None:
            self._short_since, self._shortage = self.clock(), outcome.message
            log.warning("nothing can be sent: %s", outcome.message)

    def pace_row(self, domain: Domain, outcome: Outcome) -> DomainRow:
        """What is known of a domain now, for the store."""
        return domain.pace.row(
            offset=time.time() - self.clock(),
            connections=outcome.open_connections,
            peer_closes=outcome.peer_closes,
            generation=outcome.generation or 0,
        )

    def _off(self, slot: Slot) -> None:
        now = self.clock()
        slot.lease.release(is_needed=slot.domain.needs_client(now, within=self._keepalive))
        self._scheduler.release(slot.domain, now)
        self._woke()


def _is_suspect(outcome: Outcome, proxy: str, order: Order) -> bool:
    """A proxy that forwards and gives no answer may be at fault: another one is tried next."""
    return outcome.connection is None and outcome.code in SILENT and forwards(proxy, order.url)


def told(outcome: Outcome) -> str:
    """What was said with an outcome that is no success; empty: nothing."""
    if outcome.error is not None:
        return outcome.message
    wish = outcome.header("retry-after")
    return f"Retry-After: {wish}" if wish else ""


def response_of(request: Request, url: str, outcome: Outcome, depth: int) -> Response:
    """The page a callback gets."""
    return Response(request, url, outcome.status or 0, outcome.headers, outcome.body, depth=depth)
