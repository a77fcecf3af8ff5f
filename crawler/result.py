"""What a run gave, and what it looks like while it runs: frozen values.

Owns: the exit code of an ending. Does not own: how either is shown (`report`).
"""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from storage import RunState

if TYPE_CHECKING:
    from crawler.pool import CacheStats
    from crawler.run import Crawl
    from crawler.scheduler import Scheduler

__all__ = ["ENDINGS", "CrawlResult", "Snapshot"]

ENDINGS = {
    "finished": RunState.FINISHED,
    "limit": RunState.FINISHED,
    "max-time": RunState.FINISHED,
    "spider": RunState.FINISHED,
    "waiting": RunState.WAITING,
    "signal": RunState.INTERRUPTED,
    "error": RunState.INTERRUPTED,
}
"""Run state by reason of ending."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A run at one instant."""

    run: str
    delivered: int
    """Pages given to callbacks since this session began."""
    queued: int
    failed: int
    items: int
    retries: int
    on_wire: int
    """Requests under way, of all runs of the session."""
    domains: int
    clients: int
    reuse: float
    """Share of requests on a connection that was open already, 0 to 1."""
    worst: str | None
    """`domain:code` of the domain that fails most, or what this machine lacks; None: all is
    well."""

    @classmethod
    def of(
        cls,
        crawl: Crawl,
        scheduler: Scheduler,
        clients: CacheStats,
        *,
        shortage: str | None = None,
    ) -> Snapshot:
        """A run of a session now."""
        counts = scheduler.stats()
        used = clients.new_connections + clients.reused_connections
        failing = (domain for domain in scheduler.domains() if domain.pace.failures)
        worst = max(failing, key=lambda domain: domain.pace.failures, default=None)
        return cls(
            run=crawl.row.name,
            delivered=crawl.delivered,
            queued=crawl.queued,
            failed=crawl.failed,
            items=crawl.items,
            retries=crawl.retries,
            on_wire=counts.on_wire,
            domains=counts.domains,
            clients=clients.clients,
            reuse=clients.reused_connections / used if used else 0.0,
            worst=shortage or (f"{worst.name}:{worst.pace.last_code}" if worst else None),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CrawlResult:
    """How a run ended. Counts are of this session; the database has the run's."""

    run: str
    """`<spider>-<n>`."""
    state: RunState
    ended_by: str
    """finished, limit, max-time, spider, waiting, signal or error."""
    delivered: int
    """Pages given to callbacks."""
    done_before: int
    """Pages of the run before this session."""
    failed: int
    """Requests given up."""
    errors: int
    """Pages whose callback raised."""
    stored: int
    """Items stored."""
    queued: int
    """Requests left for later."""
    seconds: float
    signal: int | None = None
    """The signal that stopped it, when it was not SIGINT; else None."""
    waits_s: float | None = None
    """Until something can start, when the state is WAITING; else None."""
    message: str | None = None
    """What broke `start()`; None: nothing did."""
    detail: str | None = None
    """The user's frames of its traceback."""
    items: list[Any] = field(default_factory=list, repr=False)
    """The items as the spider made them, where they were asked to be kept."""

    @classmethod
    def of(cls, crawl: Crawl, state: RunState, reason: str) -> CrawlResult:
        """The result of a run that has just ended."""
        broken = crawl.broken_by
        return cls(
            run=crawl.row.name,
            state=state,
            ended_by=reason,
            delivered=crawl.delivered,
            done_before=crawl.done_before,
            failed=crawl.failed,
            errors=crawl.errors,
            stored=crawl.items,
            queued=max(0, crawl.queued),
            seconds=time.time() - crawl.began_at,
            waits_s=crawl.waits_s,
            message=broken.message if broken else None,
            detail=broken.detail if broken else None,
            items=crawl.kept,
        )

    @property
    def exit_code(self) -> int:
        """0 done; 1 callbacks failed and gave nothing; 3 no start URL; 4 resumable."""
        if self.ended_by == "waiting":
            return 4
        if self.ended_by == "error" or self.message is not None:
            return 1
        if self.ended_by == "signal":
            return 128 + (self.signal or signal.SIGINT)
        if not self.delivered and not self.done_before and self.ended_by == "finished":
            return 3
        return 1 if self.errors and not self.stored else 0
