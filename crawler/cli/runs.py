"""`crawler runs`: the runs in a database."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from crawler.cli.output import output_options, write_rows
from crawler.cli.places import db_option, locate, target_argument
from crawler.wording import duration
from storage.reading import Reader

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crawler.cli.output import Form

__all__ = ["command"]

_COLUMNS = ("id", "state", "started_at", "seconds", "done", "failed", "queued", "items", "ended_by")


@click.command()
@target_argument
@db_option
@output_options
def command(target: str | None, db: str | None, form: Form) -> None:
    """List the runs in a database, latest first.

    The table shows some columns in words; the other forms have all of v_runs.
    """
    place = locate(target, db)
    columns = ", ".join(_COLUMNS) if form == "table" else "*"
    with Reader(place.file) as reader:
        names, rows = reader.query(f"SELECT {columns} FROM v_runs ORDER BY started_at DESC, id")
        if not reader.is_in_use:
            rows = [_dead(names, row) for row in rows]
    if form != "table":
        write_rows(sys.stdout, names, rows, form)
        return
    click.echo(f"{place.file}:", err=True)
    write_rows(
        sys.stdout, names, [_told(dict(zip(names, row, strict=True))) for row in rows], "table"
    )


def _dead(names: Sequence[str], row: Sequence[object]) -> tuple[object, ...]:
    """A row of a database that nobody has open: a run that says it runs has crashed."""
    if row[names.index("state")] != "running":
        return tuple(row)
    marks = {"state": "interrupted", "ended_by": "crash"}
    return tuple(marks.get(name, value) for name, value in zip(names, row, strict=True))


def _told(run: dict[str, object]) -> list[object]:
    started = datetime.fromtimestamp(float(str(run["started_at"])), UTC)
    run["started_at"] = started.strftime("%Y-%m-%d %H:%M:%S")
    run["seconds"] = duration(float(str(run["seconds"])))
    return list(run.values())
