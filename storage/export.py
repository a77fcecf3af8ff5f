"""Rows as JSON Lines, CSV or one JSON array: the one place of these formats.

Owns: the bytes of a head, of rows, of what stands behind the last row. Does not own: which
rows (`reading`), nor files that grow (`feed`).

Invariants: a document is its head, its rows and its tail, so that rows can be put between
at any time; a text that a spreadsheet would run as a formula gets an apostrophe in CSV,
full-width signs and signs behind blanks included; cells with line ends, quotes, separators
of any country or blanks at an end are quoted; bytes are base64; what is no Unicode text (a
lone surrogate), and in CSV a NUL, becomes U+FFFD.
"""

from __future__ import annotations

import base64
import re
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import TextIO

__all__ = ["FORMATS", "body", "head", "tail", "write_parts", "write_rows"]

FORMATS = ("jsonl", "csv", "json")
ROWS = 256
"""Rows that `write_rows` has in memory at a time."""
_FORMULA = re.compile("[\\s\ufeff\u200b]*[=+\\-@＝＋－＠]|[\t\r\n]").match
_QUOTED = re.compile('[",;\t\r\n]|^\\s|\\s$').search
_encode = msgspec.json.Encoder().encode


def write_rows(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], stream: TextIO, form: str
) -> int:
    """Write a whole document; the number of rows. Raises ValueError for an unknown form."""
    return write_parts([(columns, rows)], stream, form)


def write_parts(
    parts: Iterable[tuple[Sequence[str], Iterable[Sequence[Any]]]], stream: TextIO, form: str
) -> int:
    """As `write_rows`, with rows of several kinds, one after another: for CSV of one kind."""
    written = 0
    for n, (columns, rows) in enumerate(parts):
        if n == 0:
            stream.write(head(columns, form).decode())
        each = iter(rows)
        while some := list(islice(each, ROWS)):
            stream.write(body(columns, some, form, is_first=not written).decode())
            written += len(some)
    stream.write(tail(form, is_empty=not written).decode())
    return written


def head(columns: Sequence[str], form: str) -> bytes:
    """What stands before the first row. Raises ValueError for an unknown form."""
    if form not in FORMATS:
        raise ValueError(f"{form!r} is none of {', '.join(FORMATS)}")
    if form == "csv":
        return _line(columns, len(columns)) if columns else b""
    return b"[" if form == "json" else b""


def body(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], form: str, *, is_first: bool = False
) -> bytes:
    """Rows; `is_first`: none stands before them. Values beyond the columns are left out."""
    if form == "csv":
        width = len(columns)
        return b"".join(_line(row, width) for row in rows)
    lines = [_object(columns, row) for row in rows]
    if form == "jsonl":
        return b"".join(line + b"\n" for line in lines)
    return b"".join((b"\n " if is_first and not n else b",\n ") + o for n, o in enumerate(lines))


def tail(form: str, *, is_empty: bool) -> bytes:
    """What stands behind the last row."""
    if form != "json":
        return b""
    return b"]\n" if is_empty else b"\n]\n"


def _object(columns: Sequence[str], row: Sequence[Any]) -> bytes:
    pairs = dict(zip(columns, row, strict=False))
    try:
        return _encode(pairs)
    except UnicodeEncodeError:
        return _encode({_text(name): _plain(value) for name, value in pairs.items()})


def _line(row: Sequence[Any], width: int) -> bytes:
    cells = [_cell(value) for value in row[:width]]
    line = ",".join(cells) or '""'  # one empty cell: an empty line would be no row
    try:
        return f"{line}\n".encode()
    except UnicodeEncodeError:
        return f"{_text(line)}\n".encode()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if not isinstance(value, str):
        return str(value)
    text = value.replace("\0", "\ufffd") if "\0" in value else value
    if _FORMULA(text):
        text = f"'{text}"
    return '"' + text.replace('"', '""') + '"' if _QUOTED(text) else text


def _plain(value: Any) -> Any:
    return _text(value) if isinstance(value, str) else value


def _text(text: str) -> str:
    """Text with U+FFFD for what UTF-8 cannot hold."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
