"""`crawler export`: the items of a run as CSV, JSON or JSON lines.

Owns: which rows an export has, and that a file of it is there whole or not at all. Does
not own: formats (storage's `export`), where it goes (`files`).

Invariants: the run itself is only read, also while it goes on; what `crawler run -o` has
written in the end is what this writes.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from crawler.cli.files import check_folder, parse_sinks, refuse_existing
from crawler.cli.output import data_options
from crawler.cli.places import Place, db_option, locate, target_argument
from crawler.errors import UsageError, nearest
from crawler.wording import plural
from storage.export import write_parts
from storage.feed import replacing
from storage.reading import Reader

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TextIO

    from crawler.cli.files import Sink
    from crawler.cli.output import Form

__all__ = ["command"]


@click.command()
@target_argument
@db_option
@click.option(
    "-o",
    "--output",
    multiple=True,
    metavar="FILE|TABLE=FILE|-",
    help="Where to; default: stdout, as JSON lines.",
)
@click.option("--table", metavar="NAME", help="Item table, when there is more than one.")
@data_options
@click.option("--latest", is_flag=True, help="The newest row of each key, over all runs.")
@click.option("-O", "--overwrite", is_flag=True, help="Replace files that are there.")
def command(
    target: str | None,
    db: str | None,
    output: tuple[str, ...],
    table: str | None,
    form: Form | None,
    latest: bool,
    overwrite: bool,
) -> None:
    """Write the items of a run, without private columns, in the order they were stored.

    A spider or a database means its latest run. The form follows the ending of FILE
    (.csv, .json, .jsonl) unless it is said. JSON takes the items of all tables, one table
    after another; CSV takes those of one. Works while the run goes on.
    """
    sinks = parse_sinks(output or ("-",), form=form, table=table)
    place = locate(target, db)
    for sink in sinks:
        if sink.file is not None:
            check_folder(sink.file, place.file)
            if not overwrite:
                refuse_existing(sink.file, sink.form, can_append=False)
    for sink in sinks:
        _export(place, sink, latest=latest)


def _export(place: Place, sink: Sink, *, latest: bool) -> None:
    """Write a run's items to a file or to stdout; say how many on stderr."""
    with Reader(place.file) as reader:
        tables = [] if sink.form == "csv" or sink.table else _filled(reader, place.run)
        if len(tables) < 2:
            tables = [_the_table(reader, place.run, sink.table)]
        parts = [reader.items(table, run=place.run, latest=latest) for table in tables]
        with _opened(sink.file) as stream:
            written = write_parts(parts, stream, sink.form)
    source = "all runs" if latest else place.run
    click.echo(f"{plural(written, 'row')} of {', '.join(tables)} from {source}", err=True)


def _the_table(reader: Reader, run: str | None, wanted: str | None) -> str:
    """The table that is wanted, or the only one with items of the run; raises UsageError."""
    tables = reader.tables()
    if wanted is not None:
        known = {table.lower(): table for table in tables}
        if wanted.lower() not in known:
            best = nearest(wanted, tables)
            there = f"there is: {', '.join(tables)}" if tables else "no items are stored yet"
            raise UsageError(
                f"no item table `{wanted}`", hint=f"did you mean `{best}`?" if best else there
            )
        return known[wanted.lower()]
    filled = _filled(reader, run)
    if len(filled) > 1:
        raise UsageError(
            f"{run} has items in {len(filled)} tables: {', '.join(filled)}",
            hint=f"say which one: --table {filled[0]}; JSON lines take them all",
        )
    if not filled and len(tables) != 1:
        raise UsageError(f"{run} has no items", hint="`crawler report` tells what happened")
    return filled[0] if filled else tables[0]


def _filled(reader: Reader, run: str | None) -> list[str]:
    """The item tables that hold items of a run, oldest first."""
    return [table for table in reader.tables() if any(reader.items(table, run=run)[1])]


@contextmanager
def _opened(file: Path | None) -> Iterator[TextIO]:
    """Stdout, or a file that is there whole or not at all; what is a link stays one."""
    if file is None:
        yield sys.stdout
        return
    path = Path(os.path.realpath(file))
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with (
            replacing(path, partial) as descriptor,
            open(descriptor, "w", encoding="utf-8", newline="", closefd=False) as stream,
        ):
            yield stream
    except OSError as error:
        raise UsageError(
            f"{file} cannot be written: {error.strerror}", hint="name another place: -o FILE"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
