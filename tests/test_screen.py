"""The drawing of a running crawl: what is said in which width, and what gives way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from crawler.cli.screen import one_line, plain, screen, table
from crawler.cli.settled import Teller
from crawler.cli.table import brief, cells, cut, domain_table, safe, text_of
from storage import Commit, ErrorRow, QueuedRequest, State
from tests.lives import API, LIVE, NEWS, OLD, RUN, SHOP, live

HINT = "Ctrl-C stops, nothing is lost"
HOSTILE = "\x1b]0;x\x07\u202e[bold]\n漢字\u0301e"


def drawn(width: int, height: int = 16) -> list[str]:
    return plain(screen(LIVE, width, height, hint=HINT)).splitlines()


def test_a_wide_terminal_shows_everything() -> None:
    assert drawn(130) == [
        "quotes-7  shop.db  running 1:12:40" + HINT.rjust(96),
        "pages    48,210   11.2/s   ▂▃▃▅▆▇▆▇▇▅▂▇   items 41,877   9.8/s   failed 312 (0.6%)"
        "   errors 3   retries 540   waiting 38",
        "queue    12,904   net −6.1/s   about 35m left   shop-a.example, 33m 00s at its delay of"
        " 1 s",
        "pools    64 of 200 clients · 71 of 1,024 sockets · 52 idle · reuse 97.4% · 3 evicted/min"
        " · 9 of 256 on the wire",
        "machine  memory 212.0 MiB · database 389.0 MiB · 0.4s behind · cpu 61% · files 143 of"
        " 1,024 · 12 unfinished",
        "",
        "domain            state            queue  active  rate    p50    p95  2/3/4/5xx %"
        "  last problem",
        "api.example       throttled 42s      514     0/2   0.0  210ms  900ms  71/0/29/0    "
        "http-429 ×24: Retry-After: 60",
        "old.example:8080  unreachable 95s     96     0/1   0.0      –      –  –            "
        "connect-refused ×3: 192.0.2.9:8080 refused the…",
        "shop-a.example    waiting 0.6s     1,980     1/2   1.0  140ms  310ms  98/1/1/0     –",
        "news.example      ok               8,410     4/4   6.9   92ms  280ms  99/1/0/0     –",
        "… 58 more: 51 ok, 4 waiting, 3 robots",
    ]


def test_eighty_columns_lose_what_matters_least() -> None:
    assert drawn(80) == [
        "quotes-7  shop.db  running 1:12:40                 Ctrl-C stops, nothing is lost",
        "pages    48,210   11.2/s   items 41,877   failed 312 (0.6%)   errors 3",
        "queue    12,904   about 35m left   shop-a.example, 33m 00s at its delay of 1 s",
        "pools    64 of 200 clients · 71 of 1,024 sockets · reuse 97.4% · 3 evicted/min",
        "machine  memory 212.0 MiB · database 389.0 MiB · cpu 61% · files 143 of 1,024",
        "",
        "domain            state            queue  active  rate    p95  last problem",
        "api.example       throttled 42s      514     0/2   0.0  900ms  http-429 ×24",
        "old.example:8080  unreachable 95s     96     0/1   0.0      –  connect-refused …",
        "shop-a.example    waiting 0.6s     1,980     1/2   1.0  310ms  –",
        "news.example      ok               8,410     4/4   6.9  280ms  –",
        "… 58 more: 51 ok, 4 waiting, 3 robots",
    ]


def test_sixty_columns_still_name_the_trouble() -> None:
    lines = drawn(60)
    assert lines[1] == "pages    48,210   11.2/s   items 41,877   failed 312 (0.6%)"
    assert lines[6] == "domain            state            queue  rate  last problem"
    assert lines[7] == "api.example       throttled 42s      514   0.0  http-429 ×24"


def test_as_many_domains_as_fit_and_the_rest_in_one_line() -> None:
    lines = drawn(80, 9)
    assert len(lines) == 9
    assert lines[7].startswith("api.example ")
    assert lines[8] == "… 61 more: 52 ok, 5 waiting, 3 robots, 1 unreachable"
    assert len(drawn(80, 8)) == 5
    alone = live(NEWS)
    assert "more" not in plain(table(alone, 80, 2))


def test_several_runs_have_a_line_each() -> None:
    other = structs.replace(RUN, run="news-1", state="paused", seconds=9.0, spark=(), failed=0)
    lines = plain(screen(live(runs=(RUN, other)), 120, 20)).splitlines()
    assert lines[0] == "2 runs  shop.db  running 1:12:40"
    assert lines[1].startswith("quotes-7  running  48,210 pages  11.2/s  ")
    assert lines[2].startswith("news-1  paused  48,210 pages")
    assert lines[3].startswith("pools")


def test_what_is_unknown_or_nothing_is_not_told() -> None:
    begun = dict.fromkeys(("pages", "pages_before", "items", "failed", "retries", "queued"), 0)
    fresh = live(
        run={**begun, "net": None, "ends_in_s": None, "ends_by": "", "spark": (), "waiting": 0},
        domains=(),
        domains_total=0,
        states={},
        memory=None,
        descriptors=None,
    )
    lines = plain(screen(fresh, 120, 20)).splitlines()
    assert lines[1] == "pages    0   11.2/s   items 0   9.8/s   failed 0   errors 3"
    assert lines[2] == "queue    0"
    assert lines[4].startswith("machine  database 389.0 MiB · 0.4s behind · cpu 61%")
    assert len(lines) == 5
    assert plain(screen(live(runs=()), 80, 4)).startswith("0 runs  shop.db  ended 00:00")


def test_a_shortage_and_a_growing_queue_are_told() -> None:
    grows = live(run={"ends_in_s": None, "ends_by": "growing 1.4 URLs a page"}, shortage="files")
    text = plain(screen(grows, 80, 20))
    assert "growing 1.4 URLs a page" in text
    assert "short    files" in text


def test_one_line_says_as_much_as_fits() -> None:
    assert (
        text_of(one_line(LIVE, 59)) == "quotes-7  48,210 pages  11.2/s  12,904 queued  312 failed"
    )
    assert text_of(one_line(LIVE, 120)).endswith("about 35m left  api.example:http-429")
    assert text_of(one_line(LIVE, 12)) == "quotes-7  4…"


@given(st.integers(1, 200), st.integers(1, 40), st.text(max_size=60))
def test_no_line_is_wider_and_no_screen_higher_than_asked(
    width: int, height: int, text: str
) -> None:
    odd = structs.replace(API, domain=text or "x", problem=text, problem_text=text * 3, state=text)
    run = {"run": text or "x", "ends_by": text}
    shown = live(odd, OLD, odd, run=run, database=text, shortage=text)
    lines = screen(shown, width, height, hint=text)
    assert len(lines) <= height
    for line in [*lines, one_line(shown, width)]:
        assert cells(text_of(line)) <= width
        assert text_of(line).isprintable()


def test_hostile_text_is_escaped_and_never_markup() -> None:
    hostile = structs.replace(API, domain=HOSTILE, problem_text=HOSTILE)
    text = plain(screen(live(hostile), 200, 20))
    assert "\\x1b]0;x\\x07\\u202e[bold] 漢字e" in text
    assert "\x1b" not in text


def test_an_old_terminal_gets_letters_of_the_same_width() -> None:
    text = plain(screen(LIVE, 130, 16), ascii_only=True)
    assert text.isascii()
    assert [len(line) for line in text.splitlines()] == [
        len(line) for line in plain(screen(LIVE, 130, 16)).splitlines()
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0421, "42ms"),
        (1.94, "1.9s"),
        (42.0, "42s"),
        (99.6, "1m40s"),
        (312.0, "5m12s"),
        (7_440.0, "2h04m"),
        (266_400.0, "3d02h"),
    ],
)
def test_times_are_short(seconds: float, text: str) -> None:
    assert brief(seconds) == text


def test_cells_are_counted_as_a_terminal_does() -> None:
    assert (cells("漢字"), cut("漢字", 3), cut("abc", 2), cut("abc", 0)) == (4, "漢…", "a…", "")
    assert safe("e\u0301\ufe0f") == "e"


def test_a_class_that_came_at_all_is_never_told_as_nothing() -> None:
    rare = structs.replace(NEWS, s2xx=9_999, s3xx=0, s5xx=1)
    assert "99/0/0/1" in text_of(domain_table([rare], 120)[1])


def test_long_names_are_cut_where_they_are_alike() -> None:
    names = ["shop-a.stores.europe.example", "shop-b.stores.europe.example"]
    domains = [structs.replace(SHOP, domain=name) for name in names]
    rows = [text_of(line).split()[0] for line in domain_table(domains, 62)[1:]]
    assert [row[:6] for row in rows] == ["shop-a", "shop-b"]
    assert all("…" in row and row.endswith("example"[-3:]) for row in rows)


def test_a_run_that_has_only_begun_has_no_rate_yet() -> None:
    begun = live(run={"rate": 0.0, "item_rate": 0.0, "seconds": 0.6})
    assert "0.0/s" not in plain(screen(begun, 120, 5))
    later = live(run={"rate": 0.0, "item_rate": 0.0, "seconds": 60})
    assert "0.0/s" in plain(screen(later, 120, 5))


def test_the_first_error_of_each_line_is_told_at_once_and_three_of_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    teller = Teller(0)
    row = QueuedRequest(id=1, run=1, domain="a.test", url="http://a.test/1")
    for line in (7, 7, 8, 9, 10):
        detail = f'  File "a.py", line {line}, in parse\n    int("x")\n'
        error = ErrorRow(code="callback", message="ValueError: x", detail=detail)
        teller(row, Commit(run=1, at=0.0, state=State.FAILED, errors=(error,)))
    told = capsys.readouterr().err.splitlines()
    assert told[:2] == [
        "warning: callback on http://a.test/1: ValueError: x",
        '  File "a.py", line 7, in parse',
    ]
    assert len(told) == 9
    assert teller.stats() == 4
