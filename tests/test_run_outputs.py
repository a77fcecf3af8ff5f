"""`crawler run -o`: files and stdout that have the items while the crawl goes on."""

from __future__ import annotations

import csv
import io
import json
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing, redirect_stderr, redirect_stdout, suppress
from typing import TYPE_CHECKING, Any

import pytest

from crawler.cli import main
from crawler.testing import Reply, Site

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PAGES = 12
SPIDER = """
from crawler import Response, Results, Spider, item

print("a word of the spider's own")

@item(key="url")
class Thing:
    url: str
    title: str

@item(key="name")
class Kind:
    name: str
    last: str

class Things(Spider):
    start_urls = ["{start}"]
    kinds: bool = False
    fat: int = 0
    def parse(self, page: Response) -> Results:
        print("on stdout")
        yield Thing(url=page.url, title=page.get("title"))
        if self.kinds:
            yield Kind(name=page.get("title")[-1], last=page.url)
        for n in range(self.fat):
            yield {f"{'name' * 25}{column}": n for column in range(60)}
        yield from page.follow_all("a", self.parse)
"""


class Gate:
    """A page that is answered when it is let through."""

    def __init__(self, page: str) -> None:
        self.page = page
        self.asked = threading.Event()
        self.open = threading.Event()

    def __call__(self, _: object) -> Reply:
        self.asked.set()
        assert self.open.wait(20)
        return Reply.html(self.page)


def page(n: int) -> str:
    link = f"<a href=/{n + 1}>x</a>" if n + 1 < PAGES else ""
    return f"<title>{n} of {n % 3}</title>{link}"


@pytest.fixture
def site() -> Iterator[Site]:
    """A chain of pages."""
    with Site({f"/{n}": Reply.html(page(n)) for n in range(PAGES)}).threaded() as served:
        yield served


@pytest.fixture
def gate(site: Site) -> Iterator[Gate]:
    """Holds the sixth page back."""
    held = Gate(page(5))
    site.add("/5", held)
    yield held
    held.open.set()


