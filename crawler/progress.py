"""What a crawl says while it goes on: its first line, and one line of progress.

Owns: the form of both, and how often the line is written. Does not own: the figures (the
engine makes the snapshots), or the summary at the end (`report`).

Invariants: a progress line is written at most twice a second on a terminal and every 10 s
elsewhere; text from the web never reaches a terminal unescaped.
"""

from __future__ import annotations

import os
import shutil
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from crawler.wording import count, duration, plural, printable, share

if TYPE_CHECKING:
    from typing import TextIO

    from crawler.result import Snapshot

__all__ = ["Progress", "ProgressStats", "first_line", "in_words", "logfmt"]

TERMINAL_EVERY_S = 0.5
LOG_EVERY_S = 10.0
RATE_OVER_S = 10.0
"""The pages per second are those of this long, not of the whole run."""


@dataclass(frozen=True, slots=True)
class ProgressStats:
    """Counters of a progress line."""

    shown: int
    skipped: int


class _Line:
    """One run's line: when it is due, what it says, and the pages its rate is made of."""

    __slots__ = ("began_at", "due_at", "samples", "seen_at", "text")

    def __init__(self, now: float, first_after: float) -> None:
        self.began_at = now
        self.seen_at = now
        self.due_at = now + first_after
        self.text = ""
        self.samples: deque[tuple[float, int]] = deque()

    def rate(self, delivered: int, now: float) -> float:
        self.samples.append((now, delivered))
        while len(self.samples) > 2 and self.samples[1][0] <= now - RATE_OVER_S:
            self.samples.popleft()
        since, before = self.samples[0]
        return (delivered - before) / (now - since) if now > since else 0.0


class Progress:
    """The line that tells how a crawl goes, rewritten in place on a terminal.

    Runs that go on side by side share the terminal's line; a log has a line for each.
    """

    def __init__(self, stream: TextIO, *, is_terminal: bool | None = None) -> None:
        """None: ask the stream; TERM=dumb is no terminal."""
        self._stream = stream
        if is_terminal is None:
            is_terminal = stream.isatty() and os.environ.get("TERM") != "dumb"
        self._is_terminal = is_terminal
        self._every_s = TERMINAL_EVERY_S if is_terminal else LOG_EVERY_S
        self._lines: dict[str, _Line] = {}
        self._is_drawn = False
        self._shown = 0
        self._skipped = 0

    def __repr__(self) -> str:
        where = "terminal" if self._is_terminal else "log"
        return f"<Progress {where} shown={self._shown} skipped={self._skipped}>"

    def show(self, snapshot: Snapshot, now: float) -> None:
        """Write the snapshot, unless its run's last one is too recent; `now` is monotonic.

        The first call starts the run's clock; a log gets its first line 10 s later.
        """
        line = self._lines.get(snapshot.run)
        if line is None:
            line = _Line(now, 0.0 if self._is_terminal else LOG_EVERY_S)
            line.rate(snapshot.delivered, now)
            self._lines[snapshot.run] = line
        line.seen_at = now
        if now < line.due_at:
            self._skipped += 1
            return
        line.due_at = now + self._every_s
        self._shown += 1
        form = in_words if self._is_terminal else logfmt
        line.text = form(snapshot, now - line.began_at, line.rate(snapshot.delivered, now))
        if self._is_terminal:
            self._draw(now)
        else:
            self._stream.write(line.text + "\n")
        self._stream.flush()

    def clear(self) -> None:
        """Take the line off the terminal, before something else is written."""
        if self._is_drawn:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._is_drawn = False

    def stats(self) -> ProgressStats:
        """How many snapshots were shown and how many came too soon."""
        return ProgressStats(self._shown, self._skipped)

    def _draw(self, now: float) -> None:
        running = [line for line in self._lines.values() if line.seen_at > now - RATE_OVER_S]
        width = shutil.get_terminal_size().columns - 1
        text = printable(" | ".join(line.text for line in running), width)
        self._stream.write(f"\r{text}\x1b[K")
        self._is_drawn = True


def in_words(snapshot: Snapshot, seconds: float, rate: float) -> str:
    """A snapshot for a person: `seconds` since the session began, `rate` in pages/s."""
    parts = [
        f"{snapshot.run} {duration(seconds)}",
        f"{plural(snapshot.delivered, 'page')} {rate:.1f}/s",
        plural(snapshot.items, "item"),
        f"{count(snapshot.queued)} queued",
        f"{count(snapshot.failed)} failed" if snapshot.failed else "",
        f"{snapshot.on_wire} on the wire, {plural(snapshot.domains, 'domain')}",
        f"reuse {share(snapshot.reuse)}",
        snapshot.worst or "",
    ]
    return "  ".join(part for part in parts if part)


def logfmt(snapshot: Snapshot, seconds: float, rate: float) -> str:
    """A snapshot for a log file: `key=value` pairs in one line."""
    pairs = {
        "run": snapshot.run,
        "seconds": f"{seconds:.0f}",
        "pages": snapshot.delivered,
        "rate": f"{rate:.1f}",
        "items": snapshot.items,
        "queued": snapshot.queued,
        "failed": snapshot.failed,
        "retries": snapshot.retries,
        "on_wire": snapshot.on_wire,
        "domains": snapshot.domains,
        "clients": snapshot.clients,
        "reuse": f"{snapshot.reuse:.3f}",
        "worst": snapshot.worst or "",
    }
    return "crawl " + " ".join(f"{k}={_quoted(str(v))}" for k, v in pairs.items() if v != "")


def _quoted(value: str) -> str:
    text = printable(value)
    if not any(char in text for char in ' "='):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def first_line(
    *,
    run: str,
    database: str,
    delay: float | Literal["auto"],
    concurrency: int,
    domains: int = 1,
    done: int = 0,
    queued: int = 0,
    goes_on: bool = False,
) -> str:
    """What a crawl says before its first request: where it stands and how fast it will be.

    `delay` (seconds, or auto) and `concurrency` are those in effect for the `domains` that
    the start URLs name; `done` and `queued` are told when it goes on with a run.
    """
    begins = f"{run} begins in {database}"
    if goes_on:
        begins = (
            f"{run} goes on in {database} ({plural(done, 'page')} done, {count(queued)} queued)"
        )
    where = f" on {count(domains)} domains" if domains > 1 else ""
    if delay == "auto":
        rate = f"{0.5 * domains:g} to {4 * domains:g} pages/s{where}"
        change = "domain.delay=auto; `-s domain.delay=1` fixes a pause of 1 s"
    elif delay > 0:
        rate = f"at most {domains / delay:.3g} pages/s{where}"
        change = f"domain.delay={delay:g}; `-s domain.delay={delay / 2:g}` doubles it"
    else:
        rate = f"no pause, up to {concurrency} requests at once per domain"
        change = "domain.delay=0; `-s domain.concurrency=N` bounds it"
    return printable(f"{begins}. Expected: {rate} ({change}).")
