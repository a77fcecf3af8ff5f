"""What a crawl says in a log: when a line is due, what it holds, the form of each line."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from msgspec import structs

from crawler.cli import main
from crawler.cli.voice import json_line, logged
from crawler.progress import Progress, first_line, logfmt
from crawler.testing import Reply, Site
from tests.lives import API, LIVE, NEWS, OLD, RUN, SHOP, live

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CALM = live(SHOP, NEWS)


def events(progress: Progress, seconds: range) -> list[tuple[int, str]]:
    """When lines were due, and which, for a session that does not change."""
    return [(s, n.event) for s in seconds for n in progress.look(CALM, float(s))]


def test_a_line_is_due_after_ten_seconds_and_then_every_thirty() -> None:
    progress = Progress(0.0)
    assert events(progress, range(80)) == [(10, "progress"), (40, "progress"), (70, "progress")]
    assert repr(progress) == "<Progress 3 told, next at 100>"
    assert progress.stats() == 3


def test_a_line_holds_what_a_person_wants_to_see_in_order() -> None:
    (notice,) = Progress(0.0).look(LIVE, 10.0)[-1:]
    assert notice.text[:2].isdigit()
    assert notice.text[8:] == (
        " crawl run=quotes-7 seconds=4360 pages=48210 rate=11.2 items=41877 queued=12904"
        " failed=312 errors=3 retries=540 on_wire=9 domains=62 clients=64 reuse=0.974"
        " ends_in_s=2100 worst=api.example:http-429"
    )
    assert notice.facts["pages"] == 48_210


def test_each_run_has_its_line() -> None:
    other = structs.replace(RUN, run="news-1", state="paused")
    first, second = Progress(0.0).look(structs.replace(CALM, runs=(RUN, other)), 10.0)
    assert "run=quotes-7 seconds" in first.text
    assert "run=news-1 state=paused seconds" in second.text


def test_a_domain_in_trouble_is_news_once() -> None:
    progress = Progress(0.0)
    assert progress.look(CALM, 0.0) == []
    trouble = live(OLD, API, SHOP, domains_total=60)
    (notice,) = progress.look(trouble, 1.0)
    assert notice.event == "problem"
    assert notice.text[8:] == (
        " PROBLEM run=quotes-7: old.example:8080 unreachable for 1m 35s, connect-refused ×3"
        " (192.0.2.9:8080 refused the connection); api.example throttled for 42.0 s,"
        " http-429 ×24 (Retry-After: 60)"
    )
    assert [progress.look(each, 2.0) for each in (trouble, CALM, trouble)] == [[], [], []]
    assert [notice.event for notice in progress.look(trouble, 302.0)] == ["problem", "progress"]


def failing(number: int, requests: int) -> Any:
    flaky = structs.replace(
        NEWS, problem="http-503", problem_count=number, problem_text="", requests=requests
    )
    return live(flaky)


def test_a_burst_of_failures_is_told_with_its_causes() -> None:
    progress = Progress(0.0, first_s=99.0)
    assert progress.look(failing(300, 1_000), 0.0) == []  # from before
    assert progress.look(failing(309, 1_020), 29.0) == []  # few
    assert progress.look(failing(330, 1_400), 30.0) == []  # few of all that ended
    (notice,) = progress.look(failing(426, 1_520), 50.0)
    assert notice.text[8:] == " PROBLEM run=quotes-7 failed=96 in 20s: http-503 ×96 news.example"
    assert notice.facts["causes"] == [{"code": "http-503", "count": 96, "domain": "news.example"}]
    assert progress.look(failing(430, 1_524), 51.0) == []  # counted anew


def test_failures_of_a_domain_that_was_not_shown_are_no_news() -> None:
    progress = Progress(0.0, first_s=99.0)
    progress.look(structs.replace(live(SHOP), domains_total=60), 0.0)
    assert progress.look(structs.replace(failing(90, 100), domains_total=60), 1.0) == []
    assert len(progress.look(structs.replace(failing(120, 140), domains_total=60), 2.0)) == 1


def test_text_from_the_web_is_escaped_in_a_log() -> None:
    hostile = structs.replace(API, problem_text="\x1b]0;x\x07\u202e\n", domain="b\x1b[2J")
    for notice in Progress(0.0).look(live(hostile), 10.0):
        assert notice.text.isprintable()
    assert logfmt("crawl", {"worst": 'a "b"'}, 0.0).endswith(' worst="a \\"b\\""')


def test_the_first_line_says_the_expected_rate_and_what_would_change_it() -> None:
    line = first_line(run="books-3", database="books.db", delay="auto", concurrency=8)
    assert line.startswith("books-3 begins in books.db. Expected: 0.5 to 4 pages/s")
    assert "domain.delay" in line
    line = first_line(run="b-1", database="b.db", delay=2.0, concurrency=8, domains=10)
    assert "at most 5 pages/s on 10 domains" in line
    line = first_line(run="b-1", database="b.db", delay=0, concurrency=16)
    assert "up to 16 requests at once" in line


def test_the_first_line_says_that_it_goes_on() -> None:
    line = first_line(
        run="b-1",
        database="b.db",
        delay=0,
        concurrency=8,
        done=1_204,
        queued=310,
        goes_on=True,
    )
    assert line.startswith("b-1 goes on in b.db (1,204 pages done, 310 queued).")


# -- the form of lines -----------------------------------------------------------------------


def test_loggers_speak_as_the_command_does(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    kept, root.handlers = root.handlers, []
    try:
        with logged():
            logging.getLogger("crawler").warning("sockets are %s\x1b[2J", "short")
            logging.getLogger("crawler").info("not told")
            try:
                raise ValueError("inside")
            except ValueError:
                logging.getLogger("mine").exception("it broke")
        assert root.handlers == []
    finally:
        root.handlers = kept
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "warning: sockets are short\\x1b[2J"
    assert (lines[1], lines[-1]) == ("error: it broke", "ValueError: inside")


def test_a_logging_of_the_users_own_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    handler = logging.NullHandler()
    root = logging.getLogger()
    kept, root.handlers = root.handlers, [handler]
    try:
        with logged():
            assert root.handlers == [handler]
    finally:
        root.handlers = kept
    assert capsys.readouterr().err == ""


def test_a_json_line_is_safe_for_any_terminal() -> None:
    line = json_line("\x1b\u202e", event="note", path=object)
    assert line.isascii()
    assert json.loads(line)["text"] == "\x1b\u202e"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("run", "nobody", "--log-format", "json"), 2),
        (("run", "--log-format=json", "--limitt"), 2),
        (("run", "pages", "http://127.0.0.1/", "-v", "-q", "--log-format=json"), 2),
        (("run", "pages", "http://127.0.0.1/", "--db=no/x.db", "--log-format=json"), 5),
    ],
)
def test_a_mistake_is_one_object_too(
    arguments: tuple[str, ...],
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == code
    (line,) = map(json.loads, capsys.readouterr().err.splitlines())
    assert (line["level"], line["event"]) == ("error", "error")
    assert line["text"]
    assert line["hint"]


# -- crawler run -----------------------------------------------------------------------------


@pytest.fixture
def site() -> Iterator[Site]:
    routes = {
        "/": Reply.html("<title>front</title><a href=/gone>g</a><a href=/bad>b</a>"),
        "/bad": Reply.html("<title>bad</title>"),
    }
    with Site(routes).threaded() as served:
        yield served


SPIDER = """
from crawler import Response, Results, Spider
class Things(Spider):
    start_urls = ["{start}"]
    def parse(self, page: Response) -> Results:
        yield {"title": page.get("title")}
        if page.url.endswith("bad"):
            raise ValueError("a broken page")
        yield from page.follow_all("a", self.parse)
