"""Crawls from code: scripts, notebooks, programs with a loop of their own; what they leave."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
import threading
import traceback
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from crawler import (
    DomainSettings,
    Response,
    Results,
    RobotsSettings,
    Session,
    Settings,
    Spider,
    SpiderLoadError,
    UsageError,
    crawl,
    crawl_sync,
    stream,
)
from crawler.crawling import run_loop
from crawler.testing import Reply, Site
from tests.crawling import links, rows, value

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator
    from pathlib import Path

QUICK = Settings(domain=DomainSettings(delay=0), robots=RobotsSettings(obey=False))


class Trail(Spider):
    """Follows every link of a page; one item each."""

    settings = QUICK
    site: str

    def start(self) -> Results:
        from crawler import Request

        yield Request(self.site, self.parse)

    def parse(self, page: Response) -> Results:
        return self.given(page)

    def given(self, page: Response) -> Iterator[Any]:
        yield {"path": page.url.rpartition("/")[2]}
        yield from page.follow_all("a", self.parse)


def trail(pages: int) -> dict[str, Reply]:
    return {f"/{n}": links(f"/{n + 1}") for n in range(pages - 1)} | {f"/{pages - 1}": links()}


def held_trail(pages: int, held: int) -> dict[str, Reply]:
    """The same, with one page that is never answered."""
    return trail(pages) | {f"/{held}": Reply.hang()}


class Kernel:
    """One event loop that outlives the crawls of its cells."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()

    def cell(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    kernel = Kernel()
    yield kernel
    kernel.loop.run_until_complete(kernel.loop.shutdown_asyncgens())
    kernel.loop.run_until_complete(kernel.loop.shutdown_default_executor())
    kernel.loop.close()


@contextmanager
def nothing_stays(kernel: Kernel) -> Iterator[None]:
    """Tasks, descriptors, threads, the switch interval, handlers: as they were."""

    async def warm() -> None:
        await asyncio.to_thread(int)

    kernel.cell(warm())
    run_loop(asyncio.sleep(0))  # libuv keeps a pipe for the life of the process
    gc.collect()
    before = left(kernel)
    yield
    gc.collect()
    for thread in threading.enumerate():
        if thread.name.startswith("crawler-dns"):
            thread.join(5)
    assert left(kernel) == before


def left(kernel: Kernel) -> dict[str, Any]:
    return {
        "tasks": sorted(map(repr, asyncio.all_tasks(kernel.loop))),
        "descriptors": len(os.listdir("/proc/self/fd" if os.path.isdir("/proc") else "/dev/fd")),
        "threads": sorted(
            thread.name
            for thread in threading.enumerate()
            if not thread.name.startswith("asyncio_")  # the loop's own
        ),
        "switch": sys.getswitchinterval(),
        "handlers": (*logging.getLogger().handlers, *logging.getLogger("crawler").handlers),
        "level": logging.getLogger("crawler").level,
        "sigint": signal.getsignal(signal.SIGINT),
    }


# -- a kernel ---------------------------------------------------------------------------------


def test_a_kernel_runs_crawl_after_crawl_in_every_way(kernel: Kernel, tmp_path: Path) -> None:
    async def blocking(**options: Any) -> Any:
        return crawl_sync(Trail, **options)

    async def taken(url: str) -> list[Any]:
        return [one async for one in stream(Trail, site=url)]

    with nothing_stays(kernel), Site(trail(4)).threaded() as site:
        url, db = site.url("/0"), tmp_path / "trail.db"
        results = [kernel.cell(crawl(Trail, site=url)) for _ in range(2)]
        results += [kernel.cell(blocking(site=url)) for _ in range(2)]
        results += [kernel.cell(work(db=db, site=url)) for work in (partial_crawl, blocking)]
        streamed = kernel.cell(taken(url))
        assert [len(result.items) for result in results] == [4] * 6
        assert [one["path"] for one in results[0].items] == ["0", "1", "2", "3"]
        assert results[4].items == results[0].items == streamed
        assert [result.run for result in results[4:]] == ["trail-1", "trail-2"]


async def partial_crawl(**options: Any) -> Any:
    return await crawl(Trail, **options)


def test_two_crawls_at_once_share_a_session_or_have_one_each(kernel: Kernel) -> None:
    async def together(url: str) -> list[Any]:
        async with await Session.open(None, QUICK) as session:
            both = await asyncio.gather(
                crawl(Trail, site=url, session=session), crawl(Trail, site=url, session=session)
            )
        return [*both, *await asyncio.gather(crawl(Trail, site=url), crawl(Trail, site=url))]

    with nothing_stays(kernel), Site(trail(3)).threaded() as site:
        results = kernel.cell(together(site.url("/0")))
    assert [result.run for result in results] == ["trail-1", "trail-2", "trail-1", "trail-1"]
    assert [len(result.items) for result in results] == [3, 3, 3, 3]


def test_a_run_is_gone_on_with_by_one_at_a_time(tmp_path: Path) -> None:
    db, site = tmp_path / "x.db", Site(trail(4))

    async def scene() -> tuple[Any, ...]:
        async with site:
            url = site.url("/0")
            await crawl(Trail, db=db, site=url, settings=Settings(limit=2))
            async with await Session.open(db, QUICK) as session:
                both = (crawl(Trail, site=url, session=session, resume=True) for _ in range(2))
                return tuple(await asyncio.gather(*both, return_exceptions=True))

    first, second = run_loop(scene())
    assert (first.ended_by, first.delivered) == ("finished", 2)
    assert isinstance(second, UsageError)
    assert str(second) == "trail-1 is running in this session"


def test_a_hook_that_cancels_its_own_ending_leaves_nobody_waiting() -> None:
    class Hasty(Trail):
        async def closed(self, result: Any) -> None:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)

    async def scene(url: str) -> None:
        async with await Session.open(None, QUICK) as session, asyncio.timeout(5):
            with pytest.raises(asyncio.CancelledError):
                await session.crawl(Hasty(site=url))
            assert session.live().runs == ()

    with Site(trail(1)).threaded() as site:
        run_loop(scene(site.url("/0")))


