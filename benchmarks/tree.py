"""A site of generated HTML, the same on every machine.

Owns: its pages and how they are linked. Does not own: serving them (`serving`).

Invariants: every page is reached from `index.html`; page N is the same text everywhere.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["write_tree"]

LINKS = 30
"""Links of a page beside those to its two children."""
PARAGRAPHS = 40
TEXT = (
    "index table query server row column value lock cache page buffer worker commit record "
    "schema trigger vacuum replica cursor function operator constraint transaction"
)


def write_tree(folder: Path, pages: int) -> None:
    """Fill `folder` with `pages` HTML files of about 13 KB, `index.html` the first."""
    for number in range(pages):
        folder.joinpath(_name(number)).write_text(_page(number, pages), encoding="utf-8")


def _name(number: int) -> str:
    return f"page-{number}.html" if number else "index.html"


def _page(number: int, pages: int) -> str:
    chance = random.Random(number)
    children = [child for child in (2 * number + 1, 2 * number + 2) if child < pages]
    targets = children + [chance.randrange(pages) for _ in range(LINKS)]
    words = TEXT.split()
    paragraphs = [" ".join(chance.choices(words, k=38)) for _ in range(PARAGRAPHS)]
    links = "\n".join(f'<li><a href="{_name(to)}">Page {to}</a></li>' for to in targets)
    text = "\n".join(f"<p>{text}.</p>" for text in paragraphs)
    return (
        f'<!doctype html>\n<html><head><meta charset="utf-8"><title>Page {number}</title></head>\n'
        f"<body><h1>Page {number}</h1>\n<ul>\n{links}\n</ul>\n{text}\n</body></html>\n"
    )
