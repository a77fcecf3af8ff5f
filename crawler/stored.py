"""What a run left in its database, for the code that ran it: items, and the summary.

Owns: reading them when they are asked for. Does not own: rows and views (storage), the
words of the summary (`report`).

Invariants: nothing is read before it is asked for; items are read once; the database is
open only while it is read.
"""

from __future__ import annotations

from typing import Any

from crawler.report import render, summarise
from storage.reading import Reader

__all__ = ["StoredRun"]


class StoredRun:
    """A run in a file."""

    def __init__(self, path: str, run: str) -> None:
        self._path = path
        self._run = run
        self._items: list[Any] | None = None

    def __repr__(self) -> str:
        return f"<StoredRun {self._run} in {self._path}>"

    def items(self) -> list[Any]:
        """Its items as dicts, table by table. Raises StorageError when the file is gone."""
        if self._items is None:
            with Reader(self._path) as reader:
                self._items = [
                    dict(zip(columns, row, strict=True))
                    for columns, rows in (
                        reader.items(table, run=self._run) for table in reader.tables()
                    )
                    for row in rows
                ]
        return self._items

    def report(self) -> str:
        """Its summary. Raises StorageError when the file is gone."""
        with Reader(self._path) as reader:
            return render(summarise(reader, self._run), self._path)
