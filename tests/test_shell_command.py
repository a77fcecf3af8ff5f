"""`crawler shell`: code from `-c`, from stdin and typed at a prompt of a real terminal."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol

import pytest

from crawler.cli import main
from crawler.testing import Reply, Site, dead_address
from tests.commands import Said

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ROWS = "".join(f"<li class='row'><a href='/{n}'>row {n}</a></li>" for n in range(30))
PAGE = f"<!doctype html><title>Rows</title><ul>{ROWS}</ul><i class='\x1b]0;x\x07'></i>"


class Call(Protocol):
    def __call__(self, *argv: str, typed: bytes | None = None) -> Said: ...


@pytest.fixture
def site() -> Iterator[Site]:
    routes = {
        "/": Reply.html(PAGE),
        "/b": Reply.html("<h1>b"),
        "/nope": Reply.html("no", 404),
    }
    with Site(routes).threaded() as served:
        yield served


@pytest.fixture
def call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Call:
    monkeypatch.chdir(tmp_path)

    def run(*argv: str, typed: bytes | None = None) -> Said:
        capsys.readouterr()
        if typed is not None:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(typed)))
        code = main(["shell", *argv])
        return Said(code, *capsys.readouterr())

    return run


# -- code ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "out"),
    [
        ("page.status", "200\n"),
        ("css('li.row')[1].get('a')", "'row 1'\n"),
        ("css('li.row')[:1]", '[<Node li class="row">]\n'),
        ("css('a::attr(href)')[0]; None", ""),
        ("css('h1::text')", "[]\n"),
        ("css('li.rwo a')", "no match: did you mean li.row a (30)?\n"),
        ("css('li.row b')", "no match: li.row matches 30; li.row b matches 0\n"),
        ("len(links())", "30\n"),
        ("page.css('i')", '[<Node i class="\\x1b]0;x\\x07">]\n'),
        ("page = None; await fetch('{site}b')", "<Response 200 {site}b 5 bytes>\n"),
        ("fetch('{site}b'); css('h1')", "0  <h1> b\n"),
        ("fetch(Request('{site}b', method='HEAD')).body", "b''\n"),
        ("fetch('{site}nope')", "<Response 404 {site}nope 2 bytes>\n"),
        ("import asyncio\nx = await asyncio.sleep(0, 3)\nfetch('{site}b')\nx", "3\n"),
        ("from __future__ import annotations\nx: nonsense = 1\nx", "1\n"),
        ("print(1)", "1\n"),
        ("x = 1", ""),
        ("", ""),
    ],
)
def test_code_is_run_and_its_last_value_printed(
    code: str, out: str, call: Call, site: Site
) -> None:
    url = site.url("/")
    said = call(url, "-c", code.replace("{site}", url))
    assert said == (0, out.replace("{site}", url), "")


def test_many_matches_are_shown_in_short(call: Call, site: Site) -> None:
    lines = call(site.url("/"), "-c", "css('li a')").out.splitlines()
    assert lines[0] == ' 0  <a href="/0"> row 0'
    assert lines[-1] == "… and 10 more"
    assert len(lines) == 21
    assert call(site.url("/"), "-c", "links()").out.startswith(f" 0  {site.url('/0')}\n")


def test_a_crawl_can_be_run_by_await(call: Call, site: Site) -> None:
    code = f"""
class Rows(Spider):
    start_urls = ["{site.url("/b")}"]
    def parse(self, page):
        yield {{"h1": page.get("h1")}}
