"""The scheduler: what may go out next, held against a model of store, clients and wire."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
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
from crawler.pace import Pace
from crawler.pool import LeaseTable
from crawler.scheduler import (
    Action,
    Aside,
    Bury,
    Domain,
    Drop,
    Fetch,
    FetchAside,
    RefuseAside,
    Robots,
    Scheduler,
    Wait,
)
from crawler.web.robots import RobotsCache, Verdict, verdict_for
from storage import Claim, QueuedRequest

if TYPE_CHECKING:
    from crawler.window import Window

ALLOW = Verdict(None, 404)
RULES = verdict_for(200, b"User-agent: *\nDisallow: /no/\n", 10_000)
AGENT = "poolcrawl"


def row(row_id: int, domain: str = "a.test", *, run: int = 1, **values: Any) -> QueuedRequest:
    path = values.pop("path", f"/{row_id}")
    scheme = values.pop("scheme", "http")
    url = f"{scheme}://{domain}{path}"
    return QueuedRequest(id=row_id, run=run, domain=domain, url=url, **values)


def claim(domain: str, epoch: int = 1) -> Claim:
    return Claim(domain=domain, epoch=epoch, lease_until=60.0)


def a_pace(*, limit: int = 8, delay: float = 0.0, probes: int = 8) -> Pace:
    return Pace(limit=limit, delay=delay, probes=probes, give_up=3600.0)


def a_scheduler(
    *domains: str, clients: int = 100, obeys_robots: bool = False, **pace: Any
) -> Scheduler:
    scheduler = Scheduler(
        pace_for=lambda _: a_pace(**pace),
        may_lease=lambda _: True,
        robots=RobotsCache(),
        clients=clients,
    )
    scheduler.open_run(1, obeys_robots=obeys_robots, agent=AGENT, now=0.0)
    for domain in domains:
        scheduler.adopt(claim(domain, 1), 0.0)
    drain_reads(scheduler, [])
    return scheduler


def drain_reads(scheduler: Scheduler, rows: list[QueuedRequest], now: float = 0.0) -> int:
    """Answer every read from `rows`; how many there were."""
    reads = 0
    while (read := scheduler.next_read()) is not None:
        window, asked = read
        mine = [r for r in rows if (r.run, r.domain) == (window.run, window.domain)]
        mine.sort(key=lambda r: (-r.priority, r.id))
        scheduler.end_read(window, mine[:asked], asked, now)
        reads += 1
    return reads


def fetched(action: Action) -> QueuedRequest:
    assert isinstance(action, Fetch), action
    return action.ready.row


def pop_all(scheduler: Scheduler, now: float = 0.0) -> list[Action]:
    actions: list[Action] = []
    while not isinstance(action := scheduler.pop(now), Wait):
        actions.append(action)
    return actions


# -- the model ---------------------------------------------------------------------------

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


# -- single sentences --------------------------------------------------------------------


def test_higher_priority_goes_first_and_then_the_older_row() -> None:
    scheduler = a_scheduler("a.test")
    rows = [row(1), row(2, priority=5), row(3), row(4, priority=5)]
    for each in rows:
        scheduler.offer(each, 0.0)
    order = []
    for _ in rows:
        action = scheduler.pop(0.0)
        order.append(fetched(action).id)
        assert isinstance(action, Fetch)
        scheduler.release(action.domain, 0.0)
    assert order == [2, 4, 1, 3]


def test_a_domain_has_one_request_on_the_wire_until_it_has_answered() -> None:
    scheduler = a_scheduler("a.test")
    for each in range(1, 20):
        scheduler.offer(row(each), 0.0)
    (first,) = pop_all(scheduler)
    assert isinstance(first, Fetch)
    first.domain.pace.answered_in(0.1)
    scheduler.release(first.domain, 0.0)
    assert len(pop_all(scheduler)) == 2


def test_a_row_seen_by_a_read_before_its_offer_is_handed_out_once() -> None:
    scheduler = a_scheduler("a.test")
    scheduler.more_in_store(1, "a.test", 0.0)
    assert drain_reads(scheduler, [row(1)]) == 1
    scheduler.offer(row(1), 0.0)
    assert scheduler.stats().ready == 1


def test_a_row_of_an_unclaimed_domain_is_refused_and_found_when_it_is_adopted() -> None:
    scheduler = a_scheduler()
    assert not scheduler.offer(row(1), 0.0)
    assert not scheduler.more_in_store(1, "a.test", 0.0)
    scheduler.adopt(claim("a.test", 1), 0.0)
    drain_reads(scheduler, [row(1)])
    assert fetched(scheduler.pop(0.0)).id == 1


def test_runs_of_one_domain_take_turns() -> None:
    scheduler = a_scheduler("a.test")
    scheduler.open_run(2, obeys_robots=False, agent=AGENT, now=0.0)
    drain_reads(scheduler, [])
    for each in range(6):
        scheduler.offer(row(each, run=1 + each // 3), 0.0)
    runs = []
    for _ in range(6):
        action = scheduler.pop(0.0)
        runs.append(fetched(action).run)
        assert isinstance(action, Fetch)
        scheduler.release(action.domain, 0.0)
    assert runs == [1, 2, 1, 2, 1, 2]


def test_robots_go_alone_and_forbidden_rows_are_dropped() -> None:
    robots = RobotsCache()
    scheduler = Scheduler(
        pace_for=lambda _: a_pace(), may_lease=lambda _: True, robots=robots, clients=9
    )
    scheduler.open_run(1, obeys_robots=True, agent=AGENT, now=0.0)
    scheduler.adopt(claim("a.test", 1), 0.0)
    drain_reads(scheduler, [row(1, path="/no/1"), row(2)])
    (gate,) = pop_all(scheduler)
    assert isinstance(gate, Robots)
    assert gate.origin == "http://a.test"
    scheduler.release(gate.domain, 0.0)
    assert scheduler.pop(0.0) == Wait(None)
    robots.store("http://a.test", RULES, now=0.0, lifetime=60.0)
    scheduler.open_gate(gate.domain, 0.0)
    drop, fetch = pop_all(scheduler)
    assert isinstance(drop, Drop)
    assert (drop.ready.id, drop.reason) == (1, "robots")
    assert fetched(fetch).id == 2


def test_a_robots_redirect_within_the_domain_passes_the_closed_gate() -> None:
    scheduler = a_scheduler("a.test", obeys_robots=True)
    scheduler.offer(row(1), 0.0)
    gate = scheduler.pop(0.0)
    assert isinstance(gate, Robots)
    scheduler.ask(Aside("a.test", "http://a.test/page", 1, None), 0.0)
    scheduler.release(gate.domain, 0.0)
    scheduler.ask(Aside("a.test", "https://a.test/robots.txt", 1, None, obeys_robots=False), 0.0)
    (aside,) = pop_all(scheduler)
    assert isinstance(aside, FetchAside)
    assert aside.aside.url == "https://a.test/robots.txt"


def test_asides_go_before_rows_and_obey_robots() -> None:
    robots = RobotsCache()
    robots.store("http://a.test", RULES, now=0.0, lifetime=60.0)
    scheduler = Scheduler(
        pace_for=lambda _: a_pace(limit=1), may_lease=lambda _: True, robots=robots, clients=9
    )
    scheduler.open_run(1, obeys_robots=True, agent=AGENT, now=0.0)
    scheduler.adopt(claim("a.test", 1), 0.0)
    drain_reads(scheduler, [row(1)])
    scheduler.ask(Aside("a.test", "http://a.test/no/", 1, None), 0.0)
    scheduler.ask(Aside("a.test", "http://a.test/yes", 1, None), 0.0)
    kinds = [type(action) for action in pop_all(scheduler)]
    assert kinds == [RefuseAside, FetchAside]


def test_clients_promised_but_not_yet_leased_are_not_promised_again() -> None:
    domains = [f"d{n}.test" for n in range(9)]
    scheduler = a_scheduler(*domains, clients=2)
    for n, domain in enumerate(domains):
        scheduler.offer(row(n, domain), 0.0)
    assert len(pop_all(scheduler)) == 2
    assert scheduler.stats().in_line > 0


def test_a_client_is_free_only_when_the_last_request_of_its_domain_has_ended() -> None:
    scheduler = a_scheduler("a.test", "b.test", clients=1)
    for each in range(4):
        scheduler.offer(row(each), 0.0)
    (domain,) = (d for d in scheduler.domains() if d.name == "a.test")
    domain.pace.answered_in(0.1)
    assert len(pop_all(scheduler)) == 2
    scheduler.hold(1)
    scheduler.release(domain, 0.0)
    scheduler.ask(Aside("b.test", "http://b.test/", 1, None), 0.0)
    assert scheduler.pop(0.0) == Wait(None)
    scheduler.release(domain, 0.0)
    assert isinstance(scheduler.pop(0.0), FetchAside)


def test_a_holder_that_is_never_idle_gives_way_when_its_turn_is_over() -> None:
    scheduler = a_scheduler("a.test", "b.test", clients=1)
    for each in range(100):
        scheduler.offer(row(each), 0.0)
    (holder,) = (d for d in scheduler.domains() if d.name == "a.test")
    holder.pace.answered_in(0.1)
    assert len(pop_all(scheduler)) == 2
    scheduler.offer(row(100, "b.test"), 0.0)
    more = 0
    while holder.active:
        scheduler.release(holder, 0.0)
        more += len([a for a in pop_all(scheduler) if isinstance(a, Fetch) and a.domain is holder])
    assert more == 2, "the rest of its turn of four, though it was never idle until then"
    assert scheduler.stats().on_wire == 1
    (other,) = (d for d in scheduler.domains() if d.name == "b.test")
    assert other.active == 1


def test_nobody_starves_and_the_line_is_first_come_first_served() -> None:
    """50 domains, 20 rows each, 8 clients, every request one tick long."""
    domains = [f"d{n}.test" for n in range(50)]
    scheduler = a_scheduler(*domains, clients=8, delay=0.0)
    for n in range(1000):
        scheduler.offer(row(n, domains[n % 50]), 0.0)
    now = 0.0
    order: list[QueuedRequest] = []
    wire: list[Fetch] = []
    while len(order) < 1000:
        for action in pop_all(scheduler, now):
            assert isinstance(action, Fetch)
            order.append(action.ready.row)
            wire.append(action)
        assert wire, "nothing moves"
        now += 0.05
        for action in wire:
            action.domain.pace.answered_in(0.05)
            scheduler.release(action.domain, now)
            scheduler.settle(action.domain, action.ready.row)
        wire.clear()
    first = {domain: [r.domain for r in order].index(domain) for domain in domains}
    assert max(first.values()) < 250
    assert sorted(domains, key=first.__getitem__) == domains
    assert len({r.id for r in order}) == 1000


def test_a_dead_domain_is_buried_and_its_read_under_way_is_void() -> None:
    scheduler = a_scheduler("a.test", probes=1)
    scheduler.offer(row(1), 0.0)
    action = scheduler.pop(0.0)
    assert isinstance(action, Fetch)
    scheduler.offer(row(2), 0.0)
    action.domain.pace.refused(0.0, 5.0, "dns")
    scheduler.release(action.domain, 0.0)
    assert scheduler.pop(0.0) == Bury(action.domain)
    scheduler.ask(Aside("a.test", "http://a.test/aside", 1, "order"), 0.0)
    scheduler.more_in_store(1, "a.test", 0.0)
    read = scheduler.next_read()
    assert read is not None
    asides = scheduler.clear(action.domain)
    assert [aside.order for aside in asides] == ["order"]
    scheduler.end_read(read[0], [row(2)], read[1], 0.0)
    assert scheduler.stats().ready == 0
    assert drain_reads(scheduler, []) == 1


def test_a_domain_that_dies_while_it_stands_in_line_is_buried_too() -> None:
    scheduler = a_scheduler("a.test", "b.test", clients=1, probes=1)
    scheduler.offer(row(1, "a.test"), 0.0)
    holder = scheduler.pop(0.0)
    assert isinstance(holder, Fetch)
    scheduler.offer(row(2, "b.test"), 0.0)
    assert scheduler.pop(0.0) == Wait(None)
    (other,) = (d for d in scheduler.domains() if d.name == "b.test")
    other.pace.refused(0.0, 5.0, "dns")
    scheduler.release(holder.domain, 0.0)
    assert scheduler.pop(0.0) == Bury(other)


def test_a_release_without_a_start_is_an_error() -> None:
    scheduler = a_scheduler("a.test")
    (domain,) = scheduler.domains()
    with pytest.raises(RuntimeError, match="without a start"):
        scheduler.release(domain, 0.0)


def test_only_an_idle_domain_can_be_forgotten() -> None:
    scheduler = a_scheduler("a.test")
    scheduler.offer(row(1), 0.0)
    action = scheduler.pop(0.0)
    assert isinstance(action, Fetch)
    with pytest.raises(RuntimeError, match="not idle"):
        scheduler.forget(action.domain)
    scheduler.release(action.domain, 0.0)
    scheduler.settle(action.domain, action.ready.row)
    scheduler.forget(action.domain)
    assert list(scheduler.domains()) == []


def test_a_read_that_comes_back_after_its_run_was_closed_changes_nothing() -> None:
    scheduler = a_scheduler("a.test")
    scheduler.more_in_store(1, "a.test", 0.0)
    read = scheduler.next_read()
    assert read is not None
    scheduler.close_run(1)
    (domain,) = scheduler.domains()
    scheduler.forget(domain)
    scheduler.end_read(read[0], [row(1)], read[1], 0.0)
    assert scheduler.pop(0.0) == Wait(None)


def test_a_closed_or_held_run_leaves_nothing_ready_behind() -> None:
    scheduler = a_scheduler("a.test")
    for each in range(3):
        scheduler.offer(row(each), 0.0)
    pop_all(scheduler)
    assert scheduler.has_ready
    scheduler.hold(1)
    assert not scheduler.has_ready
    scheduler.unhold(1, 0.0)
    assert scheduler.has_ready
    scheduler.close_run(1)
    assert not scheduler.has_ready


class CountingPace(Pace):
    """Counts how often the scheduler looks at it, over all domains."""

    looks = 0

    @property
    def is_dead(self) -> bool:
        CountingPace.looks += 1
        return super().is_dead


@pytest.mark.parametrize("domains", [20, 2000])
def test_dispatch_looks_at_the_chosen_domain_and_not_at_all_of_them(domains: int) -> None:
    CountingPace.looks = 0
    scheduler = Scheduler(
        pace_for=lambda _: CountingPace(limit=1, delay=100.0, probes=8, give_up=1.0),
        may_lease=lambda _: True,
        robots=RobotsCache(),
        clients=domains,
    )
    scheduler.open_run(1, obeys_robots=False, agent=AGENT, now=0.0)
    for n in range(domains):
        scheduler.adopt(claim(f"d{n}.test", 1), 0.0)
    drain_reads(scheduler, [])
    for n in range(2 * domains):
        scheduler.offer(row(n, f"d{n % domains}.test"), 0.0)
    actions = pop_all(scheduler)
    for action in actions:
        assert isinstance(action, Fetch)
        scheduler.release(action.domain, 1.0)
    assert len(actions) == domains
    assert [scheduler.pop(1.0) for _ in range(5)] == [Wait(100.0)] * 5
    assert CountingPace.looks == domains
