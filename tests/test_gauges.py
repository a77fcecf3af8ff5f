"""What a running crawl's figures say, from one meter to the whole session."""

from __future__ import annotations

import asyncio
import logging
import os
import stat
from math import ceil
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler import DomainSettings, Response, RobotsSettings, Settings, Spider
from crawler.cli.stored import stored
from crawler.crawling import run_loop
from crawler.engine import Session
from crawler.live import Live, decode, encode
from crawler.machine import Machine
from crawler.meter import FAILING, LATELY, WELL_AGAIN, Meter, bounds_of, bucket_of
from crawler.summary import summarise
from crawler.testing import Reply, Site, dead_address
from storage import Claim, RunSpec, open_store, read_live
from storage.reading import Reader
from tests.crawling import Walk, links, walker

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# ── a domain's meter ─────────────────────────────────────────────────────────────────────

SECONDS = st.floats(min_value=1e-4, max_value=1_000.0)


@given(SECONDS)
def test_a_latency_lies_in_its_bucket(seconds: float) -> None:
    begin, end = bounds_of(bucket_of(seconds))
    assert begin <= seconds < end
    assert end / begin <= 1.25


@given(st.floats(allow_nan=False, max_value=1e9))
def test_any_latency_has_a_bucket(seconds: float) -> None:
    assert 0 <= bucket_of(seconds) < 96
    assert bucket_of(-0.0) == bucket_of(0.0) == 0


@given(st.lists(SECONDS, min_size=1, max_size=LATELY), st.floats(0.01, 1.0))
def test_a_percentile_is_near_that_of_the_sorted_answers(times: list[float], share: float) -> None:
    meter = Meter()
    for seconds in times:
        meter.ended(0.0, 200, seconds)
    found = meter.percentiles(share)
    assert found is not None
    exact = sorted(times)[max(1, ceil(share * len(times))) - 1]
    assert exact / 1.25 <= found[0] <= exact * 1.25


def test_percentiles_forget_what_was_long_ago() -> None:
    meter = Meter()
    for _ in range(5_000):
        meter.ended(0.0, 200, 8.0)
    for _ in range(3_000):
        meter.ended(0.0, 200, 0.1)
    found = meter.percentiles(0.5, 0.75)
    assert found == pytest.approx([0.1, 0.1], rel=0.25)
    assert meter.stats()["timed"] <= LATELY
    assert Meter().percentiles(0.5) is None


def test_a_meter_counts_by_class_of_status_and_what_had_no_answer() -> None:
    meter = Meter()
    for status in (200, 204, 301, 404, 429, 503, 999, None):
        meter.ended(0.0, status, None if status is None else 0.1)
    assert (meter.requests, meter.errors) == (8, 1)
    assert meter.statuses[2:] == [2, 1, 2, 2]


def test_the_rate_is_that_of_the_last_ten_seconds() -> None:
    meter = Meter()
    for tenth in range(1_000):
        meter.ended(500.0 + tenth / 10, 200, 0.1)
    assert meter.rate(600.0) == pytest.approx(10.0, rel=0.05)
    assert meter.rate(605.0) == pytest.approx(5.0, rel=0.05)
    assert meter.rate(611.0) == 0.0
    assert Meter().rate(5.0) == 0.0


def test_a_newcomer_has_the_rate_of_its_own_time() -> None:
    meter = Meter()
    for n in range(8):
        meter.ended(1_000.0 + n / 4, 200, 0.1)
    assert meter.rate(1_002.0) == pytest.approx(4.0)


def test_a_problem_is_the_last_code_and_how_often_it_came_until_all_is_well() -> None:
    meter = Meter()
    for code in ("http-503", "reset", "http-503"):
        meter.failed(code, "x" * 1_000)
    assert (meter.problem, meter.problem_count, len(meter.problem_text)) == ("http-503", 2, 200)
    for _ in range(WELL_AGAIN - 1):
        meter.worked()
    assert meter.problem == "http-503"
    meter.worked()
    assert (meter.problem, meter.problem_count, meter.problem_text) == ("", 0, "")
    meter.failed("http-503", "")
    assert meter.problem_count == 1


