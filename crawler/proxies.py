"""Which proxy is next, of several that one domain's requests go through. Pure: takes `now`.

Owns: the turn, and the health of each proxy. Does not own: connections through a proxy
(`pool`), or which failure is the proxy's fault (the caller, who says `failed`).

Invariants: a resting proxy is never picked, and an answer never means a direct connection;
those that do not rest are picked in turn; no `repr`, counter or error holds credentials.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, NamedTuple

from crawler.units import masked

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Picked", "ProxyStats", "Rotation"]

FIRST_REST_S = 5.0
LONGEST_REST_S = 300.0


class Picked(NamedTuple):
    """Answer of `pick`: one of the two is given."""

    proxy: str | None
    """URL to send through; None: every proxy rests."""
    until: float | None
    """Instant at which the first of them may be picked again; None: one was picked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyStats:
    """Counters of one proxy since the start."""

    proxy: str
    """URL with its credentials masked."""
    uses: int
    """Times it was picked."""
    failures: int
    """Times it was said to have failed."""
    rests_until: float | None
    """Instant until which it is not picked; None: it may be picked."""


class _Health:
    """What is known of one proxy."""

    __slots__ = ("failures", "rests_until", "streak", "uses")

    def __init__(self) -> None:
        self.uses = 0
        self.failures = 0
        self.streak = 0
        """Rests since it last worked."""
        self.rests_until: float | None = None


class Rotation:
    """Proxies in turn, those that fail left out for a while: 5 s, doubling to 300 s.

    Raises ValueError when there is none. One that is named twice has one turn.
    """

    def __init__(self, proxies: Sequence[str]) -> None:
        self._health = {proxy: _Health() for proxy in proxies}
        if not self._health:
            raise ValueError("a rotation needs a proxy")
        self._ready: OrderedDict[str, None] = OrderedDict.fromkeys(self._health)
        self._wake_at = inf
        """The earliest end of a rest."""

    def __repr__(self) -> str:
        uses = sum(health.uses for health in self._health.values())
        return f"<Rotation {len(self._ready)}/{len(self._health)} ready, {uses} picked>"

    def pick(self, now: float) -> Picked:
        """The proxy of the next request, or the instant to ask again."""
        if now >= self._wake_at:
            self._wake(now)
        if not self._ready:
            return Picked(None, self._wake_at)
        proxy = next(iter(self._ready))
        self._ready.move_to_end(proxy)
        self._health[proxy].uses += 1
        return Picked(proxy, None)

    def peek(self, now: float) -> tuple[str, float]:
        """The proxy that is next, and the seconds until it may be picked; 0: now."""
        if now >= self._wake_at:
            self._wake(now)
        if self._ready:
            return next(iter(self._ready)), 0.0
        soonest = min(self._health, key=lambda proxy: self._health[proxy].rests_until or 0.0)
        return soonest, self._wake_at - now

    def has_ready(self, now: float) -> bool:
        """Whether `pick` would give one now."""
        return bool(self._ready) or now >= self._wake_at

    def is_resting(self, proxy: str, now: float) -> bool:
        """Whether it must not be tried now. Raises ValueError for one of another rotation."""
        rests_until = self._known(proxy).rests_until
        return rests_until is not None and now < rests_until

    def failed(self, proxy: str, now: float) -> None:
        """Let it rest. What fails while it rests was sent before: it rests no longer for it.

        Raises ValueError for a proxy of another rotation.
        """
        health = self._known(proxy)
        health.failures += 1
        if health.rests_until is not None and now < health.rests_until:
            return
        rest_s = min(LONGEST_REST_S, FIRST_REST_S * 2.0 ** min(health.streak, 16))
        health.streak += 1
        health.rests_until = now + rest_s
        self._ready.pop(proxy, None)
        self._find_wake()

    def worked(self, proxy: str) -> None:
        """It is well: a rest ends, and the next one is short again.

        Raises ValueError for a proxy of another rotation.
        """
        health = self._known(proxy)
        health.streak = 0
        if health.rests_until is not None:
            self._make_ready(proxy)
            self._find_wake()

    def stats(self) -> tuple[ProxyStats, ...]:
        """Counters of each proxy, in the order they were given."""
        return tuple(
            ProxyStats(
                proxy=masked(proxy),
                uses=health.uses,
                failures=health.failures,
                rests_until=health.rests_until,
            )
            for proxy, health in self._health.items()
        )

    def _known(self, proxy: str) -> _Health:
        health = self._health.get(proxy)
        if health is None:
            raise ValueError(f"{masked(proxy)} is not of this rotation")
        return health

    def _wake(self, now: float) -> None:
        for proxy, health in self._health.items():
            if health.rests_until is not None and health.rests_until <= now:
                self._make_ready(proxy)
        self._find_wake()

    def _make_ready(self, proxy: str) -> None:
        """Back into the turn, behind the others."""
        self._health[proxy].rests_until = None
        self._ready[proxy] = None

    def _find_wake(self) -> None:
        rests = (health.rests_until for health in self._health.values())
        self._wake_at = min((at for at in rests if at is not None), default=inf)
