"""How fast one domain may be asked, learned from its answers. Pure: takes `now`.

Owns: a domain's next start, its concurrency, its run of failures.
Does not own: queues, slots, or what happens to a single request (`retry`).

Invariants: starts are at least `delay` apart; one request is on the wire until the domain
has answered once; concurrency never passes the limit; after `refused` nothing starts
before the rest it was given, and then one request at a time until an answer comes; while
it is paused nothing starts; other settings (`adapt`) hold from the next start on, and undo
no rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from storage import DomainRow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crawler.settings import DomainSettings

__all__ = ["Pace"]

AUTO_FACTOR = 2.0
AUTO_MIN_S = 0.25
AUTO_MAX_S = 2.0
SMOOTHING = 0.3
"""Weight of the newest time to first byte."""
NEWCOMER_PROBES = 3
"""Probes granted to a domain that has never answered: most of these names are dead links."""


class Pace:
    """One domain's pace.

    `delay=None` learns it (twice the time to first byte, within 0.25 to 2 s); a number
    fixes it, 0 is no pause. `probes` and `give_up` (seconds) bound how long an
    unreachable domain is tried.
    """

    __slots__ = (
        "answered",
        "concurrency",
        "failed_at",
        "failing_since",
        "failures",
        "fixed_delay",
        "floor_s",
        "give_up",
        "is_paused",
        "last_code",
        "last_message",
        "limit",
        "next_at",
        "probes",
        "rests_until",
        "started_at",
        "started_since",
        "ttfb_s",
    )

    def __init__(self, *, limit: int, delay: float | None, probes: int, give_up: float) -> None:
        self.limit = limit
        self.fixed_delay = delay
        self.probes = probes
        self.give_up = give_up
        self.next_at = 0.0
        self.started_at = float("-inf")
        self.rests_until = 0.0
        """The end of the last rest; nothing starts before it."""
        self.is_paused = False
        """Somebody wants nothing to start until he says otherwise."""
        self.concurrency = 1
        self.answered = False
        self.failures = 0
        self.failing_since = 0.0
        """Of the first failure in a row; means nothing while there is none."""
        self.failed_at = 0.0
        self.started_since = False
        """A request went out after the last failure that counted."""
        self.last_code = ""
        self.last_message = ""
        self.ttfb_s: float | None = None
        self.floor_s = 0.0

    @classmethod
    def strictest(cls, wishes: Sequence[DomainSettings], *, is_near: bool) -> Pace:
        """What keeps to all of these settings; `is_near`: no learned pause is needed."""
        fixed = [wish.delay for wish in wishes if not isinstance(wish.delay, str)]
        delay = max(fixed) if len(fixed) == len(wishes) else None
        if not fixed and is_near:
            delay = 0.0
        return cls(
            limit=min(wish.concurrency for wish in wishes),
            delay=delay,
            probes=min(wish.probes for wish in wishes),
            give_up=min(wish.give_up for wish in wishes),
        )

    def __repr__(self) -> str:
        return (
            f"<Pace {self.concurrency}/{self.limit} delay={self.delay:.3g}s "
            f"failures={self.failures} next_at={self.next_at:.3f}>"
        )

    @property
    def delay(self) -> float:
        """Seconds between two starts, robots.txt's Crawl-delay included."""
        if self.fixed_delay is not None:
            return max(self.fixed_delay, self.floor_s)
        learned = AUTO_FACTOR * self.ttfb_s if self.ttfb_s is not None else AUTO_MIN_S
        return max(self.floor_s, min(AUTO_MAX_S, max(AUTO_MIN_S, learned)))

    def adapt(self, other: Pace) -> None:
        """Keep to the settings of another pace from now on; what was learned stays."""
        self.limit, self.fixed_delay = other.limit, other.fixed_delay
        self.probes, self.give_up = other.probes, other.give_up
        self.is_paused = other.is_paused
        self.concurrency = min(self.concurrency, self.limit)
        self.next_at = max(self.rests_until, self.started_at + self.delay)

    def started(self, now: float) -> None:
        """A request goes out."""
        self.started_since = True
        self.started_at = now
        self.next_at = max(self.next_at, now + self.delay)

    def answered_in(self, ttfb_s: float | None) -> None:
        """The domain answered, whatever the status: it is healthy, one more at a time."""
        self.answered = True
        self.failures = 0
        self.last_code = ""
        if self.concurrency < self.limit:
            self.concurrency += 1
        if ttfb_s is not None:
            old = self.ttfb_s
            self.ttfb_s = ttfb_s if old is None else old + SMOOTHING * (ttfb_s - old)

    def rest(self, now: float, seconds: float) -> None:
        """Start nothing for a while, through no fault of the domain."""
        self.rests_until = max(self.rests_until, now + seconds)
        self.next_at = max(self.next_at, now + seconds)

    def refused(self, now: float, rest_s: float, code: str, message: str = "") -> None:
        """The domain could not be reached, or asked to be left alone for `rest_s` seconds.

        Failures of requests that were on the wire together count once: after the first of
        them nothing starts before the last has ended. An HTTP code is an answer, of a kind.
        """
        self.answered = self.answered or code.startswith("http-")
        if self.failures and not self.started_since:
            self.rest(now, rest_s)
            return
        if not self.failures:
            self.failing_since = now
        self.failures += 1
        self.failed_at = now
        self.started_since = False
        self.last_code = code
        self.last_message = message
        self.concurrency = 1
        if self.is_dead:
            self.next_at = self.rests_until = now
        else:
            self.rest(now, rest_s)

    @property
    def is_dead(self) -> bool:
        """Enough has been tried: its queue is to be failed.

        Judged by what was tried: a long rest that was asked for is followed by a probe.
        A domain that answers, if only to be left alone, is given up by time, not by count.
        """
        if not self.failures:
            return False
        allowed = self.probes if self.answered else min(self.probes, NEWCOMER_PROBES)
        is_refused = not self.last_code.startswith("http-") and self.failures >= allowed
        return is_refused or self.failed_at - self.failing_since >= self.give_up

    @property
    def state(self) -> str:
        """ok, throttled or unreachable."""
        if not self.failures:
            return "ok"
        return "throttled" if self.last_code.startswith("http-") else "unreachable"

    def row(
        self, *, offset: float, connections: int, peer_closes: int = 0, generation: int = 0
    ) -> DomainRow:
        """What is known, for the store; `offset` turns this clock into wall-clock time."""
        return DomainRow(
            state=self.state,
            next_at=self.next_at + offset,
            delay=self.delay,
            concurrency=self.concurrency,
            connections=connections,
            peer_closes=peer_closes,
            generation=generation,
        )
