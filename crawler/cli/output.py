"""Rows on their way out: tables for people; JSON lines, JSON and CSV by storage's export.

Invariants: only tables are made safe for terminals, JSON holds the data unchanged; no
rows are collected except for a table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from crawler.wording import printable
from storage.export import write_rows as write_data

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import TextIO

__all__ = ["FORMS", "Form", "write_rows"]

Form = Literal["table", "json", "jsonl", "csv"]
FORMS: dict[str, Form] = {".csv": "csv", ".json": "json", ".jsonl": "jsonl"}
"""File endings and what they mean."""


def write_rows(
    stream: TextIO, columns: Sequence[str], rows: Iterable[Sequence[Any]], form: Form
) -> int:
    """Write rows in a form; the number of rows."""
    if form == "table":
        return _table(stream, columns, rows)
    return write_data(columns, rows, stream, form)


def _table(stream: TextIO, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> int:
    cells = [[_cell(value) for value in row] for row in rows]
    heads = [printable(name) for name in columns]
    for n, column in enumerate(zip(heads, *cells, strict=True)):
        width = max(map(len, column))
        is_number = all(map(_is_number, column[1:])) and len(column) > 1
        pad = str.rjust if is_number else str.ljust
        heads[n] = pad(heads[n], width)
        for row in cells:
            row[n] = pad(row[n], width)
    for line in (heads, ["-" * len(head) for head in heads], *cells):
        stream.write("  ".join(line).rstrip() + "\n")
    return len(cells)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.hex()
    return printable(value) if isinstance(value, str) else str(value)


def _is_number(text: str) -> bool:
    return not text or text.removeprefix("-").replace(".", "", 1).isdigit()
