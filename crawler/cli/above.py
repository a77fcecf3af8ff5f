"""What others write while a view is up: whole lines, handed to who draws it.

Owns: what `sys.stderr`, `sys.stdout`, the handlers of loggers and `breakpoint()` are in the
meantime. Does not own: the drawing (`view`).

Invariants: what has no line's end yet waits for it; after `give_back` everything is what
it was before `take`.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TextIO

__all__ = ["Above", "Diverted"]

MOST_LETTERS = 1 << 20
"""Of a line that does not end."""


class Above(io.TextIOBase):
    """Stands for a stream on the view's terminal; `say` gets its whole lines."""

    def __init__(self, say: Callable[[str], None], real: TextIO) -> None:
        self._say = say
        self._real = real
        self._rest = ""

    def __repr__(self) -> str:
        return f"<Above {self._real!r}>"

    def write(self, text: str) -> int:
        """Hand whole lines on."""
        whole, newline, rest = (self._rest + text).rpartition("\n")
        self._rest = rest
        if newline or len(rest) > MOST_LETTERS:
            taken = whole + newline if newline else self.take_rest()
            self._say(taken.replace("\r\n", "\n").replace("\n", "\r\n"))
        return len(text)

    def take_rest(self) -> str:
        """What has come after the last line's end."""
        rest, self._rest = self._rest, ""
        return rest

    def flush(self) -> None:
        """What is no whole line yet waits for its end."""

    def isatty(self) -> bool:
        """As the stream that it stands for."""
        return True

    def writable(self) -> bool:
        """Yes."""
        return True

    def fileno(self) -> int:
        """Of the stream that it stands for."""
        return self._real.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Of the stream that it stands for."""
        return self._real.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        """Of the stream that it stands for."""
        return self._real.errors


class Diverted:
    """All that writes to the terminal of a view: `say` gets it instead, and `leave` is
    called when a debugger wants the terminal."""

    def __init__(
        self, stream: TextIO, say: Callable[[str], None], leave: Callable[[], None]
    ) -> None:
        self._stream = stream
        self._say = say
        self._leave = leave
        self._real: dict[str, TextIO] = {}
        self._above: dict[str, Above] = {}
        self._handlers: list[tuple[logging.StreamHandler[TextIO], TextIO]] = []
        self._debug = sys.breakpointhook

    def __repr__(self) -> str:
        return f"<Diverted {' '.join(self._above) or 'nothing'}>"

    def take(self) -> None:
        """Divert it."""
        for name in ("stderr", "stdout"):
            real = getattr(sys, name)
            if real is self._stream or _is_same_terminal(real, self._stream):
                self._real[name] = real
                self._above[name] = Above(self._say, real)
                setattr(sys, name, self._above[name])
        for handler in _handlers():
            for name, real in self._real.items():
                if handler.stream is real:
                    self._handlers.append((handler, real))
                    handler.setStream(cast("TextIO", self._above[name]))
        self._debug, sys.breakpointhook = sys.breakpointhook, self._stop_here

    def give_back(self) -> None:
        """Let everything write where it did."""
        for name, above in self._above.items():
            if getattr(sys, name) is above:
                setattr(sys, name, self._real[name])
            if rest := above.take_rest():
                self._say(rest + "\r\n")  # what is said next begins a line
        for handler, real in self._handlers:
            handler.setStream(real)
        sys.breakpointhook = self._debug
        self._handlers.clear()
        self._above.clear()

    def _stop_here(self, *given: Any, **options: Any) -> Any:
        """`breakpoint()` in a spider: the debugger has the terminal, the view is over."""
        self._leave()
        if self._debug is not sys.__breakpointhook__ or "PYTHONBREAKPOINT" in os.environ:
            return self._debug(*given, **options)
        import pdb

        return pdb.Pdb().set_trace(sys._getframe(1))


def _is_same_terminal(one: TextIO, other: TextIO) -> bool:
    try:
        return one.isatty() and os.path.sameopenfile(one.fileno(), other.fileno())
    except (OSError, ValueError, AttributeError):
        return False


def _handlers() -> list[logging.StreamHandler[TextIO]]:
    """Of all loggers, those that write to a stream."""
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    found = [each for logger in loggers for each in getattr(logger, "handlers", ())]
    return [each for each in dict.fromkeys(found) if isinstance(each, logging.StreamHandler)]
