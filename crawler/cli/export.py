"""`crawler export`: the items of a run as CSV, JSON or JSON lines."""

from __future__ import annotations

import os
import shlex
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from crawler.cli.output import FORMS, Form, write_rows
from crawler.cli.places import Place, db_option, locate, target_argument
from crawler.errors import UsageError, nearest
from crawler.wording import plural
from storage.reading import Reader

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TextIO

__all__ = ["command", "export_result", "export_run", "form_of"]


@click.command()
@target_argument
@db_option
@click.option("-o", "--output", metavar="FILE", help="Where to; default: stdout, as JSON lines.")
@click.option("--table", metavar="NAME", help="Item table, when there is more than one.")
@click.option("--csv", "form", flag_value="csv", help="As CSV.")
@click.option("--json", "form", flag_value="json", help="As one JSON array.")
@click.option("--jsonl", "form", flag_value="jsonl", help="As JSON lines.")
@click.option("--overwrite", is_flag=True, help="Replace FILE when it is there.")
def command(
    target: str | None,
    db: str | None,
    output: str | None,
    table: str | None,
    form: Form | None,
    overwrite: bool,
) -> None:
    """Write the items of a run, without private columns, in the order they were stored.

    A spider or a database means its latest run. The form follows the ending of FILE
    (.csv, .json, .jsonl) unless it is said.
    """
    file = None if output in (None, "-") else Path(str(output))
    form = form or form_of(file, "end it in .csv, .json or .jsonl, or add --csv")
    if file is not None and file.exists() and not overwrite:
        raise UsageError(f"{file} is there already", hint="--overwrite replaces it")
    export_run(locate(target, db), file, form=form, table=table)


def export_run(
    place: Place, file: Path | None, *, form: Form | None = None, table: str | None = None
) -> None:
    """Write a run's items to a file, or to stdout (None); say how many on stderr.

    `form` None: by the file's ending. `table` None: the only one that has items.
    Raises UsageError where it is unclear which table or form is meant.
    """
    form = form or form_of(file)
    with Reader(place.file) as reader:
        chosen = the_table(reader, place.run, table)
        written = export_items(reader, place.run, chosen, file, form)
    click.echo(f"{plural(written, 'row')} of {chosen} from {place.run}", err=True)


def export_result(place: Place, file: Path) -> None:
    """Write the items of a run that has just ended, and say so on stderr.

    Without items the file is empty. Items in several tables are no mistake of the run's:
    the commands that export them are told instead. Raises UsageError when the file cannot
    be written.
    """
    with Reader(place.file) as reader:
        filled = [table for table in reader.tables() if _has_items(reader, table, place.run)]
        if len(filled) == 1:
            written = export_items(reader, place.run, filled[0], file, form_of(file))
            click.echo(f"{plural(written, 'row')} of {filled[0]} in {file}", err=True)
        elif filled:
            _tell_tables(place, file, filled)
        else:
            _write_empty(file)
            click.echo(f"{file} is empty: {place.run} has no items", err=True)


def _tell_tables(place: Place, file: Path, tables: list[str]) -> None:
    click.echo(
        f"{file} is not written: {place.run} has items in {len(tables)} tables."
        " Each goes to a file of its own:",
        err=True,
    )
    for table in tables:
        own = file.with_name(f"{file.stem}-{table}{file.suffix}")
        words = ["crawler", "export", str(place.run), "--db", str(place.file)]
        click.echo("  " + shlex.join([*words, "--table", table, "-o", str(own)]), err=True)


def _write_empty(file: Path) -> None:
    with _opened(file) as stream:
        if form_of(file) == "json":
            write_rows(stream, (), (), "json")


def export_items(reader: Reader, run: str | None, table: str, file: Path | None, form: Form) -> int:
    """Write a run's items of a table to a file (None: stdout); the number of rows.

    The file is there whole or not at all. Raises UsageError when it cannot be written.
    """
    columns, rows = reader.items(table, run=run)
    with _opened(file) as stream:
        return write_rows(stream, columns, rows, form)


def form_of(file: Path | None, hint: str = "end it in .csv, .json or .jsonl") -> Form:
    """The form that a file's ending says; stdout (None) gets JSON lines.

    Raises UsageError, with this hint, for another ending.
    """
    if file is None:
        return "jsonl"
    if file.suffix not in FORMS:
        raise UsageError(f"{file} does not say its form", hint=hint)
    return FORMS[file.suffix]


def the_table(reader: Reader, run: str | None, wanted: str | None = None) -> str:
    """The table that is wanted, or the only one with items of the run; raises UsageError."""
    tables = reader.tables()
    if wanted is not None:
        if wanted not in tables:
            best = nearest(wanted, tables)
            there = f"there is: {', '.join(tables)}" if tables else "no items are stored yet"
            raise UsageError(
                f"no item table `{wanted}`", hint=f"did you mean `{best}`?" if best else there
            )
        return wanted
    filled = [table for table in tables if _has_items(reader, table, run)]
    if len(filled) > 1:
        raise UsageError(
            f"{run} has items in {len(filled)} tables: {', '.join(filled)}",
            hint=f"say which one: --table {filled[0]}",
        )
    if not filled and len(tables) != 1:
        raise UsageError(f"{run} has no items", hint="`crawler report` tells what happened")
    return filled[0] if filled else tables[0]


def _has_items(reader: Reader, table: str, run: str | None) -> bool:
    _, rows = reader.items(table, run=run, private=True)
    return next(rows, None) is not None


@contextmanager
def _opened(file: Path | None) -> Iterator[TextIO]:
    """Stdout, or a file that is there whole or not at all."""
    if file is None:
        yield sys.stdout
        return
    partial = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        with partial.open("x", encoding="utf-8", newline="") as stream:
            yield stream
        partial.replace(file)
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)
