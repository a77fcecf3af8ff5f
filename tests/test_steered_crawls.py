"""What commands do to the runs and domains of a crawl that is under way."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from crawler import DomainSettings, Request, RobotsSettings, Settings, StopCrawl
from crawler.crawling import run_loop
from crawler.engine import Session
from crawler.steering import Command, encode, read_action
from crawler.testing import Reply, Site
from storage import append_control
from tests.crawling import Walk, links, rows, value, walker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from crawler import Response, Spider
    from crawler.live import Answered, DomainLive
    from crawler.result import CrawlResult
    from crawler.run import Crawl

# ── what they do ─────────────────────────────────────────────────────────────────────────

NO_ROBOTS = RobotsSettings(obey=False)


async def until(holds: Callable[[], bool]) -> None:
    """Wait for a condition, looked at every few turns of the loop."""
    loop = asyncio.get_running_loop()
    came: asyncio.Future[None] = loop.create_future()

    def look() -> None:
        if came.done():
            return
        if holds():
            came.set_result(None)
        else:
            loop.call_later(0.002, look)

    look()
    await came


class Scene:
    """A session over a file, its site, and somebody who steers it."""

    def __init__(self, db: Path, site: Site, session: Session) -> None:
        self.db = db
        self.site = site
        self.session = session

    async def begin(self, *paths: str, kind: type[Spider] = Walk, **settings: Any) -> Crawl:
        spider = walker([self.site.url(path) for path in paths or ("/",)], kind)
        asked = Settings(**{"domain": DomainSettings(delay=0), "robots": NO_ROBOTS} | settings)
        return await self.session.begin(spider, settings=asked)

    def set(self, word: str, domain: str | None = None, run: str | None = None) -> Answered:
        """What `crawler set` does, and the next heartbeat."""
        number = append_control(str(self.db), encode(read_action(word, domain=domain, run=run)))
        self.session._helm.poll()
        answer = self.session.live().answers[-1]
        assert answer.number == number
        return answer

    def domain(self, n: int = 0) -> DomainLive:
        live = {domain.domain: domain for domain in self.session.live().domains}
        return live[self.site.addresses[n]]

    async def quiet(self) -> int:
        """Wait until nothing is on the wire; the requests that came so far."""
        await until(lambda: not self.session._scheduler.on_wire)
        return len(self.site.log)


def play(
    db: Path, site: Site, act: Callable[[Scene], Any], settings: Settings | None = None
) -> Any:
    async def scene() -> Any:
        async with site, await Session.open(db, settings) as session, asyncio.timeout(15):
            return await act(Scene(db, site, session))

    return run_loop(scene())


def chain(pages: int, slow_s: float = 0.0, addresses: int = 1, port: int = 0) -> Site:
    """Each page leads to the next two."""
    site = Site(addresses=addresses, port=port)
    for n in range(pages):
        here = [f"/{m}" for m in (n + 1, n + 2) if m < pages]
        site.add(f"/{n}" if n else "/", links(*here).slow(slow_s))
    return site


def test_nothing_reaches_the_server_during_a_pause_and_nothing_is_lost(tmp_path: Path) -> None:
    async def act(scene: Scene) -> tuple[int, int, float, CrawlResult]:
        crawl = await scene.begin(patience=0.0)
        end = asyncio.ensure_future(scene.session.ended(crawl))
        await until(lambda: len(scene.site.log) >= 10)
        assert scene.set("pause").is_done
        before = await scene.quiet()
        assert scene.session.live().runs[0].state == "paused"
        assert scene.domain().state == "paused"
        used = time.process_time()
        for _ in range(3):
            scene.session._beat()
            scene.session._heart.cancel()
        await asyncio.wait([end], timeout=0.3)
        used = time.process_time() - used
        meanwhile = len(scene.site.log)
        assert not end.done()
        assert scene.set("resume").text == "resume: walk-1 goes on"
        return before, meanwhile, used, await end

    db, site = tmp_path / "x.db", chain(60, 0.005)
    before, meanwhile, used, result = play(db, site, act)
    assert 10 <= before == meanwhile < 60
    assert used < 0.15
    assert (result.ended_by, result.delivered, result.stored) == ("finished", 60, 60)
    assert Counter(r.path for r in site.log).most_common(1)[0][1] == 1
    assert rows(db, "select distinct state from requests") == [("done",)]


def test_what_a_page_asks_aside_waits_for_the_end_of_the_pause(tmp_path: Path) -> None:
    class Asks(Walk):
        async def parse(self, page: Response) -> AsyncIterator[Any]:
            asked.set()
            await go.wait()
            more = await self.fetch(Request(page.url + "more"))
            yield {"url": more.url}

    async def act(scene: Scene) -> list[str]:
        crawl = await scene.begin(kind=Asks)
        await asked.wait()
        scene.set("pause")
        go.set()
        end = asyncio.ensure_future(scene.session.ended(crawl))
        await asyncio.wait([end], timeout=0.1)
        seen = [r.path for r in scene.site.log]
        scene.set("resume")
        assert (await end).stored == 1
        return seen

    asked, go = asyncio.Event(), asyncio.Event()
    site = Site({"/": links(), "/more": links()})
    assert play(tmp_path / "x.db", site, act) == ["/"]
    assert [r.path for r in site.log] == ["/", "/more"]


@pytest.mark.parametrize("how", ["stop", "signal", "max-time"])
def test_a_paused_run_can_be_ended_and_gone_on_with(how: str, tmp_path: Path) -> None:
    async def act(scene: Scene) -> CrawlResult:
        crawl = await scene.begin(max_time=0.3 if how == "max-time" else None)
        await until(lambda: len(scene.site.log) >= 2)
        scene.set("pause")
        if how == "stop":
            assert scene.set("stop").text == "stop: walk-1 stopping"
        elif how == "signal":
            scene.session.stop()
        ended: CrawlResult = await scene.session.ended(crawl)
        return ended

    async def go_on(scene: Scene) -> CrawlResult:
        (row,) = await scene.session.store.runs()
        ended: CrawlResult = await scene.session.crawl(walker([scene.site.url("/")]), resume=row)
        return ended

    db, codes = tmp_path / "x.db", {"stop": 4, "signal": 130, "max-time": 0}
    site = chain(40, 0.01)
    result = play(db, site, act)
    assert (result.ended_by, result.exit_code) == (how.replace("stop", "stopped"), codes[how])
    assert result.queued > 0
    assert result.seconds < 5
    state = "finished" if how == "max-time" else "interrupted"
    assert rows(db, "select state, ended_by from runs") == [(state, result.ended_by)]
    port = int(site.addresses[0].rpartition(":")[2])
    went_on = play(db, chain(40, port=port), go_on)
    assert (went_on.ended_by, went_on.failed) == ("finished", 0)
    assert value(db, "select count(*) from items") == 40


def test_of_several_runs_the_one_that_is_named_is_paused(tmp_path: Path) -> None:
    async def act(scene: Scene) -> list[str]:
        first, second = await scene.begin("/"), await scene.begin("/")
        await until(lambda: len(scene.site.log) >= 4)
        assert scene.set("pause", run="walk-9").text == (
            "pause: walk-9 is not running here (running: walk-1, walk-2)"
        )
        assert scene.set("pause", run="walk-1").is_done
        states = [run.state for run in scene.session.live().runs]
        assert (await scene.session.ended(second)).ended_by == "finished"
        assert first.unfinished == 0
        assert not scene.set("pause", run="walk-2").is_done
        scene.set("resume", run="walk-1")
        assert (await scene.session.ended(first)).delivered == 40
        assert not scene.set("stop").is_done
        return states

    assert play(tmp_path / "x.db", chain(40, 0.005), act) == ["paused", "running"]


def test_a_run_that_is_being_stopped_is_left_out_and_alone_refuses(tmp_path: Path) -> None:
    async def act(scene: Scene) -> None:
        asked = Settings(robots=NO_ROBOTS)
        first, second = [
            await scene.session.begin(walker([f"http://{address}/slow"]), settings=asked)
            for address in scene.site.addresses
        ]
        await until(lambda: len(scene.site.log) == 2)
        scene.set("stop", run="walk-2")
        assert scene.set("pause").text == "pause: walk-1 paused"
        assert scene.set("resume").text == "resume: walk-1 goes on"
        scene.set("pause", domain=scene.site.addresses[0])
        scene.set("stop")
        assert scene.set("resume").text == "resume: the crawl is being stopped"
        assert scene.session._wishes.has_paused
        gate.set()
        for crawl in (first, second):
            assert (await scene.session.ended(crawl)).ended_by == "stopped"

    async def held(_: object) -> Reply:
        await gate.wait()
        return links()

    gate = asyncio.Event()
    play(tmp_path / "x.db", Site({"/slow": held}, addresses=2), act)


def test_a_paused_domain_rests_while_the_others_go_on(tmp_path: Path) -> None:
    async def act(scene: Scene) -> None:
        one, two = scene.site.addresses
        early = scene.set("pause", domain=one)
        assert "no such domain was met yet" not in early.text
        assert "no run is running" in early.text
        spider = walker([f"http://{one}/", f"http://{two}/"])
        asked = Settings(domain=DomainSettings(delay=0), robots=NO_ROBOTS, patience=0.0)
        crawl = await scene.session.begin(spider, settings=asked)
        scene.set("pause", domain=one)
        end = asyncio.ensure_future(scene.session.ended(crawl))
        await until(lambda: crawl.delivered >= 20 and not scene.session._scheduler.on_wire)
        scene.session._beat()
        scene.session._heart.cancel()
        await asyncio.wait([end], timeout=0.1)
        assert not end.done()
        paused, other = scene.domain(0), scene.domain(1)
        assert (paused.state, other.state) == ("paused", "idle")
        assert paused.requests <= 1
        assert scene.set("resume", domain=one).is_done
        assert (await end).delivered == 40

    play(tmp_path / "x.db", chain(20, addresses=2), act)


def test_a_delay_holds_at_once_for_domains_that_are_there(tmp_path: Path) -> None:
    async def act(scene: Scene) -> None:
        crawl = await scene.begin(domain=DomainSettings(delay=3_600))
        await until(lambda: crawl.delivered == 1)
        domain = scene.session._scheduler.known(scene.site.addresses[0])
        assert domain is not None
        await until(lambda: scene.domain().state == "waiting")
        assert scene.domain().wait_s == pytest.approx(3_600, abs=5)
        assert scene.set("delay=0.001").text == f"delay=0.001: holds for {domain.name}"
        await until(lambda: crawl.delivered >= 5)
        scene.set("delay=auto")
        assert scene.domain().delay == 0
        domain.pace.floor_s = 5.0
        told = scene.set("delay=1").text
        assert told.endswith(f"{domain.name} keeps 5 s, as its robots.txt asks")
        scene.set("delay=7", domain="127.0.0.*")
        assert scene.domain().delay == 7
        scene.session.stop()
        await scene.session.ended(crawl)

    play(tmp_path / "x.db", chain(200), act)


def test_the_strictest_of_several_runs_holds_while_both_run(tmp_path: Path) -> None:
    async def act(scene: Scene) -> None:
        slow = await scene.begin(domain=DomainSettings(delay=5, concurrency=3))
        await until(lambda: slow.delivered == 1)
        quick = await scene.begin(domain=DomainSettings(delay=1, concurrency=6))
        host = scene.site.addresses[0]
        assert (scene.domain().delay, scene.domain().limit) == (5, 3)
        told = scene.set("delay=2", run="walk-1").text
        assert told == f"delay=2: holds for {host}"
        assert scene.domain().delay == 2
        told = scene.set("delay=0.5", run="walk-1").text
        assert told.endswith(f"{host} keeps 1 s, as another run asks")
        scene.session.stop_run(quick, "spider")
        await scene.session.ended(quick)
        assert (scene.domain().delay, scene.domain().limit) == (0.5, 3)
        scene.session.stop()
        await scene.session.ended(slow)

    play(tmp_path / "x.db", chain(30), act)


def test_concurrency_is_raised_and_lowered_with_the_pool_below_it(tmp_path: Path) -> None:
    gate = asyncio.Event()
    now = most = 0

    async def held(_: object) -> Reply:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await gate.wait()
        now -= 1
        return links()

    async def act(scene: Scene) -> None:
        crawl = await scene.begin(domain=DomainSettings(delay=0, concurrency=2))
        (client,) = [await _client(scene)]
        await until(lambda: now == 2)
        assert scene.set("concurrency=6").is_done
        domain = scene.session._scheduler.known(scene.site.addresses[0])
        assert domain is not None
        domain.pace.concurrency = 6
        scene.session._scheduler.repaced(domain, 0.0)
        scene.session._pump.wake()
        await until(lambda: now == 6)
        assert (most, client.connections, client.stats().waiting) == (6, 6, 0)
        scene.set("concurrency=1")
        assert (scene.domain().limit, scene.domain().concurrency) == (1, 1)
        gate.set()
        await scene.session.ended(crawl)
        assert crawl.delivered == 41
        assert client.connections == 1
        assert client.open_connections <= 1

    site = Site({"/": links(*(f"/{n}" for n in range(40)))}, fallback=held)
    play(tmp_path / "x.db", site, act)


async def _client(scene: Scene) -> Any:
    """The pool of the one client."""
    clients = scene.session._clients._clients
    await until(lambda: len(clients) == 1)
    ((client, _),) = clients.values()
    return client.transport.pool


def test_more_requests_at_once_than_the_session_has_are_refused(tmp_path: Path) -> None:
    async def act(scene: Scene) -> tuple[str, int]:
        crawl = await scene.begin()
        refused = scene.set("concurrency=17")
        assert not refused.is_done
        assert scene.set("concurrency=16").is_done
        await scene.session.ended(crawl)
        return refused.text, crawl.delivered

    text, delivered = play(tmp_path / "x.db", chain(5), act, Settings(concurrency=16))
    assert text == "concurrency=17: concurrency allows 16 at once, over all domains"
    assert delivered == 5


def test_a_domain_that_comes_later_keeps_to_what_was_said(tmp_path: Path) -> None:
    async def act(scene: Scene) -> str:
        crawl = await scene.begin("/", domain=DomainSettings(delay=3_600))
        await until(lambda: crawl.delivered == 1)
        name = scene.site.addresses[1]
        told = scene.set("delay=4", domain=f"{name}0").text
        scene.set("concurrency=3", domain=name)
        domain = scene.session._scheduler.adopt(_claim(name), 0.0)
        assert (domain.pace.limit, domain.pace.delay) == (3, 3_600)
        scene.session.stop()
        await scene.session.ended(crawl)
        return told

    told = play(tmp_path / "x.db", chain(9, addresses=2), act)
    assert "no such domain was met yet, it holds from then on; did you mean 127.0.0.1:" in told


def _claim(name: str) -> Any:
    from storage import Claim

    return Claim(domain=name, epoch=1, lease_until=0.0)


def test_every_line_is_answered_in_its_order_and_logged_on_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def act(scene: Scene) -> list[Answered]:
        crawl = await scene.begin("/slow")
        for data in (b"pause\x1b[31m", b'{"action": "pause", "domain": "a\\nb"}', b"{}"):
            append_control(str(scene.db), data)
        for _ in range(130):
            append_control(str(scene.db), encode(Command(action="pause")))
        scene.session._helm.poll()
        scene.set("stop")
        await scene.session.ended(crawl)
        return list(scene.session.live().answers)

    with caplog.at_level(logging.INFO, "crawler"):
        answers = play(tmp_path / "x.db", Site({"/slow": links().slow(0.1)}), act)
    assert [answer.number for answer in answers] == list(range(35, 135))
    steered = [message for message in caplog.messages if message.startswith("command ")]
    assert len(steered) == 134
    assert steered[0].startswith("command 1 refused: not understood: ")
    assert all(message.isprintable() for message in steered)


@pytest.mark.parametrize(
    ("how", "ended_by"),
    [
        ("ends", "finished"),
        ("raises", "error"),
        ("stops", "spider"),
        ("stop", "stopped"),
        ("signal", "signal"),
        ("max-time", "max-time"),
        ("cancelled", "error"),
        ("pause resume", "finished"),
        ("pause stop", "stopped"),
        ("pause resume stop", "stopped"),
    ],
)
def test_what_was_queued_waits_for_the_hook_and_the_run_ends_however_that_ends(
    how: str, ended_by: str, tmp_path: Path
) -> None:
    class Hooked(Walk):
        async def opened(self) -> None:
            if how == "raises":
                raise ValueError("no key")
            if how == "stops":
                raise StopCrawl
            if how == "cancelled":
                raise asyncio.CancelledError
            if how != "ends":
                await go.wait()

    async def act(scene: Scene) -> CrawlResult:
        await scene.session.ended(await scene.begin(limit=1))
        (row,) = await scene.session.store.runs()
        asked = Settings(
            domain=DomainSettings(delay=0),
            robots=NO_ROBOTS,
            patience=0.0,
            max_time=0.05 if how == "max-time" else None,
        )
        crawl = await scene.session.begin(walker([], Hooked), settings=asked, resume=row)
        await asyncio.sleep(0)
        for word in how.split():
            if word in ("pause", "resume", "stop"):
                scene.set(word)
        scene.session._beat()
        if how == "signal":
            scene.session.stop()
        assert len(scene.site.log) == 1
        if "resume" in how or "pause" not in how:
            asyncio.get_running_loop().call_later(0.1, go.set)
        ended: CrawlResult = await scene.session.ended(crawl)
        return ended

    go, db, site = asyncio.Event(), tmp_path / "x.db", chain(3)
    result = play(db, site, act)
    assert (result.ended_by, len(site.log)) == (ended_by, 3 if ended_by == "finished" else 1)
    assert result.seconds < 5
    assert value(db, "select count(*) from requests where state = 'queued'") == result.queued
