"""What the scheduler hands out, and the domain it hands it out for.

Owns: the actions, a domain's slots and gate, its turn at a client. Does not own: which
domain comes next (`scheduler`), the order of its rows (`window`), its speed (`pace`).

Invariants: nothing of a domain starts while its gate is closed, but the redirects of the
robots.txt that it waits for; a turn is over after its requests or its seconds.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from crawler.meter import Meter

if TYPE_CHECKING:
    from crawler.pace import Pace
    from crawler.window import Ready, Window

__all__ = [
    "Action",
    "Aside",
    "Bury",
    "Domain",
    "Drop",
    "Fetch",
    "FetchAside",
    "RefuseAside",
    "Robots",
    "Wait",
]

FIRST_TURN = 4
LONGEST_TURN = 64
TURN_S = 5.0


@dataclass(frozen=True, slots=True)
class Aside:
    """A request outside the queue (`Spider.fetch`, a robots redirect): no row, same rules."""

    domain: str
    url: str
    run: int
    order: Any
    """What the asker wants back; the scheduler does not look at it."""
    obeys_robots: bool = True


class Fetch(NamedTuple):
    """Send this row now; a slot of the domain is taken."""

    domain: Domain
    ready: Ready


class FetchAside(NamedTuple):
    """Send this aside now; a slot of the domain is taken."""

    domain: Domain
    aside: Aside


class Robots(NamedTuple):
    """Fetch the origin's robots.txt now, alone; a slot of the domain is taken."""

    domain: Domain
    origin: str
    run: int


class Drop(NamedTuple):
    """Settle this row as dropped for `reason`; no slot is taken."""

    domain: Domain
    ready: Ready
    reason: str


class Bury(NamedTuple):
    """Fail all that is queued for this domain: it has been given up. No slot is taken; its
    gate is closed until `open_gate`."""

    domain: Domain


class RefuseAside(NamedTuple):
    """Tell the asker that robots.txt forbids it; no slot is taken."""

    domain: Domain
    aside: Aside


class Wait(NamedTuple):
    """Nothing can start before `until`; None: not before something is released or added."""

    until: float | None


Action = Fetch | FetchAside | Robots | Drop | RefuseAside | Bury | Wait


class Domain:
    """One claimed domain: its windows per run, its slots, its turn."""

    __slots__ = (
        "active",
        "asides",
        "epoch",
        "gate",
        "in_line",
        "meter",
        "name",
        "pace",
        "turn",
        "turn_ends_at",
        "turn_left",
        "version",
        "windows",
    )

    def __init__(self, name: str, pace: Pace) -> None:
        self.name = name
        self.pace = pace
        self.meter = Meter()
        self.epoch = 0
        """0: not claimed; its rows cannot be committed."""
        self.active = 0
        self.asides: deque[Aside] = deque()
        self.windows: dict[int, Window] = {}
        self.gate = False
        """A robots action, or a burial, is under way."""
        self.in_line = False
        self.turn = FIRST_TURN // 2
        self.turn_left = 0
        self.turn_ends_at = 0.0
        self.version = -1
        """Of its entry on the heap; -1: it is not there."""

    def __repr__(self) -> str:
        ready = sum(map(len, self.windows.values()))
        return f"<Domain {self.name} {self.active}/{self.pace.concurrency} on wire, {ready} ready>"

    @property
    def has_room(self) -> bool:
        """Another request may be put on the wire, as far as slots and the gate go."""
        passes = not self.gate or (bool(self.asides) and not self.asides[0].obeys_robots)
        return passes and self.active < self.pace.concurrency and not self.pace.is_paused

    def needs_client(self, now: float, *, within: float) -> bool:
        """Something is ready that the pace lets start within that many seconds."""
        is_ready = bool(self.asides) or any(map(len, self.windows.values()))
        is_due = self.pace.next_at <= now + within and not self.pace.is_paused
        return is_ready and is_due

    @property
    def is_idle(self) -> bool:
        """Nothing on the wire, asked aside, ready, or handed out and not yet committed."""
        drained = all(window.is_drained for window in self.windows.values())
        return not self.active and not self.asides and not self.gate and drained

    def begin_turn(self, now: float) -> None:
        """Turns double from 4 requests to 64: everyone starts early, and churn stays low."""
        self.turn = min(LONGEST_TURN, self.turn * 2)
        self.turn_left = self.turn
        self.turn_ends_at = now + TURN_S

    def turn_is_over(self, now: float) -> bool:
        """The client goes to whoever waits, if anyone does."""
        return self.turn_left <= 0 or now >= self.turn_ends_at
