"""Forms of rows: tables that fit a terminal, the flags for data, `sql` and `export`."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import pty
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.cli import main
from crawler.cli.output import write_rows
from crawler.cli.table import cells
from storage import RunState
from storage.reading import Reader
from storage.sqlite import SqliteStore
from tests.stored_runs import STARTED_AT, write_run

if TYPE_CHECKING:
    from pathlib import Path

ENDLESS = "with recursive n(x) as (select 1 union all select x + 1 from n) select count(*) from n"


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shown(columns: list[str], *rows: tuple[Any, ...], stream: io.StringIO | None = None) -> str:
    told = stream or io.StringIO()
    assert write_rows(told, columns, rows, "table") == len(rows)
    return told.getvalue()


# -- tables --------------------------------------------------------------------------------


def test_numbers_stand_right_and_what_is_null_is_empty() -> None:
    rows = [("a", 1, None, 1.5), (None, 20_000, None, -2e-9), ("ö\x1b[0m", None, None, 3.0)]
    assert shown(["name", "n", "none", "float"], *rows).splitlines() == [
        "name          n  none   float",
        "--------  -----  ----  ------",
        "a             1           1.5",
        "          20000        -2e-09",
        "ö\\x1b[0m                  3.0",
    ]


def test_a_table_is_whole_in_a_pipe_and_cut_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    rows = [("short", "x" * 60, 12_345), ("id", "日本" * 20, 1)]
    assert "x" * 60 in shown(["a", "b", "n"], *rows)
    lines = shown(["a", "b", "n"], *rows, stream=Screen()).splitlines()
    assert [cells(line) for line in lines] == [40] * 4
    assert lines[2] == f"short  {'x' * 25}…  12345"
    assert lines[3].startswith("id     日本日本日本日本日本日本…")
    assert lines[3].endswith("     1")


def test_a_table_of_too_many_columns_is_cut_at_the_edge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    columns = [f"column_{n}" for n in range(9)]
    lines = shown(columns, tuple("abcdefghi" * 9 for _ in columns), stream=Screen()).splitlines()
    cell = f"{('abcdefghi' * 2)[:15]}…  "
    assert lines[2] == f"{(cell * 3)[:49]}…"
    assert [len(line) for line in lines] == [50] * 3


@given(
    columns=st.integers(1, 6),
    width=st.integers(10, 90),
    texts=st.lists(st.text(max_size=80) | st.integers() | st.none(), min_size=12, max_size=12),
)
def test_no_line_is_wider_than_the_terminal(columns: int, width: int, texts: list[Any]) -> None:
    rows = [tuple(texts[n : n + columns]) for n in range(0, 12 - columns + 1, columns)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(width))
        lines = shown([f"c{n}" for n in range(columns)], *rows, stream=Screen()).splitlines()
    assert len(lines) == 2 + len(rows)
    assert max(map(cells, lines)) <= width


def test_the_width_is_that_of_the_real_terminal(here: Path) -> None:
    write_run(here / "books.db", pages=2, title="t" * 100)
    ours, theirs = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    command = [sys.executable, "-m", "crawler", "sql", "select title, url from book"]
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        os.set_blocking(ours, True)
        subprocess.run(["stty", "cols", "50", "rows", "24"], stdin=theirs, check=True)
        done = subprocess.run(command, stdout=theirs, stderr=theirs, env=environment, check=False)
        os.close(theirs)
        said = terminal.read(10_000).decode().splitlines()
    assert done.returncode == 0
    assert said[2] == f"{'t' * 29}…  http://shop.test/0"
    assert len(said) == 4


# -- flags ---------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["runs"], ["sql", "select 'a' as id, null as n"]])
def test_every_listing_has_the_same_forms(
    command: list[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(here / "books.db", pages=1)
    said = {}
    for flag in ("", "--table", "--json", "--nl", "--jsonl", "--csv"):
        assert main([*command, *filter(None, [flag])]) == 0
        said[flag] = capsys.readouterr().out
    assert said[""] == said["--table"]
    assert said["--nl"] == said["--jsonl"]
    (row,) = json.loads(said["--json"])
    assert json.loads(said["--nl"]) == row
    (told,) = csv.DictReader(io.StringIO(said["--csv"]))
    assert list(told) == list(row)
    assert told["id"] == row["id"]
    assert [value for value in row.values() if value is None] == [None] * list(told.values()).count(
        ""
    )


def test_columns_of_one_name_are_all_kept(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(here / "books.db", pages=1)
    assert main(["sql", "select 1 as a, 2 as a, 3 as a_2", "--nl"]) == 0
    assert json.loads(capsys.readouterr().out) == {"a": 1, "a_2": 2, "a_2_2": 3}


# -- sql -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "error", "hint"),
    [
        ("delete from book", "read-only", "only SELECT"),
        ("attach 'made.db' as made", "read-only", "only SELECT"),
        ("vacuum into 'made.db'", "read-only", "only SELECT"),
        ("pragma query_only = off", "has no rows", "only SELECT"),
        ("select 1; select 2", "one statement", "its own `crawler sql`"),
        ("", "has no rows", "only SELECT"),
        ("selec 1", "syntax error", "crawler sql --schema"),
        ("select x from nowhere_", "no such table: nowhere_", "crawler sql --schema"),
        ("select b.titel from book b", "no such column: b.titel", "did you mean `title`?"),
        ("select xyzzy from book", "no such column: xyzzy", "crawler sql --schema"),
        ("shop", "syntax error", 'crawler sql "select * from runs"'),
        ("books.db", "`books.db` is no query", "crawler sql 'select * from runs' --db books.db"),
    ],
)
def test_a_query_that_does_not_read_is_refused(
    query: str, error: str, hint: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(here / "books.db", pages=1)
    assert main(["sql", query, "books"]) == 2
    said = capsys.readouterr()
    told, hinted = said.err.splitlines()
    assert error in told
    assert hint in hinted
    assert (said.out, list(here.glob("made*"))) == ("", [])


def test_an_interrupt_ends_a_long_query_at_once_and_quietly(here: Path) -> None:
    write_run(here / "books.db", pages=1)
    (here / "sitecustomize.py").write_text(
        "import sys, os, sqlite3\n"
        "def told(event, args):\n"
        "    if event == 'sqlite3.connect/handle': os.write(2, b'.')\n"
        "sys.addaudithook(told)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "crawler", "sql", ENDLESS, "books.db"],
        env=os.environ | {"PYTHONPATH": str(here)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    watchdog = threading.Timer(20, process.kill)
    watchdog.start()
    assert process.stderr is not None
    assert process.stderr.read(2) == b".."  # the second connection is the query's
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    watchdog.cancel()
    assert (process.returncode, out, err) == (130, b"", b"")


def test_without_a_query_a_terminal_gets_the_names_with_one_for_each(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(here / "books.db", pages=1, tables=("book", "odd name"))
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr("sys.stdout", screen := Screen())
    assert main(["sql"]) == 0
    rows = [line.split("  ", 1) for line in screen.getvalue().splitlines()[2:]]
    queries = {name.strip(): query.strip().strip('"') for name, query in rows}
    assert {"runs", "v_errors", "book", "odd name", "book_latest"} <= set(queries)
    with Reader(here / "books.db") as reader:
        for name, query in queries.items():
            assert name in query
            assert reader.query(query)[0]


# -- export --------------------------------------------------------------------------------


def test_export_writes_several_tables_at_once(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(here / "books.db", pages=2, tables=("book", "author"))
    assert main(["export", "-o", "book=b.csv", "-o", "AUTHOR=a.jsonl", "-o", "all.json"]) == 0
    assert (here / "b.csv").read_text().count("\n") == 3
    assert (here / "a.jsonl").read_text().count("\n") == 2
    assert len(json.loads((here / "all.json").read_text())) == 4
    assert "4 rows of book, author from books-1" in capsys.readouterr().err


def test_export_of_the_latest_rows_is_over_all_runs(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(here / "books.db", pages=3, title="old", started_at=STARTED_AT)
    write_run(here / "books.db", pages=1, title="new", started_at=STARTED_AT + 50)
    assert main(["export", "books", "--latest"]) == 0
    said = capsys.readouterr()
    rows = {row["url"][-1]: row["title"] for row in map(json.loads, said.out.splitlines())}
    assert rows == {"0": "new", "1": "old", "2": "old"}
    assert said.err == "3 rows of book from all runs\n"


def test_export_reads_a_run_that_goes_on(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(here / "books.db", pages=2, queued=1, state=RunState.INTERRUPTED)

    async def main_while_open() -> int:
        store = await SqliteStore.open(here / "books.db")
        try:
            return main(["export", "books"])
        finally:
            await store.aclose()

    assert asyncio.run(main_while_open()) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_export_over_a_link_leaves_it_one_and_the_mode_of_its_file(here: Path) -> None:
    write_run(here / "books.db", pages=1)
    (here / "real.csv").touch(0o600)
    (here / "x.csv").symlink_to("real.csv")
    assert main(["export", "-o", "x.csv", "-O"]) == 0
    assert (here / "x.csv").is_symlink()
    assert (here / "real.csv").read_text().count("\n") == 2
    assert (here / "real.csv").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["-o", "book=x.csv", "--table", "author"], "names a table, and --table author"),
        (["-o", "x.csv", "-o", "./x.csv"], "is given twice"),
        (["-o", "no=x.csv"], "no item table `no`"),
        (["--csv", "-o", "books.db", "-O"], "books.db is the database"),
        (["-o", "gone/x.csv"], "has no folder"),
        (["-o", "x.csv", "--json"], "ends in .csv, and --json says another form"),
        (["--csv", "--nl"], "--csv and --nl exclude each other"),
    ],
)
def test_export_refuses_what_contradicts_itself(
    arguments: list[str], error: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(here / "books.db", pages=1)
    assert main(["export", *arguments]) == 2
    assert error in capsys.readouterr().err
    assert not (here / "x.csv").exists()
    with Reader(here / "books.db") as reader:
        assert reader.tables() == ["book"]


# -- streams -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("streams", "code"), [(">&-", 0), (">&- 2>&- <&-", 0), ("2>&-", 0), (">/dev/full", 5)]
)
def test_a_stream_that_is_closed_or_full_ends_nothing_in_a_traceback(
    streams: str, code: int, here: Path
) -> None:
    write_run(here / "books.db", pages=1)
    command = f"{sys.executable} -m crawler sql 'select 1 as one' {streams}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (code, "one\n---\n  1\n" if streams == "2>&-" else "")
    told = "error: stdout cannot be written: No space left on device\n  hint: "
    assert done.stderr.startswith(told) if code else done.stderr == ""
