"""`crawler run` and `crawler demo` as a person types them, mistakes included."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from crawler.cli import main
from crawler.testing import Reply, Site

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SPIDER = """
from crawler import Response, Results, Spider, item

@item(key="url")
class Thing:
    url: str
    title: str

class Things(Spider):
    shelf: str = "a"
    start_urls = ["{start}"]
    def parse(self, page: Response) -> Results:
        yield Thing(url=page.url, title=page.get("title"))
        yield from page.follow_all("a", self.parse)
"""


@pytest.fixture
def site() -> Iterator[Site]:
    routes = {
        "/": Reply.html("<title>front</title><a href=/a>a</a>"),
        "/a": Reply.html("<title>=1+1</title>"),
    }
    with Site(routes).threaded() as served:
        yield served


@pytest.fixture
def project(tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spiders").mkdir()
    text = SPIDER.replace("{start}", site.url("/"))
    (tmp_path / "spiders" / "things.py").write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (["thingz"], "`thingz`", "things"),
        (["things", "-a", "shelff=x"], "no argument shelff", "shelf"),
        (["things", "-a", "shelf"], "`shelf` is not NAME=VALUE", "-a"),
        (["pages", "{site}", "-a", "max_pages=three"], "max_pages=three", None),
        (["things", "-s", "pool.cliens=3"], "unknown setting `pool.cliens`", "pool.clients"),
        (["things", "-s", "pool.clients=many"], "pool.clients", None),
        (["things", "--db", "nowhere/x.db"], "nowhere", None),
        (["things", "-o", "out.xls"], "out.xls", ".csv"),
        (["things", "--urls", "none.txt"], "none.txt", "--urls"),
        (["things", "--fresh", "--resume"], "exclude each other", None),
        (["things", "--resume"], "no run of things", "crawler runs"),
        (["things", "--limitt", "3"], "--limitt", "--limit"),
        (["things", "ftp://x/"], "ftp://x/", "http"),
        (["{site}"], "no spider was named", "crawler run pages"),
        ([], "missing argument", "--help"),
        (["missing.py"], "missing.py", None),
        (["things", "--max-time", "soon"], "soon", None),
    ],
)
def test_a_mistake_is_one_error_and_a_hint_before_any_request(
    arguments: list[str],
    error: str,
    hint: str | None,
    project: Path,
    site: Site,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [argument.replace("{site}", site.url("/")) for argument in arguments]
    code = main(["run", *given])
    said = capsys.readouterr()
    assert said.out == ""
    lines = said.err.splitlines()
    assert lines[0].startswith("error: ")
    assert error in lines[0]
    assert code == (5 if "nowhere" in error else 2)
    if hint is not None:
        assert lines[1].startswith("  hint: ")
        assert hint in lines[1]
    assert site.log == []


def test_a_run_says_where_it_stands_and_ends_with_a_summary(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "things"]) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("things-1 begins in things.db. Expected: no pause")
    assert "things-1 finished" in said.err
    assert "2 pages" in said.err
    assert "Next: crawler export things-1" in said.err


def test_a_finished_run_is_followed_by_a_new_one(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "things"]) == main(["run", "things"]) == 0
    assert "things-2 begins" in capsys.readouterr().err
    main(["sql", "select title, count(*) from thing group by 1", "--db", "things.db", "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert {row["count(*)"] for row in rows} == {2}


def test_a_run_that_a_limit_ended_is_over_and_goes_on_with_resume(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "things", "--limit", "1"]) == 0
    assert main(["run", "things", "--limit", "1"]) == 0
    assert "things-2 begins" in capsys.readouterr().err
    assert main(["run", "things", "--resume"]) == 0
    assert "things-2 goes on in things.db (1 page done, 1 queued)" in capsys.readouterr().err
    main(["sql", "select _run, count(*) as n from thing group by 1", "--json"])
    assert [row["n"] for row in json.loads(capsys.readouterr().out)] == [1, 2]


def test_items_are_written_to_a_file_by_its_ending(project: Path) -> None:
    assert main(["run", "things", "-q", "-o", "out.csv"]) == 0
    with (project / "out.csv").open(newline="") as stream:
        titles = [row["title"] for row in csv.DictReader(stream)]
    assert titles == ["front", "'=1+1"]


def test_an_output_that_is_there_already_is_refused_before_any_request(
    project: Path, site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "out.csv").write_text("precious")
    assert main(["run", "things", "-q", "-o", "out.csv"]) == 2
    assert "out.csv" in capsys.readouterr().err
    assert site.log == []
    assert (project / "out.csv").read_text() == "precious"


def test_start_urls_come_from_a_file_or_a_column(project: Path, site: Site) -> None:
    (project / "urls.txt").write_text(f"{site.url('/a')}\n\n")
    (project / "urls.csv").write_text(f"name,link\nx,{site.url('/a')}\n")
    assert main(["run", "things", "-q", "--urls", "urls.txt"]) == 0
    assert main(["run", "things", "-q", "--urls", "urls.csv:link"]) == 0
    assert main(["run", "things", "-q", "--urls", "urls.csv:nolink"]) == 2
    assert [e.path for e in site.log] == ["/robots.txt", "/a", "/robots.txt", "/a"]


def test_start_urls_come_from_standard_input(project: Path, site: Site) -> None:
    command = [sys.executable, "-m", "crawler", "run", "things", "-q", "--urls", "-"]
    done = subprocess.run(
        command, input=site.url("/a"), text=True, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert [e.path for e in site.log] == ["/robots.txt", "/a"]


def test_two_spiders_run_side_by_side_in_one_database(
    project: Path, site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "things", "pages", site.url("/"), "--db", "both.db"]) == 0
    main(["sql", "select id, state from runs order by 1", "--db", "both.db", "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert rows == [
        {"id": "pages-1", "state": "finished"},
        {"id": "things-1", "state": "finished"},
    ]


def test_the_demo_finds_what_its_model_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["demo"]) == 0
    said = capsys.readouterr().err
    assert "Three things to try" in said
    main(["sql", "select count(*) as n from book", "--db", "demo.db", "--json"])
    assert json.loads(capsys.readouterr().out) == [{"n": 136}]
    assert main(["demo"]) == 2
    assert "--fresh" in capsys.readouterr().err


def test_help_comes_without_the_heavy_imports() -> None:
    probe = (
        "import sys; from crawler.cli import main; main(['--help']);"
        "print(sorted(set(sys.modules) & {'httpx','selectolax','sqlite_utils','rich','storage'}),"
        " file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "demo" in done.stdout
