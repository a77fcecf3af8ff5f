"""What a start costs: help imports nothing that crawls."""

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
