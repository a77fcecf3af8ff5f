"""Item rows as JSON Lines, CSV or one JSON array, written to a text stream.

Owns: the formats. Does not own: which rows (`reading`), or the file.

Invariants: one row is in memory at a time; a text that a spreadsheet would run as a
formula gets an apostrophe in CSV; bytes are base64 in JSON, and so in CSV.
"""

from __future__ import annotations

import base64
import csv
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import TextIO

    from storage.reading import Reader
    from storage.records import Scalar

__all__ = ["FORMATS", "export", "write_rows"]

FORMATS = ("jsonl", "csv", "json")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def export(
    reader: Reader,
    table: str,
    stream: TextIO,
    form: str,
    *,
    run: str | None = None,
    private: bool = False,
) -> int:
    """Write an item table, of one run or (None) of all; the number of rows written.

    Columns that start with `_` are left out unless `private`. Raises StorageError when
    there is no such table, ValueError when `form` is none of FORMATS.
    """
    columns, rows = reader.items(table, run=run, private=private)
    return write_rows(columns, rows, stream, form)


def write_rows(
    columns: Sequence[str], rows: Iterable[Sequence[Scalar]], stream: TextIO, form: str
) -> int:
    """Write rows in one of FORMATS; the number of rows written."""
    if form not in FORMATS:
        raise ValueError(f"{form!r} is none of {', '.join(FORMATS)}")
    writers = {"jsonl": _write_jsonl, "csv": _write_csv, "json": _write_json}
    return writers[form](columns, rows, stream)


def _write_jsonl(columns: Sequence[str], rows: Iterable[Sequence[Scalar]], stream: TextIO) -> int:
    written = 0
    for row in rows:
        stream.write(_json(columns, row) + "\n")
        written += 1
    return written


def _write_json(columns: Sequence[str], rows: Iterable[Sequence[Scalar]], stream: TextIO) -> int:
    written = 0
    stream.write("[")
    for row in rows:
        stream.write((",\n " if written else "\n ") + _json(columns, row))
        written += 1
    stream.write("\n]\n" if written else "]\n")
    return written


def _write_csv(columns: Sequence[str], rows: Iterable[Sequence[Scalar]], stream: TextIO) -> int:
    written = 0
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([_cell(name) for name in columns])
    for row in rows:
        writer.writerow([_cell(value) for value in row])
        written += 1
    return written


def _json(columns: Sequence[str], row: Sequence[Scalar]) -> str:
    return msgspec.json.encode(dict(zip(columns, row, strict=True))).decode()


def _cell(value: Scalar) -> Scalar:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value
