"""Which request goes out next, for all domains and runs of a session. Pure: takes `now`.

Owns: the windows of claimed domains, their places on the heap and in the line.
Does not own: rows (the store), clients (asked through `may_lease`), clocks, sending.

Invariants:
- a domain is on the heap iff it has a ready request and room, and does not stand in line;
  its heap key is the instant its pace allows the next start;
- requests on the wire per domain never exceed its pace's concurrency, so nothing ever
  queues inside a pool; `started` and `release` come in pairs;
- an origin without a fresh robots verdict has one Robots action under way and nothing
  else of its domain is popped meanwhile, but that file's own redirects;
- at most `clients` domains have requests on the wire, leased or about to be;
- nothing of a paused run or domain starts; what it asked aside waits with it, but for
  redirects of a robots.txt, which end what is on the wire;
- domains that wait for a client stand in one line, first come, first served; while it is
  not empty a holder whose turn is over stands in it too, behind those who wait.
Cost: O(log domains) a dispatch; memory is one window per claimed (run, domain).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from crawler.actions import (
    Action,
    Aside,
    Bury,
    Domain,
    Drop,
    Fetch,
    FetchAside,
    RefuseAside,
    Robots,
    Wait,
)
from crawler.urls import canonicalise
from crawler.window import Window

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from crawler.pace import Pace
    from crawler.web.robots import RobotsCache
    from storage import Claim, QueuedRequest

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
    "Scheduler",
    "SchedulerStats",
    "Wait",
]


class RunRules(NamedTuple):
    """What the scheduler must know of a run."""

    obeys_robots: bool
    agent: str
    """Product token for robots.txt groups."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerStats:
    """A scheduler at one instant."""

    domains: int
    ready: int
    """Rows in windows."""
    on_wire: int
    in_line: int
    """Domains that wait for a client."""


