"""robots.txt (RFC 9309): what an answer to it means, and what it allows. Pure.

Owns: the verdict of an origin and its freshness. Does not own: fetching it (a scheduler
action under the domain's slot and pace).

Status rules (RFC 9309 §2.3.1): 2xx is parsed; 4xx allows all, except 429; 429, 5xx and
network errors are no verdict at all: the origin's requests stay queued and the domain
rests. Redirects are followed by whoever fetches; too many of them allow all.

Invariants: `allowed` answers None exactly when there is no fresh verdict; a verdict is
never older than its lifetime; at most `limit` origins are remembered.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from protego import Protego

__all__ = ["RobotsCache", "RobotsStats", "Verdict", "agent_token", "is_verdict", "verdict_for"]


class Verdict(NamedTuple):
    """What an origin's robots.txt says."""

    rules: Protego | None
    """None: everything is allowed."""
    status: int | None


class RobotsStats(NamedTuple):
    """Counters of a cache."""

    origins: int
    stored: int
    asked: int


def is_verdict(status: int) -> bool:
    """True when a final answer with this status settles the question (RFC 9309 §2.3.1)."""
    return status < 500 and status != 429


def verdict_for(status: int, body: bytes, max_bytes: int) -> Verdict:
    """The verdict of a final answer; a body is read up to `max_bytes` (§2.5: at least 500 KiB).

    The last line of a body that was cut is dropped: half a rule could allow too much.
    """
    if not 200 <= status < 300:
        return Verdict(None, status)
    if len(body) > max_bytes:
        cut = body[: max_bytes + 1]
        body = cut[: max(cut.rfind(b"\n"), cut.rfind(b"\r"), 0)]
    text = body.decode("utf-8-sig", errors="replace")
    return Verdict(Protego.parse(text), status)


def agent_token(user_agent: str) -> str:
    """The product token that groups are matched by (§2.2.1): `poolcrawl/1.0 (+…)` → `poolcrawl`."""
    return user_agent.partition("/")[0].partition(" ")[0]


class RobotsCache:
    """Verdicts per origin, each fresh for `lifetime` seconds, at most `limit` of them."""

    def __init__(self, *, limit: int = 10_000) -> None:
        self.limit = limit
        self._verdicts: OrderedDict[str, tuple[Verdict, float]] = OrderedDict()
        self._stored = 0
        self._asked = 0

    def __repr__(self) -> str:
        return f"<RobotsCache {len(self._verdicts)}/{self.limit} origins, {self._asked} asked>"

    def stats(self) -> RobotsStats:
        """How many origins are held, verdicts stored, questions asked."""
        return RobotsStats(len(self._verdicts), self._stored, self._asked)

    def store(self, origin: str, verdict: Verdict, *, now: float, lifetime: float) -> None:
        """Remember a verdict until `now + lifetime`."""
        self._verdicts[origin] = (verdict, now + lifetime)
        self._verdicts.move_to_end(origin)
        self._stored += 1
        while len(self._verdicts) > self.limit:
            self._verdicts.popitem(last=False)

    def allowed(self, origin: str, url: str, agent: str, now: float) -> bool | None:
        """May `agent` fetch `url`? None: there is no fresh verdict of its origin."""
        entry = self._verdicts.get(origin)
        if entry is None or entry[1] <= now:
            return None
        self._asked += 1
        rules = entry[0].rules
        return True if rules is None else bool(rules.can_fetch(url, agent))

    def crawl_delay(self, origin: str, agent: str) -> float:
        """Seconds between starts that the origin asks for; 0: it asks for none."""
        entry = self._verdicts.get(origin)
        rules = entry[0].rules if entry else None
        return float(rules.crawl_delay(agent) or 0.0) if rules is not None else 0.0
