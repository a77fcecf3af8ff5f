"""`crawler status`: a crawl that is alive as it says itself, others as they were left."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from msgspec import structs

from crawler.cli import main
from crawler.live import Live, encode
from crawler.testing import Reply, Site
from storage import Beside, RunState
from storage.lock import FileLock
from tests.lives import API, LIVE, RUN
from tests.stored_runs import write_run
from tests.terminal import terminal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from crawler.testing.replies import Route

HEAVY = ("httpx", "selectolax", "sqlite_utils", "rich", "asyncio")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "40")
    return tmp_path


class Alive:
    """What a crawl keeps beside its database while it lives."""

    def __init__(self, database: Path) -> None:
        self._lock = FileLock.open(str(database))
        self._beside = Beside.open(str(database))

    def show(self, live: Live) -> None:
        self._beside.show(encode(structs.replace(live, at=time.time())))

    def die(self) -> None:
        """As kill -9 does it: the live file stays."""
        self._lock.close()

    def end(self) -> None:
        self._beside.close()
        self._lock.close()


@contextmanager
def crawl(here: Path, spider: str = "quotes") -> Iterator[Alive]:
    """A database whose run of the spider says that it is running."""
    write_run(here / f"{spider}.db", spider=spider, queued=3, state=RunState.RUNNING)
    alive = Alive(here / f"{spider}.db")
    run = structs.replace(RUN, run=f"{spider}-1", spider=spider)
    alive.show(structs.replace(LIVE, runs=(run,), database=f"{spider}.db"))
    try:
        yield alive
    finally:
        alive.end()


def said(capsys: pytest.CaptureFixture[str], *argv: str) -> list[str]:
    capsys.readouterr()
    assert main(["status", *argv]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out.splitlines()


def test_a_crawl_that_is_alive_is_drawn_once(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with crawl(here):
        for argv in ((), ("quotes",), ("quotes-1",), ("quotes.db",)):
            lines = said(capsys, *argv)
            assert lines[0] == "quotes-1  quotes.db  running 1:12:40" + "process 4121".rjust(64)
            assert lines[1].startswith("pages    48,210   11.2/s")
            assert lines[7].startswith("api.example       throttled 42s ")
            assert "\x1b" not in "".join(lines)
        (whole,) = said(capsys, "--json")
        assert json.loads(whole)["domains"][0]["problem"] == "http-429"


def test_without_a_target_the_crawl_that_is_alive_goes_first(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with crawl(here):
        write_run(here / "later.db", spider="later", started_at=1_800_000_000.0)
        assert said(capsys)[0].startswith("quotes-1 ")
        assert said(capsys, "later")[0].startswith("later-1  later.db  finished ")


def test_silence_is_told(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with crawl(here) as alive:
        run = structs.replace(RUN, run="quotes-1")
        alive._beside.show(encode(structs.replace(LIVE, runs=(run,), at=time.time() - 60)))
        assert said(capsys)[0].endswith("no news for 1m 00s")


def test_what_a_killed_crawl_left_is_no_news(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with crawl(here) as alive:
        alive.die()
        lines = said(capsys, "--watch")
        assert lines[0].startswith("quotes-1  quotes.db  interrupted (crash) ")
        assert lines[0].endswith(" ago")
        assert "Next: crawler run quotes" in lines


def test_a_run_that_ended_is_told_from_its_database(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(here / "books.db", pages=30, failed=2, queued=5, state=RunState.INTERRUPTED)
    lines = said(capsys)
    assert lines[0].startswith("books-1  books.db  interrupted (signal) ")
    assert lines[1:6] == [
        "pages    30   items 30   failed 2",
        "queue    5",
        "",
        "domain     queue  2/3/4/5xx %  last problem",
        "shop.test      5  94/0/6/0     http-404 ×2: gone\\x1b[31m",
    ]
    assert lines[7:] == [
        "Next: crawler run books",
        "      crawler report books-1",
        "      crawler errors books-1",
    ]
    facts = json.loads("\n".join(said(capsys, "--json")))
    assert (facts["state"], facts["queued"], facts["next"][0]) == (
        "interrupted",
        5,
        "crawler run books",
    )


def test_a_database_without_a_run_is_a_mistake(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", "--db", "no.db"]) == 2
    assert main(["status", "nobody"]) == 2
    assert capsys.readouterr().err.count("  hint: ") == 2


def test_a_live_file_that_is_none_is_not_believed(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with crawl(here) as alive:
        alive._beside.show(b"{")
        assert said(capsys)[0].startswith("quotes-1  quotes.db  running")


def test_status_imports_nothing_that_crawls(here: Path) -> None:
    write_run(here / "books.db")
    code = (
        "import sys; from crawler.cli import main; main(['status']);"
        f"print(*(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == ""


# -- watching --------------------------------------------------------------------------------


def watching(*argv: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "crawler", "status", "--watch", *argv],
        stdout=subprocess.PIPE,
        text=True,
    )
    watchdog = threading.Timer(20, process.kill)
    watchdog.daemon = True
    watchdog.start()
    return process


def test_watching_without_a_terminal_writes_lines_until_the_run_ends(here: Path) -> None:
    with crawl(here) as alive, watching() as process:
        assert process.stdout is not None
        assert "PROBLEM run=quotes-1" in process.stdout.readline()
        assert " crawl run=quotes-1 " in process.stdout.readline()
        alive.show(structs.replace(LIVE, runs=()))
        assert process.stdout.readline().startswith("quotes-1 ")
        assert process.wait() == 0


def test_watching_as_json_gives_a_line_whenever_there_is_news(here: Path) -> None:
    with crawl(here) as alive, watching("--json") as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["domains"][0]["domain"] == API.domain
        run = structs.replace(RUN, run="quotes-1")
        alive.show(structs.replace(LIVE, runs=(run,), domains=()))
        lines = (json.loads(line) for line in process.stdout)
        assert next(line for line in lines if not line["domains"])
        alive.end()
        assert process.wait() == 0


def test_a_crawl_is_watched_on_a_terminal_until_it_ends(here: Path) -> None:
    """Everything real: a crawl, its live file, the view of another process, the end."""
    seen = threading.Event()

    async def last(_: object) -> Reply:
        await asyncio.to_thread(seen.wait)
        return Reply.html("")

    routes: dict[str, Route] = {"/": Reply.html("<a href=/a>a</a>"), "/a": last}
    with Site(routes).threaded() as site:
        run = [sys.executable, "-m", "crawler", "run", "pages", site.url("/"), "--live", "line"]
        with subprocess.Popen(run, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            assert process.stderr.readline().startswith("pages-1 begins")
            site.wait_for(3)
            assert main(["set", "pages", "delay=0.5"]) == 0  # it has answered: it is shown
            with terminal(90, 24) as pty:
                watch = pty.run("status", "--watch")
                pty.wait_for(site.addresses[0])
                seen.set()
                assert watch.wait() == 0
                screen = pty.screen()
            process.communicate()
    assert screen.shown()[-1].startswith("pages-1 finished after ")
    assert screen.has_cursor
