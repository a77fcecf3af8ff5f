"""Settled URLs queued again: which ones, what is counted, what the rerun makes of them."""

from __future__ import annotations

import asyncio
import os
import shlex
import sqlite3
from collections import Counter
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crawler import Response, Results, crawl_sync, item
from crawler.cli import main
from crawler.testing import Reply, Site
from storage import Commit, ErrorRow, RunState, State, StorageError, queue_again
from storage.lock import FileLock
from storage.schema import Tally
from tests.crawling import Walk, rows, value
from tests.store_rows import NOW, claimed, commit, link, opened, seeded, started
from tests.stored_runs import write_run
from tests.troubled import crawl_troubled, troubled_site

if TYPE_CHECKING:
    from pathlib import Path

    from storage import Store

# ── counters ─────────────────────────────────────────────────────────────────────────────

DOMAINS = ("a.test", "b.test")
OUTCOMES: dict[str, dict[str, Any]] = {
    "left": {},
    "later": {"state": State.QUEUED, "not_before": NOW + 60, "attempts": 1},
    "done": {"state": State.DONE},
    "redirected": {"state": State.DONE, "reason": "redirected"},
    "gone": {"state": State.FAILED, "reason": "http-404"},
    "twice": {
        "state": State.FAILED,
        "reason": "callback",
        "errors": (
            ErrorRow(code="callback", message="one"),
            ErrorRow(code="no-match", message="two"),
        ),
    },
    "told": {"state": State.DONE, "errors": (ErrorRow(code="callback", message="a hook's"),)},
    "forbidden": {"state": State.DROPPED, "reason": "robots"},
}


async def play(store: Store, outcomes: list[tuple[str, str]], buried: str | None) -> None:
    """A run with a request for each outcome, a refused link, and a domain given up."""
    run = await started(store)
    links = [link(f"http://{d}/{n}", d) for n, (d, _) in enumerate(outcomes)]
    refused = link("http://c.test/", "c.test", dropped="scope")
    ids = await seeded(store, run, *links, refused)
    epochs = await claimed(store, run)
    pages = [
        Commit(run=run, domain=d, epoch=epochs[d], request=ids[n], at=NOW, **OUTCOMES[outcome])
        for n, (d, outcome) in enumerate(outcomes)
        if outcome != "left"
    ]
    await commit(store, pages)
    if buried in epochs:
        await store.fail_domain(
            run, buried, epochs[buried], reason="domain-unreachable", message="dns", at=NOW
        )
    await store.end(run, RunState.FINISHED, at=NOW, ended_by="finished")


def counted(db: Path) -> dict[str, Any]:
    """What counters and tallies say."""
    names = "queued, waiting, done, redirected, failed, dropped, errors"
    return {
        "domains": rows(db, f"SELECT domain, {names} FROM run_domain ORDER BY domain"),
        "tallies": rows(
            db,
            "SELECT domain, kind, code, n FROM tally WHERE kind IN (?, ?) AND n != 0"
            " ORDER BY 1, 2, 3",
            Tally.ERROR,
            Tally.DROP,
        ),
    }


def recounted(db: Path) -> dict[str, Any]:
    """The same from the rows."""
    return {
        "domains": rows(
            db,
            "SELECT d.domain, sum(q.state = 0), count(q.not_before), sum(q.state = 2),"
            " sum(q.state = 2 AND coalesce(q.reason, '') LIKE 'redirected%'), sum(q.state = 3),"
            " sum(q.state = 4), (SELECT count(*) FROM problem p WHERE p.domain = d.domain)"
            " FROM run_domain d JOIN req q ON q.domain = d.domain GROUP BY 1 ORDER BY 1",
        ),
        "tallies": rows(
            db,
            "SELECT domain, ?, code, count(*) FROM problem GROUP BY 1, 3 UNION ALL"
            " SELECT domain, ?, reason, count(*) FROM req WHERE state = 4 GROUP BY 1, 3"
            " ORDER BY 1, 2, 3",
            Tally.ERROR,
            Tally.DROP,
        ),
    }


