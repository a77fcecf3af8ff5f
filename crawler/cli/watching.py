"""Shows a session while it runs: a view, or lines now and then, and the table when asked.

Owns: which of these it is, how often it looks, the signals that belong to a terminal.
Does not own: the drawing (`view`), when a line is due (`progress`), the end of a run.

Invariant: however the block ends, the terminal is as it was.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import TYPE_CHECKING, Any, Self

from crawler.cli.screen import plain, table
from crawler.cli.view import View, form_of, is_coloured
from crawler.cli.voice import log_format, say, stderr_width
from crawler.live import encode
from crawler.progress import Progress
from crawler.wording import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from crawler.live import Live

__all__ = ["Watch", "say_table"]

TICK_S = 0.5
"""Seconds between two drawings."""
LINES_TICK_S = 1.0
"""Seconds between two looks for something to say."""
TABLE_COLUMNS = 120
"""Of the table that a signal asks for, where stderr is no terminal."""
TABLE_DOMAINS = 50
HINT = "Ctrl-C stops, nothing is lost"
STOPPING = "stopping: Ctrl-C again ends at once"


class Watch:
    """Use `with Watch(session.live, …) as watch`, inside the loop that the session runs on."""

    def __init__(self, look: Callable[[], Live], *, asked: str | None, is_quiet: bool) -> None:
        """`asked` is full, line, off or None: what fits the terminal."""
        form = form_of(sys.stderr, asked, os.environ)
        if is_quiet:
            form = "off"
        elif log_format() == "json" and form != "off":
            form = "lines"
        self._look = look
        self._loop = asyncio.get_running_loop()
        self._answered = 0
        self._is_quiet = is_quiet
        self._progress = Progress(self._loop.time()) if form == "lines" else None
        self._view = None
        if form == "full":
            is_plain = not is_coloured(sys.stderr, os.environ)
            self._view = View(sys.stderr, is_plain=is_plain, hint=HINT)

    def __repr__(self) -> str:
        return f"<Watch {self._view or self._progress or 'off'}>"

    def __enter__(self) -> Self:
        self._handle(signal.SIGUSR1, self.say_table)
        if self._view is not None:
            self._view.open()
            self._handle(signal.SIGWINCH, self._view.redraw)
            self._handle(signal.SIGTSTP, self._view.suspend)
        return self

    def __exit__(self, *_: object) -> None:
        for number in (signal.SIGUSR1, signal.SIGWINCH, signal.SIGTSTP):
            self._loop.remove_signal_handler(number)
        self.close()

    @property
    def has_view(self) -> bool:
        """Something is drawn: the cursor stands at its end."""
        return self._view is not None

    async def until(self, ends: Sequence[asyncio.Future[Any]]) -> None:
        """Show the session until all have ended."""
        every = TICK_S if self._view is not None else LINES_TICK_S
        while waiting := [end for end in ends if not end.done()]:
            self.look()
            await asyncio.wait(waiting, timeout=every, return_when=asyncio.FIRST_COMPLETED)
        if self._view is not None or self._progress is not None:
            self._tell_answers(self._look())

    def stopping(self) -> None:
        """From now on another signal ends the process at once: the view says so."""
        if self._view is not None:
            self._view.hint = STOPPING

    def look(self) -> None:
        """Draw, or say, how the session is now."""
        if self._view is None and self._progress is None:
            return
        live = self._look()
        self._tell_answers(live)
        if self._view is not None:
            self._view.show(live)
        elif self._progress is not None:
            for event, text, facts in self._progress.look(live, self._loop.time()):
                level = "warning" if event == "problem" else "info"
                say(text, event=event, level=level, wraps=True, **facts)

    def _tell_answers(self, live: Live) -> None:
        """What became of the steering commands that have come since."""
        for answer in live.answers:
            if answer.number > self._answered:
                self._answered = answer.number
                text, level = f"crawler set: {printable(answer.text)}", "info"
                if not answer.is_done:
                    text, level = f"warning: {text}", "warning"
                say(text, event="set", level=level, wraps=True, is_done=answer.is_done)

    def say_table(self) -> None:
        """All domains, in words."""
        say_table(self._look())
        self.flush()

    def flush(self) -> None:
        """What was said stands on the terminal."""
        if self._view is not None:
            self._view.redraw()

    def close(self) -> None:
        """Give the terminal back. Idempotent."""
        if self._view is not None:
            self._view.close()

    def _handle(self, number: signal.Signals, call: Callable[[], None]) -> None:
        self._loop.add_signal_handler(number, call)


def say_table(live: Live) -> None:
    """The domains of a session on stderr, as many as it has, up to 50."""
    import json

    text = plain(table(live, stderr_width() or TABLE_COLUMNS, TABLE_DOMAINS + 2))
    facts = {"live": json.loads(encode(live))} if log_format() == "json" else {}
    say(text, event="table", **facts)
