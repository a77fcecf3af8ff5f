"""Which database, and which run in it, a command is about.

Owns: the rules by which a spider, a run's id, a file or nothing at all names a place.
Does not own: reading it (storage).

Invariants: nothing is created; a database of another program is never taken for ours.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from crawler.commands import place_of
from crawler.errors import UsageError, code_of, nearest
from crawler.rows import Record, records
from storage import StorageError
from storage.reading import Reader, is_readable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = [
    "Place",
    "Run",
    "check_names",
    "db_option",
    "locate",
    "locate_run",
    "target_argument",
]


class Place(NamedTuple):
    """A database and the run that is meant."""

    file: Path
    run: str | None
    """Run id; None: the database has no run yet."""


class Run(NamedTuple):
    """A run in a database."""

    file: Path
    row: Record
    """Of the view `runs`."""

    @property
    def id(self) -> str:
        """E.g. `books-3`."""
        return str(self.row["id"])

    @property
    def words(self) -> tuple[str, ...]:
        """What names it in other commands."""
        return place_of(self.id, self.row["spider"], str(self.file))


def target_argument(command: Callable[..., object]) -> Callable[..., object]:
    """The argument `[TARGET]`: a spider, a run's id or a database."""
    return click.argument("target", required=False, metavar="[SPIDER|RUN|FILE]")(command)


def db_option(command: Callable[..., object]) -> Callable[..., object]:
    """The option `--db FILE`."""
    return click.option(
        "--db", metavar="FILE", help="Database; default: the one of the latest run here."
    )(command)


def locate(target: str | None, db: str | None = None) -> Place:
    """The database and the run that `target` means; None: the latest run.

    A spider means its latest run. Without `db`, databases of the current folder are looked
    at. Raises UsageError with the nearest name, StorageError for a file that is not ours.
    """
    file, run = _found(target, db)
    return Place(file, run.id if run is not None else None)


def locate_run(target: str | None, db: str | None = None) -> Run:
    """As `locate`. Raises UsageError also where the database has no run yet."""
    file, run = _found(target, db)
    if run is None:
        raise UsageError(f"{file} has no run yet", hint="`crawler run SPIDER`")
    return run


def _found(target: str | None, db: str | None) -> tuple[Path, Run | None]:
    if db is None and target is not None and (target.endswith(".db") or Path(target).is_file()):
        target, db = None, target
    if db is not None:
        file = _existing(db)
        runs = _runs(file)
        return file, (_chosen(target, runs) if runs or target is not None else None)
    runs, denied = [], {}
    for file in sorted(Path().glob("*.db")):
        try:
            runs += _runs(file)
        except StorageError as error:
            if not is_readable(file):
                denied[file.stem] = error
    if denied and (not runs or target in denied):
        raise denied.get(target or "") or next(iter(denied.values()))
    if not runs:
        raise UsageError(
            "no database with a crawl in this folder",
            hint="`crawler run SPIDER` makes one, or name it: --db FILE",
        )
    chosen = _chosen(target, runs)
    return chosen.file, chosen


def _existing(name: str) -> Path:
    file = Path(name)
    if not file.is_file():
        best = nearest(name, map(str, file.parent.glob("*.db")))
        hint = f"did you mean `{best}`?" if best else "`crawler run SPIDER --db FILE` makes one"
        raise UsageError(f"no such database: {name}", hint=hint)
    return file


def _runs(file: Path) -> list[Run]:
    with Reader(file) as reader:
        return [Run(file, row) for row in records(reader, "SELECT * FROM runs")]


def _chosen(target: str | None, known: Sequence[Run]) -> Run:
    fitting = [run for run in known if target in (None, run.id, run.row["spider"])]
    own = [run for run in fitting if run.file.name == f"{run.row['spider']}.db"]
    if target is not None and own:
        fitting = own
    if not fitting:
        assert target is not None
        best = nearest(target, {name for run in known for name in (run.id, run.row["spider"])})
        files = ", ".join(sorted({str(run.file) for run in known})) or "the database"
        raise UsageError(
            f"no run or spider `{target}` in {files}",
            hint=f"did you mean `{best}`?" if best else "`crawler runs`, or name a file: --db FILE",
        )
    return max(fitting, key=lambda run: float(run.row["started_at"]))


def check_names(reader: Reader, run: str, *, code: str | None, domain: str | None) -> None:
    """Nothing was found by these: raise UsageError where the run has no such code or domain."""
    asked = [("domain", domain, "SELECT domain FROM domains WHERE run = ?1")]
    if code is not None and code_of(code) is None:
        had = "SELECT code FROM v_errors WHERE run = ?1 UNION SELECT reason FROM v_drops"
        asked.append(("error code", code, f"{had} WHERE run = ?1"))
    for what, given, sql in asked:
        if given is None:
            continue
        names = {name for (name,) in reader.query(sql, (run,))[1]}
        if given not in names:
            best = nearest(given, names)
            near = f"did you mean `{best}`?" if best else f"`crawler errors {run}` shows its errors"
            raise UsageError(f"{run} has no {what} `{given}`", hint=near)
