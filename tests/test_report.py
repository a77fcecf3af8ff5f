"""The summary of a run, the line while it goes on, and the line before it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.cli.voice import folded, in_ascii
from crawler.diagnosis import diagnose, next_commands
from crawler.errors import UsageError
from crawler.failures import Failure, of_callbacks
from crawler.report import render
from crawler.summary import Busiest, Summary, summarise
from crawler.wording import count, duration, plural, printable, share, size
from storage import RunState
from storage.reading import Reader
from tests.commands import check_line
from tests.stored_runs import write_run

if TYPE_CHECKING:
    from pathlib import Path


def summary_of(file: Path, run: str) -> Summary:
    with Reader(file) as reader:
        return summarise(reader, run)


# ── summary ──────────────────────────────────────────────────────────────────────────────


def test_a_summary_counts_what_the_run_stored(tmp_path: Path) -> None:
    file = tmp_path / "books.db"
    write_run(file, pages=30, failed=4, dropped=2, tables=("book", "author"))
    summary = summary_of(file, "books-1")
    assert (summary.done, summary.failed, summary.dropped, summary.queued) == (30, 4, 2, 0)
    assert summary.items == 60
    assert summary.tables == (("author", 30), ("book", 30))
    assert summary.statuses == (("2xx", 30), ("4xx", 4))
    assert summary.drops == (("robots", 2),)
    assert [(f.code, f.count, f.domain) for f in summary.failures] == [("http-404", 4, "shop.test")]
    assert summary.bytes_received == 30 * 2_048
    assert (summary.new_connections, summary.reused_connections) == (1, 29)
    assert summary.slowest == ("shop.test", 0.25)


def test_a_summary_knows_what_bounds_the_pools_and_which_requests_they_carried(
    tmp_path: Path,
) -> None:
    file = tmp_path / "books.db"
    write_run(file, pages=30, failed=4, settings='{"pool.keepalive": 0, "pool.sockets": 3}')
    write_run(file, pages=1)
    summary = summary_of(file, "books-1")
    assert (summary.keepalive, summary.sockets, summary.connections) == (0, 3, 1)
    assert (summary.requests, summary.carried, summary.peer_closes) == (34, 30, 0)
    other = summary_of(file, "books-2")
    assert (other.keepalive, other.sockets) == (15.0, None)


def test_a_summary_reads_as_text_with_the_next_commands(tmp_path: Path) -> None:
    file = tmp_path / "books.db"
    write_run(file, pages=30, failed=2, dropped=2)
    text = render(summary_of(file, "books-1"), "books.db")
    assert text.splitlines() == [
        "books-1 finished after 10.0 s: books.db · 30 pages · 30 items",
        "  pages     30 at 3.0/s",
        "  answers   2xx 30 · 4xx 2",
        "  items     book 30",
        "  failed    2 URLs",
        "  causes    http-404 2",
        "  dropped   2 · robots 2",
        "  latency   p50 192 ms · p95 250 ms · p99 255 ms",
        "  pools     reuse 96.7% · 1 connection for 30 requests · at most 1 client · 0 evictions",
        "  traffic   60.0 KiB down",
        "  The pace of shop.test (a start each 2.0 s) set the length of the run: domain.delay"
        " changes it, more concurrency does not.",
        "Next: crawler errors books-1",
        "      crawler why http://shop.test/31 books-1",
        "      crawler export books-1 -o book.csv",
    ]


def test_long_lines_go_on_between_words_below_their_text_and_commands_stay_whole(
    tmp_path: Path,
) -> None:
    write_run(tmp_path / "books.db", pages=30, failed=2)
    text = render(summary_of(tmp_path / "books.db", "books-1"), "a folder/books.db")
    lines = folded(text, 60).splitlines()
    assert "  pools     reuse 96.7% · 1 connection for 30 requests · at" in lines
    assert "            most 1 client · 0 evictions" in lines
    assert all(len(line) <= 60 or " crawler " in line for line in lines)
    assert " ".join(" ".join(lines).split()) == " ".join(text.split())


def test_an_old_terminal_gets_our_letters_in_ascii() -> None:
    assert in_ascii("5 × 2 · a – b … ▁▇ ж") == "5 x 2 | a - b ~ _# ?"


def test_an_interrupted_run_is_told_how_to_go_on(tmp_path: Path) -> None:
    file = tmp_path / "other.db"
    write_run(file, pages=1, queued=5, state=RunState.INTERRUPTED)
    text = render(summary_of(file, "books-1"), "other.db")
    assert text.startswith("books-1 interrupted (signal) after 10.0 s")
    assert "5 URLs to go" in text
    assert "Next: crawler run books --db other.db\n" in text


def test_a_summary_is_of_one_run_only(tmp_path: Path) -> None:
    file = tmp_path / "books.db"
    write_run(file, pages=3)
    write_run(file, pages=5, failed=1)
    assert summary_of(file, "books-1").tables == (("book", 3),)
    assert summary_of(file, "books-2").tables == (("book", 5),)
    assert summary_of(file, "books-1").failures == ()


def test_an_unknown_run_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "books.db"
    write_run(file)
    with pytest.raises(UsageError, match="no run `books-7`"):
        summary_of(file, "books-7")


CALM = Summary(
    run="books-1",
    spider="books",
    state="finished",
    ended_by="finished",
    seconds=100.0,
    pages=100,
    done=100,
    queued=0,
    failed=0,
    dropped=0,
    requests=100,
    retries=0,
    errors=0,
    items=100,
    duplicates=0,
    bytes_received=0,
    new_connections=1,
    reused_connections=99,
    reuse=0.99,
    clients_peak=1,
    evictions=0,
    domains=1,
    command='["books"]',
)

SLOW = Busiest(domain="a.test", requests=20, delay=0.9)
COLD = {"new_connections": 90, "reused_connections": 10, "reuse": 0.1}
PROXY = Failure(code="proxy", count=9, domain="a.test", message="it refused")
GONE = replace(PROXY, code="domain-unreachable", message="proxy: given up after 3 attempts")
DEAD = {"done": 0, "items": 0, "failed": 9, "unreachable": ("a.test",), "failures": (GONE,)}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ""),
        ({"done": 0, "pages": 0, "requests": 0, "items": 0, "seconds": 0.0}, ""),
        ({"state": "waiting", "queued": 3, "waits_for": ("a.test", 9.0)}, "3 URLs wait"),
        ({"done": 0, "items": 0, "unreachable": ("a.test",)}, "a.test could not be reached"),
        ({"items": 0}, "no items"),
        ({"items": 0, "pages": 1, "done": 1}, "A page came, but no items"),
        (DEAD | {"unreachable": ("b.test",)}, "b.test could not be reached"),
        (DEAD | {"unreachable": ("b.test",), "given_up": GONE}, "b.test was given up with proxy"),
        ({"evictions": 20}, "raise pool.clients"),
        (COLD, "new connection: the servers close theirs."),
        (COLD | {"keepalive": 0.0}, "pool.keepalive = 0 s ends them"),
        (COLD | {"keepalive": 0.5, "busiest": SLOW}, "pool.keepalive = 0.5 s"),
        (COLD | {"sockets": 4, "connections": 9}, "pool.sockets = 4 leaves no room"),
        (COLD | {"sockets": 9, "connections": 4}, "the servers close theirs."),
        (COLD | {"peer_closes": 80}, "servers close idle ones, and a shorter domain.delay"),
        (COLD | {"domains": 100}, ""),
        (DEAD, "No page came: a.test was given up with proxy: is the proxy up?"),
        (DEAD | {"failures": (GONE, replace(GONE, message="head-limit: x"))}, "is the proxy up?"),
        (DEAD | {"unreachable": (), "failures": (PROXY,)}, "most with proxy: is the proxy up?"),
    ],
)
def test_the_diagnosis_is_the_sentence_that_matters(changes: dict[str, object], words: str) -> None:
    diagnosis = diagnose(replace(CALM, **changes))  # type: ignore[arg-type]
    assert words in diagnosis
    assert "?." not in diagnosis
    assert bool(words) == bool(diagnosis)


# ── what to do next ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("failed", "found", "errors"),
    [
        (9, {"http-404": 4, "callback": 5}, 5),
        (9, {"http-404": 4, "item-invalid": 50}, 5),
        (9, {"domain-unreachable": 1, "callback": 2}, 2),
        (9, {"domain-unreachable": 1}, 0),
        (0, {"bad-url": 1}, 0),
    ],
)
def test_errors_are_the_pages_that_the_spider_failed(
    failed: int, found: dict[str, int], errors: int
) -> None:
    causes = [replace(PROXY, code=code, count=count) for code, count in found.items()]
    assert of_callbacks(failed, causes) == errors


GAVE_UP = replace(PROXY, url="http://a.test/it's")
FAILED = {"failed": 9, "errors": 9, "failures": (GAVE_UP,)}
BOOKS = {"tables": (("book", 90), ("author", 9))}
ERRORS = "crawler errors books-1"
WHY = "crawler why 'http://a.test/it'\"'\"'s' books-1"
REQUEUE = "crawler requeue books-1 --code proxy"
EXPORT = "crawler export books-1 --table book -o book.csv"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ["crawler runs"]),
        ({"items": 0, "sample": ("http://a.test/1",)}, ["crawler parse books http://a.test/1"]),
        ({"state": "waiting", "command": None} | BOOKS, [EXPORT]),
        (FAILED | {"command": None}, [ERRORS, WHY]),
        (BOOKS, [EXPORT]),
        (FAILED, [ERRORS, WHY, REQUEUE]),
        (FAILED | BOOKS, [ERRORS, WHY, EXPORT]),
        (FAILED | {"failures": (replace(GAVE_UP, code="robots"),)}, [ERRORS, WHY]),
        (FAILED | {"failures": (PROXY,)}, [ERRORS, REQUEUE]),
        ({"state": "waiting"} | BOOKS, ["crawler run books", EXPORT]),
        ({"state": "interrupted"} | FAILED | BOOKS, ["crawler run books", ERRORS, EXPORT]),
        ({"state": "finished", "queued": 3}, ["crawler run books --resume"]),
        ({"state": "running"} | FAILED | BOOKS, ["crawler status books-1 --watch", ERRORS, WHY]),
        (
            {
                "state": "finished",
                "queued": 1,
                "arguments": '{"deep":false,"pages":3}',
                "command": '["my spiders/books.py","http://a.test/","-a","pages=3"]',
            },
            ["crawler run 'my spiders/books.py' http://a.test/ -a pages=3 --resume"],
        ),
        (
            {
                "state": "interrupted",
                "command": "[]",
                "arguments": '{"deep":true,"pages":3,"start_urls":["http://a.test/?a=1&b"],'
                '"tags":["x y"],"urls":"list of.csv"}',
            },
            [
                "crawler run books 'http://a.test/?a=1&b' -a deep=true -a pages=3"
                " -a 'tags=[\"x y\"]' --urls 'list of.csv'"
            ],
        ),
    ],
)
def test_the_next_commands_fit_the_state_of_the_run(
    changes: dict[str, object], expected: list[str]
) -> None:
    summary = replace(CALM, **changes)  # type: ignore[arg-type]
    assert next_commands(summary, "books.db") == expected
    elsewhere = next_commands(summary, "my data/other.db")
    assert len(elsewhere) == len(expected)
    for command in elsewhere:
        assert "--db 'my data/other.db'" in command or command.startswith("crawler parse ")
        check_line(command)


def test_a_sentence_names_the_run_the_file_and_the_spider_as_they_were_given() -> None:
    failure = replace(PROXY, code="callback", url="http://a.test/1")
    summary = replace(CALM, failed=50, failures=(failure,))
    told = diagnose(summary, "my data/other.db")
    assert "`crawler errors --code callback books-1 --db 'my data/other.db'` shows" in told
    summary = replace(
        summary, failures=(replace(failure, code="no-match"),), command='["books.py","-a","x=1"]'
    )
    assert "`crawler parse books.py http://a.test/1` shows" in diagnose(summary)


def test_a_run_that_was_queued_again_says_so() -> None:
    summary = replace(CALM, state="interrupted", ended_by="requeue", queued=2)
    assert diagnose(summary) == "2 URLs to go since they were queued again."


# ── words ────────────────────────────────────────────────────────────────────────────────


def test_numbers_read_as_people_write_them() -> None:
    assert [duration(s) for s in (0.096, 1.94, 59.96, 249, 7_440, 266_400)] == [
        "96 ms",
        "1.9 s",
        "1m 00s",
        "4m 09s",
        "2h 04m",
        "3d 02h",
    ]
    assert [size(n) for n in (812, 65_536, 2 * 10**9)] == ["812 B", "64.0 KiB", "1.9 GiB"]
    assert [share(p) for p in (0.974, 0.9999, 1.0, 0.0)] == ["97.4%", "99.9%", "100%", "0.0%"]
    assert (count(61_114), plural(1, "page"), plural(2, "entry", "entries")) == (
        "61,114",
        "1 page",
        "2 entries",
    )


@given(st.text(), st.integers(1, 40))
def test_printable_text_is_one_safe_line_of_the_width(text: str, width: int) -> None:
    assert printable(text).isprintable()
    assert len(printable(text, width)) <= width
    assert printable(printable(text)) == printable(text)


def test_a_run_without_items_names_a_page_of_its_own_to_look_at(tmp_path: Path) -> None:
    write_run(tmp_path / "books.db", pages=3, tables=())
    summary = summary_of(tmp_path / "books.db", "books-1")
    assert "do the selectors match" in diagnose(summary)
    assert next_commands(summary) == ["crawler parse books http://shop.test/2"]
