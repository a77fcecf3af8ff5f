"""`crawler run` and `crawler demo` as a person types them, mistakes included."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
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
        (["things", "--db", "nowhere/x.db"], "nowhere/x.db has no folder", "mkdir -p nowhere"),
        (["things", "--db", "/proc/x.db"], "/proc/x.db cannot be used: no file", "with --db"),
        (["things", "--urls", "none.txt"], "none.txt", "--urls"),
        (["things", "--fresh", "--resume"], "exclude each other", None),
        (["things", "--resume"], "no run of things", "crawler runs"),
        (["things", "--limitt", "3"], "--limitt", "--limit"),
        (["things", "ftp://x/"], "ftp://x/", "http"),
        (["{site}"], "no spider was named", "crawler run pages"),
        ([], "missing argument", "--help"),
        (["missing.py"], "missing.py", None),
        (["things", "--max-time", "soon"], "soon", "--max-time 90s"),
        (["things", "--limit", "0"], "(from --limit)", "--limit 100"),
        (["pages", "{site}", "-a", "same=hots"], "same=hots", "-a"),
        (["things", "things"], "named 2 times", "--db"),
        (["things", "spiders/things.py"], "named 2 times", "--db"),
        (["things", "--db", "postgresql://me:secret@x/y"], "postgresql://…", "things.db"),
        (["things", "--db", ""], "no file", "--db things.db"),
        (["things", "--db", ":memory:"], "no file", "--db things.db"),
        (["things", "--db", "spiders"], "is a folder", "--db spiders/things.db"),
        (["things", "{site}", "--urls", "none.txt"], "given twice", "one of them"),
        (["things", "pages", "--urls", "-"], "can be read once", "--urls FILE"),
        (["pages", "example.com"], "`example.com` has no scheme", "run pages https://example.com/"),
        (["things", "example.com/x"], "has no scheme", "run things https://example.com/x"),
        (["pages", "localhost:8000"], "has no scheme", "run pages http://localhost:8000/"),
        (["things", "http://x:99999/"], "error: start URL http://x:99999/: its port", "http"),
        (["things", "-s", "domain.delay=-1"], "0 or more", "`crawler config domain.delay`"),
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
    assert code == (5 if "nowhere" in error or "/proc" in error else 2)
    assert "secret" not in said.err
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


def test_start_urls_come_from_a_file_or_a_column(project: Path, site: Site) -> None:
    (project / "urls.txt").write_text(f"{site.url('/a')}\n\n")
    (project / "urls.csv").write_text(f"name,link\nx,{site.url('/a')}\n")
    assert main(["run", "things", "-q", "--urls", "urls.txt"]) == 0
    assert main(["run", "things", "-q", "--urls", "urls.csv:link"]) == 0
    assert main(["run", "things", "-q", "--urls", "urls.csv:nolink"]) == 2
    assert [e.path for e in site.log] == ["/robots.txt", "/a", "/robots.txt", "/a"]


class Piped:
    """`crawler run` in a process of its own, with a pipe as its standard input."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "crawler", "run", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self.watchdog = threading.Timer(20, self.process.kill)
        self.watchdog.start()

    def write(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text)
        self.process.stdin.flush()

    def lines_until(self, text: str) -> list[str]:
        """What is said on stderr, to the line that holds the text."""
        assert self.process.stderr is not None
        said = []
        for line in self.process.stderr:
            said.append(line)
            if text in line:
                break
        return said

    def end(self) -> tuple[int, str]:
        """End its input; its exit code, and what it still said."""
        _, said = self.process.communicate()
        self.watchdog.cancel()
        return self.process.returncode, said


def _asked(site: Site, path: str, event: threading.Event) -> None:
    def answer(_: object) -> Reply:
        event.set()
        return Reply.html("<title>asked</title>")

    site.add(path, answer)


def test_urls_of_a_pipe_are_fetched_while_it_is_open(project: Path, site: Site) -> None:
    fetched = threading.Event()
    _asked(site, "/a", fetched)
    piped = Piped("things", "-q", "--urls", "-")
    piped.write(site.url("/a") + "\n")
    assert fetched.wait(10)
    piped.write(site.url("/") + "\n")
    assert piped.end() == (0, "")
    assert {e.path for e in site.log} == {"/robots.txt", "/a", "/"}


