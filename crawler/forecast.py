"""How a run moved in the last minutes, and when it will end, if that can be told. Pure.

Owns: samples of its counters, cells of a spark line, the estimate and its words. Does not
own: the counters (`run`), when they are looked at (`gauges`).

Invariants: no estimate is given while the queue grows, or before something was settled;
a run never ends before its slowest domain: that one is named where it sets the end; a
sample is a second of two minutes, so memory is bounded whatever the run's length.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from crawler.wording import duration

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "LONG_S",
    "SHORT_S",
    "SOONEST_S",
    "Forecast",
    "Load",
    "Moved",
    "Rates",
    "Sample",
    "forecast",
]

SHORT_S = 10.0
"""Seconds over which a rate is told."""
LONG_S = 120.0
"""Seconds over which an end is forecast."""
CELL_S = 15.0
CELLS = 20
KEPT = 256
"""Samples: more than a beat a second brings in two minutes."""
SOONEST_S = 5.0
"""Seconds of a run by which nothing is forecast yet."""
SETS_THE_END = 0.8
"""A domain is named when its own queue takes this share of the whole forecast."""
STEADY = 0.05
"""URLs a page by which a queue may grow and still be called steady."""


class Sample(NamedTuple):
    """A run's counters at one instant."""

    at: float
    pages: int
    items: int
    settled: int
    found: int
    """Rows that were queued since the session began with it."""


class Moved(NamedTuple):
    """By how much the counters of a run moved in a while."""

    seconds: float
    pages: int
    items: int
    settled: int
    found: int

    def per_second(self, count: int) -> float:
        """A count as a rate; 0 where no time has passed."""
        return count / self.seconds if self.seconds > 0 else 0.0


class Rates:
    """The samples of one run."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque(maxlen=KEPT)
        self._cells: deque[float] = deque(maxlen=CELLS)
        self._cell: Sample | None = None
        """The one that the cell begins with."""

    def __repr__(self) -> str:
        return f"<Rates {len(self._samples)} samples, {len(self._cells)} cells>"

    def note(self, sample: Sample) -> None:
        """The counters now; to be called once a second."""
        while len(self._samples) > 1 and self._samples[1].at <= sample.at - LONG_S:
            self._samples.popleft()
        self._samples.append(sample)
        if self._cell is None:
            self._cell = sample
        elif sample.at - self._cell.at >= CELL_S:
            self._cells.append(_pages_per_s(self._cell, sample))
            self._cell = sample

    def over(self, seconds: float) -> Moved:
        """What happened in the last `seconds`, or since the first sample."""
        if not self._samples:
            return Moved(0.0, 0, 0, 0, 0)
        last = first = self._samples[-1]
        for first in reversed(self._samples):
            if first.at <= last.at - seconds:
                break
        return Moved(
            last.at - first.at,
            last.pages - first.pages,
            last.items - first.items,
            last.settled - first.settled,
            last.found - first.found,
        )

    def spark(self) -> tuple[float, ...]:
        """Pages per second of the last cells of 15 s, newest last; the one that has not
        ended is told when a third of it is over."""
        cells = list(self._cells)
        if self._cell is not None and self._samples[-1].at - self._cell.at >= CELL_S / 3:
            cells.append(_pages_per_s(self._cell, self._samples[-1]))
        return tuple(cells[-CELLS:])

    def stats(self) -> tuple[int, int]:
        """How many samples and cells are kept."""
        return len(self._samples), len(self._cells)


def _pages_per_s(first: Sample, last: Sample) -> float:
    return (last.pages - first.pages) / (last.at - first.at)


class Load(NamedTuple):
    """What a domain has to do still."""

    domain: str
    queued: int
    delay: float
    """Seconds between two starts."""
    answer_s: float
    """Seconds that one request takes."""
    concurrency: int
    rest_s: float = 0.0
    """Seconds before anything of it may start."""
    rate: float = 0.0
    """Pages per second of late, of a domain that had to rest meanwhile; 0: not known."""

    @property
    def seconds(self) -> float:
        """What its queue takes: a start per delay, no faster than its answers come, nor than
        it was of late with its rests."""
        by_pace = self.queued * max(self.delay, self.answer_s / self.concurrency)
        return max(self.rest_s + by_pace, self.queued / self.rate if self.rate else 0.0)

    @property
    def is_held_up(self) -> bool:
        """Its rests set the end, not its pace."""
        return bool(self.rate) and self.seconds == self.queued / self.rate


class Forecast(NamedTuple):
    """Seconds to the end (None: it cannot be told), and what sets it or why not."""

    ends_in_s: float | None
    ends_by: str = ""


def forecast(
    *, queued: int, moved: Moved, loads: Iterable[Load], pages_left: int | None = None
) -> Forecast:
    """The end of a run by what `moved` in the last two minutes.

    `queued`: rows not settled; `pages_left`: those to its limit, None without one.
    """
    if moved.seconds < SOONEST_S or not moved.settled:
        return Forecast(None)
    by_queue = _by_queue(queued, moved, loads)
    if pages_left is None or not moved.pages:
        return by_queue
    to_limit = pages_left / moved.per_second(moved.pages)
    if by_queue.ends_in_s is not None and by_queue.ends_in_s < to_limit:
        return by_queue
    return Forecast(to_limit, f"its limit, {pages_left:,} pages from here")


def _by_queue(queued: int, moved: Moved, loads: Iterable[Load]) -> Forecast:
    net = moved.per_second(moved.settled - moved.found)
    if net <= 0:
        return Forecast(None, _growth(moved))
    by_rate = queued / net
    slowest = max(loads, key=lambda load: load.seconds, default=None)
    if slowest is None or slowest.seconds < SETS_THE_END * by_rate:
        return Forecast(by_rate)
    return Forecast(max(by_rate, slowest.seconds), _told(slowest))


def _growth(moved: Moved) -> str:
    by_page = (moved.found - moved.settled) / (moved.pages or moved.settled)
    return "the queue stays as long" if by_page < STEADY else f"growing {by_page:.1f} URLs a page"


def _told(load: Load) -> str:
    takes = duration(load.seconds)
    if load.is_held_up:
        return f"{load.domain}, {takes} at its {load.rate:.2g} pages/s of late"
    if load.rest_s > load.seconds / 2:
        return f"{load.domain}, {takes} with its rest"
    if load.delay * load.concurrency < load.answer_s:
        return f"{load.domain}, {takes} at {load.answer_s:.3g} s a page"
    return f"{load.domain}, {takes} at its delay of {load.delay:.3g} s"
