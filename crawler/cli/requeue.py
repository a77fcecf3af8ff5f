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

from crawler.cli.paragraphs import Line, next_lines, say
from crawler.cli.places import check_names, db_option, locate_run, target_argument
from crawler.commands import command as command_of
from crawler.commands import not_kept, run_again
from crawler.errors import UsageError, nearest
from crawler.wording import plural, printable
from storage import StorageError, queue_again
from storage.reading import Reader

if TYPE_CHECKING:
    from crawler.cli.places import Run

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
    run = locate_run(target, db)
    choice = _choice(where, code, domain)
    with Reader(run.file) as reader:
        _check_latest(reader, run)
        rows = _rows(reader, run.id, choice)
        left = _done_left(reader, run.id, choice) if where else 0
        if not rows:
            check_names(reader, run.id, code=code, domain=domain)
    if not dry_run and rows:
        queue_again(run.file, run.id, [number for number, _, _ in rows])
    if rows:
        _say(run, Counter((state, why or "") for _, state, why in rows), dry_run)
    elif where is None and code is None:
        on = f" on {domain}" if domain else ""
        click.echo(printable(f"nothing has failed in {run.id}{on}; --where names others"))
    else:
        click.echo(f"{run.id} has nothing of that to queue again")
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


def _check_latest(reader: Reader, mine: Run) -> None:
    """Raise UsageError where the run is not the one that `crawler run` goes on with."""
    asked = (mine.row["spider"], mine.row["arguments"])
    last = [run for run in reader.runs() if (run.spider, run.arguments) == asked][-1].name
    if last != mine.id:
        raise UsageError(
            f"{mine.id} is over: `crawler run` goes on with {last}, which came after it",
            hint=f"`{command_of('requeue', last, *mine.words[1:])}`",
        )


def _say(run: Run, taken: Counter[tuple[str, str]], dry_run: bool) -> None:
    would = "would be queued again" if dry_run else "queued again"
    click.echo(f"{run.id}: {plural(taken.total(), 'URL')} {would}")
    ordered = sorted(taken.items(), key=lambda each: (-each[1], each[0]))
    told = [(f"{n:,}", state, why) for (state, why), n in ordered]
    width = max(len(number) for number, _, _ in told)
    for number, state, why in told:
        click.echo(printable(f"  {number:>{width}}  {state}{f', {why}' if why else ''}"))
    if not dry_run:
        say(next_lines([run_again(run.row, str(run.file), resume=True)]))
        if lacks := not_kept(run.row):
            say([Line("      ", lacks)])
