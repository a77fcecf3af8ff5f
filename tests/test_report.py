"""The summary of a run, the line while it goes on, and the line before it."""

from __future__ import annotations

import io
import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.errors import UsageError
from crawler.progress import Progress, first_line, logfmt
from crawler.report import Busiest, Failure, Summary, diagnose, render, summarise
from crawler.result import Snapshot
from crawler.wording import count, duration, plural, printable, share, size
from storage import RunState
from storage.reading import Reader
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
        "  errors    http-404 2",
        "  dropped   2 · robots 2",
        "  latency   250 ms to the first byte on the slowest domain, shop.test",
        "  pools     reuse 96.7% · 1 connection for 30 requests · at most 1 client · 0 evictions",
        "  traffic   60.0 KiB down",
        "  The pace of shop.test (a start each 2.0 s) set the length of the run: domain.delay"
        " changes it, more concurrency does not.",
        'Next: crawler sql "select * from v_errors" --db books.db'
        " · crawler export books-1 -o book.csv",
    ]


def test_an_interrupted_run_is_told_how_to_go_on(tmp_path: Path) -> None:
    file = tmp_path / "other.db"
    write_run(file, pages=1, queued=5, state=RunState.INTERRUPTED)
    text = render(summary_of(file, "books-1"), "other.db")
    assert text.startswith("books-1 interrupted (signal) after 10.0 s")
    assert "5 URLs to go" in text
    assert "Next: the same `crawler run` again goes on" in text


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


# ── progress ─────────────────────────────────────────────────────────────────────────────

SNAPSHOT = Snapshot(
    run="books-3",
    delivered=100,
    queued=1_204,
    failed=2,
    items=90,
    retries=1,
    on_wire=8,
    domains=3,
    clients=3,
    reuse=0.974,
    worst="slow.test:head-timeout",
)


def test_a_terminal_line_is_rewritten_in_place_at_most_twice_a_second() -> None:
    stream = io.StringIO()
    progress = Progress(stream, is_terminal=True)
    for tenth in range(21):
        progress.show(replace(SNAPSHOT, delivered=100 + tenth), tenth / 10)
    text = stream.getvalue()
    assert text.count("\r") == 5 == progress.stats().shown
    assert progress.stats().skipped == 16
    assert "\n" not in text
    assert "books-3 2.0 s  120 pages 10.0/s" in text
    progress.clear()
    assert stream.getvalue().endswith("\r\x1b[K")
    progress.clear()
    assert repr(progress) == "<Progress terminal shown=5 skipped=16>"


def test_a_log_gets_one_line_of_pairs_every_ten_seconds() -> None:
    stream = io.StringIO()
    progress = Progress(stream, is_terminal=False)
    for second in range(31):
        progress.show(replace(SNAPSHOT, delivered=100 + 5 * second), float(second))
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3
    assert lines[0] == (
        "crawl run=books-3 seconds=10 pages=150 rate=5.0 items=90 queued=1204 failed=2 retries=1"
        " on_wire=8 domains=3 clients=3 reuse=0.974 worst=slow.test:head-timeout"
    )
    progress.clear()
    assert stream.getvalue().splitlines() == lines


def test_the_stream_decides_what_is_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert repr(Progress(io.StringIO())) == "<Progress log shown=0 skipped=0>"
    ours, theirs = os.openpty()
    with open(ours, "rb"), open(theirs, "w") as terminal:
        assert repr(Progress(terminal)) == "<Progress terminal shown=0 skipped=0>"
        monkeypatch.setenv("TERM", "dumb")
        assert repr(Progress(terminal)) == "<Progress log shown=0 skipped=0>"


def test_the_rate_is_that_of_the_last_seconds_not_of_the_whole_run() -> None:
    stream = io.StringIO()
    progress = Progress(stream, is_terminal=False)
    progress.show(replace(SNAPSHOT, delivered=0), 0.0)
    progress.show(replace(SNAPSHOT, delivered=1_000), 10.0)
    progress.show(replace(SNAPSHOT, delivered=1_000), 20.0)
    progress.show(replace(SNAPSHOT, delivered=1_000), 30.0)
    rates = [line.split("rate=")[1].split()[0] for line in stream.getvalue().splitlines()]
    assert rates == ["100.0", "0.0", "0.0"]


def test_runs_side_by_side_share_the_terminals_line_until_they_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    stream = io.StringIO()
    progress = Progress(stream, is_terminal=True)
    other = replace(SNAPSHOT, run="news-1")
    progress.show(SNAPSHOT, 0.0)
    progress.show(other, 0.0)
    assert "books-3" in stream.getvalue().rsplit("\r", 1)[1]
    assert "news-1" in stream.getvalue().rsplit("\r", 1)[1]
    progress.show(other, 60.0)
    assert "books-3" not in stream.getvalue().rsplit("\r", 1)[1]


def test_text_from_the_web_reaches_no_terminal_unescaped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    stream = io.StringIO()
    hostile = replace(SNAPSHOT, worst="\x1b]0;x\x07\u202e\n", run="b\x1b[2J")
    Progress(stream, is_terminal=True).show(hostile, 0.0)
    written = stream.getvalue().removeprefix("\r").removesuffix("\x1b[K")
    assert written.isprintable()
    assert len(written) < 60
    assert logfmt(hostile, 1.0, 1.0).isprintable()
    assert 'worst="a b"' in logfmt(replace(SNAPSHOT, worst="a b"), 1.0, 1.0)


# ── first line and words ─────────────────────────────────────────────────────────────────


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