result = await crawl(Rows)
result.items
"""
    assert call("-c", code).out == "[{'h1': 'b'}]\n"


def test_code_is_read_from_stdin_where_that_is_no_terminal(call: Call, site: Site) -> None:
    said = call(site.url("/"), typed=b"x = page.get('title')\nx\n")
    assert said == (0, "'Rows'\n", "")


@pytest.mark.parametrize(
    ("code", "status", "error"),
    [
        (
            "x = 1\n1/0",
            1,
            ["line 2, in <module>", "    1/0", "ZeroDivisionError: division by zero"],
        ),
        ("page.get('h9')", 1, ["line 1, in <module>", "NoMatch: 'h9' matched nothing on "]),
        ("def f(:", 1, ["SyntaxError: invalid syntax"]),
        ("raise SystemExit(7)", 7, []),
        ("exit('done with it')", 1, ["done with it"]),
        ("exit(())", 1, ["()"]),
        ("fetch(page.url)\nasync def f():\n  exit(5)\nawait f()", 5, []),
        ("fetch(1)", 1, ["line 1, in <module>"]),
        ("async def f():\n  raise KeyError('x')\nawait f()", 1, ["in f", "KeyError: 'x'"]),
    ],
)
def test_an_error_shows_the_persons_frames_only(
    code: str, status: int, error: list[str], call: Call, site: Site
) -> None:
    said = call(site.url("/"), "-c", code)
    assert (said.code, said.out) == (status, "")
    for part in error:
        assert part in said.err
    for ours in ("workbench.py", "shell.py", "asyncio", "concurrent", "node.py"):
        assert ours not in said.err


# -- pages ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("<p>é".encode(), "é"),
        (b"<meta charset=latin-1><p>\xe9", "é"),
        ("<p>é".encode("utf-16"), "é"),
        (b"\xff\xfe\x00<p>", None),
        (b"", None),
    ],
)
def test_a_file_is_a_page_in_whatever_encoding(
    body: bytes, text: str | None, call: Call, tmp_path: Path
) -> None:
    (tmp_path / "page.html").write_bytes(body)
    said = call("page.html", "-c", "page.url, page.get('p', default=None)")
    if text is not None:
        assert said.out == f"{((tmp_path / 'page.html').as_uri(), text)!r}\n"
    assert said.code == 0


def test_a_pipe_is_a_file(call: Call, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"<p>x")
    os.close(writer)
    assert call(f"/dev/fd/{reader}", "-c", "css('p::text')[0]").out == "'x'\n"
    os.close(reader)


def test_code_that_is_no_text_is_a_syntax_error(call: Call) -> None:
    said = call(typed=b"print('\xff')")
    assert said.code == 1
    assert "SyntaxError" in said.err


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (["nowhere.html"], "`nowhere.html` is no file", "crawler shell https://nowhere.html"),
        (["ftp://x.test/"], "only http and https", "https://"),
        (["."], "`.` is no file", "crawler shell https://"),
        (["-s", "robots.obye=0"], "unknown setting", "robots.obey"),
    ],
)
def test_a_mistake_is_one_error_and_a_hint(
    arguments: list[str], error: str, hint: str, call: Call
) -> None:
    said = call(*arguments, "-c", "1")
    assert said.code == 2
    assert error in said.error[0]
    assert hint in said.error[1]


def test_without_a_first_page_the_code_is_not_run(call: Call, site: Site) -> None:
    site.add("/robots.txt", Reply.text("User-agent: *\nDisallow: /"))
    said = call(site.url("/"), "-c", "print(1)")
    assert (said.code, said.out) == (1, "")
    assert "where the site is yours: `-s robots.obey=false`" in said.err
    none = call("-c", "css('h1')")
    assert none.code == 1
    assert 'no page yet: fetch("https://example.com/")' in none.err


# -- the prompt -------------------------------------------------------------------------------


class Terminal:
    """A shell on a terminal of its own; `until` reads until something is shown."""

    def __init__(self, parent: int) -> None:
        self._parent = parent
        self.shown = ""

    def until(self, mark: str) -> str:
        """What is shown up to the mark."""
        seen = ""
        while mark not in seen:
            part = os.read(self._parent, 4096).decode()
            assert part, seen
            seen += part
            self.shown += part
        return seen.replace("\r\n", "\n")

    def type(self, text: str, until: str) -> str:
        """Type, and read what is shown then."""
        os.write(self._parent, text.encode())
        return self.until(until)


@contextmanager
def prompt(site: Site) -> Iterator[tuple[Terminal, subprocess.Popen[bytes]]]:
    parent, child = pty.openpty()
    # IPython, where it is installed, has a prompt of its own: this one is Python's.
    hidden = "import sys; sys.modules['IPython'] = None; sys.argv[0] = 'crawler'\n"
    hidden += "import importlib.util as u; find = u.find_spec\n"
    hidden += "u.find_spec = lambda name, *a: None if name == 'IPython' else find(name, *a)\n"
    code = f"{hidden}from crawler.cli import main; sys.exit(main(['shell', '{site.url('/')}']))"
    environ = {**os.environ, "TERM": "dumb"}
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-X", "dev", "-c", code],
        stdin=child,
        stdout=child,
        stderr=child,
        env=environ,
        start_new_session=True,
        preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),
    )
    os.close(child)
    try:
        yield Terminal(parent), process
    finally:
        process.kill()
        process.wait()
        os.close(parent)


def test_a_prompt_has_await_completion_and_a_clean_end(site: Site) -> None:
    with prompt(site) as (terminal, process):
        banner = terminal.until(">>> ")
        assert banner.startswith(f"<Response 200 {site.url('/')} {len(PAGE)} bytes> “Rows”\n")
        assert len(banner.splitlines()) <= 5
        assert "0  <h1> b" in terminal.type(f"fetch('{site.url('/b')}'); css('h1')\n", "b\r\n>>> ")
        awaited = terminal.type("await __import__('asyncio').sleep(0, 42)\n", "\n>>> ")
        assert "\n42\n" in awaited
        error = terminal.type("1/0\n", "\n>>> ")
        assert "ZeroDivisionError" in error
        assert ".py" not in error
        assert "200" in terminal.type("page.statu\t\n", "\n>>> ")
        terminal.type("await __import__('asyncio').Event().wait()\n", "wait()\r\n")
        assert "KeyboardInterrupt" in terminal.type("\x03", "\n>>> ")
        assert "SyntaxError" in terminal.type("def f(:\n", "\n>>> ")
        os.write(terminal._parent, b"\x04")
        assert process.wait(10) == 0
    assert "Warning" not in terminal.shown


def test_code_that_never_lets_go_of_the_loop_is_left_at_the_end(site: Site) -> None:
    with prompt(site) as (terminal, process):
        terminal.until(">>> ")
        terminal.type("async def f():\n  print('st' + 'uck')\n  while True: pass\n\n", ">>> ")
        terminal.type("await f()\n", "stuck")
        terminal.type("\x03", "\n>>> ")
        os.write(terminal._parent, b"\x04")
        assert process.wait(15) == 0


def test_ipython_is_used_where_it_is_installed(site: Site, call: Call) -> None:
    if find_spec("IPython") is None:
        assert call(site.url("/"), "-c", "page.status").out == "200\n"
        return
    code = f"import sys; from crawler.cli import main; sys.exit(main(['shell', '{site.url('/')}']))"
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=child, stdout=child, stderr=child
    )
    os.close(child)
    terminal = Terminal(parent)
    terminal.until("In [1]")
    terminal.type("await __import__('asyncio').sleep(0, page.status)\r", "200")
    terminal.type("exit()\r", "exit()")
    assert process.wait(20) == 0
    os.close(parent)


def test_a_dead_host_leaves_no_page(call: Call) -> None:
    host, port = dead_address()
    settings = ("-s", "domain.probes=1", "-s", "robots.obey=false")
    said = call(f"http://{host}:{port}/", *settings, "-c", "1")
    assert (said.code, said.out) == (1, "")
    assert "error: connect-refused" in said.err
    assert f"`crawler doctor {host}:{port}` tries it from here" in said.err
