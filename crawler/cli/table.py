"""Rows of styled text of a bounded width: what the live view and its relatives are made of.

Owns: the width of text in cells, cutting, columns that give way in a decided order, the
table of domains. Does not own: the lines above the table (`screen`), a terminal (`view`).

Invariants: pure; a line is never wider than it may be, and what was cut ends in `…`;
text from the web is made printable before it becomes part of a line.
"""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, NamedTuple

from crawler.wording import count, printable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from crawler.live import DomainLive

__all__ = [
    "Line",
    "Part",
    "Span",
    "brief",
    "cells",
    "clipped",
    "domain_table",
    "fitted",
    "safe",
    "text_of",
]

GAP = 2
"""Cells between two columns."""
STYLES = {
    "ok": "good",
    "in-line": "cool",
    "robots": "cool",
    "throttled": "warn",
    "paused": "warn",
    "stopping": "warn",
    "unreachable": "bad",
    "failing": "bad",
    "idle": "dim",
}
"""Style by a domain's state; others have none."""
SQUEEZES: tuple[tuple[str, int], ...] = (
    ("last problem", 28),
    ("domain", 30),
    ("p50", 0),
    ("domain", 24),
    ("last problem", 18),
    ("2/3/4/5xx %", 0),
    ("last problem", 15),
    ("p95", 0),
    ("domain", 20),
    ("last problem", 12),
    ("active", 0),
    ("rate", 0),
    ("domain", 16),
    ("last problem", 0),
    ("queue", 0),
    ("state", 0),
    ("domain", 1),
)
"""How columns give way to a narrow terminal, first to last: to which width; 0: all of it."""


class Span(NamedTuple):
    """A piece of a line in one style."""

    text: str
    style: str = ""
    """dim, bold, good, warn, bad or cool; empty: as the terminal writes."""


Line = list[Span]


class Part(NamedTuple):
    """What a line says in one go, or leaves out where there is no room."""

    spans: Line
    rank: int = 0
    """Of the parts that do not fit the highest goes first; 0 never goes."""


class Column(NamedTuple):
    """One column of a table; `spans` has a cell for each row."""

    head: str
    spans: Line
    is_number: bool = False


# -- text in cells ---------------------------------------------------------------------------


def safe(text: str) -> str:
    """Foreign text as one line whose width can be told: printable, no combining marks."""
    line = printable(text)
    if line.isascii():
        return line
    return "".join(char for char in line if not unicodedata.category(char).startswith("M"))


def cells(text: str) -> int:
    """Terminal cells that a printable text takes; some letters take two."""
    if text.isascii():
        return len(text)
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def cut(text: str, width: int) -> str:
    """The text in at most `width` cells; what was cut off is told by `…`."""
    return text if cells(text) <= width else (_begin(text, width - 1) + "…")[:width]


def cut_inside(text: str, width: int) -> str:
    """The same for names, which differ at both ends: what is left out is their middle."""
    if cells(text) <= width:
        return text
    end = (width - 1) // 2
    return (_begin(text, width - 1 - end) + "…" + _begin(text[::-1], end)[::-1])[:width]


def _begin(text: str, width: int) -> str:
    """As much of the text as `width` cells take."""
    for place, char in enumerate(text):
        width -= cells(char)
        if width < 0:
            return text[:place]
    return text


def text_of(line: Line) -> str:
    """A line without its styles."""
    return "".join(span.text for span in line)