def test_robots_txt_is_no_answer_of_the_site_and_a_host_without_answers_is_failing() -> None:
    meter = Meter()
    meter.ended(0.0, 404, 0.1, is_robots=True)
    for n in range(9):
        assert meter.is_failing == (n >= FAILING)
        meter.ended(30.0 * n, None if n % 2 else 503, None)
    assert (meter.requests, meter.errors, meter.statuses[4]) == (10, 4, 0)
    meter.ended(300.0, 404, 0.1)
    assert not meter.is_failing


def test_the_lasting_rate_has_the_rests_in_it() -> None:
    meter = Meter()
    for rest in range(20):
        for n in range(9):
            meter.ended(1_000.0 + 27 * rest + n / 4, 200, 0.1)
        meter.ended(1_003.0 + 27 * rest, 429, 0.1)
    assert meter.lasting_rate(1_000.0 + 27 * 20) == pytest.approx(9 / 27, rel=0.2)
    assert Meter().lasting_rate(5.0) == 0.0


def test_pages_failures_and_errors_are_the_same_while_it_runs_and_in_the_summary(
    tmp_path: Path,
) -> None:
    paths = ("/", "/gone", "/boom-1", "/boom-2", "/moved", "/good")
    pages = {path: Reply.html("<title>x</title>") for path in paths}
    pages |= {"/gone": Reply.code(404), "/moved": Reply.redirect("/there")}
    pages |= {"/robots.txt": Reply.code(404), "/there": Reply.html("<title>x</title>")}

    class Boom(Spider):
        settings = Settings(domain=DomainSettings(delay=0))

        def parse(self, page: Response) -> object:
            if "boom" in page.url:
                raise ValueError(page.url)
            return {"url": page.url}

    async def scene(spider: Spider) -> Live:
        async with await Session.open(tmp_path / "boom.db") as session:
            crawl = await session.begin(spider)
            ended = asyncio.ensure_future(session.ended(crawl))
            live = session.live()
            while not ended.done():
                live = session.live() if session.live().runs else live
                await asyncio.sleep(0)
            return live

    with Site(pages).threaded() as site:
        spider = Boom()
        spider.start_urls = [site.url(path) for path in paths]
        live = run_loop(scene(spider))
    with Reader(tmp_path / "boom.db") as reader:
        told = summarise(reader, "boom-1")
        left = stored(reader, "boom-1", "boom.db")
    (run,) = live.runs
    assert (run.pages, run.failed, run.errors, run.items) == (3, 3, 2, 3)
    assert (told.pages, told.failed, told.errors, told.items) == (3, 3, 2, 3)
    assert (left.pages, left.failed, left.errors, left.items) == (3, 3, 2, 3)
    (domain,) = live.domains
    assert domain.problem_count in (1, 2)
    assert domain.s4xx == 1


def test_a_meter_stays_small_whatever_comes() -> None:
    meter = Meter()
    for n in range(1_000):
        meter.failed(f"http-{n}", "")
        meter.ended(n, 100 + n % 500, 10.0 ** (n % 12 - 6))
    assert len(meter._codes) <= 16
    assert len(meter._times) == 96


# ── the process ──────────────────────────────────────────────────────────────────────────


def test_the_machine_says_how_many_files_are_open_and_how_much_is_used() -> None:
    machine = Machine(0.0)
    machine.note(1.0)
    before = machine.descriptors
    assert before is not None
    ends = os.pipe()
    machine.note(2.0)
    for end in ends:
        os.close(end)
    assert machine.descriptors == before + 2
    assert before < machine.descriptors_limit
    assert machine.memory is None or machine.memory > 1_000_000
    assert machine.cpu >= 0.0


LOOK_S = 0.02


# ── a session ────────────────────────────────────────────────────────────────────────────


def crawled(
    site: Site,
    spider: Callable[[Site], Spider],
    db: Path | None,
    when: Callable[[Session, Live], bool],
    **settings: Any,
) -> tuple[Live, Live]:
    """What a session looked like once `when` held, and after its run had ended."""

    async def scene() -> tuple[Live, Live]:
        asked = Settings(**{"domain": DomainSettings(delay=0)} | settings)
        async with site, await Session.open(db, asked) as session:
            running = await session.begin(spider(site), settings=asked)
            end = asyncio.ensure_future(session.ended(running))
            async with asyncio.timeout(10):
                while not when(session, live := session.live()):
                    await asyncio.wait([end], timeout=LOOK_S)
                session.stop()
                await end
            return live, session.live()

    found: tuple[Live, Live] = run_loop(scene())
    return found