def test_a_session_whose_closing_is_cancelled_is_closed_all_the_same(tmp_path: Path) -> None:
    db, site = tmp_path / "x.db", Site(held_trail(3, 1))

    async def scene() -> None:
        session = await Session.open(db, QUICK)
        await session.begin(Trail(site=site.url("/0")))
        await asyncio.to_thread(site.wait_for, 2)
        closing = asyncio.ensure_future(session.aclose())
        for _ in range(3):
            await asyncio.sleep(0)
            closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing

    with site.threaded():
        run_loop(scene())
    assert [path.name for path in tmp_path.iterdir()] == ["x.db"]
    assert rows(db, "select state, ended_by from runs") == [("interrupted", "signal")]


@pytest.mark.parametrize("way", ["break", "error", "aclosing", "cancel"])
def test_a_stream_that_is_left_ends_its_crawl(way: str, kernel: Kernel, tmp_path: Path) -> None:
    db = tmp_path / "x.db"

    async def some(url: str) -> list[Any]:
        seen: list[Any] = []
        async with aclosing(stream(Trail, db=db, site=url)) as items:
            async for one in items:
                seen.append(one)
                if way == "cancel" and len(seen) == 2:
                    asyncio.get_running_loop().call_later(0.01, mine.cancel)
                if way == "aclosing" and len(seen) == 2:
                    break
        return seen

    async def bare(url: str) -> None:
        number = 0
        async for _ in stream(Trail, db=db, site=url):
            number += 1
            if number == 2 and way == "error":
                raise ZeroDivisionError
            if number == 2:
                break

    async def until_closed() -> None:
        mine_and_theirs = asyncio.all_tasks() - {asyncio.current_task()}
        if mine_and_theirs:
            await asyncio.wait(mine_and_theirs)

    with nothing_stays(kernel), Site(held_trail(9, 2)).threaded() as site:
        url = site.url("/0")
        if way in ("cancel", "aclosing"):
            mine = kernel.loop.create_task(some(url))
            kernel.cell(asyncio.wait({mine}))
            assert mine.cancelled() == (way == "cancel")
        elif way == "error":
            with pytest.raises(ZeroDivisionError):
                kernel.cell(bare(url))
        else:
            kernel.cell(bare(url))
        gc.collect()
        kernel.cell(until_closed())
        kernel.cell(asyncio.sleep(0))
    assert rows(db, "select state, ended_by from runs") == [("interrupted", "signal")]
    assert value(db, "select count(*) from requests where state = 'queued'") == 1


def test_a_cancelled_crawl_keeps_its_state_and_goes_on_later(
    kernel: Kernel, tmp_path: Path
) -> None:
    db = tmp_path / "x.db"
    site = Site(held_trail(6, 3))

    async def cut(url: str) -> None:
        task = asyncio.ensure_future(crawl(Trail, db=db, site=url))
        await asyncio.to_thread(site.wait_for, 4)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()  # whoever is impatient loses nothing
        with pytest.raises(asyncio.CancelledError):
            await task

    with nothing_stays(kernel), site.threaded():
        url = site.url("/0")
        kernel.cell(cut(url))
        assert rows(db, "select state, ended_by from runs") == [("interrupted", "signal")]
        site.add("/3", links("/4"))
        result = kernel.cell(crawl(Trail, db=db, site=url, resume="auto"))
    assert (result.run, result.delivered, result.done_before) == ("trail-1", 3, 3)
    assert [one["path"] for one in result.items] == ["0", "1", "2", "3", "4", "5"]
    assert value(db, "select count(*) from runs") == 1


# -- which run --------------------------------------------------------------------------------


def test_resume_is_the_commands_choice(tmp_path: Path) -> None:
    db = tmp_path / "x.db"
    with Site(trail(4)).threaded() as site:
        url = site.url("/0")
        first = crawl_sync(Trail, db=db, site=url, settings=Settings(limit=2))
        again = crawl_sync(Trail, db=db, site=url, resume="auto")
        limit = crawl_sync(Trail, db=db, site=url, settings=Settings(limit=1))
        more = crawl_sync(Trail, db=db, site=url, resume=True)
    assert [one.run for one in (first, again, limit, more)] == [
        *("trail-1", "trail-2", "trail-3", "trail-3")
    ]
    assert (more.delivered, more.done_before, len(more.items)) == (3, 1, 4)


