"""Rows on their way out: tables for people; JSON lines, JSON and CSV by storage's export.

Owns: the flags by which a form is chosen, tables and how they fit a terminal. Does not
own: the other forms (storage's `export`).

Invariants: only tables are made safe for terminals and cut, the other forms hold the data
unchanged; a line of a table is never wider than the terminal, and is whole where stdout is
none; no rows are collected except for a table; no column is lost to another of its name.
"""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from crawler.cli.table import cells, cut
from crawler.errors import UsageError
from crawler.wording import printable
from storage.export import write_rows as write_data

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import TextIO

__all__ = [
    "FORMS",
    "Form",
    "data_options",
    "form_option",
    "output_options",
    "way_of",
    "write_rows",
]

Form = Literal["table", "json", "jsonl", "csv"]
Command = TypeVar("Command", bound="Callable[..., object]")
WAYS: dict[str, Form] = {"--csv": "csv", "--json": "json", "--nl": "jsonl", "--table": "table"}
"""The flags that choose a form."""
FORMS: dict[str, Form] = {".csv": "csv", ".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl"}
"""File endings and what they mean."""
GAP = 2
"""Cells between two columns."""
LEAST = 16
"""Cells that a column keeps before lines are cut at the end."""
_NUMBER = re.compile(r"-?\d[\d,]*(\.\d+)?(e[+-]?\d+)?").fullmatch


def form_option(
    *ways: str, meaning: str, default: Form | None = None
) -> Callable[[Command], Command]:
    """A flag of WAYS that chooses the parameter `form`; without any it is the default.

    Raises UsageError where another one is given too.
    """
    form = WAYS[ways[0]]

    def choose(context: click.Context, _option: click.Parameter, is_given: bool) -> None:
        chosen: Form | None = context.params.setdefault("form", form if is_given else default)
        if is_given and chosen and chosen != form:
            other = way_of(chosen)
            raise UsageError(f"{other} and {ways[0]} exclude each other", hint="give one of them")

    return click.option(*ways, is_flag=True, expose_value=False, callback=choose, help=meaning)


def data_options(command: Command, default: Form | None = None) -> Command:
    """The options `--csv`, `--json` and `--nl` (or `--jsonl`), as `form`; None: none given."""
    for ways, meaning in (
        (("--csv",), "As CSV."),
        (("--nl", "--jsonl"), "As JSON lines, one object a row."),
        (("--json",), "As one JSON array."),
    ):
        command = form_option(*ways, meaning=meaning, default=default)(command)
    return command


def output_options(command: Command) -> Command:
    """As `data_options`, and `--table`, which is also what `form` is when none is given."""
    table = form_option("--table", meaning="As a table (default).", default="table")
    return table(data_options(command, "table"))


def way_of(form: Form) -> str:
    """The flag that chooses a form."""
    return next(way for way, each in WAYS.items() if each == form)


def write_rows(
    stream: TextIO, columns: Sequence[str], rows: Iterable[Sequence[Any]], form: Form
) -> int:
    """Write rows in a form; the number of rows.

    A table that goes to a terminal is cut to its width. Of several columns with one name
    the later ones get a number, `id_2`.
    """
    if form == "table":
        return _table(stream, columns, rows)
    return write_data(_distinct(columns), rows, stream, form)


def _distinct(columns: Sequence[str]) -> list[str]:
    names: list[str] = []
    for column in columns:
        name, n = column, 1
        while name in names:
            n += 1
            name = f"{column}_{n}"
        names.append(name)
    return names


def _table(stream: TextIO, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> int:
    body = [[_cell(value) for value in row] for row in rows]
    heads = [printable(name) for name in columns]
    each = list(zip(heads, *body, strict=True))
    are_numbers = [_are_numbers(column[1:]) for column in each]
    widths = [max(map(cells, column)) for column in each]
    limit = shutil.get_terminal_size((80, 24)).columns if stream.isatty() else None
    if limit is not None:
        widths = _fitted(widths, are_numbers, limit)
    for line in (heads, ["-" * width for width in widths], *body):
        padded = [
            _padded(text, width, is_number)
            for text, width, is_number in zip(line, widths, are_numbers, strict=True)
        ]
        whole = (" " * GAP).join(padded).rstrip()
        stream.write((whole if limit is None else cut(whole, limit)) + "\n")
    return len(body)


def _fitted(widths: list[int], are_numbers: list[bool], limit: int) -> list[int]:
    """Widths that fit: the widest columns give way to one bound, numbers last."""
    widths = [min(width, limit) for width in widths]
    over = sum(widths) + GAP * (len(widths) - 1) - limit
    for kind in (False, True):
        bound = max((w for w, n in zip(widths, are_numbers, strict=True) if n is kind), default=0)
        while over > 0 and bound > LEAST:
            bound -= 1
            fitted = [
                min(width, bound) if is_number is kind else width
                for width, is_number in zip(widths, are_numbers, strict=True)
            ]
            over -= sum(widths) - sum(fitted)
            widths = fitted
    return widths


def _padded(text: str, width: int, is_right: bool) -> str:
    shown = cut(text, width)
    blanks = " " * (width - cells(shown))
    return blanks + shown if is_right else shown + blanks


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.hex()
    return printable(value if isinstance(value, str) else str(value))


def _are_numbers(texts: Sequence[str]) -> bool:
    given = [text for text in texts if text]
    return bool(given) and all(map(_NUMBER, given))
