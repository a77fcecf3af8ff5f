"""`crawler errors`: groups by cause, cases one by one, forms for programs."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from crawler.cli import main
from crawler.failures import Case, fold
from storage import queue_again
from tests.commands import check_line
from tests.crawling import rows, value
from tests.stored_runs import write_run
from tests.troubled import crawl_troubled, troubled_site


@pytest.fixture(scope="module")
def crawled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    db = tmp_path_factory.mktemp("troubled") / "troubled.db"
    with troubled_site().threaded() as site:
        crawl_troubled(site, db)
    return db


@pytest.fixture
def here(crawled: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(crawled.parent)
    return crawled


def say(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    capsys.readouterr()
    assert main(["errors", *argv]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def blocks(out: str) -> dict[str, list[str]]:
    """The lines of each group, by its first word."""
    parts = [part.splitlines() for part in out.split("\n\n")]
    return {lines[0].split(" ")[0]: lines for lines in parts}


def test_failures_are_grouped_by_cause_the_most_frequent_first(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = say(capsys)
    found = blocks(out)
    assert list(found) == [
        "troubled-1",
        "http-404",
        "callback",
        "domain-unreachable",
        "no-match",
        "Next:",
    ]
    assert found["troubled-1"] == ["troubled-1 in troubled.db: 5 errors"]
    start = value(here, "SELECT url FROM requests WHERE id = 1")
    domain = start.split("/")[2]
    assert found["http-404"][:2] == [
        "http-404 ×2  the server answered 404",
        f"  where  {domain} 2",
    ]
    assert found["http-404"][2].startswith(f"  last   the server answered 404, {start}gone")
    assert found["http-404"][3].startswith(f"  do     `crawler why {start}gone")


def test_a_callbacks_error_comes_with_the_spiders_own_frames(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = blocks(say(capsys))["callback"]
    assert "invalid literal for int() with base 10: 'three'" in lines[2]
    assert "troubled.py" in lines[3]
    assert 'int(cell.text)} if "boom" in page.url' in lines[4]
    assert lines[-1].startswith(
        "  do     when it is mended: `crawler requeue --code callback troubled-1`"
    )


def test_a_domain_that_was_given_up_tells_how_many_urls_went_with_it(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = blocks(say(capsys))["domain-unreachable"]
    assert lines[2] == "  urls   2 URLs failed with it"
    assert lines[3].startswith("  last   connect-refused: given up after 3 attempts to reach it")


def test_every_command_that_is_named_exists(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, _, tail = say(capsys).rpartition("\nNext: ")
    for line in tail.strip().splitlines():
        check_line(line)


def test_a_code_is_listed_case_by_case(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start = value(here, "SELECT url FROM requests WHERE id = 1")
    lines = blocks(say(capsys, "--code", "http-404"))["http-404"]
    assert lines[1] == "  ×2  the server answered 404"
    assert {line.strip() for line in lines[2:4]} == {f"{start}gone", f"{start}gone-too"}


def test_the_urls_of_a_dead_domain_are_listed_though_they_failed_together(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dead = value(here, "SELECT domain FROM v_errors WHERE code = 'domain-unreachable'")
    lines = blocks(say(capsys, "--domain", dead))["domain-unreachable"]
    assert lines[2:4] == [f"      http://{dead}/", f"      http://{dead}/other"]


def test_programs_get_the_groups_and_the_cases_unchanged(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    above = json.loads(say(capsys, "--json"))
    assert [(row["code"], row["count"]) for row in above] == [
        ("http-404", 2),
        ("callback", 1),
        ("domain-unreachable", 1),
        ("no-match", 1),
    ]
    assert above[0]["meaning"] == "the server answered 404"
    cases = [json.loads(line) for line in say(capsys, "--code", "callback", "--nl").splitlines()]
    assert [(case["state"], case["code"]) for case in cases] == [("failed", "callback")]
    assert cases[0]["detail"].startswith('  File "')
    found = list(csv.DictReader(io.StringIO(say(capsys, "--csv"))))
    assert [row["code"] for row in found] == [row["code"] for row in above]
    assert say(capsys, "--table").split()[:3] == ["code", "domain", "count"]


def test_a_run_without_errors_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    db = tmp_path / "books.db"
    write_run(db)
    assert say(capsys, "--db", str(db)) == "books-1 has no errors\n"
    assert json.loads(say(capsys, "--db", str(db), "--json")) == []
    assert say(capsys, "--db", str(db), "--code", "tls") == "books-1 has no errors of code tls\n"


@pytest.mark.parametrize(
    ("options", "error", "hint"),
    [
        (("--code", "http404"), "no error code `http404`", "did you mean `http-404`?"),
        (("--domain", "elsewhere"), "no domain `elsewhere`", "did you mean `elsewhere.test`?"),
    ],
)
def test_a_mistyped_name_is_refused_with_the_nearest(
    here: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    error: str,
    hint: str,
) -> None:
    assert main(["errors", *options]) == 2
    told = capsys.readouterr().err
    assert error in told
    assert hint in told


def test_a_file_of_an_older_version_shows_its_groups(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    db = tmp_path / "old.db"
    with closing(sqlite3.connect(db)) as connection:
        connection.executescript(Path(__file__).with_name("schema_1.sql").read_text())
    assert "dns ×1  the host name has no address" in say(capsys, "books-2", "--db", str(db))
    assert main(["errors", "books-2", "--db", str(db), "--code", "dns"]) == 2
    assert "the next `crawler run` upgrades the file" in capsys.readouterr().err


def test_what_is_queued_again_is_no_error_any_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    db = tmp_path / "books.db"
    write_run(db, pages=1, failed=2)
    (number,) = rows(db, "SELECT min(id) FROM requests WHERE state = 'failed'")[0]
    queue_again(db, "books-1", [number])
    assert say(capsys, "--db", str(db)).startswith(f"books-1 in {db}: 1 error\n")


def test_text_from_the_web_reaches_no_terminal_unescaped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    db = tmp_path / "books.db"
    write_run(db, failed=1)  # its message holds an escape
    for options in ((), ("--code", "http-404"), ("--table",)):
        out = say(capsys, "--db", str(db), *options)
        assert "\x1b" not in out
        assert "\\x1b[31m" in out
    (row,) = json.loads(say(capsys, "--db", str(db), "--json"))
    assert row["message"] == "gone\x1b[31m"


def test_cases_that_differ_by_their_url_alone_are_one_fold() -> None:
    def case(n: int, **changes: Any) -> Case:
        url = f"http://a.test/{n}"
        plain = {"code": "no-match", "domain": "a.test", "at": 1.0, "state": "failed"}
        told = {"url": url, "message": f"'h1' matched nothing on {url}", "detail": "line 9"}
        return Case(**{**plain, **told, **changes})

    found = fold([case(1), case(2), case(3, detail="line 12"), case(4)], 2)
    assert [(each.count, each.urls) for each in found["no-match"]] == [
        (3, ["http://a.test/1", "http://a.test/2"]),
        (1, ["http://a.test/3"]),
    ]
