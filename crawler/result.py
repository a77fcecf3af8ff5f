"""What a run gave: a frozen value.

Owns: the exit code of an ending. Does not own: how either is shown (`report`).
"""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from crawler.codes import advice
from crawler.wording import count, duration, plural, printable
from storage import RunState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from crawler.run import Crawl

__all__ = ["ENDINGS", "CrawlResult"]

ENDINGS = {
    "finished": RunState.FINISHED,
    "limit": RunState.FINISHED,
    "max-time": RunState.FINISHED,
    "spider": RunState.FINISHED,
    "waiting": RunState.WAITING,
    "signal": RunState.INTERRUPTED,
    "stopped": RunState.INTERRUPTED,
    "error": RunState.INTERRUPTED,
}
"""Run state by reason of ending."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class CrawlResult:
    """How a run ended. Counts are of this session; the database has the run's."""

    run: str
    """`<spider>-<n>`."""
    state: RunState
    ended_by: str
    """finished, limit, max-time, spider, waiting, signal, stopped (`crawler set stop`) or
    error."""
    delivered: int
    """Pages given to callbacks."""
    done_before: int
    """Pages of the run before this session."""
    failed: int
    """Requests given up, and pages whose callback failed."""
    errors: int
    """Of the failed ones, pages whose callback raised."""
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
    failures: Mapping[str, int] = field(default_factory=dict)
    """Error code to how many URLs or items it cost, the most frequent first."""
    kept: list[Any] = field(default_factory=list)
    """The items as the spider made them, where there is no database."""
    stored_in: Any = None
    """A `StoredRun`, which reads its rows; None: it has no database."""

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
            failures=dict((+crawl.problems).most_common()),
            kept=crawl.kept,
        )

    def __repr__(self) -> str:
        return f"<CrawlResult {self}>"

    def __str__(self) -> str:
        ended = f" ({self.ended_by})" if self.ended_by != self.state.name.lower() else ""
        facts = [plural(self.delivered, "page"), plural(self.stored, "item")]
        if self.failures:
            codes = [f"{code} {count(number)}" for code, number in self.failures.items()]
            facts.append(f"failures: {', '.join(codes)}")
        if self.queued:
            facts.append(f"{plural(self.queued, 'URL')} to go")
        head = f"{self.run} {self.state.name.lower()}{ended} after {duration(self.seconds)}"
        return printable(f"{head}: {' · '.join(facts)}")

    @property
    def items(self) -> list[Any]:
        """The items of the run: without a database as the spider made them, in order of
        their coming; else as dicts, table by table, read when they are first asked for."""
        return self.kept if self.stored_in is None else self.stored_in.items()

    def report(self) -> str:
        """The summary as `crawler report` shows it; without a database what is known of it."""
        if self.stored_in is not None:
            return str(self.stored_in.report())
        told = [f"  {code:<18} {advice(code)}".rstrip() for code in self.failures]
        broken = [f"  {printable(self.message)}"] if self.message else []
        return "\n".join([str(self), *told, *broken])

    @property
    def exit_code(self) -> int:
        """0 done; 1 callbacks failed and gave nothing; 3 no start URL; 4 resumable."""
        if self.ended_by in ("waiting", "stopped"):
            return 4
        if self.ended_by == "error" or self.message is not None:
            return 1
        if self.ended_by == "signal":
            return 128 + (self.signal or signal.SIGINT)
        if not self.delivered and not self.done_before and self.ended_by == "finished":
            return 3
        return 1 if self.errors and not self.stored else 0
