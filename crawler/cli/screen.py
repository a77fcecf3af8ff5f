"""What a running crawl looks like on a screen, as lines: the live view, `status`, USR1.

Owns: what is said about runs, pools and the machine, and which part gives way first where
it is narrow. Does not own: the table of domains (`table`), the terminal (`view`).

Invariants: pure; no line is wider than asked for and no screen higher; what is unknown is
left out and never told as 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crawler.cli.table import (
    Line,
    Part,
    Span,
    brief,
    cells,
    clipped,
    domain_table,
    fitted,
    safe,
    text_of,
)
from crawler.cli.voice import BLOCKS, in_ascii
from crawler.wording import count, plural, share, size

if TYPE_CHECKING:
    from collections.abc import Iterable

    from crawler.live import Live, RunLive

__all__ = ["one_line", "plain", "screen", "table"]

LABEL = 9
"""Cells of the word that a line begins with."""
TOO_EARLY_S = 2.0
"""Seconds of a run in which no page says nothing about its rate."""
LEAST_CELLS = 3
"""Of a spark line; fewer show nothing."""
STATES = {"running": "good", "paused": "warn", "stopping": "warn"}
IMMINENT = (
    *("ok", "waiting", "in-line", "robots", "throttled", "unreachable", "failing"),
    *("paused", "stopping", "idle"),
)
"""States in the order in which the last line counts them."""


def screen(live: Live, width: int, height: int, *, hint: str = "") -> list[Line]:
    """A session in at most `height` lines of at most `width` cells; `hint` stands in the
    first one, at its right."""
    lines = [_head(live, width, hint)]
    if len(live.runs) == 1:
        lines += [_pages(live.runs[0], width), _queue(live.runs[0], width)]
    else:
        lines += [_run(run, width) for run in live.runs]
    lines += [_pools(live, width), _machine(live, width)]
    if live.shortage:
        lines.append(fitted([_label("short"), _part(live.shortage, "bad")], width, gap=""))
    if live.domains and height - len(lines) >= 4:
        lines += [[], *table(live, width, height - len(lines) - 1)]
    return lines[:height]


def table(live: Live, width: int, height: int) -> list[Line]:
    """The domains, a head above them and a line about those for whom there is no room."""
    fit = max(0, height - 1)
    if live.domains_total > fit:
        fit -= 1
    shown = live.domains[:fit]
    lines = domain_table(shown, width)
    left = live.domains_total - len(shown)
    if left > 0:
        states = dict(live.states)
        for domain in shown:
            states[domain.state] = states.get(domain.state, 0) - 1
        order = sorted(states, key=lambda state: (state not in IMMINENT, _place(state)))
        told = ", ".join(f"{count(states[s])} {safe(s)}" for s in order if states[s] > 0)
        lines.append(fitted([_part(f"… {count(left)} more: {told}", "dim")], width))
    return lines


def _place(state: str) -> int:
    return IMMINENT.index(state) if state in IMMINENT else 0


def one_line(live: Live, width: int) -> Line:
    """A session in one line, for a terminal that has no room for more."""
    line: list[Part] = []
    for run in live.runs:
        line += [
            _part(run.run, "bold"),
            _part(_clock(run.seconds), rank=3),
            _part(plural(run.pages_before + run.pages, "page"), rank=0 if not line else 1),
            _part(_rate(run), rank=1),
            _part(plural(run.items, "item"), rank=2),
            _part(f"{count(run.queued)} queued", rank=2),
            _part(f"{count(run.failed)} failed" if run.failed else "", "warn", rank=2),
            _part(_ends_in(run), rank=4),
        ]
    worst = _worst(live)
    return fitted([*line, _part(worst, "warn", rank=3)], width)


def plain(lines: Iterable[Line], *, ascii_only: bool = False) -> str:
    """Lines as text without styles."""
    text = "\n".join(text_of(line).rstrip() for line in lines)
    return in_ascii(text) if ascii_only else text


# -- lines ---------------------------------------------------------------------------------


def _part(text: str, style: str = "", *, rank: int = 0) -> Part:
    """Text from anywhere; an empty one takes no room."""
    return Part([Span(safe(text), style)] if text else [], rank)


def _label(word: str) -> Part:
    return Part([Span(word.ljust(LABEL), "dim")])


def _labelled(word: str, parts: Iterable[Part], width: int, gap: str = "   ") -> Line:
    room = max(1, width - LABEL)
    return clipped([Span(word.ljust(LABEL), "dim"), *fitted(parts, room, gap=gap)], width)


def _head(live: Live, width: int, hint: str) -> Line:
    runs = live.runs
    names = runs[0].run if len(runs) == 1 else plural(len(runs), "run")
    states = {run.state for run in runs} or {"ended"}
    state = states.pop() if len(states) == 1 else "running"
    longest = max((run.seconds for run in runs), default=0.0)
    left = fitted(
        [
            _part(names, "bold"),
            _part(live.database, rank=1),
            Part([Span(state, STATES.get(state, "")), Span(f" {_clock(longest)}")]),
        ],
        width,
    )
    hint, room = safe(hint), width - cells(text_of(left)) - 3
    if not hint or room < cells(hint):
        return left
    return [*left, Span(" " * (room + 3 - cells(hint))), Span(hint, "dim")]


def _pages(run: RunLive, width: int) -> Line:
    pages = run.pages_before + run.pages
    failed = f"{count(run.failed)} ({share(run.failed / max(1, run.failed + pages))})"
    return _labelled(
        "pages",
        [
            Part([Span(count(pages), "bold"), *_limit(run)]),
            _part(_rate(run), "bold"),
            _spark(run.spark, 4),
            _named("items", count(run.items)),
            _named("", f"{run.item_rate:.1f}/s" if _rate(run) else "", rank=5),
            _named("failed", failed, "warn") if run.failed else _named("failed", "0", rank=3),
            _named("errors", count(run.errors) if run.errors else "", "bad", rank=1),
            _named("retries", count(run.retries) if run.retries else "", rank=2),
            _named("waiting", count(run.waiting) if run.waiting else "", rank=3),
        ],
        width,
    )


def _rate(run: RunLive) -> str:
    """Pages a second; empty: it has only begun."""
    return f"{run.rate:.1f}/s" if run.rate or run.seconds >= TOO_EARLY_S else ""


def _limit(run: RunLive) -> Line:
    return [] if run.limit is None else [Span(f" (limit {count(run.limit)})", "dim")]


def _queue(run: RunLive, width: int) -> Line:
    net = "" if run.net is None else f"net {run.net:+.1f}/s".replace("-", "−")
    return _labelled(
        "queue",
        [
            Part([Span(count(run.queued), "bold")]),
            _part(net, rank=3),
            Part([Span(_ends_in(run), "bold")] if _ends_in(run) else [], 1),
            _part(run.ends_by, rank=2) if run.ends_in_s is not None else _part(run.ends_by),
        ],
        width,
    )


def _ends_in(run: RunLive) -> str:
    return "" if run.ends_in_s is None else f"about {_roughly(run.ends_in_s)} left"


def _run(run: RunLive, width: int) -> Line:
    return fitted(
        [
            _part(run.run, "bold"),
            _part(run.state, STATES.get(run.state, ""), rank=5),
            _part(plural(run.pages_before + run.pages, "page")),
            _part(_rate(run), "bold"),
            _spark(run.spark[-8:], 6),
            _part(plural(run.items, "item"), rank=3),
            _part(f"{count(run.failed)} failed" if run.failed else "", "warn", rank=1),
            _part(f"{count(run.queued)} queued", rank=2),
            _part(_ends_in(run), rank=4),
        ],
        width,
    )


def _pools(live: Live, width: int) -> Line:
    evicted, sockets = live.evictions_per_minute, plural(live.sockets_limit, "socket")
    return _labelled(
        "pools",
        [
            _part(f"{count(live.clients)} of {plural(live.clients_limit, 'client')}"),
            _part(f"{count(live.open_connections)} of {sockets}", rank=2),
            _part(f"{count(live.idle_connections)} idle", rank=3),
            _part(f"reuse {share(live.reuse)}"),
            _part(f"{evicted:.0f} evicted/min" if evicted >= 0.5 else "", rank=1),
            _part(f"{count(live.on_wire)} of {count(live.concurrency)} on the wire", rank=4),
        ],
        width,
        " · ",
    )


def _machine(live: Live, width: int) -> Line:
    behind = f"{live.behind_s:.1f}s behind" if live.behind_s >= 0.05 else ""
    files = ""
    if live.descriptors is not None:
        files = f"files {count(live.descriptors)} of {count(live.descriptors_limit)}"
    return _labelled(
        "machine",
        [
            _part("" if live.memory is None else f"memory {size(live.memory)}"),
            _part(f"database {size(live.database_bytes)}"),
            _part(behind, rank=2),
            _part(f"cpu {live.cpu * 100:.0f}%"),
            _part(files, rank=1),
            _part(f"{count(live.unfinished)} unfinished" if live.unfinished else "", rank=3),
        ],
        width,
        " · ",
    )


def _named(name: str, text: str, style: str = "", *, rank: int = 0) -> Part:
    if not text:
        return Part([], rank)
    before = [Span(f"{name} ", "dim")] if name else []
    return Part([*before, Span(text, style)], rank)


def _spark(rates: tuple[float, ...], rank: int) -> Part:
    """A letter a cell, as high as the cell's rate among the others."""
    if len(rates) < LEAST_CELLS:
        return Part([], rank)
    most = max(rates) or 1.0
    text = "".join(BLOCKS[min(6, int(7 * max(rate, 0.0) / most))] for rate in rates)
    return Part([Span(text, "cool")], rank)


def _clock(seconds: float) -> str:
    """`04:09`, `1:12:40`: it stays as wide while it counts."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"


def _roughly(seconds: float) -> str:
    """`40s`, `35m`, `2h04m`: an estimate is not told to the second."""
    return f"{round(seconds / 60)}m" if 100 <= seconds < 3_570 else brief(max(seconds, 1.0))


def _worst(live: Live) -> str:
    if live.shortage:
        return live.shortage
    for domain in live.domains:
        if domain.problem and domain.state in ("throttled", "unreachable", "failing"):
            return f"{domain.domain}:{domain.problem}"
    return ""
