"""Crawls with hardly any descriptors: the crawl is a process of its own, the hosts another."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks.hosts import address, counted, hosts

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
LOOK_S = 0.005
"""Seconds between two looks at a process's descriptors."""
AFTER_S = 2.0
"""Seconds after a crawl's end at which none of its sockets is open."""

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="hosts on all of 127.0.0.0/8, /proc"
)

CRAWL = """
import asyncio, functools, json, logging, os, sys, time
import crawler.access
from crawler import DomainSettings, PoolSettings, Response, Results, Retry, Session, Settings
from crawler import Spider
from crawler.crawling import run_loop, settings_of

logging.basicConfig(level=logging.INFO, stream=sys.stderr)


class Wide(Spider):
    start_urls = sys.stdin.readline().split()
    settings = Settings(
        domain=DomainSettings(delay=0), pool=PoolSettings(clients=int(sys.argv[1]))
    )
    retry = Retry(attempts=1)
    got = 0

    def parse(self, page: Response) -> Results:
        self.got += 1
        yield from page.follow_all("a", self.parse)
        yield {"url": page.url}


def tell(**facts):
    print(json.dumps(facts), flush=True)


def stop_until_told():
    return asyncio.to_thread(sys.stdin.readline)
"""
PLAIN = """
async def scene():
    spider = Wide()
    own = settings_of(spider)
    async with await Session.open("wide.db", own) as session:
        budget = session._clients.budget
        result = await session.crawl(spider, settings=own)
        stats = budget.stats()
    tell(got=spider.got, failed=result.failed, limit=stats.derived, peak=stats.peak,
         shrunk=stats.shrunk, refused=stats.refused, left=budget.stats().open)
    await stop_until_told()

run_loop(scene())
"""
HOG = """
class Hogged(Wide):
    eaten = []
    waits = most = 0
    codes = set()

    def parse(self, page: Response) -> Results:
        yield from super().parse(page)
        if self.got < 20 or self.waits >= 3:
            return
        try:
            while True:
                self.eaten.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            self.most = max(self.most, len(self.eaten))

    def before_retry(self, request, error, wait_s):
        self.codes.add(error.code)
        self.waits += 1
        if self.waits == 3:
            while self.eaten:
                os.close(self.eaten.pop())


async def scene():
    spider = Hogged()
    own = settings_of(spider)
    async with await Session.open("wide.db", own) as session:
        budget = session._clients.budget
        result = await session.crawl(spider, settings=own)
        stats, deadline = budget.stats(), time.monotonic() + 5
        while stats.limit < stats.derived and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
            budget.recover()
            stats = budget.stats()
    tell(got=spider.got, failed=result.failed, limit=stats.limit, derived=stats.derived,
         shrunk=stats.shrunk, waits=spider.waits, eaten=spider.most, codes=sorted(spider.codes),
         left=budget.stats().open)

crawler.access.SocketBudget = functools.partial(crawler.access.SocketBudget, recover_s=0.1)
run_loop(scene())
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a crawl said of itself, and what others saw of it."""

    told: dict[str, Any]
    descriptors: int
    """Most open at once in its process."""
    peak: int
    """Most connections the hosts had at once while a page was asked for."""
    pages: int
    """Different pages asked for."""
    log: str


class Watch(threading.Thread):
    """Looks at the descriptors of a process until it is told to stop."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.folder = f"/proc/{pid}/fd"
        self.most = 0
        self.stopped = threading.Event()
        self.start()

    def run(self) -> None:
        while not self.stopped.wait(LOOK_S):
            try:
                self.most = max(self.most, len(os.listdir(self.folder)))
            except OSError:
                return

    def result(self) -> int:
        self.stopped.set()
        self.join()
        return self.most


@contextmanager
def process(source: str, limit: int, folder: Path, clients: int) -> Iterator[Any]:
    """Python code under a limit of descriptors, soft and hard."""
    python = [sys.executable, "-X", "dev", "-W", "error", "-c", CRAWL + source, str(clients)]
    with folder.joinpath("log").open("wb") as log:
        running = subprocess.Popen(
            ["sh", "-c", 'ulimit -n "$0" && exec "$@"', str(limit), *python],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        try:
            yield running
            running.communicate("\n", timeout=20)
        finally:
            running.kill()
            running.communicate()


def play(source: str, clients: int, *, count: int, limit: int, links: int, folder: Path) -> Seen:
    """A crawl of `count` hosts, to its end and until its sockets are gone."""
    with hosts(links=links) as port, process(source, limit, folder, clients) as running:
        urls = " ".join(f"http://{address(number)}:{port}/" for number in range(count))
        watch = Watch(running.pid)
        running.stdin.write(f"{urls}\n")
        running.stdin.flush()
        told = running.stdout.readline()
        deadline = time.monotonic() + AFTER_S
        while (seen := counted(port))["open"] and time.monotonic() < deadline:
            time.sleep(LOOK_S)
        log = folder.joinpath("log").read_text()
        assert told, log
        assert seen["open"] == 0
        return Seen(
            told=json.loads(told),
            descriptors=watch.result(),
            peak=seen["peak"],
            pages=seen["pages"],
            log=log,
        )


@pytest.mark.parametrize(
    ("limit", "count", "links", "clients"),
    [
        (64, 60, 3, 256),
        pytest.param(64, 500, 3, 256, marks=pytest.mark.soak),
        pytest.param(1024, 5_000, 1, 256, marks=pytest.mark.soak),
        pytest.param(1024, 5_000, 1, 5_000, marks=pytest.mark.soak),
    ],
)
def test_many_hosts_are_crawled_with_few_descriptors(
    limit: int, count: int, links: int, clients: int, tmp_path: Path
) -> None:
    seen = play(PLAIN, clients, count=count, limit=limit, links=links, folder=tmp_path)
    told, pages = seen.told, count * (1 + links)
    assert (told["got"], told["failed"], seen.pages) == (pages, 0, pages)
    assert told["shrunk"] == told["refused"] == told["left"] == 0
    assert told["limit"] < limit - min(64, limit // 4)
    assert max(told["peak"], seen.peak) <= told["limit"]
    assert told["peak"] >= min(told["limit"], clients)
    assert seen.descriptors < limit
    assert "ResourceWarning" not in seen.log


def test_descriptors_that_run_out_in_the_middle_cost_no_page_and_no_attempt(
    tmp_path: Path,
) -> None:
    seen = play(HOG, 256, count=40, limit=64, links=4, folder=tmp_path)
    told = seen.told
    assert (told["got"], told["failed"], seen.pages) == (200, 0, 200)
    assert told["codes"] == ["local"]
    assert told["shrunk"] >= 1
    assert (told["limit"], told["left"]) == (told["derived"], 0)
    with closing(sqlite3.connect(tmp_path / "wide.db")) as db:
        attempts = db.execute("select attempts, count(*) from requests group by 1").fetchall()
        errors = db.execute("select distinct error from fetches where error not null").fetchall()
    assert attempts == [(1, 200)]
    assert errors == [("local",)]
    assert "ResourceWarning" not in seen.log
