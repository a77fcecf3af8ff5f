"""Rows of a database as the parts that tell of a run read them.

Owns: what such a part needs of storage, the form in which it gets its rows. Does not own:
any question.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Record", "Source", "has_view", "pairs", "records"]

Record = dict[str, Any]
"""One row by its columns."""


class Source(Protocol):
    """Storage's read side."""

    def query(
        self, sql: str, parameters: Sequence[Any] = ()
    ) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
        """Column names and rows of one SELECT."""
        ...


def records(source: Source, sql: str, *parameters: Any) -> list[Record]:
    """The rows of a SELECT by their columns."""
    columns, rows = source.query(sql, parameters)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def pairs(source: Source, sql: str, *parameters: Any) -> tuple[tuple[Any, Any], ...]:
    """The rows of a SELECT of two columns."""
    return tuple((first, second) for first, second in source.query(sql, parameters)[1])


def has_view(source: Source, name: str) -> bool:
    """False in a file of an older version, which lacks some."""
    return bool(source.query("SELECT 1 FROM sqlite_master WHERE name = ?", (name,))[1])
