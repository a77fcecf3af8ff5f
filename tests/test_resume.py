"""Processes that die, and the same command afterwards: nothing lost, nothing twice."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from crawler.testing import Reply, Site
from tests.terminal import terminal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

PAGES = 1000
SPIDER = """
from crawler import DomainSettings, Settings, Request, Spider

class Seeds(Spider):
    settings = Settings(domain=DomainSettings(delay=1000), limit=1)
    def start(self):
        for n in range(self.count):
            yield Request(f"{self.site}seed/{n}")
    site: str
    count: int = 20_000
    def parse(self, page):
        return None
"""


def tree(pages: int) -> dict[str, Reply]:
    """A site in which every page links to its three children, to the root and to itself."""
    routes = {}
    for n in range(pages):
        links = [f"/{n * 3 + k}" for k in (1, 2, 3) if n * 3 + k < pages]
        anchors = "".join(f'<a href="{link}">x</a>' for link in [*links, "/0", f"/{n}#top"])
        routes[f"/{n}"] = Reply.html(f"<title>{n}</title>{anchors}").slow(0.005)
    return routes


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Site(tree(PAGES)).threaded() as served:
        yield served


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "crawler", "run", *arguments]
    return subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str], timeout: float = 40) -> tuple[int, str]:
    _, said = process.communicate(timeout=timeout)
    return process.returncode, said


def rows(db: Path, sql: str) -> list[Any]:
    """Read beside the crawl; a database that is not there yet has no rows."""
    try:
        with closing(sqlite3.connect(f"file:{db}?mode=ro", uri=True)) as connection:
            return connection.execute(sql).fetchall()
    except sqlite3.OperationalError:
        return []


def done(db: Path) -> int:
    found = rows(db, "select count(*) from requests where state = 'done'")
    return int(found[0][0]) if found else 0


def until(condition: Any, process: subprocess.Popen[str], timeout: float = 20) -> bool:
    """Poll for a state of the file; False: the process ended before."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if condition():
            return True
        if process.poll() is not None:
            return False
        os.sched_yield()
    raise AssertionError("the state never came")


def crawl_until(folder: Path, arguments: Sequence[str], more: int, how: int) -> bool:
    """Run until `more` further pages are done, then send a signal; False: it ended first."""
    db = folder / "p.db"
    target = done(db) + more
    process = start(folder, *arguments)
    was_alive = until(lambda: done(db) >= target, process)
    process.send_signal(how)
    code, said = finish(process)
    assert "Traceback" not in said
    if was_alive and how != signal.SIGKILL and code not in (0, 128 + how):
        raise AssertionError(f"exit {code}: {said}")
    return was_alive


def check_whole(db: Path, site: Site) -> None:
    urls = [url for (url,) in rows(db, "select url from page")]
    assert Counter(urls) == Counter({site.url(f"/{n}"): 1 for n in range(PAGES)})
    assert rows(db, "pragma integrity_check") == [("ok",)]
    assert rows(db, "select state, count(*) from requests group by 1") == [("done", PAGES)]


def test_five_kills_and_then_the_same_rows_as_if_undisturbed(site: Site, tmp_path: Path) -> None:
    arguments = ["pages", site.url("/0"), "-s", "domain.delay=0", "--db", "p.db", "-q"]
    alive = [crawl_until(tmp_path, arguments, 100, signal.SIGKILL) for _ in range(5)]
    assert alive == [True] * 5
    code, _ = finish(start(tmp_path, *arguments))
    assert code == 0
    check_whole(tmp_path / "p.db", site)
    assert len(rows(tmp_path / "p.db", "select id from runs")) == 1


def test_a_signal_stops_in_good_order_and_the_same_command_goes_on(
    site: Site, tmp_path: Path
) -> None:
    arguments = ["pages", site.url("/0"), "-s", "domain.delay=0", "--db", "p.db"]
    db = tmp_path / "p.db"
    for how in (signal.SIGINT, signal.SIGTERM):
        process = start(tmp_path, *arguments)
        target = done(db) + 100
        assert until(lambda target=target: done(db) >= target, process)
        process.send_signal(how)
        code, said = finish(process, 11)
        assert code == 128 + how
        assert f"Next: crawler run pages {site.url('/0')} --db p.db\n" in said
        assert rows(db, "select state, ended_by from v_runs") == [("interrupted", "signal")]
    code, said = finish(start(tmp_path, *arguments))
    assert code == 0
    assert "pages-1 goes on in p.db" in said
    check_whole(db, site)


def test_a_second_signal_stops_at_once_and_loses_nothing(tmp_path: Path) -> None:
    routes: dict[str, Any] = {"/": Reply.html("<a href=/hang>x</a>"), "/hang": Reply.hang()}
    arguments = ["pages", "-s", "domain.delay=0", "--db", "p.db", "-q"]
    with Site(routes).threaded() as hanging:
        arguments.insert(1, hanging.url("/"))
        process = start(tmp_path, *arguments)
        hanging.wait_for(3)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        said = ""
        while "stopping" not in said:
            said += process.stderr.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.4)  # the same signal twice at once counts as one
        process.send_signal(signal.SIGINT)
        code, _ = finish(process, 5)
        assert code == 130
        hanging.add("/hang", Reply.html("<title>answers now</title>"))
        code, _ = finish(start(tmp_path, *arguments))
    assert code == 0
    assert len(rows(tmp_path / "p.db", "select url from page")) == 2


