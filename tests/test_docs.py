"""The documents, held against the program: what they show is run.

Conventions of README.md and docs/**/*.md:
- ```console blocks are run, one after another in one folder per document. A line `$ …` is a
  command, the lines below it are what it prints, stdout and stderr together. `crawler …`
  runs in this process, `cd FOLDER` changes the folder; what has pipes or redirections, or
  begins with one of SHELL, is run by sh. One that ends in `# then Ctrl-C` is a process
  that gets a SIGINT when the shop has answered it for a while. `http://127.0.0.1:8080`
  stands for a bookshop (`crawler.demo.site`) that is open meanwhile. Times, rates, shares,
  sizes, instants, process ids and numbers of connections are placeholders: any such value
  will do. `…` stands for any text in a line, and a line of `…` alone for any lines.
- ```python blocks are run in the same folder, with the names of those before them. Those of
  docs/how-to/notebooks.md are cells: a loop runs meanwhile, and `await` may stand anywhere.
  One that begins with `# name.py` is written to that file instead, so that commands can use
  it, and imported.
- ```toml blocks begin with `# name.toml` and are written to that file.
- ```sh and ```ini blocks are for the reader's machine and are not run, nor is ```text.

Names, paths and links are held by tests/test_docs_names.py, docs/reference by
tests/test_reference.py, the tables of the coming-from pages by tests/test_coming_from.py.
"""

from __future__ import annotations

import ast
import asyncio
import importlib
import inspect
import io
import os
import re
import shlex
import signal
import subprocess
import sys
from contextlib import closing, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from crawler.cli import main
from tests.markdown import DOCUMENTS, ROOT, Block, blocks, name_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import CodeType

    from crawler.demo.site import Bookshop

SHOWN_SITE = "127.0.0.1:8080"
SHELL = ("cat", "cp", "head", "ls", "printf", "pytest", "python", "sort", "sqlite-utils", "wc")
"""Programs that a document may show beside `crawler`."""
QUICK = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
"""Of pytest in a document: without the plug-ins of this project's own tests."""
CTRL_C = "# then Ctrl-C"
ANSWERS_BEFORE_STOP = 30
KINDS = {"console", "ini", "python", "sh", "sql", "text", "toml"}

EVERY = pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)


# -- blocks are run ----------------------------------------------------------------------------


class Command(NamedTuple):
    line: str
    shown: str


_FILE = re.compile(r"# ([\w./-]+\.(?:py|toml))\n")


def commands(block: Block) -> Iterator[Command]:
    first, *parts = re.split(r"^\$ ", block.text, flags=re.MULTILINE)
    assert not first, f"line {block.line}: a console block begins with a command"
    for part in parts:
        line, _, shown = part.partition("\n")
        yield Command(line, shown)


PLACEHOLDERS = (
    (r"127\.0\.0\.(\d+):\d+", r"127.0.0.\1:<port>"),
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d|\b\d\d:\d\d:\d\d\b", "<instant>"),
    (r"\b\d[\d,.]*/s\b", "<rate>"),
    (r"\b\d[\d.]*(?: ?(?:ms|s|min|h)\b)+", "<time>"),
    (r"\b\d[\d.]*%", "<share>"),
    (r"\b\d[\d.,]* (?:B|KiB|MiB)\b", "<size>"),
    (r"\b\d+ connections?\b", "<connections>"),
    (r"\b(pid|process) \d+\b", r"\1 <pid>"),
    (r"[ \t]+", " "),
    (r"--+(?: --+)*", "--"),
)


def normal(text: str) -> list[str]:
    """Lines with every placeholder's value replaced by its name."""
    for pattern, name in PLACEHOLDERS:
        text = re.sub(pattern, name, text)
    return [line.strip() for line in text.strip().splitlines()]


def fits(shown: list[str], said: list[str]) -> bool:
    """Whether what was said is what is shown, `…` standing for anything."""
    if not shown:
        return not said
    if shown[0] == "…":
        return any(fits(shown[1:], said[n:]) for n in range(len(said) + 1))
    if not said:
        return False
    pattern = ".*".join(re.escape(part) for part in shown[0].split("…"))
    return re.fullmatch(pattern, said[0]) is not None and fits(shown[1:], said[1:])


def run(line: str) -> str:
    """What a command prints, on both streams."""
    program, *argv = shlex.split(line, comments=True)
    if program == "cd":
        os.chdir(argv[0])
        return ""
    parts = shlex.shlex(line, posix=False, punctuation_chars=True)
    parts.whitespace_split = True
    if program != "crawler" or any(re.fullmatch(r"[|<>;&]+", part) for part in parts):
        return run_by_shell(line, program)
    told = io.StringIO()
    with redirect_stdout(told), redirect_stderr(told):
        main(argv)
    return told.getvalue()