def brief(seconds: float) -> str:
    """A time in at most five cells or so: `140ms`, `1.9s`, `42s`, `5m12s`, `2h04m`."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 100:
        return f"{whole}s"
    if whole < 3_600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86_400:
        return f"{whole // 3_600}h{whole % 3_600 // 60:02d}m"
    return f"{whole // 86_400}d{whole % 86_400 // 3_600:02d}h"


# -- lines that fit --------------------------------------------------------------------------


def fitted(parts: Iterable[Part], width: int, *, gap: str = "  ") -> Line:
    """The parts as one line of at most `width` cells; the least important ones give way."""
    kept = [part for part in parts if part.spans]
    while _span(kept, gap) > width and any(part.rank for part in kept):
        least = max(kept, key=lambda part: part.rank)
        kept.remove(least)
    line: Line = []
    for part in kept:
        line += [Span(gap), *part.spans] if line else part.spans
    return clipped(line, width)


def clipped(line: Line, width: int) -> Line:
    """A line cut at `width` cells."""
    if sum(cells(span.text) for span in line) <= width:
        return line
    short: Line = []
    left = max(0, width - 1)
    for span in line:
        taken = cells(span.text)
        if taken > left:
            short.append(Span((_begin(span.text, left) + "…")[:width], span.style))
            break
        short.append(span)
        left -= taken
    return short


def _span(parts: Sequence[Part], gap: str) -> int:
    texts = sum(cells(span.text) for part in parts for span in part.spans)
    return texts + len(gap) * (len(parts) - 1)


# -- the table of domains --------------------------------------------------------------------


def domain_table(
    domains: Sequence[DomainLive], width: int, *, without: Collection[str] = ()
) -> list[Line]:
    """Head and a line for each domain; columns give way until it fits.

    `without` names columns that are left out from the start.
    """
    columns = [
        Column("domain", [Span(safe(each.domain)) for each in domains]),
        Column("state", [_state(each) for each in domains]),
        Column("queue", [Span(count(each.queued)) for each in domains], True),
        Column("active", [Span(f"{each.active}/{each.concurrency}") for each in domains], True),
        Column("rate", [_rate(each) for each in domains], True),
        Column("p50", [_latency(each.p50_s) for each in domains], True),
        Column("p95", [_latency(each.p95_s) for each in domains], True),
        Column("2/3/4/5xx %", [_classes(each) for each in domains]),
        Column("last problem", [_problem(each) for each in domains]),
    ]
    columns = [column for column in columns if column.head not in without]
    widths = _squeezed({column.head: _natural(column) for column in columns}, width)
    return _rows([column for column in columns if widths[column.head]], widths)


def _natural(column: Column) -> int:
    return max(cells(column.head), *(cells(span.text) for span in column.spans), 1)


def _squeezed(natural: dict[str, int], width: int) -> dict[str, int]:
    """Widths that fit; 0: the column is left out."""
    widths = dict(natural)
    for head, least in SQUEEZES:
        over = _total(widths) - width
        if over <= 0:
            break
        if head not in widths:
            continue
        if least == 0:
            widths[head] = 0
        else:
            widths[head] = min(widths[head], max(least, widths[head] - over))
    for head in ("last problem", "domain"):
        if widths[head]:
            spare = max(0, width - _total(widths))
            widths[head] = min(natural[head], widths[head] + spare)
    return widths


def _total(widths: dict[str, int]) -> int:
    kept = [width for width in widths.values() if width]
    return sum(kept) + GAP * (len(kept) - 1)


def _rows(columns: Sequence[Column], widths: dict[str, int]) -> list[Line]:
    heads = [Span(cut(column.head, widths[column.head]), "dim") for column in columns]
    lines = []
    for row in [heads, *zip(*(column.spans for column in columns), strict=True)]:
        line: Line = []
        for column, span in zip(columns, row, strict=True):
            width = widths[column.head]
            is_name = column.head == "domain"
            text = cut_inside(span.text, width) if is_name else _shortened(span.text, width)
            padding = " " * (width - cells(text))
            is_last = column is columns[-1]
            if column.is_number:
                text = padding + text
            elif not is_last:
                text += padding
            line.append(Span(text if is_last else text + " " * GAP, span.style))
        lines.append(line)
    return lines


def _shortened(text: str, width: int) -> str:
    """Cut; but a code keeps nothing of its explanation rather than a letter or two."""
    code, colon, _ = text.partition(": ")
    is_bare = bool(colon) and cells(text) > width >= cells(code) > width - 8
    return code if is_bare else cut(text, width)


def _state(domain: DomainLive) -> Span:
    wait_s = domain.wait_s or 0.0
    wait = brief(wait_s) if wait_s >= 9.95 else f"{wait_s:.1f}s"
    text = f"{domain.state} {wait}" if wait_s >= 0.05 else domain.state
    return Span(safe(text), STYLES.get(domain.state, ""))


def _rate(domain: DomainLive) -> Span:
    return Span(f"{domain.rate:.1f}") if domain.requests else Span("–", "dim")


def _latency(seconds: float | None) -> Span:
    return Span("–", "dim") if seconds is None else Span(brief(seconds))


def _classes(domain: DomainLive) -> Span:
    """Shares of the answers in per cent; what came at all is never told as 0."""
    counts = [domain.s2xx, domain.s3xx, domain.s4xx, domain.s5xx]
    total = sum(counts)
    if not total:
        return Span("–", "dim")
    shares = [max(1, round(100 * number / total)) if number else 0 for number in counts]
    shares[shares.index(max(shares))] += 100 - sum(shares)
    text = "/".join(map(str, shares))
    return Span(text, "warn" if shares[2] + shares[3] >= 10 else "")


def _problem(domain: DomainLive) -> Span:
    if not domain.problem:
        return Span("–", "dim")
    text = f"{domain.problem} ×{count(domain.problem_count)}"
    if domain.problem_text:
        text += f": {domain.problem_text}"
    style = STYLES.get(domain.state, "")
    return Span(safe(text), style if style in ("bad", "warn") else "")