@given(data=st.data())
@settings(max_examples=20)
def test_counters_equal_a_recount_of_the_rows_whatever_is_queued_again(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    page = st.tuples(st.sampled_from(DOMAINS), st.sampled_from(sorted(OUTCOMES)))
    outcomes = data.draw(st.lists(page, max_size=8))
    buried = data.draw(st.sampled_from((None, *DOMAINS)))
    db = tmp_path_factory.mktemp("again") / "x.db"

    async def write() -> None:
        async with opened(db) as store:
            await play(store, outcomes, buried)

    asyncio.run(write())
    assert counted(db) == recounted(db)
    states = dict(rows(db, "SELECT id, state FROM req"))
    chosen = data.draw(st.sets(st.sampled_from(sorted(states)))) | {99}
    queued = queue_again(db, "books-1", chosen)
    assert queued == sum(states.get(number, 0) >= State.DONE for number in chosen)
    assert counted(db) == recounted(db)
    after = rows(db, "SELECT id, state, attempts, reason, not_before, finished_at FROM req")
    for number, *row in after:
        if number in chosen and states[number] >= State.DONE:
            assert row == [State.QUEUED, 0, None, None, None]
        else:
            assert row[0] == states[number]
    ended = ("interrupted", "requeue") if queued else ("finished", "finished")
    assert rows(db, "SELECT state, ended_by, seeded_at FROM runs") == [(*ended, NOW)]


def test_a_domain_is_forgiven_when_all_its_requests_are_queued_again(tmp_path: Path) -> None:
    db = tmp_path / "x.db"

    async def write() -> None:
        async with opened(db) as store:
            await play(store, [("a.test", "left"), ("a.test", "left")], "a.test")

    asyncio.run(write())
    assert queue_again(db, "books-1", [1]) == 1
    assert rows(db, "SELECT code, count FROM v_errors") == [("domain-unreachable", 1)]
    assert queue_again(db, "books-1", [1, 2]) == 1
    assert rows(db, "SELECT code, count FROM v_errors") == []
    assert rows(db, "SELECT state, next_at FROM domains WHERE domain = 'a.test'") == [("ok", None)]


def test_errors_beyond_those_that_are_kept_are_taken_back_too(tmp_path: Path) -> None:
    db = tmp_path / "books.db"
    write_run(db, pages=1, failed=3)
    with closing(sqlite3.connect(db)) as connection, connection:
        connection.execute("DELETE FROM problem WHERE id > 1")
    queue_again(db, "books-1", range(1, 10))
    assert rows(db, "SELECT count FROM v_errors") == []
    assert rows(db, "SELECT queued, failed, errors FROM v_runs") == [(4, 0, 0)]


def test_a_dropped_link_that_another_page_may_follow_is_no_longer_counted(tmp_path: Path) -> None:
    db = tmp_path / "x.db"

    async def write() -> None:
        async with opened(db) as store:
            run = await started(store)
            await seeded(store, run, link("http://a.test/", dropped="scope"))
            await seeded(store, run, link("http://a.test/"))

    asyncio.run(write())
    assert rows(db, "SELECT * FROM v_drops") == []
    assert rows(db, "SELECT queued, dropped FROM v_runs") == [(1, 0)]


# ── items ────────────────────────────────────────────────────────────────────────────────


@item(key="name")
class Named:
    """With a key."""

    name: str
    turn: int


class Words(Walk):
    """Gives a keyed and an unkeyed item for each word of a page."""

    turn: int = 0

    def parse(self, page: Response) -> Results:
        for word in page.text.split():
            yield {"word": word, "turn": len(asked)}
            yield Named(name=word, turn=len(asked))
        if len(asked) == 1:
            raise ValueError("the first time")


asked: list[str] = []


def test_the_rerun_replaces_rows_in_place_and_doubles_none(tmp_path: Path) -> None:
    db = tmp_path / "x.db"
    asked.clear()

    def answer(_: object) -> Reply:
        asked.append("")
        return Reply.text("one two three" if len(asked) == 1 else "one four")

    with Site({"/": answer}).threaded() as site:
        Words.start_urls = [site.url("/")]
        crawl_sync(Words, db=db)
        assert value(db, "SELECT count(*) FROM items") == 3
        queue_again(db, "words-1", [1])
        assert value(db, "SELECT items FROM v_runs") == 6
        crawl_sync(Words, db=db, resume=True)
    # Where fewer come the second time, what came last the first time stays.
    assert rows(db, "SELECT word, turn, _ordinal FROM items ORDER BY _rowid_") == [
        ("one", 2, 0),
        ("four", 2, 2),
        ("three", 1, 4),
    ]
    named = dict(rows(db, "SELECT name, turn FROM named"))
    assert named == {"one": 2, "two": 1, "three": 1, "four": 2}
    assert rows(db, "SELECT id, state, failed, errors, items FROM v_runs") == [
        ("words-1", "finished", 0, 0, 7)
    ]


# ── the command ──────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def crawled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    db = tmp_path_factory.mktemp("troubled") / "troubled.db"
    with troubled_site().threaded() as site:
        crawl_troubled(site, db)
    return db


@pytest.fixture
def db(crawled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    copy = tmp_path / "troubled.db"
    copy.write_bytes(crawled.read_bytes())
    return copy


def say(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, list[str], list[str]]:
    capsys.readouterr()
    code = main(["requeue", *argv])
    out, err = capsys.readouterr()
    return code, out.splitlines(), err.splitlines()


def states(db: Path) -> Counter[str]:
    return Counter(state for (state,) in rows(db, "SELECT state FROM requests"))


def test_what_failed_is_queued_again_and_the_next_command_is_told(
    db: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = states(db)
    code, out, err = say(capsys)
    assert (code, err) == (0, [])
    assert out[:4] == [
        f"troubled-1: {before['failed']} URLs queued again",
        "  2  failed, domain-unreachable",
        "  2  failed, http-404",
        "  1  failed, callback",
    ]
    program, *again = shlex.split(out[-1].removeprefix("Next: "))
    assert (program, again[:2], again[-1]) == ("crawler", ["run", "troubled"], "--resume")
    assert "--db" not in again
    assert states(db) == before + Counter(queued=before["failed"]) - Counter(
        failed=before["failed"]
    )
    assert say(capsys)[1] == ["nothing has failed in troubled-1; --where names others"]


def test_a_dry_run_changes_nothing(db: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = db.read_bytes()
    _, out, _ = say(capsys, "--dry-run", "--where", "state = 'done' or 1")
    assert out[0].endswith("would be queued again")
    assert not out[-1].startswith("Next")
    assert db.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "taken"),
    [
        (("--code", "http-404"), ["/gone", "/gone-too"]),
        (("--code", "robots"), ["/secret"]),
        (("--code", "scope"), ["http://elsewhere.test/"]),
        (("--code", "http-404", "--where", "url like '%too'"), ["/gone-too"]),
        (("--where", "reason = 'no-match' or state = 'dropped' -- or 1"), None),
        (("--where", "state = 'done' and url like '%/list'"), ["/list", "/list"]),
        (("--where", "depth > 50"), []),
    ],
)
def test_options_say_which(
    db: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    taken: list[str] | None,
) -> None:
    start = value(db, "SELECT url FROM requests WHERE id = 1").removesuffix("/")
    assert say(capsys, *options)[0] == 0
    queued = rows(db, "SELECT url FROM requests WHERE state = 'queued' ORDER BY url")
    expected = ["/bare", "/secret", "http://elsewhere.test/"] if taken is None else taken
    assert [url.removeprefix(start) for (url,) in queued] == expected


def test_done_pages_are_left_unless_they_are_named(
    db: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, err = say(capsys, "--where", "depth = 0")
    assert out == ["troubled-1 has nothing of that to queue again"]
    assert err == ["1 page that is done fits too: `state = 'done'` in --where takes them"]


def test_only_a_domain(db: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dead = value(db, "SELECT domain FROM v_errors WHERE code = 'domain-unreachable'")
    assert say(capsys, "--domain", dead)[1][0] == "troubled-1: 2 URLs queued again"


@pytest.mark.parametrize(
    ("options", "error", "hint"),
    [
        (("--where", "stat = 'done'"), "no such column: stat", "did you mean `state`? the columns"),
        (("--where", "state = "), "syntax error", "the columns are id, run, url,"),
        (("--where", "1); DELETE FROM req; --"), "", "the columns are"),
        (("--code", "http404"), "no error code `http404`", "did you mean `http-404`?"),
        (("--domain", "nope.test"), "no domain `nope.test`", "`crawler errors troubled-1`"),
        (("troubled-9",), "no run or spider", "did you mean `troubled-1`?"),
    ],
)
def test_mistakes_are_told_and_change_nothing(
    db: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    error: str,
    hint: str,
) -> None:
    before = states(db)
    code, out, err = say(capsys, *options)
    assert (code, out, len(err)) == (2, [], 2)
    assert error in err[0]
    assert hint in err[1]
    assert states(db) == before


def test_a_run_that_is_not_the_latest_of_its_kind_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    db = tmp_path / "books.db"
    write_run(db, failed=1)
    write_run(db)
    code, _, err = say(capsys, "books-1", "--db", str(db))
    assert code == 2
    assert "`crawler run` goes on with books-2" in err[0]
    assert err[1].startswith("  hint: `crawler requeue books-2")


def test_a_database_that_a_crawl_has_is_left_alone(
    db: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = states(db)
    with closing(FileLock.open(str(db))):
        code, out, err = say(capsys)
    assert (code, out) == (5, [])
    assert f"(process {os.getpid()})" in err[0]
    assert (
        err[1] == "  hint: `crawler set stop --db troubled.db` stops it in good order; then again"
    )
    assert states(db) == before


def test_an_unknown_run_is_refused(db: Path) -> None:
    with pytest.raises(StorageError, match="no run x-1"):
        queue_again(db, "x-1", [1])
