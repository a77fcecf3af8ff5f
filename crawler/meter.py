"""What a domain's answers were like: counts, latencies, the last problem. Pure: takes `now`.

Owns: the counters that are kept while requests end, and what is read from them. Does not
own: when a request ends (`wire`), what a view shows (`gauges`), the pace (`pace`).

Invariants: an ended request costs a constant, and a meter a constant amount of memory,
whatever came; a percentile lies within an eighth of the bucket's beginning of an answer
that was really measured.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from itertools import accumulate
from math import ceil, frexp, ldexp

__all__ = ["FAILING", "LATELY", "WELL_AGAIN", "Meter", "bounds_of", "bucket_of"]

BUCKETS = 96
"""Four an octave, from 61 µs to 1,024 s; what lies outside counts in the first or last."""
LOWEST_S = 2.0**-14
_SHIFT = 48
LATELY = 1_024
"""Answers by which a percentile is told: beyond, each older half counts half."""
CELL_S = 10.0
"""Seconds over which the rate is told."""
WELL_AGAIN = 100
"""Good answers in a row after which a problem is over."""
FAILING = 3
"""Requests in a row without a usable answer after which a domain is called failing."""
MINUTE_S = 60.0
MOST_CODES = 16
MOST_TEXT = 200


def bucket_of(seconds: float) -> int:
    """The number of the bucket that a latency counts in."""
    part, octave = frexp(seconds if seconds > LOWEST_S else LOWEST_S)
    at = 4 * octave + int(8 * part) + _SHIFT
    return at if at < BUCKETS else BUCKETS - 1


def bounds_of(bucket: int) -> tuple[float, float]:
    """Where a bucket begins and ends, in seconds."""
    octave, part = divmod(bucket, 4)
    return ldexp((part + 4) / 8, octave - 13), ldexp((part + 5) / 8, octave - 13)


class Meter:
    """One domain's counters since the session met it."""

    __slots__ = (
        "_before",
        "_cell",
        "_codes",
        "_first_at",
        "_good",
        "_minute",
        "_now",
        "_pages",
        "_pages_before",
        "_timed",
        "_times",
        "_unanswered",
        "errors",
        "problem",
        "problem_text",
        "requests",
        "statuses",
    )

    def __init__(self) -> None:
        self.requests = 0
        """Requests that ended, robots.txt and those of `Spider.fetch` included."""
        self.statuses = [0] * 6
        """Answers by the hundreds of their status; what is above 599 counts as 5xx. Those of
        robots.txt are not among them."""
        self.errors = 0
        """Requests that ended without an answer."""
        self.problem = ""
        """The code that came last and was no success; empty: none, or all is well again."""
        self.problem_text = ""
        self._codes: dict[str, int] = {}
        self._good = 0
        self._unanswered = 0
        self._minute = self._pages = self._pages_before = 0
        self._times = array("I")
        """Answers by bucket; empty until the first one came."""
        self._timed = 0
        self._first_at: float | None = None
        self._cell = 0
        self._now = 0
        self._before = 0

    def __repr__(self) -> str:
        return f"<Meter {self.requests} requests, {self.errors} errors {self.problem}>"

    def ended(
        self, now: float, status: int | None, ttfb_s: float | None, *, is_robots: bool = False
    ) -> None:
        """A request has ended: with a status, or (None) without an answer."""
        self.requests += 1
        if status is None:
            self.errors += 1
            self._unanswered += 1
            return
        self._unanswered = self._unanswered + 1 if status >= 500 else 0
        if not is_robots:
            self.statuses[status // 100 if status < 600 else 5] += 1
            if status < 400:
                self._turn_minute(now)
                self._pages += 1
        cell = int(now / CELL_S)
        if cell != self._cell:
            self._turn(cell, now)
        self._now += 1
        if ttfb_s is not None:
            if self._timed >= LATELY or not self._times:
                self._make_room()
            self._timed += 1
            self._times[bucket_of(ttfb_s)] += 1

    def worked(self) -> None:
        """An answer was what the spider wanted, or led on."""
        if self.problem:
            self._good += 1
            if self._good >= WELL_AGAIN:
                self.problem = self.problem_text = ""
                self._codes.clear()

    def failed(self, code: str, text: str) -> None:
        """An outcome was none that the spider wanted."""
        if len(self._codes) >= MOST_CODES and code not in self._codes:
            del self._codes[next(iter(self._codes))]
        self._codes[code] = self._codes.get(code, 0) + 1
        self.problem = code
        self.problem_text = text[:MOST_TEXT]
        self._good = 0

    @property
    def problem_count(self) -> int:
        """How often the last problem's code came since all was well."""
        return self._codes.get(self.problem, 0)

    @property
    def is_failing(self) -> bool:
        """What was asked last, several times in a row, brought no answer but 5xx."""
        return self._unanswered >= FAILING

    def lasting_rate(self, now: float) -> float:
        """Pages and redirects per second of this minute and the last, rests included."""
        if self._first_at is None:
            return 0.0
        self._turn_minute(now)
        begin = max(self._first_at, (self._minute - 1) * MINUTE_S)
        return (self._pages + self._pages_before) / max(1.0, now - begin)

    def rate(self, now: float) -> float:
        """Answers per second over the last 10 s, about; over less for a newcomer."""
        if self._first_at is None:
            return 0.0
        cell, part = divmod(now / CELL_S, 1.0)
        lately, before = self._now, self._before
        if cell != self._cell:
            lately, before = 0, lately if cell == self._cell + 1 else 0
        seconds = min(CELL_S, max(1.0, now - self._first_at))
        return (lately + before * (1.0 - part)) / seconds

    def percentiles(self, *shares: float) -> list[float] | None:
        """Seconds to the first byte within which those shares of the answers came, of the
        last thousand or so; None: there was no answer."""
        if not self._timed:
            return None
        sums = list(accumulate(self._times))
        found = []
        for share in shares:
            rank = max(1, ceil(share * self._timed))
            bucket = bisect_left(sums, rank)
            begin, end = bounds_of(bucket)
            before = sums[bucket - 1] if bucket else 0
            part = (rank - before - 0.5) / self._times[bucket]
            found.append(begin + (end - begin) * part)
        return found

    def stats(self) -> dict[str, int]:
        """The counters."""
        return {"requests": self.requests, "errors": self.errors, "timed": self._timed}

    def _turn(self, cell: int, now: float) -> None:
        if self._first_at is None:
            self._first_at = now
        self._before = self._now if cell == self._cell + 1 else 0
        self._now = 0
        self._cell = cell

    def _turn_minute(self, now: float) -> None:
        minute = int(now / MINUTE_S)
        if minute != self._minute:
            self._pages_before = self._pages if minute == self._minute + 1 else 0
            self._pages = 0
            self._minute = minute

    def _make_room(self) -> None:
        """Make the buckets for the first answer; later, let what is old count half."""
        if not self._times:
            self._times = array("I", bytes(4 * BUCKETS))
            return
        self._times = array("I", [count >> 1 for count in self._times])
        self._timed = sum(self._times)