@pytest.mark.parametrize(
    ("count", "kills"), [(20_000, 3), pytest.param(100_000, 10, marks=pytest.mark.soak)]
)
def test_kills_while_start_urls_are_stored_lose_none(
    count: int, kills: int, site: Site, tmp_path: Path
) -> None:
    (tmp_path / "seeds.py").write_text(SPIDER)
    arguments = ["seeds.py", "-a", f"site={site.url('/')}", "-a", f"count={count}", "-q"]
    db = tmp_path / "seeds.db"
    chance = random.Random(4)
    for goal in sorted(chance.sample(range(count), kills)):
        process = start(tmp_path, *arguments)
        until(lambda goal=goal: queued(db) >= goal, process)
        process.kill()
        finish(process)
        assert rows(db, "select 1 from runs where seeded_at is not null") == []
    process = start(tmp_path, *arguments)
    until(lambda: bool(rows(db, "select 1 from runs where seeded_at is not null")), process, 60)
    process.kill()
    finish(process)
    seen = rows(db, "select count(*), count(distinct url) from requests")
    assert seen == [(count, count)]
    assert rows(db, "select count(*) from runs") == [(1,)]


def queued(db: Path) -> int:
    found = rows(db, "select coalesce(max(id), 0) from requests")
    return int(found[0][0]) if found else 0


def test_a_database_in_use_is_refused_with_the_pid_that_has_it(site: Site, tmp_path: Path) -> None:
    arguments = ["pages", site.url("/0"), "-s", "domain.delay=1", "--db", "p.db", "-q"]
    first = start(tmp_path, *arguments)
    assert until(lambda: bool(rows(tmp_path / "p.db", "select 1 from runs")), first)
    code, said = finish(start(tmp_path, *arguments))
    first.kill()
    finish(first)
    assert code == 5
    assert f"process {first.pid}" in said
    assert "hint:" in said


def test_a_changed_spider_is_not_gone_on_with_unless_told_so(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "seeds.py"
    file.write_text(SPIDER)
    arguments = ["seeds.py", "-a", f"site={site.url('/')}", "--db", "s.db"]
    process = start(tmp_path, *arguments)
    until(lambda: queued(tmp_path / "s.db") > 10, process)
    process.kill()
    finish(process)
    file.write_text(SPIDER + "\n# changed\n")
    code, said = finish(start(tmp_path, *arguments))
    assert code == 2
    assert "--resume" in said
    assert "--fresh" in said
    for flag, name in (("--resume", "seeds-1 goes on"), ("--fresh", "seeds-2 begins")):
        process = start(tmp_path, *arguments, flag)
        assert process.stderr is not None
        assert name in process.stderr.readline()
        process.kill()
        finish(process)


def killed(folder: Path, *arguments: str, pages: int) -> None:
    """Run until so many pages are stored, and kill it."""
    process = start(folder, *arguments)
    assert until(lambda: done(folder / "p.db") >= pages, process)
    process.kill()
    finish(process)


def test_a_limit_below_what_a_run_has_already_is_refused(site: Site, tmp_path: Path) -> None:
    arguments = ["pages", site.url("/0"), "-s", "domain.delay=0", "--db", "p.db", "-q"]
    killed(tmp_path, *arguments, pages=30)
    stored = done(tmp_path / "p.db")
    code, said = finish(start(tmp_path, *arguments, "--limit", "20"))
    assert (code, done(tmp_path / "p.db")) == (2, stored)
    error, hint = said.splitlines()
    assert error == f"error: pages-1 has {stored} pages already, --limit 20 is fewer"
    assert hint == f"  hint: --limit {stored + 20} for 20 more, or --fresh"
    assert finish(start(tmp_path, *arguments, "--limit", str(stored + 20))) == (0, "")
    assert done(tmp_path / "p.db") == stored + 20


def test_the_command_to_go_on_has_files_and_bounds_but_no_values_of_settings(
    site: Site, tmp_path: Path
) -> None:
    url = site.url("/0")
    more = ["-o", "w.csv", "-O", "--limit", "900", "--max-time", "1h"]
    secret = ["-s", "domain.delay=0", "-s", "contact=me@s3cret.example"]
    killed(tmp_path, "pages", url, "--db", "p.db", "-q", *more, *secret, pages=30)
    for name in ("report", "status"):
        asked = [sys.executable, "-m", "crawler", name, "--db", "p.db"]
        told = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True).stdout
        assert f"crawler run pages {url} -o w.csv --limit 900 --max-time 1h --db p.db\n" in told
        assert "Values of -s are not kept: give domain.delay, contact again." in told
        assert "s3cret" not in told
    code, said = finish(start(tmp_path, "pages", url, "--db", "p.db", "-q", "--max-time", "0.1s"))
    assert code == 0, said
    assert said.splitlines()[-1] == (
        "not continued: w.csv (give -o w.csv again, or"
        " crawler export pages-1 --db p.db -o w.csv -O)"
    )


def test_a_terminal_is_asked_about_a_changed_spider_and_no_is_the_default(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "seeds.py"
    file.write_text(SPIDER)
    arguments = ["seeds.py", "-a", f"site={site.url('/')}", "--db", "s.db"]
    process = start(tmp_path, *arguments)
    until(lambda: queued(tmp_path / "s.db") > 10, process)
    process.kill()
    finish(process)
    file.write_text(SPIDER + "\n# changed\n")
    for answer, said in (("", "error: "), ("what", "error: "), ("y", "seeds-1 goes on")):
        with terminal(120) as pty:
            asked = pty.run("run", *arguments, "--live", "off")
            pty.wait_for("Go on with it? [y/N] ")
            pty.type(f"{answer}\n".encode())
            pty.wait_for(said)
            if answer == "y":
                asked.kill()
            assert asked.wait() == (-signal.SIGKILL if answer == "y" else 2)
            told = pty.text()
        assert "stays as the old code made it; --fresh begins anew" in " ".join(told.split())
        assert "Error:" not in told