def test_a_signal_ends_a_run_that_waits_for_a_pipe_which_then_goes_on(
    project: Path, site: Site
) -> None:
    fetched = threading.Event()
    _asked(site, "/a", fetched)
    piped = Piped("things", "--urls", "-")
    piped.write(site.url("/a") + "\n")
    assert fetched.wait(10)
    piped.process.send_signal(signal.SIGINT)
    assert piped.lines_until("Next: crawler run")
    assert piped.process.wait() == 130
    assert "Traceback" not in piped.end()[1]
    again = Piped("things", "--urls", "-")
    again.write(f"{site.url('/a')}\n{site.url('/')}\n")
    code, said = again.end()
    assert (code, said.splitlines()[0][:28]) == (0, "things-1 goes on in things.d")
    assert [e.path for e in site.log].count("/a") == 1


def test_a_column_of_csv_comes_from_a_pipe_too(project: Path, site: Site) -> None:
    piped = Piped("things", "-q", "--urls", "-:link")
    piped.write(f"name,link\nx,{site.url('/a')}\n")
    assert piped.end() == (0, "")
    assert [e.path for e in site.log] == ["/robots.txt", "/a"]


def test_a_column_that_a_pipe_does_not_have_is_refused(project: Path, site: Site) -> None:
    piped = Piped("things", "--urls", "-:url")
    piped.write(f"name,link\nx,{site.url('/a')}\n")
    code, said = piped.end()
    assert code == 2
    assert said.splitlines() == [
        "error: no column `url` in standard input",
        "  hint: its columns: name, link",
    ]
    assert not (project / "things.db").exists()


def test_what_is_no_text_in_a_pipe_ends_the_run_with_its_reason(project: Path, site: Site) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "crawler", "run", "things", "-q", "--urls", "-"],
        input=site.url("/a").encode() + b"\n\xff\xfe\n",
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(b"error: things: standard input is not UTF-8 text")


def test_a_named_pipe_is_read_as_it_is_written(project: Path, site: Site) -> None:
    os.mkfifo(project / "urls")
    writer = threading.Thread(target=(project / "urls").write_text, args=[site.url("/a")])
    writer.start()
    assert main(["run", "things", "-q", "--urls", "urls"]) == 0
    writer.join()
    assert [e.path for e in site.log] == ["/robots.txt", "/a"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"http://x/\n\0\1", "urls.txt is binary, or UTF-16"),
        (b"http://x/\nhttp://x/caf\xe9\n", "urls.txt is not UTF-8 text"),
        (b"\n \n", "urls.txt holds no URL"),
        (b"a" * 1_200_000, "line 1 of urls.txt is longer than 1 MiB"),
    ],
)
def test_a_file_that_holds_no_urls_is_refused_with_its_reason(
    content: bytes, reason: str, project: Path, site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "urls.txt").write_bytes(content)
    assert main(["run", "things", "--urls", "urls.txt"]) == 2
    error, hint = capsys.readouterr().err.splitlines()
    assert error.startswith(f"error: {reason}")
    assert hint.startswith("  hint: ")
    assert site.log == []


def test_a_csv_without_its_column_is_refused_unless_its_lines_are_urls(
    project: Path, site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "w.csv").write_text(f"name,Url\nx,{site.url('/a')}\n")
    assert main(["run", "things", "-q", "--urls", "w.csv"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: w.csv is a CSV: which column has the URLs?",
        "  hint: --urls w.csv:Url; its columns: name, Url",
    ]
    assert site.log == []
    (project / "w.csv").write_text(site.url("/a"))
    assert main(["run", "things", "-q", "--urls", "w.csv"]) == 0


def test_a_file_of_a_spreadsheet_is_read_without_its_mark(project: Path, site: Site) -> None:
    (project / "urls.csv").write_text(f"link\n{site.url('/a')}\n", encoding="utf-8-sig")
    assert main(["run", "things", "-q", "--urls", "urls.csv:link"]) == 0
    assert [e.path for e in site.log] == ["/robots.txt", "/a"]


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("raise ValueError('no shelf')", "ValueError: no shelf (spiders/odd.py, line 5)"),
        ("raise SystemExit('no shelf')", "SystemExit: no shelf (spiders/odd.py, line 5)"),
        ("self.shelf = object", "an argument has no JSON form"),
        ("pass", "'Odd' object has no attribute 'shelf'"),
    ],
)
def test_a_spider_that_cannot_be_made_is_told_with_its_line(
    body: str, error: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "spiders" / "odd.py").write_text(
        "from crawler import Spider\nclass Odd(Spider):\n    shelf: str\n"
        f"    def __init__(self):\n        {body}\n    start_urls = ['http://127.0.0.1/']\n"
    )
    assert main(["run", "odd"]) == 2
    told, hint = capsys.readouterr().err.splitlines()
    assert told.startswith("error: ")
    assert error in told
    assert hint.startswith("  hint: ")


