"""What commands say on stderr: text for people, or one JSON object a line.

Owns: the form of a line, the lines of loggers. Does not own: what is said.

Invariants: with the form json every line is an object with `at`, `level`, `event` and
`text`; text from the web reaches neither a terminal nor a log unescaped; a logging set-up
of the user's own is left as it is.
"""

from __future__ import annotations

import json
import logging
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import click

from crawler.wording import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["LogFormat", "json_line", "log_format", "logged", "say", "speak"]

LogFormat = Literal["text", "json"]
_KEY = "crawler.log_format"


def speak(form: LogFormat) -> None:
    """Choose the form of all that the present command says."""
    click.get_current_context().meta[_KEY] = form


def log_format() -> LogFormat:
    """The form that was chosen; text where nobody did."""
    context = click.get_current_context(silent=True)
    return context.meta.get(_KEY, "text") if context is not None else "text"


def say(text: str, *, event: str = "note", level: str = "info", **facts: Any) -> None:
    """Write to stderr: the text, or an object with the text and the facts."""
    _write(log_format(), text, event, level, facts)


def json_line(text: str, *, event: str, level: str = "info", **facts: Any) -> str:
    """One object, in ASCII."""
    at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    line = {"at": at, "level": level, "event": event, "text": text, **facts}
    return json.dumps(line, default=str)


def _write(form: LogFormat, text: str, event: str, level: str, facts: dict[str, Any]) -> None:
    if form == "json":
        text = json_line(text, event=event, level=level, **facts)
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
