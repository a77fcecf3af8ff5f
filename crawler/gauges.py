"""The figures of a running session, gathered once a second and put together when asked.

Owns: when figures are gathered, the question to the store about its queues, which domains
are shown first. Does not own: what is counted where the work happens (`meter`, `run`,
`pool`), the form of the records (`live`), where they go (`engine`).

Invariants: `live` asks nobody: it takes a pass over the domains and the last answers of
what is slow; the store is asked at most every 2 s, and so seldom that it takes at most a
hundredth of the time; a store that does not answer costs old figures, never the crawl.
"""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from heapq import nlargest
from typing import TYPE_CHECKING

from crawler.forecast import (
    LONG_S,
    SHORT_S,
    SOONEST_S,
    Forecast,
    Load,
    Rates,
    Sample,
    forecast,
)
from crawler.live import Answered, DomainLive, Live, RunLive
from crawler.machine import Machine
from storage import Queues, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine, Mapping
    from typing import Any

    from crawler.pool import ClientCache
    from crawler.run import Crawl
    from crawler.scheduler import Domain, Scheduler
    from crawler.settings import Settings
    from crawler.wire import Wire
    from storage import Store

__all__ = ["SHOWN", "Gauges"]

SHOWN = 50
"""Domains that a view gets."""
ASKED = 200
"""Queues that the store is asked for, of each run."""
ASK_EVERY_S = 2.0
ASK_COST = 100
"""Times its own cost that pass between two questions to the store."""
LOOK_S = 1e-4
"""Seconds by which each domain beyond FEW puts off the next look at all of them: a look
costs a hundredth of that for each."""
FEW = 1_000
TROUBLE = ("throttled", "unreachable", "failing")
_NOTHING = Queues()


