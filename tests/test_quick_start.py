"""What a start costs: help imports nothing that crawls, httpx comes without its command."""

from __future__ import annotations

import subprocess
import sys

import pytest

from crawler.cli import COMMANDS

HEAVY = ("httpx", "selectolax", "sqlite_utils", "rich", "IPython", "markdownify")
CALLED = """
import sys
from crawler.cli import main
code = main({argv!r})
print(code, *sorted(set({heavy!r}) & set(sys.modules)), file=sys.stderr)
"""


def python(program: str) -> list[str]:
    """The lines a program writes to stderr; what it prints is not looked at."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stderr.splitlines()


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_imports_nothing_heavy(name: str) -> None:
    argv = [*([name] if name else []), "--help"]
    assert python(CALLED.format(argv=argv, heavy=HEAVY)) == ["0"]


def test_our_import_of_httpx_leaves_out_its_command_line_and_rich() -> None:
    program = (
        "import sys, crawler.pool.transport, httpx;"
        "print('rich' in sys.modules, 'httpx._main' in sys.modules, file=sys.stderr);"
        "assert crawler.pool.transport.httpx is httpx;"
        "httpx.main(['--help'], standalone_mode=False);"
        "print('httpx._main' in sys.modules, file=sys.stderr)"
    )
    assert python(program) == ["False False", "True"]


def test_httpx_that_was_there_before_stays_as_it_was() -> None:
    program = (
        "import sys, httpx; main = httpx.main; import crawler.pool.transport;"
        "print(httpx.main is main, 'httpx._main' in sys.modules, file=sys.stderr)"
    )
    assert python(program) == ["True True"]