def test_a_session_tells_its_runs_its_domains_and_their_troubles(tmp_path: Path) -> None:
    host, port = dead_address()
    site = Site({"/": links("/1", "/2", "/gone"), "/robots.txt": Reply.code(404)})
    for n in (1, 2):
        site.add(f"/{n}", Reply.html("<p>x</p>").slow(0.05))
    held = asyncio.Event()

    class Held(Walk):
        async def parse(self, page: Any) -> Any:
            if page.url.endswith("/2"):
                await held.wait()
            return list(self.gathered(page))

    def is_all_seen(session: Session, live: Live) -> bool:
        seen = {domain.domain: domain for domain in live.domains}
        there = seen.get(f"{host}:{port}")
        if live.runs[0].failed == 2 and there is not None and live.runs[0].items >= 2:
            held.set()
            return True
        return False

    live, after = crawled(
        site,
        lambda site: walker([site.url("/"), f"http://{host}:{port}/"], Held),
        tmp_path / "x.db",
        is_all_seen,
    )
    (run,) = live.runs
    assert (run.run, run.spider, run.state) == ("held-1", "held", "running")
    assert (run.pages, run.failed, run.errors, run.limit) == (2, 2, 0, None)
    domains = {domain.domain: domain for domain in live.domains}
    dead, good = domains[f"{host}:{port}"], domains[site.addresses[0]]
    assert (dead.state, dead.problem) == ("unreachable", "connect-refused")
    assert (dead.requests, dead.problem_count) == (dead.errors, dead.errors)
    assert dead.p50_s is None
    assert (good.s2xx, good.s4xx, good.errors) == (3, 1, 0)
    assert (good.problem, good.problem_count) == ("http-404", 1)
    assert good.p50_s is not None
    assert good.p95_s is not None
    assert good.p50_s <= good.p95_s < 5
    assert live.domains[0] is dead or not dead.queued
    assert sum(live.states.values()) == live.domains_total == 2
    assert live.pid == os.getpid()
    assert live.database == str(tmp_path / "x.db")
    assert (live.clients_limit, live.concurrency) == (256, 256)
    assert live.database_bytes > 0
    assert decode(encode(live)) == live
    assert after.runs == ()


def test_a_throttled_domain_says_until_when_and_what_was_wished() -> None:
    site = Site({"/": Reply.code(429, headers={"Retry-After": "60"})})
    live, _ = crawled(
        site,
        lambda site: walker([site.url("/")]),
        None,
        lambda _, live: bool(live.domains and live.domains[0].state == "throttled"),
        robots=RobotsSettings(obey=False),
    )
    (domain,) = live.domains
    assert (domain.problem, domain.problem_text) == ("http-429", "Retry-After: 60")
    assert domain.wait_s is not None
    assert 50 < domain.wait_s <= 60
    assert (domain.active, domain.s4xx) == (0, 1)


def test_a_run_with_a_limit_and_one_that_goes_on_know_their_past(tmp_path: Path) -> None:
    db, chain = tmp_path / "x.db", Site({"/": links("/1"), "/1": links("/2"), "/2": links()})

    async def scene() -> list[Live]:
        found = []
        async with chain:
            for limit in (1, 2):
                settings = Settings(limit=limit, domain=DomainSettings(delay=0))
                async with await Session.open(db, settings) as session:
                    (row, *_) = [*await session.store.runs(), None]
                    spider = walker([chain.url("/")])
                    running = await session.begin(spider, settings=settings, resume=row)
                    found.append(session.live())
                    await session.ended(running)
        return found

    first, second = run_loop(scene())
    assert (first.runs[0].limit, first.runs[0].pages_before) == (1, 0)
    assert (second.runs[0].limit, second.runs[0].pages_before) == (2, 1)
    assert second.runs[0].queued == 1


