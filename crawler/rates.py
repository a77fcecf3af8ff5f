"""How a run's counters moved over the last minutes. Pure: takes `now`.

Owns: a counter's samples of the last two minutes, the cells of a spark line. Does not
own: the counters (`run`), when they are looked at (`gauges`).

Invariant: a sample is a second, so memory is bounded whatever the run's length.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

__all__ = ["LONG_S", "SHORT_S", "Moved", "Rates", "Sample"]

SHORT_S = 10.0
"""Seconds over which a rate is told."""
LONG_S = 120.0
"""Seconds over which an end is forecast."""
CELL_S = 15.0
CELLS = 20
KEPT = 256
"""Samples: more than a beat a second brings in two minutes."""


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
