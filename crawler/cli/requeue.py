"""`crawler requeue`: settled URLs of a run queued again, for the next `crawler run`.

Owns: which rows are meant, and what is said about them. Does not own: the change (storage).

Invariants: what a person typed is run on a connection that cannot write; pages that are
done are taken only where the expression names them; nothing is changed while a crawl has
the file.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import click

from crawler.cli.paragraphs import next_lines, say
from crawler.cli.places import db_option, locate, refuse_unknown, target_argument
from crawler.commands import run_again
from crawler.errors import UsageError, code_of, nearest
from crawler.wording import plural, printable
from storage import StorageError, queue_again
from storage.reading import Reader

if TYPE_CHECKING:
    from storage import RunRow

__all__ = ["command"]

_NAMES_DONE = re.compile(r"""(['"])done\1""", re.IGNORECASE)
_COLUMN = re.compile(r"no such column: (.+)")


class _Choice(NamedTuple):
    """Which rows are meant."""

    states: tuple[str, ...]
    condition: str
    """Over the columns of `requests`; `?` stand for `values`."""
    values: tuple[str, ...]
    run: str
    """How the run is compared: `+run` reads the rows as they lie, which is ten times as quick
    as by the index, but for the few of one domain."""


@click.command()
@target_argument
@db_option
@click.option("--where", metavar="SQL", help="Over the columns of the view `requests`.")
@click.option("--code", metavar="CODE", help="Failed or dropped for this reason, e.g. http-503.")
@click.option("--domain", metavar="HOST", help="Of this domain only.")
@click.option("--dry-run", is_flag=True, help="Only say what would be queued.")
def command(
    target: str | None,
    db: str | None,
    where: str | None,
    code: str | None,
    domain: str | None,
    dry_run: bool,
) -> None:
    """Queue URLs of a run again: what failed, or what the options name.

    The run is then interrupted, and the same `crawler run` goes on with it. Pages that are
    done are taken only where --where names them: --where "state = 'done'". Items that come
    again take the place of those that were there.
    """
    place = locate(target, db)
    if place.run is None:
        raise UsageError(f"{place.file} has no run yet", hint="`crawler run SPIDER`")
    choice = _choice(where, code, domain)
    with Reader(place.file) as reader:
        run = _latest(reader, place.run)
        rows = _rows(reader, place.run, choice)
        left = _done_left(reader, place.run, choice) if where else 0
        if not rows:
            _check(reader, place.run, code, domain)
    if not dry_run and rows:
        queue_again(place.file, place.run, [number for number, _, _ in rows])
    _say(run, str(place.file), Counter((state, why or "") for _, state, why in rows), dry_run)
    if left:
        pages = plural(left, "page that is done fits", "pages that are done fit")
        click.echo(f"{pages} too: `state = 'done'` in --where takes them", err=True)


def _choice(where: str | None, code: str | None, domain: str | None) -> _Choice:
    states = ["failed"]
    if where is not None or code is not None:
        states.append("dropped")
    if where is not None and _NAMES_DONE.search(where):
        states.append("done")
    parts = [f"({where}\n)"] if where is not None else []
    values = []
    for column, value in (("reason", code), ("domain", domain)):
        if value is not None:
            parts.append(f"{column} = ?")
            values.append(value)
    by = "run" if domain is not None else "+run"
    return _Choice(tuple(states), " AND ".join(parts) or "1", tuple(values), by)


def _rows(reader: Reader, run: str, choice: _Choice) -> list[tuple[int, str, str | None]]:
    marks = ", ".join("?" * len(choice.states))
    sql = (
        f"SELECT id, state, reason FROM requests WHERE {choice.run} = ? AND state IN ({marks})"
        f" AND {choice.condition}"
    )
    try:
        return [
            (n, s, r) for n, s, r in reader.query(sql, (run, *choice.states, *choice.values))[1]
        ]
    except StorageError as error:
        raise _mistake(error, reader) from error


def _mistake(error: StorageError, reader: Reader) -> UsageError:
    """What is wrong with the expression, and the names it may use."""
    columns, _ = reader.query("SELECT * FROM requests LIMIT 0")
    found = _COLUMN.search(str(error))
    best = nearest(found[1].strip('"'), columns) if found else None
    names = f"the columns are {', '.join(columns)}"
    return UsageError(
        f"--where: {error}", hint=f"did you mean `{best}`? {names}" if best else names
    )


def _done_left(reader: Reader, run: str, choice: _Choice) -> int:
    """Delivered pages that fit and are not taken."""
    if "done" in choice.states:
        return 0
    sql = (
        f"SELECT count(*) FROM requests WHERE {choice.run} = ? AND state = 'done'"
        f" AND {choice.condition}"
    )
    return int(reader.query(sql, (run, *choice.values))[1][0][0])


def _latest(reader: Reader, name: str) -> RunRow:
    """The run, which must be the one that `crawler run` goes on with."""
    runs = reader.runs()
    mine = next(run for run in runs if run.name == name)
    same = [run for run in runs if (run.spider, run.arguments) == (mine.spider, mine.arguments)]
    if same[-1] is not mine:
        raise UsageError(
            f"{name} is over: `crawler run` goes on with {same[-1].name}, which came after it",
            hint=f"crawler requeue {same[-1].name} --db {reader.path}",
        )
    return mine


def _check(reader: Reader, run: str, code: str | None, domain: str | None) -> None:
    """Nothing fits: raise UsageError where a name is not one of the run's."""
    if code is not None and code_of(code) is None:
        sql = "SELECT DISTINCT reason FROM requests WHERE +run = ? AND reason IS NOT NULL"
        refuse_unknown("reason", code, [row[0] for row in reader.query(sql, (run,))[1]], run)
    if domain is not None:
        sql = "SELECT domain FROM domains WHERE run = ?"
        refuse_unknown("domain", domain, [row[0] for row in reader.query(sql, (run,))[1]], run)


def _say(run: RunRow, database: str, taken: Counter[tuple[str, str]], dry_run: bool) -> None:
    total = taken.total()
    if not total:
        click.echo(f"{run.name} has nothing of that to queue again")
        return
    would = "would be queued again" if dry_run else "queued again"
    click.echo(f"{run.name}: {plural(total, 'URL')} {would}")
    ordered = sorted(taken.items(), key=lambda each: (-each[1], each[0]))
    told = [(f"{n:,}", state, why) for (state, why), n in ordered]
    width = max(len(number) for number, _, _ in told)
    for number, state, why in told:
        click.echo(printable(f"  {number:>{width}}  {state}{f', {why}' if why else ''}"))
    if not dry_run:
        again = run_again(run.spider, run.arguments, database, resume=True)
        say(next_lines([again]))
