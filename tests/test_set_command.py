"""`crawler set` as a person types it, beside a process that crawls."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from crawler.cli import main
from crawler.testing import Site
from storage import read_live
from tests.crawling import links, rows
from tests.stored_runs import write_run

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGES = 30


@pytest.fixture
def site() -> Iterator[Site]:
    slow = Site({"/": links("/0")})
    for n in range(PAGES):
        here = [f"/{m}" for m in (n + 1, n + 2) if m < PAGES]
        slow.add(f"/{n}", links(*here).slow(0.02))
    with slow.threaded():
        yield slow


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@contextmanager
def crawling(site: Site, *options: str, said: str = "-q") -> Iterator[subprocess.Popen[str]]:
    """A process that crawls the site, two pages after its beginning."""
    asked = [sys.executable, "-m", "crawler", "run", "pages", site.url("/"), said, *options]
    before = len(site.log)
    with subprocess.Popen(asked, stderr=subprocess.PIPE, text=True) as process:
        try:
            site.wait_for(before + 3)
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def put(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code, output and errors of `crawler set`."""
    capsys.readouterr()
    code = main(["set", *words])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_a_crawl_is_paused_paced_and_stopped_by_another_process_and_goes_on(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    host = site.addresses[0]
    with crawling(site, "-s", "domain.delay=0.2") as process:
        assert put(capsys, "pause") == (0, "pause: pages-1 paused\n", "")
        before = len(site.log)
        said = put(capsys, "pages", "delay=0.01", "concurrency=1000", "--domain", f"{host}9")
        assert said[0] == 1
        assert said[1].startswith(f"delay=0.01 for {host}9: no such domain was met yet")
        assert f"did you mean {host}?" in said[1]
        assert said[2].startswith("error: concurrency=1000 for ")
        assert "concurrency allows 256 at once" in said[2]
        assert "\n  hint: " in said[2]
        assert len(site.log) == before
        data = read_live("pages.db")
        assert data is not None
        assert b'"state":"paused"' in data
        assert put(capsys, "pages-1", "stop")[:2] in (
            (0, "stop: pages-1 stopping\n"),
            (0, "stop: the crawl has ended\n"),
        )
        assert process.wait(10) == 4
    assert rows(Path("pages.db"), "select state, ended_by from runs") == [
        ("interrupted", "stopped")
    ]
    assert not list(Path().glob("pages.db-*"))
    assert main(["run", "pages", site.url("/"), "-q", "-s", "domain.delay=0"]) == 0
    assert rows(Path("pages.db"), "select count(*) from page") == [(PAGES + 1,)]
    assert len({r.path for r in site.log}) <= len(site.log) <= PAGES + 3


def test_the_crawl_says_once_what_it_was_told_and_what_it_refused(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    with crawling(site, "-s", "domain.delay=0.2", said="--live=line") as process:
        assert put(capsys, "concurrency=1000")[0] == 1
        assert put(capsys, "stop")[0] == 0
        assert process.wait(10) == 4
        assert process.stderr is not None
        lines = process.stderr.read().splitlines()
    (refused,) = [line for line in lines if "concurrency=1000" in line]
    assert refused.startswith("warning: crawler set: concurrency=1000: ")
    assert lines.count("crawler set: stop: pages-1 stopping") == 1


def test_a_crawl_neither_listens_nor_is_steered_by_what_a_dead_one_left(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    with crawling(site, "-s", "domain.delay=0.2") as process:
        assert put(capsys, "pause")[0] == 0
        assert _listening(process.pid) == set()
        assert _listening(os.getpid())  # the site does, and is seen
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    assert Path("pages.db-control").stat().st_size > 0
    assert read_live("pages.db") is not None
    code, out, err = put(capsys, "resume")
    assert (code, out) == (2, "")
    assert err == "error: no crawl is running in pages.db\n  hint: `crawler run pages`\n"
    assert main(["run", "pages", site.url("/"), "-q", "-s", "domain.delay=0"]) == 0
    assert rows(Path("pages.db"), "select count(*) from page") == [(PAGES + 1,)]
    assert not list(Path().glob("pages.db-*"))


def test_a_paused_crawl_ends_at_the_first_ctrl_c(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    with crawling(site, "-s", "domain.delay=0.2") as process:
        assert put(capsys, "pause")[0] == 0
        process.send_signal(signal.SIGINT)
        assert process.wait(5) == 130
    assert rows(Path("pages.db"), "select ended_by from runs") == [("signal",)]


@pytest.mark.parametrize(
    ("words", "error", "hint"),
    [
        (["pauze"], "unknown action `pauze`", "did you mean `pause`?"),
        (["books", "pauze"], "unknown action `pauze`", "did you mean `pause`?"),
        (["delay=soon"], "delay", None),
        (["domain.dealy=2"], "unknown setting `domain.dealy`", "did you mean `domain.delay`?"),
        (["books.db"], "what is `books.db` to do?", "crawler set books.db pause"),
        (["book", "pause"], "no run or spider `book`", "did you mean `books`?"),
        (["pause", "--domain", "http://a.test/"], "is no host", "--domain shop.example"),
        (["pause", "--domain", ""], "is no host", "--domain shop.example"),
        (["stop", "--domain", "a.test"], "a run stops as a whole", "crawler set stop"),
        (["pause", "--db", "none.db"], "no such database", None),
        (["pause"], "no crawl is running in books.db", "`crawler run books`"),
        (["books-1", "stop"], "no crawl is running in books.db", "`crawler run books`"),
        ([], "missing argument", "crawler set --help"),
        (["pause", "--domian", "a.test"], "unknown option `--domian`", "--domain"),
    ],
)
def test_a_mistake_is_one_error_and_a_hint_and_steers_nothing(
    words: list[str], error: str, hint: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(Path("books.db"))
    code, out, err = put(capsys, *words)
    assert (code, out) == (2, "")
    first, *others = err.splitlines()
    assert first.startswith("error: ")
    assert error in first
    if hint is not None:
        assert others[0].startswith("  hint: ")
        assert hint in others[0]
    assert not list(Path().glob("books.db-*"))


def _listening(pid: int) -> set[str]:
    """Inodes of a process's sockets that listen, by what the system says of both."""
    listening = set()
    for family in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{family}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                listening.add(fields[9])
    own = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # the one that this very loop had open
            own.add(os.readlink(entry).removeprefix("socket:[").rstrip("]"))
    return listening & own