def test_a_changed_spider_is_not_gone_on_with_by_itself(tmp_path: Path) -> None:
    db = tmp_path / "x.db"
    Other = type("Trail", (Trail,), {"__module__": "elsewhere", "name": "trail"})

    async def cut(url: str) -> None:
        async with aclosing(stream(Trail, db=db, site=url)) as items:
            await anext(items)

    with Site(trail(3)).threaded() as site:
        url = site.url("/0")
        run_loop(cut(url))
        with pytest.raises(UsageError, match="trail-1 was interrupted, and trail has") as caught:
            crawl_sync(Other, db=db, site=url, resume="auto")
        assert caught.value.hint == "resume=True goes on with it, resume=False begins anew"
        result = crawl_sync(Other, db=db, site=url, resume=True)
    assert (result.run, result.ended_by) == ("trail-1", "finished")


# -- mistakes ---------------------------------------------------------------------------------


class Empty(Spider):
    pass


@pytest.mark.parametrize(
    ("call", "told", "hint"),
    [
        (lambda: crawl_sync(Empty), "spider empty has no start URL", 'start_urls = ["https'),
        (lambda: crawl_sync("books"), "not 'books'", "from spiders.books import Books"),  # type: ignore[arg-type]
        (lambda: crawl_sync(Trail, sit="x"), "has no argument sit", "did you mean site?"),
        (lambda: crawl_sync(Trail), "needs the argument site", "-a site="),
        (lambda: crawl_sync(Trail(site="x"), site="y"), "is made already", "Trail(site=...)"),
        (lambda: crawl_sync(Trail, site="x", settings={"limit": 1}), "of type dict", "Settings("),  # type: ignore[arg-type]
        (lambda: crawl_sync(Trail, site="x", db=":memory:"), "is no file", 'db="books.db"'),
        (lambda: crawl_sync(Trail, site="x", db="sqlite:///x"), "is no file", 'db="books.db"'),
        (lambda: crawl_sync(Trail, site="x", resume=True), "without a database", "db="),
        (lambda: crawl_sync(Trail, site="x", db="x.db", resume="yes"), "is none of", "auto"),  # type: ignore[arg-type]
        (lambda: crawl_sync(Trail, site="x", session=None), "takes no session", "await crawl("),
    ],
)
def test_a_mistake_is_told_with_its_hint_in_the_traceback(
    call: Any, told: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        call()
    assert told in str(caught.value)
    shown = "".join(traceback.format_exception_only(caught.value)).rstrip()
    assert shown.endswith(f"\nhint: {caught.value.hint}")
    assert hint in (caught.value.hint or "")
    assert list(tmp_path.iterdir()) == []


def test_a_hint_that_is_changed_is_shown_as_it_is_then() -> None:
    error = SpiderLoadError("no such spider", hint="first")
    error.hint = "second"
    assert error.__notes__ == ["hint: second"]
    error.hint = None
    assert "".join(traceback.format_exception_only(error)).splitlines() == [
        "crawler.errors.SpiderLoadError: no such spider"
    ]


def test_a_session_is_used_where_it_was_opened(kernel: Kernel, tmp_path: Path) -> None:
    async def opened() -> Session:
        return await Session.open(None, QUICK)

    session = kernel.cell(opened())
    with pytest.raises(UsageError, match="another event loop"):
        asyncio.run(crawl(Trail, site="http://127.0.0.1:1/", session=session))
    with pytest.raises(UsageError, match="its own database"):
        kernel.cell(crawl(Trail, site="x", session=session, db=tmp_path / "x.db"))
    kernel.cell(session.aclose())


# -- results ----------------------------------------------------------------------------------


class Mixed(Trail):
    """A page fails, an item is refused, the rest is fine."""

    def given(self, page: Response) -> Iterator[Any]:
        if page.url.endswith("1"):
            raise ValueError("no price")
        yield {"path": page.url.rpartition("/")[2]}
        yield from page.follow_all("a", self.parse)


@pytest.mark.parametrize("has_file", [True, False])
def test_a_result_tells_what_came_of_the_run(has_file: bool, tmp_path: Path) -> None:
    db = tmp_path / "mixed.db" if has_file else None
    with Site({"/0": links("/1", "/2", "/gone"), "/1": links(), "/2": links()}).threaded() as site:
        result = crawl_sync(Mixed, db=db, site=site.url("/0"))
    assert sorted(one["path"] for one in result.items) == ["0", "2"]
    assert result.items is result.items
    assert dict(result.failures) == {"callback": 1, "http-404": 1}
    told = str(result)
    assert told.startswith("mixed-1 finished after ")
    assert told.endswith(": 3 pages · 2 items · failures: callback 1, http-404 1")
    assert repr(result) == f"<CrawlResult {told}>"
    report = result.report()
    assert report.startswith("mixed-1 finished after ")
    assert "http-404" in report
    if not has_file:
        assert "`crawler why URL` tells who linked it" in report