"""


@pytest.fixture
def things(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "things.py").write_text(SPIDER.replace("{start}", site.url("/")))
    return tmp_path


def test_every_line_of_a_run_is_an_object_with_log_format_json(
    things: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "things.py", "--log-format", "json", "-vv"]) == 0
    said = capsys.readouterr()
    assert said.out == ""
    lines = [json.loads(line) for line in said.err.splitlines()]
    assert all({"at", "level", "event", "text"} <= line.keys() for line in lines)
    assert (lines[0]["event"], lines[0]["run"], lines[0]["goes_on"]) == ("begin", "things-1", False)
    pages = {line["url"].rpartition("/")[2]: line for line in lines if line["event"] == "page"}
    assert (pages[""]["answer"], pages[""]["items"], pages[""]["links"]) == (200, 1, 2)
    assert (pages["gone"]["answer"], pages["gone"]["state"]) == (404, "failed")
    assert pages["bad"]["errors"] == ["ValueError: a broken page"]
    items = [line["item"] for line in lines if line["event"] == "item"]
    assert {"title": "front"} in items
    assert lines[-1]["event"] == "summary"
    assert lines[-1]["summary"]["pages"] == 1


def test_a_line_for_each_page_with_its_items(
    things: Path, site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "things.py", "-vv"]) == 0
    lines = capsys.readouterr().err.splitlines()
    (front,) = [line for line in lines if line.endswith(site.url("/"))]
    assert front.startswith("200 ")
    assert "1 item    2 links" in front
    assert '  items {"title": "front"}' in lines
    (bad,) = [line for line in lines if "/bad" in line and line.startswith("200")]
    assert bad.endswith("(ValueError: a broken page)")


def test_live_off_says_only_how_it_begins_and_ends(
    things: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "things.py", "--live", "off", "--limit", "1"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("things-1 begins")
    assert lines[1].startswith("things-1 finished (limit)")


def test_usr1_prints_the_table_without_a_terminal(tmp_path: Path) -> None:
    routes = {"/robots.txt": Reply.code(404)}
    with Site(routes, fallback=Reply.hang()).threaded() as site:
        process = subprocess.Popen(
            [sys.executable, "-m", "crawler", "run", "pages", site.url("/"), "--db", "x.db"],
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
        )
        watchdog = threading.Timer(20, process.kill)
        watchdog.start()
        site.wait_for(2)
        process.send_signal(signal.SIGUSR1)
        assert process.stderr is not None
        first, head, row = (process.stderr.readline() for _ in range(3))
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        watchdog.cancel()
    assert first.startswith("pages-1 begins")
    assert head.split()[:4] == ["domain", "state", "queue", "active"]
    assert row.startswith(site.addresses[0])
    assert row.split()[3].startswith("1/")