@pytest.fixture
def project(tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spiders").mkdir()
    (tmp_path / "spiders" / "things.py").write_text(SPIDER.replace("{start}", site.url("/0")))
    return tmp_path


@pytest.fixture
def crawl(project: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """`crawler run things -q` in a process of its own."""
    begun = []

    def begin(*arguments: str, **more: Any) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "crawler", "run", "things", "-q", *arguments]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen(command, text=True, **(pipes | more))
        watchdog = threading.Timer(20, process.kill)
        watchdog.start()
        begun.append((process, watchdog))
        return process

    yield begin
    for process, watchdog in begun:
        process.kill()
        process.wait()
        watchdog.cancel()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate()
    return process.returncode, out, err


def called(*arguments: str) -> tuple[int, str]:
    """A command in this process: its exit code, and what it wrote to stdout."""
    told = io.StringIO()
    with redirect_stdout(told), redirect_stderr(io.StringIO()):
        code = main(arguments)
    return code, told.getvalue()


def meanwhile(site: Site, work: Callable[[], object]) -> list[object]:
    """Do something in the middle of a crawl, while the sixth page is asked for; its results."""
    results: list[object] = []

    def answer(_: object) -> Reply:
        results.append(work())
        return Reply.html(page(5))

    site.add("/5", answer)
    return results


def again(*arguments: str) -> tuple[int, str]:
    """The same command as that of a process that was ended."""
    return called("run", "things", "-q", *arguments)


def exported(*arguments: str) -> str:
    code, out = called("export", *arguments)
    assert code == 0
    return out


def until_filled(path: Path, rows: int) -> None:
    """Wait until a file has so many lines."""
    while not path.exists() or path.read_bytes().count(b"\n") < rows:
        threading.Event().wait(0.01)


def until_kept(path: Path, rows: int) -> None:
    """Wait until the database knows that a file has so many rows."""
    query = "SELECT value FROM run_note WHERE key LIKE '%' || ?"
    for _ in iter(int, 1):
        with (
            suppress(sqlite3.OperationalError),
            closing(sqlite3.connect("file:things.db?mode=ro", uri=True)) as connection,
        ):
            found = connection.execute(query, (path.name,)).fetchone()
            state = json.loads(found[0]) if found else {"rows": 0}
            if state["rows"] >= rows:
                return
        threading.Event().wait(0.01)


# -- what is refused -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (["-o", "out.xls"], "out.xls does not say its form", ".csv"),
        (["-o", "there.csv"], "there.csv is there already", "-O (--overwrite)"),
        (["-o", "thing=there.csv"], "there.csv is there already", "--append"),
        (["-o", "there.json"], "there.json is there already", "replaces it; or name"),
        (["-o", "nowhere/out.csv"], "has no folder: nowhere", "mkdir -p nowhere"),
        (["-o", "folder.csv"], "folder.csv is a folder", "name a file"),
        (["-o", "pipe.csv"], "pipe.csv is no plain file", "`-` for stdout"),
        (["-o", "a.csv", "-o", "thing=./a.csv"], "is given twice", "leave one"),
        (["-o", "-", "-o", "thing=-"], "is given twice", "leave one"),
        (["-o", "there.json", "--append"], "one JSON array", ".jsonl"),
        (["-O"], "--overwrite says how a file is written", "-o FILE"),
        (["-o", "a.csv", "-O", "--append"], "exclude each other", "give one"),
        (["-o", ""], "names no file", "-o items.jsonl"),
        (["-o", "x.json", "--db", "x.json"], "x.json is the database", "another"),
        (["pages", "-o", "out.csv"], "takes one table, and 2 spiders", "-o TABLE=out.csv"),
    ],
)
def test_a_mistake_is_told_before_any_request(
    arguments: list[str],
    error: str,
    hint: str,
    project: Path,
    site: Site,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("there.csv", "there.json"):
        (project / name).write_text("precious")
    (project / "folder.csv").mkdir()
    os.mkfifo(project / "pipe.csv")
    assert main(["run", "things", site.url("/0"), *arguments]) == 2
    said = capsys.readouterr().err.replace("a word of the spider's own\n", "").splitlines()
    assert error in said[0]
    assert said[0].startswith("error: ")
    assert said[1].startswith("  hint: ")
    assert hint in said[1]
    assert site.log == []
    assert (project / "there.csv").read_text() == "precious"
    assert not (project / "things.db").exists()


def test_a_file_that_is_there_is_refused_where_a_new_run_would_begin(
    project: Path, site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "things", "-q", "-o", "out.csv"]) == 0
    written = (project / "out.csv").read_text()
    site.log.clear()
    capsys.readouterr()
    assert main(["run", "things", "-q", "-o", "out.csv"]) == 2
    assert "out.csv is there already" in capsys.readouterr().err
    assert site.log == []
    assert main(["runs", "--nl"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert (project / "out.csv").read_text() == written
    assert main(["run", "things", site.url("/11"), "-q", "-o", "out.csv", "-O"]) == 0
    assert (project / "out.csv").read_text().count("\n") == 2


# -- files ---------------------------------------------------------------------------------


def test_files_have_the_items_while_the_crawl_goes_on_and_in_the_end(
    project: Path, site: Site
) -> None:
    def look() -> tuple[int, bool]:
        until_filled(project / "things.ndjson", 5)
        until_filled(project / "all.json", 2 + 5 + 3)
        things = (project / "things.ndjson").read_text()
        return len(json.loads((project / "all.json").read_text())), exported(*thing) == things

    thing = ("--table", "thing")
    seen = meanwhile(site, look)
    files = ("all.json", "kind=kinds.csv", "THING=things.ndjson")
    assert again(*(part for file in files for part in ("-o", file)), "-a", "kinds=1")[0] == 0
    assert seen == [(5 + 3, True)]
    assert (project / "all.json").read_text() == exported("--json")
    assert (project / "kinds.csv").read_text() == exported("--table", "kind", "--csv")
    assert (project / "things.ndjson").read_text() == exported(*thing)


def test_after_a_kill_the_same_command_goes_on_with_its_files(
    project: Path, gate: Gate, crawl: Callable[..., subprocess.Popen[str]]
) -> None:
    arguments = ("-o", "out.csv", "-o", "out.json", "-O")
    process = crawl(*arguments)
    until_kept(project / "out.csv", 5)
    until_kept(project / "out.json", 5)
    until_filled(project / "out.csv", 1 + 5)  # a file is put in its place when that is kept
    process.kill()
    assert process.wait() == -signal.SIGKILL
    inode = (project / "out.csv").stat().st_ino
    gate.open.set()
    assert again(*arguments)[0] == 0
    assert (project / "out.csv").stat().st_ino == inode
    assert (project / "out.csv").read_text() == exported("--csv")
    assert (project / "out.json").read_text() == exported("--json")
    assert len(exported().splitlines()) == PAGES


def test_another_output_of_a_run_that_goes_on_has_it_from_its_first_item(
    project: Path, gate: Gate, crawl: Callable[..., subprocess.Popen[str]]
) -> None:
    process = crawl("-o", "a.jsonl")
    until_kept(project / "a.jsonl", 5)
    process.kill()
    process.wait()
    (project / "c.jsonl").write_text("precious")
    gate.open.set()
    assert again("-o", "c.jsonl")[0] == 2
    (project / "a.jsonl").write_text("precious")
    assert again("-o", "a.jsonl")[0] == 2
    assert again("-o", "b.jsonl")[0] == 0
    assert (project / "b.jsonl").read_text() == exported()
    assert (project / "a.jsonl").read_text() == "precious"


def test_a_signal_leaves_files_that_are_whole(project: Path, site: Site) -> None:
    meanwhile(site, lambda: os.kill(os.getpid(), signal.SIGINT))
    assert again("-o", "out.json")[0] == 130
    assert (project / "out.json").read_text() == exported("--json")


def test_items_of_runs_are_added_to_a_file(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert main(["run", "things", "-q", "-o", "out.csv", "--append"]) == 0
    with (project / "out.csv").open(newline="") as stream:
        assert len(list(csv.DictReader(stream))) == 2 * PAGES
    capsys.readouterr()
    (project / "other.csv").write_text("url,price\n")
    assert main(["run", "things", "-q", "-o", "other.csv", "--append"]) == 5
    assert "it begins with `url,price`, and the items have `url,title`" in capsys.readouterr().err
    assert (project / "other.csv").read_text() == "url,price\n"


@pytest.mark.parametrize(
    ("output", "content"), [("x.csv", ""), ("x.jsonl", ""), ("x.json", "[]\n"), ("no=x.csv", "")]
)
def test_a_run_without_items_leaves_an_empty_file_and_its_own_exit_code(
    output: str, content: str, project: Path, site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "things", site.url("/gone"), "-q", "-o", output]) == 3
    assert next(project.glob("x.*")).read_text() == content
    assert "is empty: things-1 has no items" in capsys.readouterr().err


def test_a_table_that_no_item_came_for_is_told_with_the_nearest(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "things", "-q", "-o", "thign=x.csv", "-o", "zebra=-"]) == 0
    told = capsys.readouterr().err
    assert "-o thign=x.csv: there is no item table `thign`; did you mean `thing`?" in told
    assert "-o zebra=-: there is no item table `zebra`; there is: thing" in told


def test_a_second_table_has_no_room_in_a_csv_and_its_command_is_told_once(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "things", "-q", "-o", "out.csv", "-a", "kinds=1"]) == 0
    told = capsys.readouterr().err.splitlines()
    assert told == [
        "a word of the spider's own",  # as it is imported: stdout is for data
        "out.csv has no room for the items of kind: "
        "crawler export things-1 --table kind -o kind.csv",
    ]
    assert main(told[1].partition(": crawler ")[2].split()) == 0
    assert (project / "kind.csv").read_text().count("\n") == 1 + 3
    assert (project / "out.csv").read_text().count("\n") == 1 + PAGES


