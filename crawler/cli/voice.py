"""What commands say on stderr: text for people, or one JSON object a line.

Owns: the form of a line, the lines of loggers. Does not own: what is said.

Invariants: with the form json every line is an object with `at`, `level`, `event` and
`text`; text from the web reaches neither a terminal nor a log unescaped; a logging set-up
of the user's own is left as it is.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import textwrap
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import click

from crawler.wording import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import TextIO

__all__ = [
    *("BLOCKS", "LogFormat", "folded", "in_ascii", "json_line", "log_format", "logged", "say"),
    *("speak", "speaks_unicode", "stderr_width", "tell_error"),
]

LogFormat = Literal["text", "json"]
BLOCKS = "▁▂▃▄▅▆▇"
_OURS = str.maketrans(f"{BLOCKS}·…×−–—", "_.-=+*#|~x---")
"""Letters of ours that an old terminal lacks, by others of the same width."""
_KEY = "crawler.log_format"
_LABEL = re.compile(r" *(?:\w+ {2,})?")
_COPIED = ("Next: ", "      crawler ")
"""How lines begin that are copied as they are."""


def speak(form: LogFormat) -> None:
    """Choose the form of all that the present command says."""
    click.get_current_context().meta[_KEY] = form


def log_format() -> LogFormat:
    """The form that was chosen; text where nobody did."""
    context = click.get_current_context(silent=True)
    return context.meta.get(_KEY, "text") if context is not None else "text"


def say(
    text: str, *, event: str = "note", level: str = "info", wraps: bool = False, **facts: Any
) -> None:
    """Write to stderr: the text, or an object with the text and the facts.

    `wraps`: a terminal gets its lines broken between words.
    """
    width = stderr_width() if wraps and log_format() == "text" else None
    _write(log_format(), folded(text, width) if width else text, event, level, facts)


def stderr_width() -> int | None:
    """Columns of the terminal that stderr is; None: it is none."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (OSError, ValueError, AttributeError):
        return None


def folded(text: str, width: int) -> str:
    """Long lines go on below what stands behind their label; commands stay whole."""
    lines = []
    for line in text.split("\n"):
        if len(line) > width and not line.startswith(_COPIED):
            label = _LABEL.match(line)
            indent = " " * (label.end() if label else 0) or "  "
            line = textwrap.fill(
                line,
                width,
                subsequent_indent=indent,
                break_long_words=False,
                break_on_hyphens=False,
            )
        lines.append(line)
    return "\n".join(lines)


def speaks_unicode(stream: TextIO) -> bool:
    """Whether the stream can write the letters that we use, and LC_ALL does not forbid it."""
    if os.environ.get("LC_ALL") in ("C", "POSIX"):
        return False
    try:
        f"{BLOCKS}·…×−".encode(getattr(stream, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def in_ascii(text: str) -> str:
    """Our letters by those that look like them, any other by a question mark."""
    return text.translate(_OURS).encode("ascii", "replace").decode()


def tell_error(
    message: str,
    *,
    hint: str | None = None,
    frames: Iterable[str] = (),
    form: LogFormat | None = None,
    event: str = "error",
    **facts: Any,
) -> None:
    """Write an error: its lines `error:`, `frames` and `hint:`, or an object with the facts.

    `form` None: the one that was chosen.
    """
    form = form or log_format()
    if form == "text":
        lines = [f"error: {message}", *frames, *([f"  hint: {hint}"] if hint else [])]
        message = "\n".join(map(printable, lines))
    _write(form, message, event, "error", {"hint": hint or "", **facts})


def json_line(text: str, *, event: str, level: str = "info", **facts: Any) -> str:
    """One object, in ASCII."""
    at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    line = {"at": at, "level": level, "event": event, "text": text, **facts}
    return json.dumps(line, default=str)


def _write(form: LogFormat, text: str, event: str, level: str, facts: dict[str, Any]) -> None:
    if form == "json":
        text = json_line(text, event=event, level=level, **facts)
    elif not speaks_unicode(sys.stderr):
        text = in_ascii(text)
    click.echo(text, err=True)


# -- loggers ---------------------------------------------------------------------------------


@contextmanager
def logged() -> Iterator[None]:
    """While the block runs, loggers speak in the command's form; those of a program that has
    set its logging up itself do as they did."""
    root = logging.getLogger()
    if root.handlers:
        yield
        return
    handler = _Said(log_format())
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)


class _Said(logging.Handler):
    """Warnings and worse, as lines; other threads' too, which have no command of theirs."""

    def __init__(self, form: LogFormat) -> None:
        super().__init__(logging.WARNING)
        self._form = form

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._emit(record)
        except Exception:
            self.handleError(record)

    def _emit(self, record: logging.LogRecord) -> None:
        level, message = record.levelname.lower(), record.getMessage()
        trace = logging.Formatter().formatException(record.exc_info) if record.exc_info else ""
        facts = {"logger": record.name, **({"detail": trace} if trace else {})}
        if self._form == "text":
            lines = [f"{level}: {printable(message)}", *map(printable, trace.splitlines())]
            message = "\n".join(lines)
        _write(self._form, message, "log", level, facts)