class Scheduler:
    """Per-domain queues over one heap.

    `pace_for(domain)` makes the pace of a domain met for the first time; `may_lease`
    tells whether a client can be had for it at once, as far as leases taken go. `clients`
    bounds the domains on the wire at once, whose leases may be about to be taken.
    """

    def __init__(
        self,
        *,
        pace_for: Callable[[str], Pace],
        may_lease: Callable[[str], bool],
        robots: RobotsCache,
        clients: int,
    ) -> None:
        self._pace_for = pace_for
        self._may_lease = may_lease
        self._robots = robots
        self._clients = clients
        self._domains: dict[str, Domain] = {}
        self._heap: list[tuple[float, int, Domain]] = []
        self._versions = count()
        self._line: deque[Domain] = deque()
        self._rules: dict[int, RunRules] = {}
        self._held: set[int] = set()
        self._paused: dict[int, list[Aside]] = {}
        """Paused runs, and what their pages asked for meanwhile."""
        self._reads: deque[Window] = deque()
        self._full: set[Domain] = set()
        """Domains with ready requests and no room."""
        self._asking: dict[Domain, None] = {}
        """Domains with asides."""
        self._on_wire = 0
        self._busy = 0
        """Domains with requests on the wire."""

    def __repr__(self) -> str:
        s = self.stats()
        return f"<Scheduler {s.domains} domains, {s.ready} ready, {s.on_wire} on wire>"

    def stats(self) -> SchedulerStats:
        """Counts now; O(domains)."""
        ready = sum(len(w) for d in self._domains.values() for w in d.windows.values())
        return SchedulerStats(
            domains=len(self._domains),
            ready=ready,
            on_wire=self._on_wire,
            in_line=len(self._line),
        )

    @property
    def on_wire(self) -> int:
        """Requests sent and not yet released."""
        return self._on_wire

    @property
    def has_ready(self) -> bool:
        """Some request could be sent but for slots, pace or clients."""
        return bool(self._heap or self._line or self._full)

    @property
    def lacks_room(self) -> bool:
        """Some request could be sent at once but for slots or clients."""
        return bool(self._line or self._full)

    def domains(self) -> Iterator[Domain]:
        """Every domain known here."""
        return iter(self._domains.values())

    def known(self, name: str) -> Domain | None:
        """A domain that is known here; None: it is not."""
        return self._domains.get(name)

    # -- runs ---------------------------------------------------------------------------

    def open_run(self, run: int, *, obeys_robots: bool, agent: str, now: float) -> None:
        """Schedule this run's rows; domains already held get a window for it."""
        self._rules[run] = RunRules(obeys_robots, agent)
        for domain in self._domains.values():
            if domain.epoch:
                self._window(domain, run)
                self._place(domain, now)

    def close_run(self, run: int) -> None:
        """Forget a run's windows; what is on the wire for it may still be released."""
        self._rules.pop(run, None)
        self._held.discard(run)
        self._paused.pop(run, None)
        for domain in self._domains.values():
            domain.windows.pop(run, None)
        self._forget_workless()

    def hold(self, run: int) -> None:
        """Start nothing more of this run until `unhold`."""
        self._held.add(run)
        self._forget_workless()

    def unhold(self, run: int, now: float) -> None:
        """Start its requests again."""
        if run in self._held:
            self._held.remove(run)
            for domain in self._domains.values():
                self._place(domain, now)

    def pause(self, run: int) -> None:
        """Start nothing of this run until `proceed`, nor what its pages ask aside."""
        parked = self._paused.setdefault(run, [])
        for domain in list(self._asking):
            stays: deque[Aside] = deque()
            for aside in domain.asides:
                (parked if aside.run == run and aside.obeys_robots else stays).append(aside)
            domain.asides = stays
            if not stays:
                del self._asking[domain]
        self._forget_workless()

    def proceed(self, run: int, now: float) -> None:
        """End a run's pause."""
        for aside in self._paused.pop(run, ()):
            self.ask(aside, now)
        for domain in self._domains.values():
            self._place(domain, now)

    def repaced(self, domain: Domain, now: float) -> None:
        """The settings of a domain's pace have changed: its place on the heap has, too."""
        domain.version = -1
        self._place(domain, now)

    # -- what the store and the spiders bring ----------------------------------------------

    def adopt(self, claim: Claim, now: float) -> Domain:
        """Work on a claimed domain from now on."""
        domain = self._domain(claim.domain)
        domain.epoch = claim.epoch
        for run in self._rules:
            self._window(domain, run)
        self._place(domain, now)
        return domain

    def offer(self, row: QueuedRequest, now: float) -> bool:
        """A row that a commit inserted; False: its domain is not claimed."""
        domain = self._domains.get(row.domain)
        if domain is None or not domain.epoch:
            return False
        if row.run in self._rules:
            window = self._window(domain, row.run)
            window.offer(row, now)
            self._refill(window)
            self._place(domain, now)
        return True

    def more_in_store(self, run: int, name: str, now: float) -> bool:
        """Rows of (run, domain) became ready in the store; False: not claimed."""
        domain = self._domains.get(name)
        if domain is None or not domain.epoch:
            return False
        if run in self._rules:
            window = self._window(domain, run)
            window.more_in_store()
            if not window.reading and not window.wanted:
                window.wanted = True
                self._reads.append(window)
        return True

    def ask(self, aside: Aside, now: float) -> None:
        """Put an aside before the queue of its domain.

        One that does not obey robots.txt goes first: the gate may be waiting for it.
        """
        if aside.obeys_robots and aside.run in self._paused:
            self._paused[aside.run].append(aside)
            return
        domain = self._domain(aside.domain)
        if aside.obeys_robots:
            domain.asides.append(aside)
        else:
            domain.asides.appendleft(aside)
        self._asking[domain] = None
        self._place(domain, now)

    def next_read(self) -> tuple[Window, int] | None:
        """A window to be filled from the store, and how many rows to ask for."""
        while self._reads:
            window = self._reads.popleft()
            if not window.complete and window.run in self._rules:
                return window, window.begin_read()
            window.wanted = False
        return None

    def end_read(self, window: Window, rows: list[QueuedRequest], asked: int, now: float) -> None:
        """A read asked for by `next_read` has come back."""
        window.end_read(rows, asked, now)
        domain = self._domains.get(window.domain)
        if domain is not None and domain.windows.get(window.run) is window:
            self._refill(window)
            self._place(domain, now)

    # -- dispatch ---------------------------------------------------------------------------

    def pop(self, now: float, *, asides_only: bool = False) -> Action:
        """What to do next; a slot is taken by Fetch, FetchAside and Robots.

        `asides_only`: nothing of the queues may start, but what a page waits for may.
        """
        if asides_only:
            return self._pop_aside(now)
        while self._line and self._may_start(self._line[0]):
            domain = self._line.popleft()
            domain.in_line = False
            if (action := self._visit(domain, now, has_waited=True)) is not None:
                return action
        while self._heap:
            key, version, domain = self._heap[0]
            if version == domain.version and key > now:
                return Wait(key)
            heappop(self._heap)
            if version != domain.version:
                continue
            domain.version = -1
            if (action := self._visit(domain, now)) is not None:
                return action
        return Wait(None)

    def _pop_aside(self, now: float) -> Action:
        starts = []
        for domain in list(self._asking):
            if domain.pace.next_at > now:
                starts.append(domain.pace.next_at)
            elif domain.has_room and self._may_start(domain):
                domain.version = -1
                if domain.pace.is_dead:
                    return self._bury(domain)
                return self._hand_out_aside(domain, now)
        return Wait(min(starts, default=None))

    def release(self, domain: Domain, now: float) -> None:
        """A request of the domain is off the wire."""
        if domain.active <= 0:
            raise RuntimeError(f"release without a start: {domain!r}")
        domain.active -= 1
        self._on_wire -= 1
        self._busy -= not domain.active
        self._place(domain, now)

    def open_gate(self, domain: Domain, now: float) -> None:
        """A domain's robots action, with or without a verdict, or its burial has ended."""
        domain.gate = False
        self._place(domain, now)

    def settle(self, domain: Domain, row: QueuedRequest) -> None:
        """A row that was popped has been committed, whatever became of it."""
        window = domain.windows.get(row.run)
        if window is not None:
            window.settle(row.id)

    def clear(self, domain: Domain) -> list[Aside]:
        """The store has failed the domain's queue: empty the windows, return the asides."""
        for window in domain.windows.values():
            window.clear()
        asides = list(domain.asides)
        domain.asides.clear()
        self._asking.pop(domain, None)
        return asides

    def forget(self, domain: Domain) -> None:
        """Drop an idle domain; raises RuntimeError when it is not idle."""
        if not domain.is_idle:
            raise RuntimeError(f"not idle: {domain!r}")
        domain.version = -1
        self._full.discard(domain)
        self._domains.pop(domain.name, None)

    # -- inside --------------------------------------------------------------------------------

    def _domain(self, name: str) -> Domain:
        domain = self._domains.get(name)
        if domain is None:
            domain = self._domains[name] = Domain(name, self._pace_for(name))
        return domain

    def _window(self, domain: Domain, run: int) -> Window:
        window = domain.windows.get(run)
        if window is None:
            window = domain.windows[run] = Window(run, domain.name)
            self._refill(window)
        return window

    def _refill(self, window: Window) -> None:
        if window.wants_read:
            window.wanted = True
            self._reads.append(window)

    def _visit(self, domain: Domain, now: float, *, has_waited: bool = False) -> Action | None:
        """A domain whose time seemed to have come: much may have changed since."""
        if domain.pace.next_at > now or not domain.has_room or not self._has_work(domain):
            self._place(domain, now)
            return None
        if domain.pace.is_dead:
            return self._bury(domain)
        if has_waited:
            domain.begin_turn(now)
        elif not self._takes_turn(domain, now):
            return None
        return self._hand_out_aside(domain, now) if domain.asides else self._hand_out(domain, now)

    def _bury(self, domain: Domain) -> Action:
        domain.gate = True
        return Bury(domain)

    def _may_start(self, domain: Domain) -> bool:
        """A client can be had, those promised to other domains left aside."""
        is_within = bool(domain.active) or self._busy < self._clients
        return is_within and self._may_lease(domain.name)

    def _takes_turn(self, domain: Domain, now: float) -> bool:
        if not self._may_start(domain) or (self._line and domain.turn_is_over(now)):
            domain.in_line = True
            self._line.append(domain)
            return False
        if domain.turn_is_over(now):
            domain.begin_turn(now)
        return True

    def _hand_out(self, domain: Domain, now: float) -> Action:
        window = self._next_window(domain)
        ready = window.first()
        if (verdict := self._verdict(ready.row.url, window.run, now)) is None:
            return self._close_gate(domain, ready.row.url, window.run, now)
        window.pop()
        self._refill(window)
        if not verdict:
            self._place(domain, now)
            return Drop(domain, ready, "robots")
        self._start(domain, now)
        return Fetch(domain, ready)

    def _hand_out_aside(self, domain: Domain, now: float) -> Action:
        aside = domain.asides[0]
        verdict = self._verdict(aside.url, aside.run, now) if aside.obeys_robots else True
        if verdict is None:
            return self._close_gate(domain, aside.url, aside.run, now)
        domain.asides.popleft()
        if not domain.asides:
            del self._asking[domain]
        if not verdict:
            self._place(domain, now)
            return RefuseAside(domain, aside)
        self._start(domain, now)
        return FetchAside(domain, aside)

    def _close_gate(self, domain: Domain, url: str, run: int, now: float) -> Action:
        domain.gate = True
        self._start(domain, now)
        return Robots(domain, canonicalise(url).origin, run)

    def _verdict(self, url: str, run: int, now: float) -> bool | None:
        rules = self._rules.get(run)
        if rules is None or not rules.obeys_robots:
            return True
        return self._robots.allowed(canonicalise(url).origin, url, rules.agent, now)

    def _next_window(self, domain: Domain) -> Window:
        """Runs take turns: the one served goes behind the others."""
        run = next(r for r, w in domain.windows.items() if len(w) and self._may_run(r))
        window = domain.windows[run]
        if len(domain.windows) > 1:
            del domain.windows[run]
            domain.windows[run] = window
        return window

    def _start(self, domain: Domain, now: float) -> None:
        self._busy += not domain.active
        domain.active += 1
        domain.turn_left -= 1
        domain.pace.started(now)
        self._on_wire += 1
        self._place(domain, now)

    def _place(self, domain: Domain, now: float) -> None:
        """Put the domain on the heap iff it belongs there."""
        if domain.in_line or domain.version >= 0:
            return
        if domain.pace.is_paused or not self._has_work(domain):
            self._full.discard(domain)
        elif not domain.has_room:
            self._full.add(domain)
        else:
            self._full.discard(domain)
            domain.version = next(self._versions)
            heappush(self._heap, (domain.pace.next_at, domain.version, domain))

    def _has_work(self, domain: Domain) -> bool:
        return bool(domain.asides) or any(
            len(window) and self._may_run(run) for run, window in domain.windows.items()
        )

    def _may_run(self, run: int) -> bool:
        return run not in self._held and run not in self._paused

    def _forget_workless(self) -> None:
        self._full = {domain for domain in self._full if self._has_work(domain)}
