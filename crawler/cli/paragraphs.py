"""Lines for a person: a label, then text that goes on below itself in a narrow terminal.

Owns: wrapping. Does not own: what is said, tables (`output`).

Invariants: text is made printable; into a file or a pipe a line goes whole; URLs and
commands are never cut in two by us.
"""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from typing import TYPE_CHECKING, NamedTuple

import click

from crawler.wording import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Line", "frames", "next_lines", "say"]

NARROWEST = 40


class Line(NamedTuple):
    """A label and what stands behind it."""

    label: str
    """With its blanks; further lines are indented by as much."""
    text: str = ""
    wraps: bool = True
    """False: commands and source, which are copied as they are."""


def say(lines: Iterable[Line]) -> None:
    """Write lines to stdout."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    for label, text, wraps in lines:
        shown = printable(text)
        if width and wraps and len(label) + len(shown) > width:
            shown = textwrap.fill(
                shown,
                max(width, NARROWEST),
                initial_indent=" " * len(label),
                subsequent_indent=" " * len(label),
                break_long_words=False,
                break_on_hyphens=False,
            ).lstrip()
        click.echo(f"{label}{shown}".rstrip())


def next_lines(commands: Sequence[str]) -> list[Line]:
    """The next commands, below each other."""
    return [
        Line("      " if number else "Next: ", one, False) for number, one in enumerate(commands)
    ]


def frames(detail: str | None) -> list[str]:
    """The lines of a traceback, files below the current folder by their path from there."""
    here = os.path.join(os.getcwd(), "")
    return (detail or "").rstrip().replace(f'File "{here}', 'File "').splitlines()
