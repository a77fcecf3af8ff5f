"""One request on the wire, and what became of a page that somebody asked for: records.

Owns: their fields, and how they follow from an outcome. Does not own: making requests
(`single`), showing them (`crawler.cli`).

Invariants: frozen; a time is None where there was no such step, never 0.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crawler.retry import Deliver, GiveUp, Requeue
from crawler.urls import canonicalise
from crawler.web.redirects import Hop

if TYPE_CHECKING:
    from crawler.downloader import Outcome
    from crawler.errors import FetchError
    from crawler.request import Request
    from crawler.response import Response
    from crawler.retry import Decision

__all__ = ["Attempt", "Fetched", "attempt_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One request on the wire. Times in seconds; None: there was no such step."""

    url: str
    method: str
    status: int | None
    """None: no answer came."""
    error: str | None
    """Its code; None: an answer came."""
    message: str
    """What the error says; empty: there is none."""
    decision: str
    """deliver, redirect, retry, give-up; robots: it was a robots.txt."""
    pause_s: float | None
    """Until it is tried again; None: it is not."""
    started_at: float
    """Wall clock."""
    wait_s: float
    """For the domain's pace, and for the pause before a retry."""
    dns_s: float | None
    connect_s: float | None
    """Without name and TLS; None: the connection was open already."""
    tls_s: float | None
    ttfb_s: float | None
    """From sending to the head of the answer."""
    body_s: float | None
    total_s: float
    """All but the wait."""
    bytes_received: int
    """Of the body, as it came."""
    bytes_decoded: int
    peer: str | None
    http_version: str | None
    reused: bool | None
    nth: int | None
    """Which request on its connection, from 1."""
    replays: int
    client: int | None
    """Which client of its domain, from 1."""
    open_connections: int
    """Of that client."""
    proxy: str | None
    location: str | None
    """Where a redirect leads, as it was written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """What became of a request."""

    request: Request
    """As it was asked for."""
    page: Response | None
    """The last answer, whatever its status; None: none came."""
    error: FetchError | None
    """Why a crawl would not deliver it; None: it would."""
    attempts: tuple[Attempt, ...]
    """Requests for robots.txt included."""
    seconds: float

    @property
    def chain(self) -> tuple[Attempt, ...]:
        """The redirects, oldest first."""
        return tuple(each for each in self.attempts if each.decision == "redirect")

    @property
    def last(self) -> Attempt | None:
        """The last request of the page itself; None: none was sent."""
        own = [each for each in self.attempts if each.decision != "robots"]
        return own[-1] if own else None


def attempt_of(
    request: Request, outcome: Outcome, verdict: Decision | Hop | None, at: float, wait_s: float
) -> Attempt:
    """The record of a request. `verdict` None: it was a robots.txt; `at`: wall clock when it
    was sent; `wait_s`: how long that took to come."""
    info, ttfb_s = outcome.connection, outcome.ttfb_s
    opening = info.connect_s if info is not None else None
    dns_s, tls_s = (info.dns_s, info.tls_s) if info is not None else (None, None)
    has_body = ttfb_s is not None and outcome.status is not None
    return Attempt(
        url=canonicalise(request.url).url,
        method=request.method,
        status=outcome.status,
        error=outcome.error.code if outcome.error is not None else None,
        message=outcome.message,
        decision=_decision(verdict),
        pause_s=_pause(verdict),
        started_at=at,
        wait_s=wait_s,
        dns_s=dns_s,
        connect_s=None if opening is None else max(0.0, opening - (dns_s or 0) - (tls_s or 0)),
        tls_s=tls_s,
        ttfb_s=ttfb_s,
        body_s=max(0.0, outcome.total_s - (opening or 0) - (ttfb_s or 0)) if has_body else None,
        total_s=outcome.total_s,
        bytes_received=outcome.bytes_received,
        bytes_decoded=len(outcome.body),
        peer=info.peer if info is not None else None,
        http_version=info.http_version if info is not None else None,
        reused=info.reused if info is not None else None,
        nth=info.nth if info is not None else None,
        replays=info.replays if info is not None else 0,
        client=outcome.generation,
        open_connections=outcome.open_connections,
        proxy=outcome.proxy,
        location=outcome.header("location") if isinstance(verdict, Hop) else None,
    )


def _decision(verdict: Decision | Hop | None) -> str:
    match verdict:
        case None:
            return "robots"
        case Deliver():
            return "deliver"
        case GiveUp():
            return "give-up"
        case Requeue():
            return "retry"
        case _:
            return "redirect"


def _pause(verdict: Decision | Hop | None) -> float | None:
    if not isinstance(verdict, Requeue):
        return None
    return max(0.0, verdict.at - time.time(), verdict.domain_for or 0.0)