class Gauges:
    """The gauges of one session; `spawn` runs a question to the store as a task."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        scheduler: Scheduler,
        clients: ClientCache,
        wire: Wire,
        crawls: Mapping[int, Crawl],
        *,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._store = store
        self._settings = settings
        self._scheduler = scheduler
        self._clients = clients
        self._wire = wire
        self._crawls = crawls
        self._spawn = spawn
        self._clock = wire.clock
        self._machine = Machine(self._clock())
        self._rates: dict[int, Rates] = {}
        self._queues: dict[int, Queues] = {}
        self._evictions: deque[tuple[float, int]] = deque(maxlen=64)
        self._is_asking = False
        self._ask_at = 0.0
        self._looked: tuple[dict[str, int], list[Domain]] = {}, []
        self._look_at = 0.0

    def __repr__(self) -> str:
        return f"<Gauges of {len(self._rates)} runs, {self._machine!r}>"

    def begin(self, crawl: Crawl) -> None:
        """A run has begun."""
        self._rates[crawl.id] = Rates()
        self._note(crawl, self._clock())
        self._ask_at = 0.0

    def beat(self, now: float) -> None:
        """To be called once a second."""
        self._machine.note(now)
        self._evictions.append((now, self._clients.stats().evictions))
        for run in self._rates.keys() - self._crawls.keys():
            del self._rates[run]
            self._queues.pop(run, None)
        for crawl in self._crawls.values():
            self._note(crawl, now)
        if self._crawls and now >= self._ask_at and not self._is_asking:
            self._is_asking = True
            self._spawn(self._ask())

    def live(self, answers: Collection[Answered] = ()) -> Live:
        """The session at this instant."""
        now = self._clock()
        clients, sockets = self._clients.stats(), self._clients.dialer.sockets.stats()
        used = clients.new_connections + clients.reused_connections
        queued = self._queued()
        if now >= self._look_at:
            self._looked = self._look(now, queued)
            beyond = sum(self._looked[0].values()) - FEW
            self._look_at = now + LOOK_S * max(0, beyond)
        states, first = self._looked
        stored = self._store.stats()
        return Live(
            at=time.time(),
            pid=os.getpid(),
            database=self._store.path or "",
            runs=tuple(self._run(crawl, now) for crawl in self._crawls.values()),
            domains=tuple(self._domain(domain, queued, now) for domain in first),
            domains_total=sum(states.values()),
            states=states,
            on_wire=self._scheduler.on_wire,
            concurrency=self._settings.concurrency,
            clients=clients.clients,
            clients_limit=self._settings.pool.clients,
            open_connections=sockets.open,
            idle_connections=sockets.idle,
            sockets_limit=self._clients.budget.stats().limit,
            reuse=clients.reused_connections / used if used else 0.0,
            evictions=clients.evictions,
            evictions_per_minute=self._evicted_per_minute(now, clients.evictions),
            descriptors=self._machine.descriptors,
            descriptors_limit=self._machine.descriptors_limit,
            memory=self._machine.memory,
            database_bytes=stored.bytes,
            behind_s=stored.behind_s,
            unfinished=sum(crawl.unfinished - crawl.in_flight for crawl in self._crawls.values()),
            cpu=self._machine.cpu,
            shortage=self._wire.shortage,
            answers=tuple(answers),
        )

    # -- gathering --------------------------------------------------------------------------

    def _note(self, crawl: Crawl, now: float) -> None:
        settled = crawl.queued_before + crawl.found - crawl.queued
        sample = Sample(now, crawl.pages, crawl.items, settled, crawl.found)
        self._rates[crawl.id].note(sample)

    async def _ask(self) -> None:
        begun = self._clock()
        try:
            for run in list(self._crawls):
                self._queues[run] = await self._store.queues(run, ASKED)
        except StorageError:
            pass  # whoever needs the store will say so
        finally:
            ended = self._clock()
            self._ask_at = begun + max(ASK_EVERY_S, ASK_COST * (ended - begun))
            self._is_asking = False

    def _evicted_per_minute(self, now: float, evictions: int) -> float:
        if not self._evictions:
            return 0.0
        at, before = self._evictions[0]
        return 60.0 * (evictions - before) / max(1.0, now - at)

    # -- runs -------------------------------------------------------------------------------

    def _run(self, crawl: Crawl, now: float) -> RunLive:
        rates = self._rates[crawl.id]
        lately = rates.over(SHORT_S)
        ends_in_s, ends_by = self._forecast(crawl, rates, now)
        state = "paused" if crawl.is_paused else "running"
        return RunLive(
            run=crawl.row.name,
            spider=crawl.spider.name,
            state="stopping" if crawl.stopping is not None or crawl.is_ending else state,
            seconds=time.time() - crawl.began_at,
            pages=crawl.pages,
            pages_before=crawl.done_before,
            items=crawl.items_before + crawl.items,
            errors=crawl.errors,
            failed=crawl.failed_before + crawl.failed,
            retries=crawl.retries,
            waiting=self._queues.get(crawl.id, _NOTHING).waiting,
            queued=max(0, crawl.queued),
            rate=lately.per_second(lately.pages),
            item_rate=lately.per_second(lately.items),
            net=_net(rates),
            spark=rates.spark(),
            limit=crawl.settings.limit,
            ends_in_s=ends_in_s,
            ends_by=ends_by,
        )

    def _forecast(self, crawl: Crawl, rates: Rates, now: float) -> Forecast:
        if crawl.is_paused or crawl.stopping is not None:
            return Forecast(None)
        if crawl.seeding:
            return Forecast(None, "start URLs are still coming")
        loads = []
        for name, rows, _ in self._queues.get(crawl.id, _NOTHING).longest[:SHOWN]:
            if (domain := self._scheduler.known(name)) is not None:
                loads.append(_load(domain, rows, now))
        return forecast(
            queued=max(0, crawl.queued),
            moved=rates.over(LONG_S),
            loads=loads,
            pages_left=_pages_left(crawl),
        )

    # -- domains ----------------------------------------------------------------------------

    def _queued(self) -> dict[str, tuple[int, int]]:
        """Rows queued and waiting by domain, over all runs, as the store said last."""
        found: dict[str, tuple[int, int]] = {}
        for queues in self._queues.values():
            for name, rows, waiting in queues.longest:
                other = found.get(name, (0, 0))
                found[name] = other[0] + rows, other[1] + waiting
        return found

    def _look(
        self, now: float, queued: dict[str, tuple[int, int]]
    ) -> tuple[dict[str, int], list[Domain]]:
        """How many domains are in each state, and those that matter most: trouble, then
        the longest queues."""
        states: Counter[str] = Counter()
        found = []
        for n, domain in enumerate(self._scheduler.domains()):
            rows, waiting = queued.get(domain.name, (0, 0))
            state = self._state(domain, rows, waiting, now)
            states[state] += 1
            is_trouble = state in TROUBLE and (rows or domain.active or domain.version >= 0)
            found.append((bool(is_trouble), rows, domain.meter.requests, -n, domain))
        return dict(states), [entry[4] for entry in nlargest(SHOWN, found)]

    def _state(self, domain: Domain, rows: int, waiting: int, now: float) -> str:
        if self._crawls and all(crawl.is_paused for crawl in self._crawls.values()):
            return "paused"
        state = _state(domain, now)
        crawls = self._crawls.values()
        if state == "idle" and rows and crawls and all(crawl.stopping for crawl in crawls):
            return "stopping"
        return "waiting" if state == "idle" and waiting else state

    def _domain(self, domain: Domain, queued: dict[str, tuple[int, int]], now: float) -> DomainLive:
        pace, meter = domain.pace, domain.meter
        state = self._state(domain, *queued.get(domain.name, (0, 0)), now)
        times = meter.percentiles(0.5, 0.95)
        until = pace.next_at - now
        rows = queued[domain.name][0] if domain.name in queued else _in_memory(domain)
        return DomainLive(
            domain=domain.name,
            state=state,
            wait_s=until if until > 0 and state in ("waiting", *TROUBLE) else None,
            queued=rows,
            active=domain.active,
            concurrency=pace.concurrency,
            limit=pace.limit,
            delay=pace.delay,
            requests=meter.requests,
            rate=meter.rate(now),
            p50_s=times[0] if times else None,
            p95_s=times[1] if times else None,
            s2xx=meter.statuses[2],
            s3xx=meter.statuses[3],
            s4xx=meter.statuses[4],
            s5xx=meter.statuses[5],
            errors=meter.errors,
            problem=meter.problem,
            problem_count=meter.problem_count,
            problem_text=meter.problem_text,
        )


def _pages_left(crawl: Crawl) -> int | None:
    """Good pages to the limit, which counts those whose callback fails too."""
    left = crawl.pages_left
    return left and round(left * crawl.pages / (crawl.delivered or 1))


def _net(rates: Rates) -> float | None:
    """Rows a second by which the queue grows; None: too early to say."""
    moved = rates.over(LONG_S)
    return moved.per_second(moved.found - moved.settled) if moved.seconds >= SOONEST_S else None


def _state(domain: Domain, now: float) -> str:
    """One of `DomainLive.state`; without a look into its windows."""
    pace = domain.pace
    if pace.is_paused:
        return "paused"
    if pace.failures:
        return pace.state
    if domain.gate:
        return "robots"
    if domain.in_line:
        return "in-line"
    if domain.meter.is_failing and (domain.active or domain.version >= 0):
        return "failing"
    if domain.version >= 0:
        return "waiting" if pace.next_at > now else "ok"
    return "ok" if domain.active else "idle"


def _in_memory(domain: Domain) -> int:
    """Rows of the windows: all there are, where the store did not name the domain."""
    return sum(map(len, domain.windows.values())) + domain.active


def _load(domain: Domain, rows: int, now: float) -> Load:
    times = domain.meter.percentiles(0.5)
    return Load(
        domain=domain.name,
        queued=rows,
        delay=domain.pace.delay,
        answer_s=times[0] if times else 0.0,
        concurrency=domain.pace.concurrency,
        rest_s=max(0.0, domain.pace.rests_until - now),
        rate=domain.meter.lasting_rate(now) if domain.meter.problem else 0.0,
    )
