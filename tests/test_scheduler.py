"""The scheduler: what may go out next, one sentence at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from crawler.pace import Pace
from crawler.scheduler import (
    Aside,
    Bury,
    Drop,
    Fetch,
    FetchAside,
    RefuseAside,
    Robots,
    Scheduler,
    Wait,
)
from crawler.web.robots import RobotsCache
from tests.scheduling import (
    AGENT,
    RULES,
    a_pace,
    a_scheduler,
    claim,
    drain_reads,
    fetched,
    pop_all,
    row,
)

if TYPE_CHECKING:
    from storage import QueuedRequest


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
