"""What reading a large database costs: by the plans of its views, not by the clock."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from benchmarks.filled import fill, url_of
from crawler.story import look_up
from crawler.summary import percentiles, summarise
from storage.reading import Reader
from storage.schema import VIEWS

if TYPE_CHECKING:
    from pathlib import Path

ROWS = 20_000
DOMAINS = 200
STATISTICS = sorted(view.name for view in VIEWS if view.name.startswith("v_"))
ONE_BY_ONE = {"v_errors", "v_problems"}
"""They show a request's URL, found by its number."""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("views") / "books.db"
    fill(path, requests=ROWS, domains=DOMAINS, items=ROWS)
    return path


def plan(path: Path, sql: str) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return [step[3] for step in connection.execute(f"EXPLAIN QUERY PLAN {sql}")]


def read(path: Path, sql: str) -> tuple[set[str], list[str]]:
    """Tables that a statement reads columns of, and its plan."""
    tables: set[str] = set()

    def note(action: int, table: str | None, *_: object) -> int:
        if action == sqlite3.SQLITE_READ and table is not None:
            tables.add(table)
        return sqlite3.SQLITE_OK

    with closing(sqlite3.connect(path)) as connection:
        connection.set_authorizer(note)
        return tables, [step[3] for step in connection.execute(f"EXPLAIN QUERY PLAN {sql}")]


@pytest.mark.parametrize("view", STATISTICS)
def test_a_statistic_never_scans_the_queue_or_the_log(large: Path, view: str) -> None:
    for where in ("", " WHERE run = 'books-2'" if view != "v_runs" else " WHERE id = 'books-2'"):
        for what in ("*", "count(*)"):
            tables, steps = read(large, f"SELECT {what} FROM {view}{where}")
            assert "fetch_log" not in tables
            if "req" in tables:
                assert view in ONE_BY_ONE
                assert "SEARCH q USING INTEGER PRIMARY KEY (rowid=?) LEFT-JOIN" in steps


@pytest.mark.parametrize(
    ("question", "step"),
    [
        ("requests WHERE id = 7", "SEARCH q USING INTEGER PRIMARY KEY (rowid=?)"),
        (
            "requests WHERE run = 'books-2' AND domain = 'x'",
            "SEARCH q USING INDEX sqlite_autoindex_req_1 (run=? AND domain=?)",
        ),
        ("fetches WHERE request = 7", "SEARCH f USING INDEX fetch_log_request (request=?)"),
        (
            "v_problems WHERE run = 'books-2' AND domain = 'x'",
            "SEARCH p USING INDEX problem_code (run=? AND domain=?)",
        ),
        ("v_queue WHERE run = 'books-2'", "SEARCH q USING INDEX run_domain_queued (run=?)"),
        (
            "v_throughput WHERE run = 'books-2'",
            "SEARCH t USING PRIMARY KEY (run=? AND domain=? AND kind=?)",
        ),
    ],
)
def test_a_narrow_question_is_answered_by_an_index(large: Path, question: str, step: str) -> None:
    assert step in plan(large, f"SELECT * FROM {question}")


def test_the_newest_items_come_without_sorting_all_of_them(large: Path) -> None:
    for view in ("book_latest", "quote_latest"):
        steps = plan(large, f"SELECT * FROM {view} LIMIT 100")
        assert not [step for step in steps if "TEMP B-TREE" in step], view
        assert not [step for step in steps if step.startswith("SCAN t")], view


def test_the_newest_items_are_those_of_the_newest_run_that_has_the_key(large: Path) -> None:
    with closing(sqlite3.connect(large)) as connection:
        (rows, keys) = connection.execute(
            "SELECT count(*), count(DISTINCT url) FROM book_latest"
        ).fetchone()
        assert rows == keys == ROWS // 2 + 1
        wrong = connection.execute(
            "SELECT count(*) FROM book_latest l WHERE _run = 'books-1' AND EXISTS"
            " (SELECT 1 FROM book b WHERE b.url = l.url AND b._run = 'books-2')"
        ).fetchone()
        assert wrong == (0,)


def test_the_counters_of_the_large_file_are_those_of_its_rows(large: Path) -> None:
    """The file that the benchmark measures is one that a crawl could have left."""
    with Reader(large) as reader:
        for run in ("books-1", "books-2"):
            counted = reader.query(
                "SELECT queued, done, redirected, failed, dropped, requests FROM v_runs"
                " WHERE id = ?",
                (run,),
            )[1]
            rows = reader.query(
                "SELECT sum(state = 'queued'), sum(state = 'done'),"
                " sum(state = 'done' AND reason IS 'redirected'), sum(state = 'failed'),"
                " sum(state = 'dropped'), count(*) FROM requests WHERE run = ?",
                (run,),
            )[1]
            assert counted == rows
        summary = summarise(reader, "books-2")
        assert summary.domains == DOMAINS
        assert 0 < summary.latency[0] < summary.latency[1] < summary.latency[2] < 1.1
        (number,) = reader.query("SELECT max(id) FROM requests WHERE run = 'books-2'")[1][0]
        (life,) = look_up(reader, "books-2", url_of(number, DOMAINS)).lives
        assert life.request["id"] == number
        assert len(life.attempts) == 1


@pytest.mark.parametrize(
    ("buckets", "expected"),
    [
        ((), ()),
        (((1, 10),), (0.0005, 0.00095)),
        (((128, 100),), (0.096, 0.1248)),
        (((128, 90), (1024, 10)), (0.064 + 0.064 * 50 / 90, 0.512 + 0.512 * 5 / 10)),
    ],
)
def test_percentiles_come_from_buckets(
    buckets: tuple[tuple[int, int], ...], expected: tuple[float, ...]
) -> None:
    assert percentiles(buckets, (0.5, 0.95)) == pytest.approx(expected)
