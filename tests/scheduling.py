"""Rows, claims and schedulers as the tests want them."""

from __future__ import annotations

from typing import Any

from crawler.pace import Pace
from crawler.scheduler import Action, Fetch, Scheduler, Wait
from crawler.web.robots import RobotsCache, verdict_for
from storage import Claim, QueuedRequest

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
