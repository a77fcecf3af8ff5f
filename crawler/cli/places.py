"""Which database, and which run in it, a command is about.

Owns: the rules by which a spider, a run's id, a file or nothing at all names a place.
Does not own: reading it (storage).

Invariants: nothing is created; a database of another program is never taken for ours.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from crawler.errors import UsageError, nearest
from storage import StorageError
from storage.reading import Reader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["Place", "db_option", "locate", "refuse_unknown", "target_argument"]


class Place(NamedTuple):
    """A database and the run that is meant."""

    file: Path
    run: str | None
    """Run id; None: the database has no run yet."""


class _Run(NamedTuple):
    file: Path
    id: str
    spider: str
    started_at: float


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
    if db is None and target is not None and (target.endswith(".db") or Path(target).is_file()):
        target, db = None, target
    if db is not None:
        file = _existing(db)
        runs = _runs(file)
        return _chosen(target, runs) if runs or target is not None else Place(file, None)
    runs = []
    for file in sorted(Path().glob("*.db")):
        try:
            runs += _runs(file)
        except StorageError:
            continue
    if not runs:
        raise UsageError(
            "no database with a crawl in this folder",
            hint="`crawler run SPIDER` makes one, or name it: --db FILE",
        )
    return _chosen(target, runs)


def _existing(name: str) -> Path:
    file = Path(name)
    if not file.is_file():
        best = nearest(name, map(str, file.parent.glob("*.db")))
        hint = f"did you mean `{best}`?" if best else "`crawler run SPIDER --db FILE` makes one"
        raise UsageError(f"no such database: {name}", hint=hint)
    return file


def _runs(file: Path) -> list[_Run]:
    with Reader(file) as reader:
        _, rows = reader.query("SELECT id, spider, started_at FROM runs")
    return [_Run(file, *row) for row in rows]


def _chosen(target: str | None, runs: Iterable[_Run]) -> Place:
    known = list(runs)
    fitting = [run for run in known if target in (None, run.id, run.spider)]
    own = [run for run in fitting if run.file.name == f"{run.spider}.db"]
    if target is not None and own:
        fitting = own
    if not fitting:
        assert target is not None
        best = nearest(target, {name for run in known for name in (run.id, run.spider)})
        files = ", ".join(sorted({str(run.file) for run in known})) or "the database"
        raise UsageError(
            f"no run or spider `{target}` in {files}",
            hint=f"did you mean `{best}`?" if best else "`crawler runs`, or name a file: --db FILE",
        )
    latest = max(fitting, key=lambda run: run.started_at)
    return Place(latest.file, latest.id)


def refuse_unknown(what: str, given: str, known: Iterable[str], run: str) -> None:
    """Raise UsageError where a run has no such domain, code, …; the nearest one is the hint."""
    names = set(known)
    if given not in names:
        best = nearest(given, names)
        raise UsageError(
            f"{run} has no {what} `{given}`",
            hint=f"did you mean `{best}`?" if best else f"`crawler errors {run}` shows what it has",
        )
