"""When a run will end, as far as that can honestly be told. Pure.

Owns: the estimate and its words. Does not own: the figures it is made of (`gauges`).

Invariants: no estimate is given while the queue grows, or before something was settled;
a run never ends before its slowest domain: that one is named where it sets the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from crawler.wording import duration

if TYPE_CHECKING:
    from collections.abc import Iterable

    from crawler.rates import Moved

__all__ = ["SOONEST_S", "Forecast", "Load", "forecast"]

SOONEST_S = 5.0
"""Seconds of a run by which nothing is forecast yet."""
SETS_THE_END = 0.8
"""A domain is named when its own queue takes this share of the whole forecast."""
STEADY = 0.05
"""URLs a page by which a queue may grow and still be called steady."""


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

    @property
    def seconds(self) -> float:
        """What its queue takes: a start per delay, and no faster than its answers come."""
        return self.rest_s + self.queued * max(self.delay, self.answer_s / self.concurrency)


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
    if load.rest_s > load.seconds / 2:
        return f"{load.domain}, {takes} with its rest"
    if load.delay * load.concurrency < load.answer_s:
        return f"{load.domain}, {takes} at {load.answer_s:.3g} s a page"
    return f"{load.domain}, {takes} at its delay of {load.delay:.3g} s"
