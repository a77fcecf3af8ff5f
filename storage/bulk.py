"""Statements over many rows at once: one multi-row VALUES, one answer row.

Owns: the text of the VALUES, its padding, and the cutting into statements. Every step of
a statement hands over the interpreter lock, and beside a busy event loop each hand-over
may cost a switch interval: so no `executemany`, no row-by-row fetch.

Invariants: a statement holds at most 1,024 rows and 32,000 parameters; row counts are
padded to powers of two with NULL rows, so that a few texts serve and stay prepared.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence

__all__ = ["read", "read_one", "write"]

Row = tuple[Any, ...]

MAX_ROWS = 1_024
MAX_PARAMETERS = 32_000


def write(connection: sqlite3.Connection, sql: str, rows: Sequence[Row]) -> None:
    """Run `sql`, its `:rows` standing for `rows` as a subquery (column1, column2, …).

    NULL rows may follow the given ones: `sql` leaves out those whose first column is NULL.
    """
    for text, parameters in _statements(sql, rows):
        connection.execute(text, parameters)


def read(connection: sqlite3.Connection, sql: str, rows: Sequence[Row]) -> list[Any]:
    """As `write`, for a SELECT of one JSON array: the arrays, joined."""
    found: list[Any] = []
    for text, parameters in _statements(sql, rows):
        found += msgspec.json.decode(connection.execute(text, parameters).fetchone()[0])
    return found


def read_one(connection: sqlite3.Connection, sql: str, parameters: Sequence[Any] = ()) -> Any:
    """The JSON value that a SELECT answers in its only row and column."""
    return msgspec.json.decode(connection.execute(sql, parameters).fetchone()[0])


def _statements(sql: str, rows: Sequence[Row]) -> Iterator[tuple[str, list[Any]]]:
    if not rows:
        return
    width = len(rows[0])
    most = min(MAX_ROWS, 1 << ((MAX_PARAMETERS // width).bit_length() - 1))
    for start in range(0, len(rows), most):
        part = rows[start : start + most]
        padded = 1 << (len(part) - 1).bit_length()
        parameters = list(chain.from_iterable(part))
        parameters += [None] * ((padded - len(part)) * width)
        yield _text(sql, padded, width), parameters


@lru_cache(maxsize=512)
def _text(sql: str, rows: int, width: int) -> str:
    row = f"({','.join('?' * width)})"
    return sql.replace(":rows", f"(VALUES {','.join([row] * rows)})")