def test_a_start_url_that_is_none_does_not_keep_the_others_from_being_fetched(
    project: Path, site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    source = SPIDER.replace("{start}", f'http://", "{site.url("/a")}')
    (project / "spiders" / "things.py").write_text(source)
    assert main(["run", "things"]) == 0
    assert "bad-url" in capsys.readouterr().err
    assert [e.path for e in site.log] == ["/robots.txt", "/a"]


def test_what_breaks_start_is_told_by_the_spiders_name_even_when_quiet(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "spiders" / "odd.py").write_text(
        "from crawler import Spider\nclass Odd(Spider):\n"
        "    def start(self):\n        raise ValueError('no\\x1b[31m shelf')\n        yield\n"
    )
    assert main(["run", "odd", "-q"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: odd: ValueError: no\\x1b[31m shelf\n")
    assert "odd.py" in said


@pytest.mark.parametrize("moment", ["crawler.cli", "httpx"])
def test_an_interrupt_while_modules_are_imported_is_quiet(
    moment: str, project: Path, site: Site
) -> None:
    (project / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "class Now:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {moment!r}: os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Now())\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "crawler", "run", "things"],
        env=os.environ | {"PYTHONPATH": str(project)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
    assert site.log == []


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


def test_a_process_that_may_open_too_few_files_is_told_so(project: Path) -> None:
    command = f'ulimit -n "$0" && exec "{sys.executable}" -m crawler run things'
    few = subprocess.run(["sh", "-c", command, "20"], capture_output=True, text=True, check=False)
    assert few.returncode == 2
    error, hint = few.stderr.splitlines()
    told = re.fullmatch(r"error: .* 20 files and sockets .* (\d+): a crawl needs (\d+) more", error)
    assert told
    assert hint == "  hint: ulimit -n 1024"
    assert not (project / "things.db").exists()
    enough = str(int(told[1]) + int(told[2]))
    assert subprocess.run(["sh", "-c", command, enough], capture_output=True).returncode == 0


def test_what_is_told_to_go_on_is_what_was_typed(
    project: Path, site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file, with the arguments that were given and no others."""
    (project / "spiders" / "things.py").rename(project / "my things.py")
    assert main(["run", "my things.py", "-a", "shelf=b", "--limit", "1"]) == 0
    again = "Next: crawler run 'my things.py' -a shelf=b --limit 1 --resume\n"
    assert again in capsys.readouterr().err
    for asked in (["report"], ["status"], ["why", site.url("/a")]):
        assert main(asked) == 0
        assert again in capsys.readouterr().out


def test_a_frame_names_its_file_by_the_path_from_here(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = project / "spiders" / "things.py"
    path.write_text(path.read_text().replace("page.get(", "page.title("))
    assert main(["run", "things"]) == 1
    assert '\n  File "spiders/things.py", line ' in capsys.readouterr().err
    assert main(["errors"]) == 0
    assert '\n           File "spiders/things.py", line ' in capsys.readouterr().out


def test_a_reader_of_prints_that_goes_away_costs_no_page(project: Path) -> None:
    path = project / "spiders" / "things.py"
    path.write_text(
        path.read_text().replace(
            "        yield Thing", "        print('x' * 99_999)\n        yield Thing"
        )
    )
    ours, theirs = os.pipe()
    os.close(ours)
    command = [sys.executable, "-m", "crawler", "run", "things"]
    done = subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, text=True)
    os.close(theirs)
    assert done.returncode == 0
    assert done.stderr.count("stdout has no reader any more: what is printed is dropped") == 1
    assert "2 pages" in done.stderr
    assert "callback" not in done.stderr