def test_the_longest_queues_are_shown_and_all_are_counted() -> None:
    async def scene() -> Live:
        async with await Session.open(None) as session:
            run = await session.store.begin(RunSpec(spider="s", started_at=0.0))
            for n in range(200):
                claim = Claim(domain=f"h{n}.test", epoch=1, lease_until=0.0)
                domain = session._scheduler.adopt(claim, session._clock())
                domain.pace.failures = n % 100 == 7
                domain.pace.last_code = "http-503"
                domain.active = n % 100 == 7
            session._gauges._queues[run.id] = session_queues(200)
            return session.live()

    live = run_loop(scene())
    assert live.domains_total == 200
    assert live.states == {"idle": 198, "throttled": 2}
    assert len(live.domains) == 50
    names = [domain.domain for domain in live.domains]
    assert set(names[:2]) == {"h7.test", "h107.test"}
    assert names[2:5] == ["h199.test", "h198.test", "h197.test"]
    assert live.domains[2].queued == 200


def test_many_thousand_domains_are_looked_at_the_more_seldom() -> None:
    async def scene() -> tuple[int, int, float]:
        async with await Session.open(None) as session:
            for n in range(3_001):
                claim = Claim(domain=f"h{n}.test", epoch=1, lease_until=0.0)
                session._scheduler.adopt(claim, session._clock())
                if n == 2_999:
                    before, now = session.live().domains_total, session._clock()
            return before, session.live().domains_total, session._gauges._look_at - now

    before, after, rests_s = run_loop(scene())
    assert (before, after) == (3_000, 3_000)
    assert 0.1 < rests_s <= 0.2


def session_queues(count: int) -> Any:
    from storage import Queues

    longest = tuple((f"h{n}.test", n + 1, 0) for n in reversed(range(count)))
    return Queues(queued=count * (count + 1) // 2, domains=count, longest=longest)


def test_every_second_the_live_file_says_the_same_to_other_processes(tmp_path: Path) -> None:
    db, gate = tmp_path / "x.db", asyncio.Event()
    seen: list[bytes] = []

    async def held(_: object) -> Reply:
        await gate.wait()
        return links()

    def is_written(session: Session, live: Live) -> bool:
        data = read_live(str(db))
        if data is not None and data not in seen:
            seen.append(data)
            assert stat.S_IMODE(os.stat(f"{db}-live").st_mode) == 0o600
        if len(seen) == 2:
            gate.set()
        return gate.is_set()

    crawled(
        Site({"/": held}),
        lambda site: walker([site.url("/")]),
        db,
        is_written,
        robots=RobotsSettings(obey=False),
    )
    first, second = map(decode, seen)
    assert first.runs[0].run == second.runs[0].run == "walk-1"
    assert 0.5 < second.at - first.at < 5
    assert second.descriptors is not None
    assert not list(tmp_path.glob("x.db-*"))


def test_a_live_file_that_cannot_be_written_is_said_once_and_costs_no_page(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    db = tmp_path / "x.db"

    async def scene() -> int:
        site = Site({"/": links("/1"), "/1": links().slow(0.2)})
        async with site, await Session.open(db) as session:
            os.mkdir(f"{db}-live-new")
            for _ in range(3):
                session._beat()
                session._heart.cancel()
            spider = walker([site.url("/")])
            result = await session.crawl(spider, settings=Settings(domain=DomainSettings(delay=0)))
            os.rmdir(f"{db}-live-new")
            return result.delivered

    with caplog.at_level(logging.WARNING, "crawler"):
        assert run_loop(scene()) == 2
    assert sum("crawler status" in message for message in caplog.messages) == 1


# ── the store's part ─────────────────────────────────────────────────────────────────────


def test_what_was_handed_over_and_not_yet_written_is_behind(tmp_path: Path) -> None:
    from storage import Commit

    async def scene() -> tuple[float, float]:
        store = await open_store(tmp_path / "x.db")
        try:
            run = await store.begin(RunSpec(spider="s", started_at=0.0))
            waiting = asyncio.ensure_future(store.commit([Commit(run=run.id, at=0.0)]))
            await asyncio.sleep(0)
            meanwhile = store.stats().behind_s
            await waiting
            return meanwhile, store.stats().behind_s
        finally:
            await store.aclose()

    meanwhile, after = asyncio.run(scene())
    assert 0 < meanwhile < 5
    assert after == 0
