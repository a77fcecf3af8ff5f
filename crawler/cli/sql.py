"""`crawler sql`: a query over a database, read-only, also while a crawl writes it."""

from __future__ import annotations

import sqlite3
import sys

import click

from crawler.cli.output import Form, write_rows
from crawler.cli.places import db_option, locate, target_argument
from crawler.errors import UsageError, nearest
from storage import StorageError
from storage.reading import Reader

__all__ = ["command"]

_SCHEMA = (
    "SELECT m.name, m.type, group_concat(c.name, ', ') AS columns FROM sqlite_master m,"
    " pragma_table_info(m.name) c WHERE m.type = 'view'"
    " OR m.name IN (SELECT name FROM item_table) GROUP BY m.name ORDER BY m.type, m.name"
)


@click.command()
@click.argument("query", required=False)
@target_argument
@db_option
@click.option("--schema", is_flag=True, help="The public names and their columns; no QUERY.")
@click.option("--csv", "form", flag_value="csv", help="As CSV.")
@click.option("--json", "form", flag_value="json", help="As JSON.")
@click.option("--jsonl", "form", flag_value="jsonl", help="As JSON lines.")
def command(
    query: str | None, target: str | None, db: str | None, schema: bool, form: Form | None
) -> None:
    """Run one SELECT over a database and print its rows."""
    if (query is None) is not schema:
        raise UsageError(
            "a query or --schema is needed, not both" if schema else "a query is needed",
            hint='for example: `crawler sql "select * from v_runs"`',
        )
    with Reader(locate(target, db).file) as reader:
        try:
            columns, rows = reader.query(query or _SCHEMA)
        except StorageError as error:
            if isinstance(error.__cause__, sqlite3.OperationalError | sqlite3.ProgrammingError):
                raise _mistake(error, reader) from error
            raise
    write_rows(sys.stdout, columns, rows, form or "table")


def _mistake(error: StorageError, reader: Reader) -> UsageError:
    """What is wrong with the query, with the nearest name of a table, or why the file has
    fewer columns than the documentation."""
    message = str(error)
    hint = error.hint
    if reader.is_older and "no such column: " in message:
        hint = "the file was written by an older version: the next `crawler run` upgrades it"
    if "no such table: " in message:
        _, rows = reader.query(_SCHEMA)
        best = nearest(message.rpartition(": ")[2], [str(row[0]) for row in rows])
        hint = f"did you mean `{best}`?" if best else "`crawler sql --schema` lists the names"
    return UsageError(message, hint=hint)
