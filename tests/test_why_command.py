"""`crawler why URL`: every state has its words, every fact its line."""

from __future__ import annotations

import json
import shlex
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from crawler import Response, Results, crawl_sync
from crawler.cli import main
from crawler.codes import CODES
from crawler.story import Life, Story, look_up
from crawler.testing import Reply, Site
from crawler.verdict import judge
from storage import queue_again
from storage.reading import Reader
from tests.commands import check_line
from tests.crawling import Walk, links, rows
from tests.troubled import (
    ASKING,
    DEAD,
    FAR,
    crawl_patient,
    crawl_troubled,
    troubled_site,
)

if TYPE_CHECKING:
    from pathlib import Path

NOW = 1_700_000_000.0


@pytest.fixture(scope="module")
def crawled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The database of both runs, and the start of the URLs by site."""
    db = tmp_path_factory.mktemp("why") / "troubled.db"
    with troubled_site().threaded() as site:
        crawl_troubled(site, db)
        crawl_patient(site, db)
        places = {"": site.url(""), "dead": site.url("", DEAD), "asking": site.url("", ASKING)}
    return db, places


class Asked:
    """Asks in the folder of the database."""

    def __init__(self, db: Path, places: dict[str, str], capsys: Any) -> None:
        self.db = db
        self.places = places
        self._capsys = capsys

    def __call__(self, path: str, run: str = "troubled-1", *options: str, at: str = "") -> str:
        url = path if "//" in path else self.places[at] + path
        self._capsys.readouterr()
        assert main(["why", url, run, *options]) == 0
        out, err = self._capsys.readouterr()
        assert err == ""
        return str(out)


@pytest.fixture
def ask(
    crawled: tuple[Path, dict[str, str]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Asked:
    monkeypatch.chdir(crawled[0].parent)
    return Asked(*crawled, capsys)


# ── what a real crawl left ───────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/", ("done      it was delivered to `front`", "it gave no item and 13 new links")),
        ("/flaky", ("done      it was delivered to `page`", "it gave 1 item and 0 new links")),
        ("/gone", ("failed    it failed with http-404: the server answered 404",)),
        ("/boom", ("failed    it failed with callback", "invalid literal", "items: number=1")),
        ("/bare", ("failed    it failed with no-match", "`crawler parse troubled http")),
        ("/back", ("done      it redirects to a URL that the run had already",)),
        (
            "/secret",
            ("dropped ", "/robots.txt forbids it (robots.obey is on)", "/robots.txt` shows"),
        ),
        ("http://elsewhere.test/", ("dropped ", "elsewhere.test is out of scope")),
    ],
)
def test_a_url_is_told_by_its_state_and_reason(
    ask: Asked, path: str, words: tuple[str, ...]
) -> None:
    out = ask(path)
    for word in words:
        assert word in out
    if path != "/":
        assert f"    on      {ask.places['']}/ (start URL)" in out


def test_every_attempt_is_told_with_its_times(ask: Asked) -> None:
    first, second = [line for line in ask("/flaky").splitlines() if line.startswith("  try")]
    assert " 503, tried again (" in first
    assert " 200, delivered (" in second
    for part in (" in all", "waited ", "first byte ", " B", " connection"):
        assert part in first
        assert part in second


def test_redirects_are_told_from_both_ends(ask: Asked) -> None:
    moved, target = ask.places[""] + "/moved", ask.places[""] + "/target"
    assert f"it redirects to {target}" in ask("/moved")
    out = ask("/target")
    assert f"redirects {moved} → {target}" in out
    assert f"on      {moved}\n" in out


def test_a_request_of_a_dead_domain_tells_what_was_wrong_with_the_domain(ask: Asked) -> None:
    out = ask("/other", at="dead")
    assert "failed    it failed with domain-unreachable" in out
    assert "error     domain-unreachable: connect-refused: given up after 3 attempts" in out
    assert "Next: crawler requeue troubled-1 --where 'id = " in out


def test_all_keys_of_a_url_are_told(ask: Asked) -> None:
    first, second = ask("/list").split("\n\n")
    assert first.count("item      items: word=") == 3
    assert "key 'again'" not in first
    assert "key 'again'" in second


@pytest.mark.parametrize(
    ("path", "at", "words"),
    [
        ("/first", "", ("queued    it is next in its domain", "its run is finished")),
        ("/second", "", ("queued    it waits for its turn, after 1 URL of its domain",)),
        ("/late", "", ("queued    it waits until 2096-10-02 07:06:40 UTC (in ",)),
        ("/", "asking", ("asked for patience (429, or 503 with Retry-After): it rests until",)),
    ],
)
def test_what_is_queued_tells_what_it_waits_for(
    ask: Asked, path: str, at: str, words: tuple[str, ...]
) -> None:
    out = ask(path, "patient-1", at=at)
    for word in words:
        assert word in out
    again = shlex.split(out.rpartition("Next: ")[2])
    assert again[1:3] == ["run", "patient"]
    assert again[-1] == "--resume"


def test_every_command_that_is_named_exists(ask: Asked) -> None:
    for (url,) in rows(ask.db, "SELECT DISTINCT url FROM requests WHERE run = 'troubled-1'"):
        _, found, tail = ask(url).rpartition("Next: ")
        for line in tail.strip().splitlines() if found else ():
            check_line(line)


def test_json_holds_the_rows_and_the_words(ask: Asked) -> None:
    told = json.loads(ask("/boom", "troubled-1", "--json"))
    (life,) = told["lives"]
    assert life["request"]["reason"] == "callback"
    assert life["verdict"]["sentences"][0].startswith("it failed with callback")
    assert life["errors"][0]["detail"].startswith('  File "')
    assert [item["number"] for _, item in life["items"]] == [1, 2]
    assert life["attempts"][0]["status"] == 200
    assert json.loads(ask("/never", "troubled-1", "--json"))["verdict"]["sentences"]


def test_the_canonical_form_is_shown_where_it_differs(ask: Asked) -> None:
    given = ask.places[""].removeprefix("http://") + "/./gone#top"
    capsys_out = ask(f"http://{given}")
    assert capsys_out.splitlines()[0] == ask.places[""] + "/gone"
    assert f"  given as http://{given}" in capsys_out


# ── what it never saw ────────────────────────────────────────────────────────────────────


def test_a_url_that_was_not_seen_is_told_with_those_that_were(ask: Asked) -> None:
    start = ask.places[""]
    out = ask("/gone/")
    assert "not seen  troubled-1 has not seen it" in out
    near = [line.strip() for line in out.splitlines() if line.startswith("            http")]
    assert f"{start}/gone (failed, http-404)" in near
    assert out.rpartition("Next: ")[2].startswith(f"crawler why {start}/gone troubled-1")
    assert "crawler why" not in ask("/nothing/like/it/at/all").rpartition("Next: ")[2]


def test_another_scheme_and_www_are_near(ask: Asked) -> None:
    out = ask("https://www.elsewhere.test/?page=2")
    assert "http://elsewhere.test/ (dropped, scope)" in out


@pytest.mark.parametrize("url", ["ftp://a.test//x", "", "http://[::1", "http://a.test:99999/"])
def test_what_is_no_url_is_a_mistake(
    ask: Asked, capsys: pytest.CaptureFixture[str], url: str
) -> None:
    assert main(["why", url, "troubled-1"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert f"error: no run has `{url}`: " in err
    assert "hint: an absolute http:// or https:// URL" in err


def test_a_large_domain_is_not_looked_through(ask: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crawler.story.SCANNED", 1)
    assert ask("/list").count("item      items: word=") == 3
    assert "(a large domain: other methods" in ask("/nothing")


def test_the_scope_is_the_spiders_where_it_can_be_found(ask: Asked, tmp_path: Path) -> None:
    spiders = ask.db.parent / "spiders"
    spiders.mkdir()
    spiders.joinpath("scoped.py").write_text(
        "from crawler import Spider\n"
        "class Troubled(Spider):\n"
        "    allowed_domains = ['b.test', 'a.test']\n"
    )
    try:
        assert "out of scope (allowed_domains: a.test, b.test)" in ask("http://elsewhere.test/")
    finally:
        spiders.joinpath("scoped.py").unlink()
        spiders.rmdir()


# ── while it changes ─────────────────────────────────────────────────────────────────────


def test_a_request_that_was_queued_again_keeps_its_attempts(
    ask: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "troubled.db"
    copy.write_bytes(ask.db.read_bytes())
    monkeypatch.chdir(tmp_path)
    (number,) = rows(copy, "SELECT id FROM requests WHERE url LIKE '%/gone'")[0]
    queue_again(copy, "troubled-1", [number])
    out = ask("/gone")
    assert "queued    it is next in its domain" in out
    assert "its run is interrupted: nothing is sent until it is gone on with" in out
    assert " 404, given up (" in out


def test_a_running_crawl_can_be_asked(tmp_path: Path) -> None:
    db = tmp_path / "walk.db"
    told: dict[str, tuple[str, ...]] = {}

    class Asking(Walk):
        def parse(self, page: Response) -> Results:
            if page.url.endswith("/last"):
                with Reader(db) as reader:
                    for path in ("/", "/last"):
                        story = look_up(reader, "asking-1", site.url(path))
                        verdict = judge(story, story.lives[0], database="", now=FAR)
                        told[path] = (story.run["state"], *verdict.sentences)
            return page.follow_all("a", self.parse)

    with Site({"/": links("/last"), "/last": Reply.html("")}).threaded() as site:
        Asking.start_urls = [site.url("/")]
        crawl_sync(Asking, db=db)
    assert told == {
        "/": ("running", "it was delivered to `parse`", "it gave no item and 1 new link"),
        "/last": ("running", "it is next in its domain, or on the wire now"),
    }


def test_no_question_reads_all_requests(ask: Asked) -> None:
    """By the plans: a large run must not be scanned for one URL."""
    asked: list[str] = []
    with Reader(ask.db) as reader:
        reader._connection.set_trace_callback(asked.append)
        look_up(reader, "troubled-1", ask.places[""] + "/flaky")
        reader._connection.set_trace_callback(None)
    scans = set()
    with closing(sqlite3.connect(ask.db)) as connection:
        for sql in asked:
            if sql.startswith("SELECT"):
                plan = connection.execute(f"EXPLAIN QUERY PLAN {sql}").fetchall()
                scans |= {step[3].split(" USING")[0] for step in plan if "SCAN" in step[3]}
    assert len(asked) > 10
    assert not {scan for scan in scans if scan in ("SCAN q", "SCAN f", "SCAN req", "SCAN p")}


# ── words ────────────────────────────────────────────────────────────────────────────────

RUN = {"id": "books-1", "spider": "books", "state": "running", "ended_by": "", "arguments": "{}"}
ROW = {
    "id": 7,
    "url": "http://a.test/x",
    "domain": "a.test",
    "state": "queued",
    "reason": None,
    "not_before": None,
    "attempts": 0,
    "payload": {},
}


def said(domain: dict[str, Any] | None = None, run: str = "running", **row: Any) -> str:
    story = Story(asked="", url="http://a.test/x", run={**RUN, "state": run})
    life = Life(request={**ROW, **row}, domain={"domain": "a.test", **(domain or {})})
    verdict = judge(story, life, database="books.db", now=NOW)
    return " | ".join((*verdict.sentences, verdict.hint, *verdict.commands))


@pytest.mark.parametrize("code", [*CODES, "http-404", "http-503", "unknown", "mine"])
def test_every_code_has_words_and_never_sends_a_person_round_in_a_circle(code: str) -> None:
    told = said(state="failed", reason=code)
    assert code in told or code == "unknown"
    assert "crawler why" not in told
    assert not {"URL`", "HOST`", "SPIDER"} & set(told.split())


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"state": "sent"}, "it is under way, or its process died"),
        ({"state": "failed", "reason": "unknown"}, "the process died before its answer"),
        ({"state": "dropped", "reason": "depth"}, "it was refused: depth"),
        ({}, "it is next in its domain, or on the wire now"),
        ({"run": "waiting"}, "its run is waiting: nothing is sent until it is gone on with"),
        ({"not_before": NOW + 90, "attempts": 1}, "(in 1m 30s): attempt 2"),
        ({"not_before": NOW - 1}, "it waits since 2023-11-14 22:13:19 UTC for its next try"),
        (
            {"domain": {"state": "unreachable", "next_at": NOW + 60}},
            "a.test could not be reached: it rests until 2023-11-14 22:14:20 UTC (in 1m 00s)",
        ),
        ({"domain": {"state": "paused", "next_at": None}}, "a.test is paused"),
        (
            {"domain": {"state": "ok", "next_at": NOW + 2, "delay": 4.0}},
            "a.test starts nothing until 2023-11-14 22:13:22 UTC (in 2.0 s), a start each 4.0 s",
        ),
    ],
)
def test_words_for_what_a_short_crawl_cannot_show(facts: dict[str, Any], words: str) -> None:
    assert words in said(**facts)
