"""Scripts that crawl, as processes: who goes on with their runs, and Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from crawler import Response, crawl_sync
from crawler.testing import Site
from tests.crawling import rows, value
from tests.test_code_api import Trail, held_trail, trail

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SCRIPT = """
import asyncio
import sys
from crawler import DomainSettings, Request, RobotsSettings, Settings, Spider, crawl_sync

class Trail(Spider):
    settings = Settings(domain=DomainSettings(delay=0), robots=RobotsSettings(obey=False))
    site: str

    def start(self):
        yield Request(self.site, self.parse)

    def parse(self, page):
        yield {"url": page.url}
        yield from page.follow_all("a", self.parse)

def run(**options):
    return crawl_sync(Trail, db="trail.db", site=sys.argv[1], **options)

async def cell():
    run()

if __name__ == "__main__":
    if len(sys.argv) > 2 and sys.argv[2] == "loop":
        asyncio.run(cell())
    elif len(sys.argv) > 2:
        print(run(settings=Settings(limit=int(sys.argv[2]))))
    else:
        run()
"""


def python(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_run_from_code_is_gone_on_with_by_the_command(tmp_path: Path) -> None:
    program = tmp_path / "trails.py"
    program.write_text(SCRIPT)
    with Site(trail(4)).threaded() as site:
        url = site.url("/0")
        ran = python(tmp_path, "trails.py", url, "2").communicate(timeout=20)
        assert ran == ("trail-1 finished (limit) after", "") or "trail-1" in ran[0]
        command = ["-m", "crawler", "run", "trails.py", "-a", f"site={url}", "--resume", "-q"]
        went = python(tmp_path, *command)
        assert went.communicate(timeout=20) == ("", "")
    found = rows(tmp_path / "trail.db", "select id, state, ended_by from runs")
    assert found == [("trail-1", "finished", "finished")]
    assert value(tmp_path / "trail.db", "select count(*) from items") == 4


def test_a_second_ctrl_c_waits_for_nothing_and_leaves_no_handler() -> None:
    closing, go = threading.Event(), threading.Event()

    class Slow(Trail):
        def given(self, page: Response) -> Iterator[Any]:
            os.kill(os.getpid(), signal.SIGINT)
            yield {}

        async def closed(self, result: Any) -> None:
            closing.set()
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.to_thread(go.wait, 10)

    async def cell(url: str) -> None:
        crawl_sync(Slow, site=url)

    before = signal.getsignal(signal.SIGINT)
    with Site(trail(1)).threaded() as site:
        loop = asyncio.new_event_loop()
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(cell(site.url("/0")))
        loop.close()
        assert closing.is_set()
        assert signal.getsignal(signal.SIGINT) is before
        go.set()
        for thread in threading.enumerate():
            if thread.name == "crawl":
                thread.join(10)


@pytest.mark.parametrize("way", ["plain", "loop"])
def test_ctrl_c_keeps_the_state_and_shows_nothing_of_ours(way: str, tmp_path: Path) -> None:
    with Site(held_trail(6, 3)).threaded() as site:
        more = ["loop"] if way == "loop" else []
        script = python(tmp_path, "-c", SCRIPT, site.url("/0"), *more)
        site.wait_for(4)
        script.send_signal(signal.SIGINT)
        out, err = script.communicate(timeout=20)
    assert (out, script.returncode) == ("", -signal.SIGINT)
    assert err.splitlines()[-2:] == [
        "KeyboardInterrupt",
        'hint: crawl_sync(..., db="trail.db", resume="auto") goes on with it',
    ]
    assert "CancelledError" not in err
    assert [
        line for line in err.splitlines() if "/crawler/" in line and "crawling" not in line
    ] == []
    db = tmp_path / "trail.db"
    assert rows(db, "select state, ended_by from runs") == [("interrupted", "signal")]
    assert rows(db, "select state, count(*) from requests group by 1 order by 1") == [
        ("done", 3),
        ("queued", 1),
    ]
