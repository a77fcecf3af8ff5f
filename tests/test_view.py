"""The view on a real pseudo-terminal: what scrolls above it stays whole, nothing is left."""

from __future__ import annotations

import io
import logging
import os
import random
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from msgspec import structs

from crawler.cli.view import View, form_of, is_coloured
from crawler.cli.voice import speaks_unicode
from crawler.testing import Reply, Site
from tests.lives import LIVE, OLD, live
from tests.terminal import Pty, Screen, terminal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SPIDER = """
import logging, sys
from crawler import Response, Results, Spider
class Talker(Spider):
    start_urls = ["{start}"]
    n = 0
    def parse(self, page: Response) -> Results:
        self.n += 1
        print("page", self.n, "of [many]")
        print("error output", self.n, file=sys.stderr)
        logging.getLogger("mine").warning("be warned %d", self.n)
        yield page.follow("/" + str(self.n), self.parse)
"""


@contextmanager
def viewed(pty: Pty, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Iterator[View]:
    """A view on a terminal that is also this process's stderr."""
    monkeypatch.setattr(sys, "stderr", pty.stream)
    with View(pty.stream, **options) as view:
        yield view


def test_the_view_stands_below_what_others_write(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(80, 24) as pty:
        handler = logging.StreamHandler(pty.stream)
        log = logging.getLogger("tests.view")
        log.addHandler(handler)
        with viewed(pty, monkeypatch) as view:
            view.show(LIVE)
            print("first line", file=sys.stderr)
            log.warning("second line")
            print("third ", end="", file=sys.stderr)
            view.show(LIVE)
            print("line", file=sys.stderr)
            view.show(LIVE)
        log.removeHandler(handler)
        assert handler.stream is pty.stream
        assert repr(view) == f"<View down {view.stats()} drawn>"
        text = pty.text()
    before_the_end = text[: text.rindex("\x1b[?25h")]
    lines = Screen(80, 24).feed(before_the_end).shown()
    assert lines[:3] == ["first line", "second line", "third line"]
    screen = Screen(80, 24).feed(text)
    assert screen.shown() == ["first line", "second line", "third line"]
    assert screen.has_cursor
    assert screen.wraps


@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_lines_stay_whole_and_in_order(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drawings of changing height, lines longer than the terminal, pieces of lines."""
    rng = random.Random(seed)
    said = []
    with terminal(70, 16) as pty:
        with viewed(pty, monkeypatch, is_plain=True) as view:
            for n in range(60):
                choice = rng.randrange(4)
                if choice == 0:
                    domains = [structs.replace(OLD, domain=f"d{k}") for k in range(n % 12)]
                    view.show(live(*domains, shortage="sockets" * (n % 2)))
                elif choice == 1:
                    sys.stderr.write(f"piece {n} ")
                    said.append(f"piece {n} ")
                else:
                    text = f"line {n} " + "x" * rng.randrange(120)
                    sys.stderr.write(text + "\n")
                    said.append(text + "\n")
        screen = pty.screen()
    wanted = Screen(70, 16).feed("".join(said).replace("\n", "\r\n"))
    assert screen.shown() == wanted.shown()


def broken_in(view: View) -> None:
    with view:
        view.show(LIVE)
        assert sys.stderr is not view._stream
        raise ZeroDivisionError


def test_an_exception_leaves_a_clean_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal() as pty:
        real = pty.stream
        monkeypatch.setattr(sys, "stderr", real)
        view = View(real)
        with pytest.raises(ZeroDivisionError):
            broken_in(view)
        assert sys.stderr is real
        view.close()
        view.show(LIVE)
        screen = pty.screen()
    assert screen.shown() == []
    assert screen.has_cursor


@pytest.mark.parametrize(("columns", "rows"), [(59, 24), (80, 9)])
def test_a_small_terminal_gets_one_line(
    columns: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with terminal(columns, rows) as pty:
        with viewed(pty, monkeypatch, is_plain=True) as view:
            view.show(LIVE)
            view.show(LIVE)
        text = pty.text()
    assert "quotes-7  48,210 pages" in text
    assert "domain" not in text
    assert "\n" not in text


def test_another_size_is_drawn_in_it_and_nothing_of_the_old_one_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with terminal(120, 24) as pty:
        with viewed(pty, monkeypatch) as view:
            view.show(LIVE)
            pty.resize(60, 12)
            view.redraw()
        text = pty.text()
    # Twelve lines had been drawn; a terminal of half the width may have wrapped each.
    assert "\r\x1b[11A\x1b[?25l" in text
    assert text.count("machine") == 2


def test_an_old_encoding_gets_its_own_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(100, 24, "ascii") as pty:
        with viewed(pty, monkeypatch) as view:
            view.show(live(run={"run": "caf\u00e9-1"}))
        text = pty.text()
    assert "71 of 1,024 sockets | 52 idle" in text
    assert "caf?-1" in text


def test_a_terminal_that_takes_nothing_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal() as pty:
        with viewed(pty, monkeypatch) as view:
            view.show(LIVE)
            os.close(pty._theirs)
            pty._theirs = os.open(os.devnull, os.O_RDWR)
            view.show(LIVE)
            print("into nothing", file=sys.stderr)
        assert view.stats() >= 1


def test_the_environment_decides_about_the_form() -> None:
    xterm = {"TERM": "xterm"}
    assert form_of(io.StringIO(), None, xterm) == "lines"
    assert form_of(io.StringIO(), "full", xterm) == "lines"
    assert form_of(io.StringIO(), "off", xterm) == "off"
    with terminal() as pty:
        forms = {
            (None, ""): "full",
            (None, "NO_COLOR"): "full",
            (None, "CI"): "lines",
            ("full", "CI"): "full",
            ("full", "NO_COLOR"): "full",
            ("line", ""): "lines",
            ("off", ""): "off",
        }
        for (asked, name), form in forms.items():
            assert form_of(pty.stream, asked, {**xterm, name: "1"}) == form
        assert form_of(pty.stream, None, {"TERM": "dumb"}) == "lines"
        assert form_of(pty.stream, None, {}) == "lines"
        assert is_coloured(pty.stream, xterm)
        assert not is_coloured(pty.stream, {**xterm, "NO_COLOR": "1"})
        assert speaks_unicode(pty.stream)


# -- crawler run -----------------------------------------------------------------------------


@pytest.fixture
def talker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A spider that talks, on a site without an end."""
    monkeypatch.chdir(tmp_path)
    page = Reply.html("<title>x</title>").slow(0.03)
    with Site({"/robots.txt": Reply.code(404)}, fallback=page).threaded() as site:
        (tmp_path / "talker.py").write_text(SPIDER.replace("{start}", site.url("/")))
        yield tmp_path


def ended(process: subprocess.Popen[bytes]) -> int:
    watchdog = threading.Timer(20, process.kill)
    watchdog.start()
    try:
        return process.wait()
    finally:
        watchdog.cancel()


def test_a_crawl_on_a_terminal_shows_a_view_and_ctrl_c_leaves_no_trace_of_it(
    talker: Path,
) -> None:
    with terminal(100, 30) as pty:
        process = pty.run("run", "talker.py", "-v")
        pty.wait_for("Ctrl-C stops, nothing is lost")
        pty.wait_for("page 12 of [many]")
        process.send_signal(signal.SIGINT)  # typed, it makes the kernel drop what is unread
        assert ended(process) == 130
        screen = pty.screen()
    lines = screen.shown()
    assert lines[0].startswith("talker-1 begins in talker.db.")
    last = max(int(line.split()[1]) for line in lines if line.startswith("page "))
    for n in range(1, last + 1):
        assert lines.count(f"page {n} of [many]") == 1
        assert lines.count(f"error output {n}") == 1
        assert lines.count(f"warning: be warned {n}") == 1
    assert sum(line.startswith("200 ") and "1 link" in line for line in lines) >= last - 1
    assert not [line for line in lines if line.startswith(("domain ", "machine ", "pools "))]
    assert "stopping: requests under way may end; once more stops at once" in lines
    assert any(line.startswith("talker-1 interrupted (signal) after ") for line in lines)
    assert screen.has_cursor
    assert screen.wraps


def test_a_second_ctrl_c_ends_at_once_and_gives_the_cursor_back(tmp_path: Path) -> None:
    routes = {"/robots.txt": Reply.code(404)}
    with Site(routes, fallback=Reply.hang()).threaded() as site, terminal() as pty:
        process = pty.run("run", "pages", site.url("/"), "--db", str(tmp_path / "x.db"))
        site.wait_for(2)
        pty.wait_for("Ctrl-C stops")
        pty.type(b"\x03")
        pty.wait_for("once more stops at once")
        pty.wait_for("Ctrl-C again ends at once")
        # A signal that comes within 0.3 s of the first counts as the same one.
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.35)
        pty.type(b"\x03")
        assert ended(process) == 130
        screen = pty.screen()
    assert screen.has_cursor
    assert screen.shown()[-1].startswith("stopped at once;")


def test_ctrl_z_gives_the_terminal_back_and_usr1_prints_the_table_above_the_view(
    talker: Path,
) -> None:
    with terminal(150, 30) as pty:
        process = pty.run("run", "talker.py")
        pty.wait_for("page 3 of")
        process.send_signal(signal.SIGTSTP)  # Ctrl-Z, and then `fg`
        assert os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])
        pty.wait_until(lambda text: Screen(150, 30).feed(text).has_cursor)
        process.send_signal(signal.SIGCONT)
        process.send_signal(signal.SIGUSR1)
        pty.wait_for("last problem\r\r\n")  # the view's own ends in another way
        process.send_signal(signal.SIGINT)
        assert ended(process) == 130
        lines = pty.screen().shown()
    assert sum(line.startswith("domain ") for line in lines) == 1
    assert sum(line.startswith("127.0.0.1:") for line in lines) == 1


def test_a_breakpoint_in_a_spider_has_the_terminal_for_itself(talker: Path) -> None:
    source = (talker / "talker.py").read_text()
    (talker / "talker.py").write_text(source.replace("self.n += 1", "self.n += 1; breakpoint()"))
    with terminal(100, 30) as pty:
        process = pty.run("run", "talker.py", "--limit", "1")
        pty.wait_for("(Pdb) ")
        pty.type(b"p page.status + 3000\n")
        pty.wait_for("3200\r\n(Pdb) ")
        pty.type(b"c\n")
        assert ended(process) == 0
        screen = pty.screen()
    lines = screen.shown()
    debugger = lines.index("(Pdb) p page.status + 3000")
    assert lines[debugger - 1].startswith("-> print(")
    assert lines[debugger + 1] == "3200"
    assert "page 1 of [many]" in lines
    assert screen.has_cursor
