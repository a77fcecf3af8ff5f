"""How long each step of a request may take, and how slowly a body may come. Pure.

Owns: the bounds, their reading from httpx's request extension, the floor in bytes per
second. Does not own: the clock, timers, errors: who waits enforces them.

Invariants: a value is a finite number of 0 or more, or None; a server that brings
`rate * over` bytes in every `over` seconds is never too slow; one that brings less than
half of that is found at the first look after `over` seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from sys import float_info
from typing import Any, NamedTuple

__all__ = ["DEADLINES", "Deadlines", "RateFloor", "from_httpx"]


class Deadlines(NamedTuple):
    """Seconds that each step may take; None: no bound, 0: over at once."""

    connect: float | None = 10.0
    """Name, addresses and socket, for all addresses together."""
    tls: float | None = 10.0
    head: float | None = 20.0
    """From the request's last byte to the end of the answer's head."""
    read: float | None = 20.0
    """Between two parts of the body."""
    write: float | None = 20.0
    """Until the socket takes the next part of the request."""
    total: float | None = 300.0
    """From the lease of a connection to the last byte of the body."""
    pool: float | None = None
    """Until a connection of the pool is free."""
    rate: float | None = 1024.0
    """Bytes per second that a body must bring; None or 0: any."""
    rate_over: float = 20.0
    """Seconds over which `rate` is measured; above 0."""


DEADLINES = Deadlines()
NAMES = frozenset(Deadlines._fields)


def from_httpx(given: Mapping[str, Any] | None, default: Deadlines = DEADLINES) -> Deadlines:
    """Read a request's `extensions["timeout"]`; what it does not name stays as in `default`.

    httpx's names are connect, read, write and pool; ours are tls, head, total, rate and
    rate_over. Where only `connect` is given it holds for `tls` too, and `read` for `head`,
    which is what httpx means by them. Raises ValueError for what is no mapping, for other
    names, and for values that are neither None nor a finite number of 0 or more.
    """
    if given is not None and not isinstance(given, Mapping):
        raise ValueError(f"a timeout must be a mapping like {{'connect': 5.0}}, not {given!r}")
    if not given:
        return default
    if not NAMES.issuperset(given):
        unknown = ", ".join(sorted(str(name) for name in given if name not in NAMES))
        raise ValueError(f"no such timeout: {unknown} (known: {', '.join(Deadlines._fields)})")
    for name, value in given.items():
        if value is not None and not _is_duration(value):
            raise ValueError(f"timeout {name!r} must be a number of 0 or more: {value!r}")
    if "rate_over" in given and not given["rate_over"]:
        raise ValueError(f"timeout 'rate_over' must be above 0: {given['rate_over']!r}")
    values = dict(given)
    if "connect" in values:
        values.setdefault("tls", values["connect"])
    if "read" in values:
        values.setdefault("head", values["read"])
    return default._replace(**values)


class RateFloor:
    """Tells a slow server from one that only takes its time, window by window.

    `rate` is in bytes per second, None or 0: any will do; `over` is the window in seconds,
    above 0; `now` begins the first one. `received` is always the running total of bytes
    taken from the server, which need not begin at 0.
    """

    __slots__ = ("_at_begin", "_begun_at", "_over", "_rate")

    def __init__(self, rate: float | None, over: float, now: float, received: int = 0) -> None:
        if not over > 0:
            raise ValueError(f"a rate cannot be measured over {over} s")
        self._rate = rate or 0.0
        self._over = over
        self._begun_at: float | None = now
        self._at_begin = received

    def __repr__(self) -> str:
        state = "paused" if self._begun_at is None else f"window since {self._begun_at:g}"
        return f"<RateFloor {self._rate:g} B/s over {self._over:g} s, {state}>"

    @property
    def ends_at(self) -> float | None:
        """When the window is over and a look is due; None: never, or paused."""
        if self._begun_at is None or not self._rate:
            return None
        return self._begun_at + self._over

    def is_too_slow(self, now: float, received: int) -> bool:
        """Whether the window that ends now brought too little; before its end: False.

        A look that comes late asks only for whole windows, and one may pass judgement on
        several; the next window begins at this look.
        """
        if self._begun_at is None or not self._rate:
            return False
        elapsed = now - self._begun_at
        if elapsed < self._over:
            return False
        windows = elapsed // self._over
        brought = received - self._at_begin
        self.restart(now, received)
        return brought < self._rate * self._over * windows

    def pause(self) -> None:
        """The reader takes no bytes for now: nothing is too slow until `restart`."""
        self._begun_at = None

    def restart(self, now: float, received: int) -> None:
        """Begin a fresh window; the reader takes bytes again."""
        self._begun_at = now
        self._at_begin = received


def _is_duration(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return 0 <= value <= float_info.max
