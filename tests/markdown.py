"""Markdown as the documents here use it: fenced blocks, tables, headings, links.

Owns: which documents there are, taking one apart, writing a table. Does not own: what the
parts mean (`tests.test_docs`), or what a page says (`tests.reference`).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

__all__ = [
    "DOCUMENTS",
    "ROOT",
    "Block",
    "anchors",
    "blocks",
    "code",
    "name_of",
    "prose",
    "row",
    "table",
    "tables",
]

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_CODE = re.compile(r"`([^`\n]+)`")
_ROWS = re.compile(r"^\|.*\|$(?:\n\|.*\|$)+", re.MULTILINE)
_CELLS = re.compile(r"(?<!\\)\|")


def name_of(document: Path) -> str:
    """What tests call a document: README.md, how-to/cron.md."""
    return str(document.relative_to(ROOT)).removeprefix("docs/")


class Block(NamedTuple):
    """A fenced block."""

    kind: str
    """console, python, sh, …"""
    line: int
    text: str


def blocks(document: Path) -> list[Block]:
    """The fenced blocks, in order."""
    text = document.read_text("utf-8")
    return [
        Block(found[1], text.count("\n", 0, found.start()) + 1, found[2])
        for found in _FENCE.finditer(text)
    ]


def prose(document: Path) -> str:
    """All but the fenced blocks."""
    return _FENCE.sub("", document.read_text("utf-8"))


def code(text: str) -> list[str]:
    """What stands in backticks, in order; a table's `\\|` is a `|`."""
    return [found.replace("\\|", "|") for found in _CODE.findall(text)]


def anchors(document: Path) -> set[str]:
    """What `#` links may lead to."""
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in _HEADING.findall(prose(document))
    }


def tables(document: Path) -> Iterator[list[list[str]]]:
    """Each table as rows of cells, its heads first, without the line below them."""
    for found in _ROWS.finditer(prose(document)):
        lines = [_CELLS.split(line)[1:-1] for line in found[0].splitlines()]
        yield [[cell.strip() for cell in line] for line in (lines[0], *lines[2:])]


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table and an empty line; none without rows."""
    lines = [row(line) for line in rows]
    return "".join([row(columns), "|---" * len(columns), "|\n", *lines, "\n"]) if lines else ""


def row(cells: Sequence[str]) -> str:
    """A line of a table."""
    told = (cell.replace("|", "\\|").replace("\n", " ") for cell in cells)
    return f"| {' | '.join(told)} |\n"