def run_and_interrupt(line: str, bookshop: Bookshop) -> str:
    """What a crawl of the bookshop prints that is stopped by Ctrl-C meanwhile."""
    answered = len(bookshop.log)
    with subprocess.Popen(
        [sys.executable, "-m", "crawler", *shlex.split(line, comments=True)[1:]],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:
        bookshop.wait_for(answered + ANSWERS_BEFORE_STOP)
        process.send_signal(signal.SIGINT)
        return process.communicate(timeout=60)[0]


def run_by_shell(line: str, program: str) -> str:
    """The same by sh, where there are pipes or programs of others."""
    assert program in ("crawler", *SHELL), f"`{program}` is not run here"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-c", line],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), **QUICK},
        check=False,
    )
    return done.stdout


class Kernel:
    """Runs python blocks with one set of names; in a notebook, while a loop runs."""

    def __init__(self, document: Path) -> None:
        self._is_notebook = document.stem == "notebooks"
        self._loop = asyncio.new_event_loop()
        self._names: dict[str, Any] = {"__name__": "__main__"}

    def run(self, block: Block, text: str) -> None:
        where = f"block at line {block.line}"
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT if self._is_notebook else 0
        program = compile(text, where, "exec", flags, dont_inherit=True)
        if self._is_notebook:
            self._loop.run_until_complete(self._cell(program))
        else:
            exec(program, self._names)

    async def _cell(self, program: CodeType) -> None:
        answer = eval(program, self._names)
        if program.co_flags & inspect.CO_COROUTINE:
            await answer

    def close(self) -> None:
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()


def write_file(name: str, text: str) -> None:
    file = Path(name)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, "utf-8")
    if file.suffix != ".py":
        return
    for name in (file.stem, f"{file.parent.name}.{file.stem}"):
        sys.modules.pop(name, None)
    if file.parent == Path():
        importlib.invalidate_caches()
        importlib.import_module(file.stem)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder that modules can be imported from; nothing of ours set."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("builtins.input", lambda prompt="": "")
    for name in [name for name in os.environ if name.startswith("CRAWLER_")]:
        monkeypatch.delenv(name)
    yield tmp_path
    for made in tmp_path.glob("*.py"):
        sys.modules.pop(made.stem, None)
    for made in tmp_path.glob("**/spiders/*.py"):
        sys.modules.pop(f"spiders.{made.stem}", None)


def made_in(document: Path) -> set[str]:
    """The files that a document writes."""
    return {named[1] for block in blocks(document) if (named := _FILE.match(block.text))}


@EVERY
def test_what_a_document_shows_is_what_happens(
    document: Path, folder: Path, bookshop: Bookshop
) -> None:
    here = bookshop.start_url.removeprefix("http://").rstrip("/")
    with closing(Kernel(document)) as kernel:
        for block in blocks(document):
            text = block.text.replace(SHOWN_SITE, here)
            if block.kind in ("python", "toml") and (named := _FILE.match(text)):
                write_file(named[1], text)
            elif block.kind == "python":
                kernel.run(block, text)
            elif block.kind == "console":
                for command in commands(block._replace(text=text)):
                    is_stopped = command.line.endswith(CTRL_C)
                    said = (
                        run_and_interrupt(command.line, bookshop)
                        if is_stopped
                        else run(command.line)
                    )
                    told = f"line {block.line}: {command.line}\n{said}"
                    assert fits(normal(command.shown), normal(said)), told


@EVERY
def test_blocks_are_of_a_known_kind(document: Path) -> None:
    assert {block.kind for block in blocks(document)} <= KINDS
    assert all(_FILE.match(block.text) for block in blocks(document) if block.kind == "toml")


def test_placeholders_fit_any_value_and_nothing_else() -> None:
    shown = normal("a-1 finished after 98 ms: x.db\n…\nlast … of 3 pages")
    assert fits(shown, normal("a-1 finished after 1.2 s: x.db\nlast line of 3 pages"))
    assert fits(shown, normal("a-1 finished after 2 min: x.db\nb\nc\nlast one of 3 pages"))
    assert not fits(shown, normal("a-1 finished after 98 ms: x.db\nlast line of 4 pages"))
    assert not fits(shown, normal("a-2 finished after 98 ms: x.db\nlast line of 3 pages"))
    assert not fits(shown, normal("a-1 finished after 98 ms: x.db"))


def test_a_pipe_is_run_by_a_shell_and_a_quoted_one_is_not(folder: Path) -> None:
    assert run("printf 'one\\ntwo\\n' | head -1") == "one\n"
    assert run("crawler --version > version.txt") == ""
    assert "crawler, version" in Path("version.txt").read_text("utf-8")
    assert "no database with a crawl" in run("crawler sql \"select 1 > 2 || '|'\"")
    with pytest.raises(AssertionError, match="`curl` is not run here"):
        run("curl http://127.0.0.1:8080/")
