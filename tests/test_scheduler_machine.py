"""Random crawls: the scheduler against a model of store, clients and wire."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from crawler import window as window_module
from crawler.pool import LeaseTable
from crawler.scheduler import (
    Action,
    Aside,
    Bury,
    Domain,
    Drop,
    Fetch,
    FetchAside,
    Robots,
    Scheduler,
    Wait,
)
from crawler.web.robots import RobotsCache
from tests.scheduling import AGENT, RULES, a_pace, claim, row

if TYPE_CHECKING:
    from crawler.window import Window
    from storage import QueuedRequest

DELAYS = {"a.test": 0.0, "b.test": 0.0, "c.test": 0.5}
DOMAINS = tuple(DELAYS)
RUNS = (1, 2)
CLIENTS = 2
LIMIT = 3
ENDS = st.sampled_from(["done", "done", "done", "back", "wait", "refused"])
SMALL = 8
"""Rows in a window, so that few rows overflow it."""


class Read:
    """A read of the store that is under way; `seen` is its snapshot, once it has looked."""

    def __init__(self, window: Window, asked: int, finds: set[int]) -> None:
        self.window = window
        self.asked = asked
        self.finds = finds
        """Rows that came late for the read before."""
        self.seen: list[QueuedRequest] | None = None


class Sent:
    """An action on the wire; its client is leased some time after it was handed out."""

    def __init__(self, domain: Domain, action: Fetch | FetchAside | Robots) -> None:
        self.domain = domain
        self.action = action
        self.is_leased = False


class Crawling(RuleBasedStateMachine):
    """Rows, commits whose acknowledgement is on its way, stale reads, clients, robots."""

    def __init__(self) -> None:
        super().__init__()
        self.size = window_module.SIZE
        window_module.SIZE = SMALL
        self.now = 0.0
        self.ids = 0
        self.table: LeaseTable[str] = LeaseTable(CLIENTS)
        self.robots = RobotsCache()
        self.scheduler = Scheduler(
            pace_for=lambda name: a_pace(limit=LIMIT, delay=DELAYS[name], probes=3),
            may_lease=self.table.may_lease,
            robots=self.robots,
            clients=CLIENTS,
        )
        self.open: set[int] = set()
        self.held: set[int] = set()
        self.ready: dict[int, QueuedRequest] = {}
        """What the store would read: queued and not waiting, handed out or not."""
        self.waiting: dict[int, QueuedRequest] = {}
        self.unsettled: dict[int, Domain] = {}
        """Handed out, and no acknowledgement heard."""
        self.acks: list[tuple[str, Domain | None, QueuedRequest]] = []
        self.reads: list[Read] = []
        self.late: set[int] = set()
        """Rows that only the next read of their window will find."""
        self.sent: list[Sent] = []
        self.gates: dict[str, Robots] = {}
        self.refusals = 0

    def teardown(self) -> None:
        try:
            self.finish()
        finally:
            window_module.SIZE = self.size

    @initialize()
    def begin(self) -> None:
        for run in RUNS:
            self.open_run(run)
        for domain in DOMAINS[:2]:
            self.scheduler.adopt(claim(domain), self.now)
            self.insert(domain, 1, [0] * 12, "/")
            self.insert(domain, 2, [0] * 3, "/")
            self.acknowledge(99)
        self.begin_reads()
        while self.reads:
            self._answer(self.reads[0])
        self.dispatch(0.0, 9)

    # -- the store -----------------------------------------------------------------------

    @rule(
        domain=st.sampled_from(DOMAINS),
        run=st.sampled_from(RUNS),
        priorities=st.lists(st.integers(-1, 2), min_size=1, max_size=6),
        path=st.sampled_from(["/", "/", "/no/"]),
    )
    def insert(self, domain: str, run: int, priorities: list[int], path: str) -> None:
        if run not in self.open:
            return
        for priority in priorities:
            self.ids += 1
            scheme = "https" if self.ids % 7 == 0 else "http"
            new = row(
                self.ids,
                domain,
                run=run,
                priority=priority,
                path=f"{path}{self.ids}",
                scheme=scheme,
            )
            self.ready[new.id] = new
            self.acks.append(("new", None, new))

    @rule(count=st.integers(1, 16))
    def acknowledge(self, count: int) -> None:
        for _ in range(min(count, len(self.acks))):
            kind, domain, its = self.acks.pop(0)
            if kind != "new" or self._is_reading(its):
                self.late.add(its.id)
                for read in self.reads:
                    read.finds.discard(its.id)
            if kind == "woken":
                self.scheduler.more_in_store(its.run, its.domain, self.now)
                continue
            if kind == "new":
                self.scheduler.offer(its, self.now)
                continue
            assert domain is not None
            del self.unsettled[its.id]
            self.scheduler.settle(domain, its)
            if kind == "back":
                self.scheduler.more_in_store(its.run, its.domain, self.now)

    def _is_reading(self, its: QueuedRequest) -> bool:
        mine = [d.windows for d in self.scheduler.domains() if d.name == its.domain]
        return any(its.run in windows and windows[its.run].reading for windows in mine)

    @rule()
    def wake(self) -> None:
        """One writer acts and answers in order: a wake is heard after earlier commits."""
        self.ready.update(self.waiting)
        self.acks += [("woken", None, its) for its in self.waiting.values()]
        self.waiting.clear()

    def begin_reads(self) -> None:
        while (read := self.scheduler.next_read()) is not None:
            self.reads.append(Read(*read, finds=set(self.late)))

    @precondition(lambda self: self.reads)
    @rule(data=st.data(), ends=st.booleans())
    def read(self, data: st.DataObject, ends: bool) -> None:
        read = data.draw(st.sampled_from(self.reads))
        self._look(read)
        if ends:
            self._answer(read)

    def _look(self, read: Read) -> None:
        if read.seen is None:
            mine = self._queue(read.window.run, read.window.domain)
            read.seen = mine[: read.asked]

    def _answer(self, read: Read) -> None:
        self._look(read)
        assert read.seen is not None
        self.reads.remove(read)
        found = {its.id for its in self._queue(read.window.run, read.window.domain)} & read.finds
        self.late = (self.late & self.ready.keys()) - found
        self.scheduler.end_read(read.window, read.seen, read.asked, self.now)

    def _queue(self, run: int, domain: str) -> list[QueuedRequest]:
        mine = [r for r in self.ready.values() if (r.run, r.domain) == (run, domain)]
        return sorted(mine, key=lambda r: (-r.priority, r.id))

    # -- runs ----------------------------------------------------------------------------

    @rule(
        how=st.sampled_from(["adopt", "open", "close", "hold", "unhold"]),
        run=st.sampled_from(RUNS),
        domain=st.sampled_from(DOMAINS),
    )
    def steer(self, how: str, run: int, domain: str) -> None:
        if how == "adopt":
            self.scheduler.adopt(claim(domain, 2), self.now)
        elif how == "open":
            self.open_run(run)
        elif how == "close":
            self._close_run(run)
        elif how == "hold" and run in self.open:
            self.held.add(run)
            self.scheduler.hold(run)
        elif how == "unhold":
            self._unhold(run)

    def open_run(self, run: int) -> None:
        if run not in self.open:
            self.open.add(run)
            self.scheduler.open_run(run, obeys_robots=run == 2, agent=AGENT, now=self.now)

    def _close_run(self, run: int) -> None:
        """A run is closed when nothing of it is under way; its rows stay in the store."""
        under_way = [its.run for _, _, its in self.acks]
        under_way += [window for s in self.sent for window in s.domain.windows]
        under_way += [gate.run for gate in self.gates.values()]
        under_way += [self.ready[i].run for i in self.unsettled if i in self.ready]
        if run not in under_way:
            self.open.discard(run)
            self.held.discard(run)
            self.scheduler.close_run(run)

    def _unhold(self, run: int) -> None:
        self.held.discard(run)
        self.scheduler.unhold(run, self.now)

    # -- the wire ------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.0, 0.1, 0.5, 1.0, 7.0]), most=st.integers(1, 12))
    def dispatch(self, seconds: float, most: int) -> None:
        self.now += seconds
        for _ in range(most):
            if isinstance(action := self.scheduler.pop(self.now), Wait):
                self._check_wait(action)
                break
            self._take(action)
        self.begin_reads()

    def _take(self, action: Action) -> None:
        if isinstance(action, Fetch | Drop):
            its = action.ready.row
            assert its.id not in self.unsettled, "handed out twice"
            assert its.id in self.ready, "handed out although settled or waiting"
            assert its.run in self.open
            assert its.run not in self.held
            self._check_order(action.domain, its)
            self.unsettled[its.id] = action.domain
        if isinstance(action, Drop):
            assert "/no/" in action.ready.row.url
            self._commit("done", action.domain, action.ready.row)
        elif isinstance(action, Bury):
            self._bury(action.domain)
        elif isinstance(action, Fetch | FetchAside | Robots):
            self._check_start(action)
            self.sent.append(Sent(action.domain, action))

    def _check_start(self, action: Fetch | FetchAside | Robots) -> None:
        domain = action.domain
        on_wire = sum(s.domain is domain for s in self.sent) + 1
        assert on_wire <= domain.pace.concurrency <= LIMIT
        assert domain.active == on_wire
        if isinstance(action, FetchAside) and not action.aside.obeys_robots:
            assert domain.name in self.gates
        else:
            assert domain.name not in self.gates, "the gate is closed"
        if isinstance(action, Robots):
            self.gates[domain.name] = action
        elif isinstance(action, Fetch) and action.ready.row.run == 2:
            assert "/no/" not in action.ready.row.url

    def _check_order(self, domain: Domain, its: QueuedRequest) -> None:
        """Nothing sorts before it but what has just arrived or only a read can find."""
        unheard = {waiting.id for _, _, waiting in self.acks}
        hidden = self.unsettled.keys() | self.late | unheard
        rest = [r for r in self._queue(its.run, domain.name) if r.id not in hidden - {its.id}]
        assert rest[0].id == its.id, "something sorts before it"

    def _check_wait(self, wait: Wait) -> None:
        busy = {s.domain.name for s in self.sent}
        in_line = self.scheduler.stats().in_line
        assert not in_line or len(busy) == CLIENTS, "a domain waits for a client that is free"
        startable = [
            domain.pace.next_at
            for domain in self.scheduler.domains()
            if domain.has_room and not domain.in_line and self._has_work(domain)
        ]
        if wait.until is None:
            assert not startable
        else:
            assert wait.until > self.now
            assert wait.until <= min(startable, default=wait.until)

    def _has_work(self, domain: Domain) -> bool:
        windows = domain.windows.items()
        return bool(domain.asides) or any(len(w) and r not in self.held for r, w in windows)

    def _commit(self, kind: str, domain: Domain, its: QueuedRequest) -> None:
        """Applied by the store; the scheduler hears of it later."""
        gone = self.ready.pop(its.id)
        if kind == "back":
            self.ready[its.id] = gone
        elif kind == "wait":
            self.waiting[its.id] = gone
        self.acks.append((kind, domain, its))

    def _bury(self, domain: Domain) -> None:
        """The store's answer comes after those to all earlier commits."""
        assert domain.pace.is_dead
        for its in [*self.ready.values(), *self.waiting.values()]:
            mine = its.domain == domain.name and its.run in domain.windows
            if mine and its.id not in self.unsettled:
                self.ready.pop(its.id, None)
                self.waiting.pop(its.id, None)
        self.acknowledge(len(self.acks))
        self.scheduler.clear(domain)
        domain.pace.answered_in(None)
        self.scheduler.open_gate(domain, self.now)

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def lease(self, data: st.DataObject) -> None:
        self._lease(data.draw(st.sampled_from(self.sent)))

    def _lease(self, sent: Sent) -> None:
        if not sent.is_leased:
            assert self.table.may_lease(sent.domain.name), "more domains than clients"
            self.table.lease(sent.domain.name)
            sent.is_leased = True

    @precondition(lambda self: self.sent)
    @rule(ends=st.lists(ENDS, min_size=1, max_size=5), data=st.data())
    def end(self, ends: list[str], data: st.DataObject) -> None:
        for end in ends[: len(self.sent)]:
            self._end(data.draw(st.sampled_from(self.sent)), end)

    def _end(self, sent: Sent, end: str) -> None:
        self._lease(sent)
        self.sent.remove(sent)
        domain = sent.domain
        if end == "refused":
            self.refusals += 1
            domain.pace.refused(self.now, 2.0, "connect-refused")
        else:
            domain.pace.answered_in(0.1)
        self.table.release(domain.name)
        self.scheduler.release(domain, self.now)
        if isinstance(sent.action, Fetch):
            kind = "back" if end == "refused" else end
            self._commit(kind, domain, sent.action.ready.row)
        elif end == "refused" or isinstance(sent.action, FetchAside):
            self._open_gate(domain)
        elif end == "wait":
            url = f"https://{domain.name}/robots.txt"
            self.scheduler.ask(
                Aside(domain.name, url, sent.action.run, None, obeys_robots=False), self.now
            )
        else:
            self.robots.store(sent.action.origin, RULES, now=self.now, lifetime=9.0)
            self._open_gate(domain)

    def _open_gate(self, domain: Domain) -> None:
        if (gate := self.gates.pop(domain.name, None)) is not None:
            self.robots.store(gate.origin, RULES, now=self.now, lifetime=9.0)
            self.scheduler.open_gate(domain, self.now)

    # -- what always holds ---------------------------------------------------------------

    @invariant()
    def counts_agree(self) -> None:
        assert self.scheduler.on_wire == len(self.sent)
        per_domain = Counter(s.domain.name for s in self.sent)
        assert len(per_domain) <= CLIENTS
        for domain in self.scheduler.domains():
            assert domain.active == per_domain[domain.name]
            assert all(len(window) <= SMALL for window in domain.windows.values())

    def finish(self) -> None:
        """Answer everything until nothing moves: every row of an open run has been popped."""
        for domain in DOMAINS:
            self.scheduler.adopt(claim(domain, 9), self.now)
        for run in self.open:
            self._unhold(run)
        for _ in range(60 + 4 * len(self.ready) + 4 * len(self.waiting)):
            while self.sent:
                self._end(self.sent[0], "done")
            self.wake()
            self.acknowledge(len(self.acks))
            self.begin_reads()
            while self.reads:
                self._answer(self.reads[0])
            self.dispatch(1.0, 50)
        left = [r for r in self.ready.values() if r.run in self.open]
        assert not left, f"never popped: {left}"
        assert not self.scheduler.has_ready


TestCrawling = Crawling.TestCase
TestCrawling.settings = settings(max_examples=80, stateful_step_count=50)
