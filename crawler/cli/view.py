"""A part of the terminal that is drawn again and again while other output scrolls above it.

Owns: the terminal while the view is up: its cursor, its size, the order of what is written.
Does not own: what is drawn (`screen`), when (`watching`, `status`), how others' output is
taken (`above`).

Invariants: what others write comes out whole, in order and above the view; however the
block ends, the cursor is shown again and the streams are what they were; a terminal that
takes no output (Ctrl-S, gone) stops the drawing and never the crawl.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from typing import TYPE_CHECKING, Literal, Self

from crawler.cli.above import Diverted
from crawler.cli.screen import one_line, screen
from crawler.cli.table import cells, text_of
from crawler.cli.voice import in_ascii, speaks_unicode

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import TextIO

    from crawler.cli.table import Line
    from crawler.live import Live

__all__ = ["Form", "View", "form_of", "is_coloured", "styled"]

Form = Literal["full", "lines", "off"]
"""The whole screen; lines of a log; nothing."""
LEAST_COLUMNS = 60
LEAST_ROWS = 10
"""A smaller terminal gets one line."""
ROOM_ROWS = 3
"""Rows that are left to what scrolls above."""
FLUSH_S = 0.1
"""Other output is written at most this often, and with every drawing."""
MOST_PENDING = 1 << 20
"""Letters of other output that are held for a terminal that takes none."""
SGR = {"dim": "2", "bold": "1", "good": "32", "warn": "33", "bad": "31", "cool": "36"}
HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"
NO_WRAP, WRAP = "\x1b[?7l", "\x1b[?7h"


def form_of(stream: TextIO, asked: str | None, environ: Mapping[str, str]) -> Form:
    """How a crawl is shown on a stream: `asked` is full, line, off or None (find out)."""
    if asked == "off":
        return "off"
    if asked == "line" or not stream.isatty() or environ.get("TERM", "dumb") == "dumb":
        return "lines"
    if asked == "full":
        return "full"
    return "lines" if environ.get("CI") else "full"


def is_coloured(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether styles may be written to the stream."""
    is_dumb = environ.get("TERM", "dumb") == "dumb"
    return stream.isatty() and not is_dumb and not environ.get("NO_COLOR")


def styled(line: Line) -> str:
    """A line with its styles as a terminal takes them."""
    return "".join(
        f"\x1b[{SGR[span.style]}m{span.text}\x1b[0m" if span.style else span.text for span in line
    )


class View:
    """Use `with View(sys.stderr, …) as view`, and `view.show(live)` now and then."""

    def __init__(self, stream: TextIO, *, is_plain: bool = False, hint: str = "") -> None:
        """`is_plain`: no colours."""
        self._stream = stream
        self._is_plain = is_plain
        self._is_ascii = not speaks_unicode(stream)
        self.hint = hint
        """Stands at the right of the first line."""
        self._lock = threading.RLock()
        self._live: Live | None = None
        self._frame = ""
        self._widths: list[int] = []
        """Cells of each line of the frame."""
        self._is_drawn = False
        self._pending: list[str] = []
        self._flushed_at = 0.0
        self._drawn = 0
        self._is_up = False
        self._is_gone = False
        self._diverted = Diverted(stream, self.write, self.close)

    def __repr__(self) -> str:
        return f"<View {'up' if self._is_up else 'down'} {self._drawn} drawn>"

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        """Take the streams. Idempotent."""
        if not self._is_up:
            self._is_up = True
            self._diverted.take()

    def close(self) -> None:
        """Wipe the view off, write what was held back, give everything back. Idempotent."""
        with self._lock:
            if not self._is_up:
                return
            self._diverted.give_back()
            self._is_up = False
            self._put(self._erased() + self._taken())

    def suspend(self) -> None:
        """Stop the process, as Ctrl-Z is meant to; go on when it is woken."""
        self.close()
        os.kill(os.getpid(), signal.SIGSTOP)
        self.open()
        self.redraw()

    def show(self, live: Live) -> None:
        """Draw a session as it is now."""
        self._live = live
        self.redraw()

    def redraw(self) -> None:
        """Draw the last session again, in the terminal's present size."""
        with self._lock:
            if self._is_up and self._live is not None and self._takes_output():
                before = self._erased() + self._taken() if self._pending else self._upwards()
                self._compose(self._live)
                self._put(before + self._frame)
                self._is_drawn = True
                self._drawn += 1

    def write(self, text: str) -> None:
        """Write whole lines above the view."""
        with self._lock:
            self._pending.append(text)
            if time.monotonic() - self._flushed_at < FLUSH_S:
                if sum(map(len, self._pending)) < MOST_PENDING:
                    return
            elif not self._takes_output() and self._is_in_front():
                return
            is_drawn = self._is_drawn
            self._put(self._erased() + self._taken() + (self._frame if is_drawn else ""))
            self._is_drawn = is_drawn

    def stats(self) -> int:
        """How often it was drawn."""
        return self._drawn

    # -- drawing ------------------------------------------------------------------------

    def _compose(self, live: Live) -> None:
        columns, rows = self._size()
        if columns < LEAST_COLUMNS or rows < LEAST_ROWS:
            lines: Sequence[Line] = [one_line(live, columns)]
        else:
            room = ROOM_ROWS if rows >= 2 * LEAST_ROWS else 1
            lines = screen(live, columns, rows - room, hint=self.hint)
        texts = [text_of(line) if self._is_plain else styled(line) for line in lines]
        body = "\x1b[K\r\n".join(texts)
        if self._is_ascii:
            body = in_ascii(body)
        self._widths = [cells(text_of(line)) for line in lines]
        # At the end the cursor stands where the terminal's ^C or ^Z cannot wrap a full line.
        self._frame = f"{HIDE}{NO_WRAP}{body}\x1b[K\x1b[J\r{WRAP}"

    def _upwards(self) -> str:
        """To where the drawn lines begin; a terminal that was made narrower has wrapped
        them."""
        if not self._is_drawn:
            return ""
        columns, rows = self._size()
        up = min(sum(max(1, -(-width // columns)) for width in self._widths), rows) - 1
        return f"\r\x1b[{up}A" if up else "\r"

    def _erased(self) -> str:
        """The drawing goes, the cursor stands at its beginning and is seen."""
        erased = f"{self._upwards()}\x1b[J{SHOW}" if self._is_drawn else ""
        self._is_drawn = False
        return erased

    def _taken(self) -> str:
        text = "".join(self._pending)
        self._pending.clear()
        self._flushed_at = time.monotonic()
        return text

    def _size(self) -> tuple[int, int]:
        try:
            columns, rows = os.get_terminal_size(self._stream.fileno())
        except (OSError, ValueError):
            columns = rows = 0
        return columns or 80, rows or 24

    def _is_in_front(self) -> bool:
        """Of the jobs of its terminal it is the one in the foreground."""
        try:
            return os.tcgetpgrp(self._stream.fileno()) == os.getpgrp()
        except (OSError, ValueError):
            return True  # no terminal of ours: a recorder's

    def _takes_output(self) -> bool:
        """It is there, in the foreground, and nobody has stopped its output."""
        if self._is_gone:
            return False
        if not self._is_in_front():
            self._is_drawn = False  # others have written since
            return False
        try:
            return bool(select.select([], [self._stream.fileno()], [], 0)[1])
        except (OSError, ValueError):
            return True

    def _put(self, text: str) -> None:
        if not text or self._is_gone:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            self._is_gone = True
