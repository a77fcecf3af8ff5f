"""From a lease to an outcome, and what the domain's pace learns from it.

Owns: making a crawl's request into an order, giving slot and lease back.
Does not own: bytes and deadlines (`downloader`), what follows (`visits`, `errands`).

Invariants: `learn` comes before `off`, so that the next start already keeps to what was
learned; each lease and each slot is given back exactly once.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from crawler.downloader import Order
from crawler.request import encode_body
from crawler.response import Response
from crawler.retry import Requeue

if TYPE_CHECKING:
    from collections.abc import Callable

    from crawler.downloader import Downloader, Outcome
    from crawler.pool import Lease
    from crawler.request import Request
    from crawler.retry import Decision
    from crawler.run import Crawl
    from crawler.scheduler import Domain, Scheduler
    from crawler.web.redirects import Hop
    from storage import DomainRow

__all__ = ["Wire", "response_of"]

SHORT_REST_S = 1.0
"""After a shortage of this machine's own."""


class Wire:
    """Sends requests; `woke` is called when a slot has come free."""

    def __init__(
        self,
        downloader: Downloader,
        scheduler: Scheduler,
        *,
        clock: Callable[[], float],
        woke: Callable[[], None],
    ) -> None:
        self._downloader = downloader
        self._scheduler = scheduler
        self._woke = woke
        self.clock = clock

    def __repr__(self) -> str:
        return f"<Wire {self._downloader!r}>"

    async def send(
        self,
        crawl: Crawl,
        lease: Lease,
        request: Request,
        url: str,
        *,
        cut_at: int | None = None,
    ) -> Outcome:
        """Send a request of a crawl to `url` under a lease.

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
            connect_s=limits.timeout.connect,
            head_s=limits.timeout.head,
            read_s=limits.timeout.read,
            total_s=request.timeout or limits.timeout.total,
            wire_bytes=limits.body.wire,
            decoded_bytes=limits.body.decoded,
            proxy=request.proxy,
            cut_at=cut_at,
        )
        return await self._downloader.fetch(lease, order)

    def learn(self, domain: Domain, outcome: Outcome, verdict: Decision | Hop) -> None:
        """The pace hears of an outcome."""
        now = self.clock()
        if isinstance(verdict, Requeue) and verdict.domain_for is not None:
            domain.pace.refused(now, verdict.domain_for, outcome.code)
        elif outcome.error is None:
            domain.pace.answered_in(outcome.ttfb_s)
        elif outcome.error.fault == "local":
            domain.pace.rest(now, SHORT_REST_S)

    def off(self, domain: Domain, lease: Lease) -> None:
        """The last byte is in, or there will be none."""
        lease.release()
        self._scheduler.release(domain, self.clock())
        self._woke()

    def pace_row(self, domain: Domain) -> DomainRow:
        """What is known of a domain now, for the store."""
        return domain.pace.row(
            offset=time.time() - self.clock(),
            connections=self._downloader.connections(domain.name),
        )


def response_of(request: Request, url: str, outcome: Outcome, depth: int) -> Response:
    """The page a callback gets."""
    return Response(request, url, outcome.status or 0, outcome.headers, outcome.body, depth=depth)
