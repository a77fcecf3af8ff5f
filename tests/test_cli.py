"""The command line: what goes where, which database is meant, how mistakes are told."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from crawler.cli import COMMANDS, ELSEWHERE, Entry
from storage import RunState
from tests.commands import call, here
from tests.stored_runs import STARTED_AT, write_run

if TYPE_CHECKING:
    from pathlib import Path

    from tests.commands import Call

__all__ = ["call", "here"]

READING = ("list", "runs", "report", "sql", "export", "config")
HEAVY = ("httpx", "httpcore", "selectolax", "sqlite_utils", "rich", "sqlite3", "msgspec", "asyncio")
EVIL = "\x1b]0;x\x07\u202egnol"


# ── the program ──────────────────────────────────────────────────────────────────────────


def test_help_and_a_mistyped_command_import_nothing_that_crawls() -> None:
    code = (
        "import sys; from crawler.cli import main; main(['--help']); main(['rnu']);"
        f"print(*(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "crawler run" not in done.stdout
    for name in COMMANDS:
        assert f"  {name} " in done.stdout
    assert done.stderr.splitlines() == [
        "error: unknown command `rnu`",
        "  hint: did you mean `crawler run`?",
        "",
    ]


def test_the_module_is_the_same_program(here: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "crawler", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("crawler, version ")


def test_no_command_prints_the_help_to_stderr(call: Call) -> None:
    said = call()
    assert (said.code, said.out) == (2, "")
    assert "Usage: crawler" in said.err


@pytest.mark.parametrize("name", READING)
def test_every_command_explains_itself(call: Call, name: str) -> None:
    said = call(name, "--help")
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith(f"Usage: crawler {name} ")


def test_a_mistyped_option_is_refused_with_the_nearest_one(call: Call) -> None:
    said = call("report", "--jsn")
    assert said.code == 2
    assert said.error == ("unknown option `--jsn` of `crawler report`", "did you mean `--json`?")


def test_a_missing_value_is_refused_with_the_help_to_read(call: Call) -> None:
    said = call("export", "--table")
    assert said.code == 2
    assert said.error == ("option '--table' requires an argument", "`crawler export --help`")


def test_an_error_of_our_own_is_told_as_such_with_its_traceback(
    call: Call, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "broken_command.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(here)
    monkeypatch.setitem(COMMANDS, "broken", Entry("Look", "broken_command", ""))
    said = call("broken")
    assert (said.code, said.out) == (70, "")
    assert "Traceback" in said.err
    assert "error: a mistake in crawler itself: ZeroDivisionError" in said.err


def test_a_reader_that_goes_away_is_no_error(here: Path) -> None:
    write_run(here / "books.db")
    query = (
        "WITH RECURSIVE n(x) AS (SELECT 1 UNION SELECT x + 1 FROM n LIMIT 50000) SELECT x FROM n"
    )
    with subprocess.Popen(
        [sys.executable, "-m", "crawler", "sql", query, "--jsonl"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b'{"x":1}\n'
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0


# ── which database, which run ────────────────────────────────────────────────────────────


def test_the_latest_run_of_the_folder_is_the_default(call: Call, here: Path) -> None:
    write_run(here / "books.db", started_at=STARTED_AT + 50)
    write_run(here / "zoo.db", spider="zoo", started_at=STARTED_AT)
    (here / "foreign.db").write_bytes(b"not a database at all" * 100)
    assert call("report").out.startswith("books-1 finished")


def test_a_spider_means_its_latest_run_and_an_id_just_that_run(call: Call, here: Path) -> None:
    write_run(here / "books.db", started_at=STARTED_AT)
    write_run(here / "books.db", started_at=STARTED_AT + 50)
    write_run(here / "zoo.db", spider="zoo", started_at=STARTED_AT + 99)
    assert call("report", "books").out.startswith("books-2 ")
    assert call("report", "books-1").out.startswith("books-1 ")
    assert call("report", "books.db").out.startswith("books-2 ")
    assert call("report", "books-1", "--db", "books.db").out.startswith("books-1 ")


def test_a_spiders_own_database_goes_before_others_that_have_it_too(call: Call, here: Path) -> None:
    write_run(here / "books.db", pages=3, started_at=STARTED_AT)
    write_run(here / "copy.db", pages=5, started_at=STARTED_AT + 50)
    assert "3 pages" in call("report", "books-1").out
    assert "5 pages" in call("report").out


def test_an_unknown_run_is_refused_with_the_nearest_name(call: Call, here: Path) -> None:
    write_run(here / "books.db")
    said = call("report", "boks")
    assert said.code == 2
    assert said.error == ("no run or spider `boks` in books.db", "did you mean `books`?")


def test_a_folder_without_databases_says_how_to_make_one(call: Call) -> None:
    said = call("runs")
    assert said.code == 2
    assert said.error[1] == "`crawler run SPIDER` makes one, or name it: --db FILE"


def test_a_database_that_is_not_there_is_refused_with_the_nearest_file(
    call: Call, here: Path
) -> None:
    write_run(here / "books.db")
    said = call("report", "--db", "boks.db")
    assert said.code == 2
    assert said.error == ("no such database: boks.db", "did you mean `books.db`?")


def test_a_file_of_another_program_is_a_storage_error(call: Call, here: Path) -> None:
    (here / "foreign.db").write_bytes(b"not a database at all" * 100)
    said = call("report", "foreign.db")
    assert said.code == 5
    assert "foreign.db" in said.error[0]


# ── list ─────────────────────────────────────────────────────────────────────────────────


def test_list_shows_spiders_on_stdout_and_broken_files_on_stderr(call: Call, here: Path) -> None:
    (here / "spiders").mkdir()
    (here / "spiders" / "shop.py").write_text(
        'from crawler.spider import Spider\nclass Shop(Spider):\n    """Sells."""\n'
    )
    (here / "spiders" / "bad.py").write_text("import nothing_of_that_name\n")
    said = call("list", "--json")
    assert said.code == 2
    assert json.loads(said.out)[1] == {
        "name": "shop",
        "file": "spiders/shop.py",
        "arguments": [],
        "summary": "Sells.",
    }
    assert said.err.startswith("error: spiders/bad.py could not be imported: No module named")
    assert "bundled" in call("list").out


# ── runs and report ──────────────────────────────────────────────────────────────────────


def test_runs_are_listed_latest_first(call: Call, here: Path) -> None:
    write_run(here / "books.db", pages=3, started_at=STARTED_AT)
    write_run(here / "books.db", pages=4, queued=2, state=RunState.INTERRUPTED, started_at=2e9)
    lines = call("runs").out.splitlines()
    assert lines[0].split()[:3] == ["id", "state", "started_at"]
    assert [line.split()[0] for line in lines[2:]] == ["books-2", "books-1"]
    assert "2033-05-18 03:33:20  10.0 s" in lines[2]
    rows = json.loads(call("runs", "--json").out)
    assert [(row["id"], row["done"], row["state"]) for row in rows] == [
        ("books-2", 4, "interrupted"),
        ("books-1", 3, "finished"),
    ]


def test_report_as_json_has_every_fact(call: Call, here: Path) -> None:
    write_run(here / "books.db", pages=3, failed=1)
    facts = json.loads(call("report", "--json").out)
    assert (facts["run"], facts["done"], facts["failed"]) == ("books-1", 3, 1)
    assert facts["tables"] == [["book", 3]]


# ── sql ──────────────────────────────────────────────────────────────────────────────────


def test_sql_prints_a_table_for_people(call: Call, here: Path) -> None:
    write_run(here / "books.db", pages=3)
    said = call("sql", "select count(*), count(distinct url) as urls from book", "--db", "books.db")
    assert said == (0, "count(*)  urls\n--------  ----\n       3     3\n", "")


def test_sql_prints_the_data_unchanged_for_programs(call: Call, here: Path) -> None:
    write_run(here / "books.db", pages=1, title=EVIL)
    query = "select title, cover, null as missing from book"
    row = {"title": EVIL, "cover": "AP8=", "missing": None}
    assert json.loads(call("sql", query, "--json").out) == [row]
    assert json.loads(call("sql", query, "--jsonl").out) == row
    table = csv.reader(io.StringIO(call("sql", query, "--csv").out))
    assert list(table) == [["title", "cover", "missing"], [EVIL, "AP8=", ""]]
    assert call("sql", "select 1 where 0", "--json").out == "[]\n"


def test_a_table_shows_text_from_the_web_escaped(call: Call, here: Path) -> None:
    write_run(here / "books.db", pages=1, title=EVIL)
    out = call("sql", "select title from book").out
    assert "\\x1b]0;x\\x07\\u202egnol" in out
    assert "\x1b" not in out


def test_sql_that_is_wrong_is_refused_with_the_nearest_name(call: Call, here: Path) -> None:
    write_run(here / "books.db")
    said = call("sql", "select * from v_pool")
    assert said.code == 2
    assert said.error == ("SQL: no such table: v_pool", "did you mean `v_pools`?")
    assert call("sql", "selec 1").code == 2
    assert call("sql").code == 2


def test_sql_cannot_write(call: Call, here: Path) -> None:
    write_run(here / "books.db", pages=3)
    assert call("sql", "delete from book").code == 2
    assert json.loads(call("sql", "select count(*) as n from book", "--json").out) == [{"n": 3}]


def test_sql_shows_the_public_names(call: Call, here: Path) -> None:
    write_run(here / "books.db")
    rows = json.loads(call("sql", "--schema", "--json").out)
    names = {row["name"] for row in rows}
    assert {"runs", "requests", "fetches", "domains", "v_errors", "book", "book_latest"} <= names
    assert "req" not in names


# ── export ───────────────────────────────────────────────────────────────────────────────


def test_export_writes_json_lines_of_the_latest_run_to_stdout(call: Call, here: Path) -> None:
    write_run(here / "books.db", pages=5, started_at=STARTED_AT)
    write_run(here / "books.db", pages=2, started_at=STARTED_AT + 50)
    said = call("export", "books")
    rows = [json.loads(line) for line in said.out.splitlines()]
    assert [row["url"] for row in rows] == ["http://shop.test/0", "http://shop.test/1"]
    assert list(rows[0]) == ["url", "title", "price", "cover"]
    assert said.err == "2 rows of book from books-2\n"
    assert len(call("export", "books-1").out.splitlines()) == 5


@pytest.mark.parametrize("ending", ["csv", "json", "jsonl"])
def test_export_follows_the_ending_of_the_file(call: Call, here: Path, ending: str) -> None:
    write_run(here / "books.db", pages=2)
    said = call("export", "-o", f"out.{ending}")
    assert (said.code, said.out) == (0, "")
    assert (here / f"out.{ending}").read_text() == call("export", f"--{ending}").out
    assert sorted(file.name for file in here.glob("*out*")) == [f"out.{ending}"]


def test_export_never_replaces_a_file_unasked(call: Call, here: Path) -> None:
    write_run(here / "books.db", pages=1)
    (here / "out.csv").write_text("mine")
    said = call("export", "-o", "out.csv")
    assert said.code == 2
    assert said.error == (
        "out.csv is there already",
        "-O (--overwrite) replaces it; or name another",
    )
    assert (here / "out.csv").read_text() == "mine"
    assert call("export", "-o", "out.csv", "--overwrite").code == 0
    assert (here / "out.csv").read_text().startswith("url,title")


def test_export_wants_a_form_it_knows(call: Call, here: Path) -> None:
    write_run(here / "books.db", pages=1)
    assert call("export", "-o", "out.txt").error[0] == "out.txt does not say its form"
    assert call("export", "-o", "out.txt", "--csv").code == 0


def test_export_of_several_tables_as_csv_wants_one_named(call: Call, here: Path) -> None:
    write_run(here / "books.db", tables=("book", "author"))
    said = call("export", "--csv")
    assert said.code == 2
    assert said.error[0] == "books-1 has items in 2 tables: book, author"
    assert call("export", "--csv", "--table", "author").code == 0
    assert call("export").err == "6 rows of book, author from books-1\n"
    assert call("export", "--table", "autor").error[1] == "did you mean `author`?"


def test_export_into_a_folder_that_is_not_there_is_refused(call: Call, here: Path) -> None:
    write_run(here / "books.db", pages=1)
    said = call("export", "-o", "missing/out.csv")
    assert said.code == 2
    assert said.error == ("missing/out.csv has no folder: missing", "mkdir -p missing")


# ── config ───────────────────────────────────────────────────────────────────────────────


def test_config_shows_what_is_set_and_by_whom(
    call: Call, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "pyproject.toml").write_text("[tool.crawler]\nlimit = 5\npatience = 3\n")
    monkeypatch.setenv("CRAWLER_LIMIT", "6")
    said = call("config", "-s", "domains.*.org.delay=2s")
    assert [line.split() for line in said.out.splitlines()[2:]] == [
        ['domains."*.org".delay', "2.0", "-s"],
        ["limit", "6", "environment"],
        ["patience", "3.0", "pyproject.toml"],
    ]


def test_config_shows_a_spiders_settings(call: Call, here: Path) -> None:
    (here / "mine.py").write_text(
        "from crawler.spider import Spider\nfrom crawler.settings import Settings\n"
        "class Mine(Spider):\n    settings = Settings(limit=9)\n"
    )
    rows = json.loads(call("config", "limit", "--spider", "mine.py", "--json").out)
    assert [(row["setting"], row["value"], row["origin"]) for row in rows] == [
        ("limit", 9, "spider")
    ]


def test_config_lists_every_setting_with_its_meaning(call: Call) -> None:
    rows = json.loads(call("config", "--list", "--json").out)
    assert all(row["origin"] == "default" and row["meaning"] for row in rows)
    assert "pool.clients" in call("config", "--list").out
    assert call("config").out == ""


def test_config_shows_one_group_and_refuses_an_unknown_one(call: Call) -> None:
    lines = call("config", "pool").out.splitlines()
    assert [line.split()[0] for line in lines[2:]][:2] == ["pool.clients", "pool.sockets"]
    assert call("config", "pool.client").error[1] == "did you mean `pool.clients`?"


def test_config_tells_what_a_domains_setting_means_and_no_password_of_a_proxy(call: Call) -> None:
    flags = ("-s", "domains.x.test.proxies=http://me:s3cret@p:1,socks5://q", "-s", "resolve.a=::1")
    listed = call("config", "--list", *flags).out
    told = [line.split(maxsplit=3) for line in listed.splitlines() if " -s " in line]
    (proxies, first, _, *_), (host, address, *_) = told
    assert (proxies, first) == ('domains."x.test".proxies', "http://***@p:1,")
    assert (host, address) == ('resolve."a"', "::1")
    rows = json.loads(call("config", "--json", *flags).out)
    assert rows[0]["value"] == ["http://***@p:1", "socks5://q"]
    assert rows[0]["meaning"].startswith("Proxies to send through")
    shown = call("config", "resolve").out.splitlines()[-1].split()
    assert shown[:4] == ['resolve."HOST"', "none", "default", "Addresses"]


def test_a_mistake_in_a_setting_is_told_before_anything_happens(call: Call, here: Path) -> None:
    (here / "crawler.toml").write_text("limit = 'many'\n")
    said = call("config")
    assert said.code == 2
    assert "setting `limit` = 'many' (from crawler.toml): expected" in said.err


# ── other names ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("typed", "ours"),
    [
        ("crawl books", "run books"),
        ("crawl", "run SPIDER"),
        ("runspider books.py -o x.csv", "run books.py"),
        ("genspider books", "new books"),
        ("startproject shop", "init shop"),
        ("resume", "run SPIDER"),
        ("pause books", "set pause"),
        ("check", "config --check"),
    ],
)
def test_a_command_of_other_crawlers_is_answered_with_ours(
    typed: str, ours: str, call: Call
) -> None:
    error, hint = call(*typed.split()).error
    assert error == f"unknown command `{typed.split()[0]}`"
    assert hint == f"did you mean `crawler {ours}`?"


def test_every_counterpart_is_a_command() -> None:
    assert {ours.split()[0] for ours in ELSEWHERE.values()} <= set(COMMANDS)
    assert not set(ELSEWHERE) & set(COMMANDS)


def test_a_database_that_may_not_be_read_is_told_as_such(call: Call, here: Path) -> None:
    write_run(here / "books.db")
    (here / "books.db").chmod(0)
    here.chmod(0o755)
    user = os.geteuid()
    if user == 0:  # who may read everything
        os.seteuid(65_534)
    try:
        told = [call(*words).err for words in (("report",), ("report", "--db", "books.db"))]
    finally:
        os.seteuid(user)
    for error in told:
        assert error.startswith("error: books.db cannot be read: permission denied\n  hint: ")
