"""`crawler sql`: a query over a database, read-only, also while a crawl writes it.

Owns: the list of names that can be asked for, and what is said of a wrong query. Does not
own: running it (storage's `reading`), how its rows look (`output`).

Invariants: one statement that only reads; without a query a person gets the names and a
query for each, a program gets an error.
"""

from __future__ import annotations

import re
import sqlite3
import sys
from typing import TYPE_CHECKING

import click

from crawler.cli.output import output_options, write_rows
from crawler.cli.places import db_option, locate, target_argument
from crawler.commands import command as command_of
from crawler.errors import UsageError, nearest
from storage import StorageError
from storage.reading import Reader

if TYPE_CHECKING:
    from crawler.cli.output import Form

__all__ = ["command"]

_SCHEMA = (
    "SELECT m.name, m.type, group_concat(c.name, ', ') AS columns FROM sqlite_master m,"
    " pragma_table_info(m.name) c WHERE m.type = 'view'"
    " OR m.name IN (SELECT name FROM item_table) GROUP BY m.name ORDER BY m.type, m.name"
)
_SAMPLES = {
    "runs": "select id, state, ended_by from runs",
    "requests": "select url, reason from requests where state = 'failed'",
    "fetches": "select url, status, error, total_s from fetches limit 20",
    "domains": "select domain, state, queued from domains limit 20",
    "v_errors": "select code, sum(count) as n from v_errors group by 1",
    "v_drops": "select reason, sum(count) as n from v_drops group by 1",
}
"""A query to begin with, by name; others are shown by their first rows."""
_MISSING = re.compile(r"no such (?P<kind>table|column): (?P<name>.+)").search
_MISTAKES = (sqlite3.OperationalError, sqlite3.ProgrammingError, sqlite3.Warning)
"""Beside these only what is not allowed is the query's fault: SQLite's own authorizer."""


@click.command()
@click.argument("query", required=False)
@target_argument
@db_option
@click.option("--schema", is_flag=True, help="The public names and their columns; no QUERY.")
@output_options
def command(
    query: str | None, target: str | None, db: str | None, schema: bool, form: Form
) -> None:
    """Run one SELECT over a database and print its rows.

    Without a QUERY, on a terminal: what can be asked, with a query for each name.
    """
    if query is not None and schema:
        raise UsageError("a query and --schema exclude each other", hint="give one of them")
    is_guide = query is None and not schema
    if is_guide and not sys.stdout.isatty():
        raise UsageError(
            "a query is needed", hint='for example: `crawler sql "select * from runs"`'
        )
    if query is not None and len(query.split()) == 1:
        _check_is_sql(query, target)
    with Reader(locate(target, db).file) as reader:
        try:
            columns, rows = reader.query(_SCHEMA if query is None else query)
        except StorageError as error:
            if isinstance(error.__cause__, _MISTAKES) or "read-only" in str(error):
                raise _mistake(error, query or "", reader) from error
            raise
    if is_guide:
        columns = ["name", "try: crawler sql"]
        rows = [(name, f'"{_SAMPLES.get(name, _first_rows(name))}"') for name, *_ in rows]
    elif not columns:
        raise UsageError("that is no query: it has no rows", hint="only SELECT works")
    write_rows(sys.stdout, columns, rows, form)
    if is_guide:
        click.echo("columns: crawler sql --schema", err=True)


def _check_is_sql(word: str, after: str | None) -> None:
    """Raise UsageError for a spider, a run or a file where the query belongs."""
    try:
        file = locate(word).file
    except UsageError:
        return
    query = after if after and " " in after else "select * from runs"
    hint = f"`{command_of('sql', query, '--db', str(file))}`"
    raise UsageError(f"`{word}` is no query", hint=hint)


def _first_rows(name: str) -> str:
    plain = name.isidentifier() and name.isascii()
    return f"select * from {name if plain else f'[{name}]'} limit 5"


def _mistake(error: StorageError, query: str, reader: Reader) -> UsageError:
    """What is wrong with the query, with the nearest name of the schema, or why the file has
    fewer columns than the documentation."""
    message = str(error)
    hint = error.hint or "`crawler sql --schema` lists the names"
    if len(query.split()) == 1:
        hint = '`crawler sql "select * from runs"`, or name a run behind the query'
    if "one statement" in message:
        hint = "give each its own `crawler sql`"
    if reader.is_older and "no such column: " in message:
        hint = "the file was written by an older version: the next `crawler run` upgrades it"
    elif missing := _MISSING(message):
        _, rows = reader.query(_SCHEMA)
        names = [str(name) for name, *_ in rows]
        if missing["kind"] == "column":
            asked = [columns for name, _, columns in rows if name in query]
            names = ", ".join(asked or [columns for *_, columns in rows]).split(", ")
        best = nearest(missing["name"].rpartition(".")[2], names)
        hint = f"did you mean `{best}`?" if best else hint
    return UsageError(message, hint=hint)