def test_items_of_several_spiders_go_to_one_file(project: Path, site: Site) -> None:
    outputs = ("-o", "all.jsonl", "-o", "thing=things.csv")
    assert main(["run", "things", "pages", "-q", site.url("/0"), "--db", "x.db", *outputs]) == 0
    rows = [json.loads(line) for line in (project / "all.jsonl").read_text().splitlines()]
    assert sum("title" in row for row in rows) >= PAGES
    assert len(rows) > PAGES
    assert (project / "things.csv").read_text() == exported("things", "--db", "x.db", "--csv")


# -- what cannot be written ----------------------------------------------------------------


def test_a_file_that_grows_too_large_is_told_and_the_crawl_goes_on(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, before[1]))
    try:
        outputs = ("-o", "items=out.jsonl", "-o", "thing=ok.jsonl")
        code = main(["run", "things", "-q", *outputs, "--limit", "1", "-a", "fat=400"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    error, hint = capsys.readouterr().err.splitlines()[-2:]
    assert (code, error) == (5, "error: out.jsonl cannot be written: File too large")
    assert hint.endswith("database: crawler export things-1 --table items -o FILE.jsonl")
    whole = exported("--table", "items")
    assert whole.startswith((project / "out.jsonl").read_text())
    assert (project / "ok.jsonl").read_text() == exported("--table", "thing")


def test_a_folder_that_is_gone_does_not_pass_for_success(
    project: Path, site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    def lose() -> None:
        until_filled(project / "out" / "items.csv", 6)
        (project / "out").rename(project / "away")

    (project / "out").mkdir()
    meanwhile(site, lose)
    assert main(["run", "things", "-q", "-o", "out/items.csv"]) == 5
    err = capsys.readouterr().err
    assert "error: out/items.csv cannot be written: No such file or directory" in err
    assert "crawler export things-1 -o FILE.csv" in err


# -- stdout --------------------------------------------------------------------------------


def test_stdout_has_the_items_and_nothing_else(
    project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "things", "-q", "-o", "-"]) == 0
    out, err = capfd.readouterr()
    assert out == exported()
    assert "on stdout" in err
    assert len(out.splitlines()) == PAGES


def test_items_reach_a_reader_while_the_crawl_goes_on(
    project: Path, gate: Gate, crawl: Callable[..., subprocess.Popen[str]]
) -> None:
    process = crawl("-o", "thing=-")
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(5)]
    assert [json.loads(line)["title"][0] for line in lines] == list("01234")
    process.kill()
    process.wait()
    gate.open.set()
    code, out = again("-o", "thing=-")
    assert (code, out.splitlines(keepends=True)[:5]) == (0, lines)
    assert len(out.splitlines()) == PAGES


def test_a_reader_that_goes_away_stops_the_crawl_quietly(
    project: Path, site: Site, gate: Gate, crawl: Callable[..., subprocess.Popen[str]]
) -> None:
    for n in range(6, PAGES):
        site.add(f"/{n}", Reply.html(page(n)).slow(0.25))
    process = crawl("-o", "-", "-o", "out.jsonl")
    assert process.stdout is not None
    assert process.stderr is not None
    assert json.loads(process.stdout.readline())["title"] == "0 of 0"
    process.stdout.close()
    gate.open.set()
    said = process.stderr.read().replace("on stdout\n", "")
    assert (process.wait(), said) == (0, "a word of the spider's own\n")
    kept = (project / "out.jsonl").read_text()
    assert kept == exported()
    assert 5 <= len(kept.splitlines()) < PAGES
    for n in range(6, PAGES):
        site.add(f"/{n}", Reply.html(page(n)))
    code, out = again("-o", "-", "-o", "out.jsonl")
    assert (code, out) == (0, exported())
    assert (project / "out.jsonl").read_text() == out
    assert len(out.splitlines()) == PAGES


def test_a_line_of_shell_gets_one_line_of_json(project: Path) -> None:
    command = (
        f"{sys.executable} -m crawler run things -o - 2>err | head -1; echo ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    line, code = done.stdout.splitlines()
    assert (json.loads(line)["title"], code) == ("0 of 0", "0")
    assert "Traceback" not in (project / "err").read_text()
    assert "Exception ignored" not in (project / "err").read_text()


def test_a_stdout_that_is_full_is_told_and_loses_nothing(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open("/dev/full", "w") as full, redirect_stdout(full):
        assert main(["run", "things", "-q", "-o", "-"]) == 5
    err = capsys.readouterr().err
    assert "error: stdout cannot be written: No space left on device" in err
    assert "crawler export things-1 -o FILE" in err
    assert len(exported().splitlines()) == PAGES


def test_a_crawl_without_any_stream_runs(project: Path) -> None:
    command = f"{sys.executable} -m crawler run things -o x.jsonl <&- >&- 2>&-"
    assert subprocess.run(["bash", "-c", command], check=False).returncode == 0
    assert (project / "x.jsonl").read_text() == exported()


def test_rows_that_changed_behind_what_stdout_has_are_told(
    project: Path, site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    with open("told", "w+") as told, redirect_stdout(told):
        meanwhile(site, lambda: until_filled(project / "told", 3))
        assert main(["run", "things", "-q", "-o", "kind=-", "-a", "kinds=1"]) == 0
    assert (project / "told").read_text().count("\n") == 3
    said = "stdout: 1 table changed behind what was written (kind); as they are now: "
    assert f"{said}crawler export things-1 --table kind" in capsys.readouterr().err
