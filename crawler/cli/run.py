"""`crawler run`: run spiders, or go on with a run that was interrupted.

Owns: the options of the command, and the file that items also go to. Does not own: what
is asked for (`plans`), carrying it out (`running`).

Invariants: an output that could not be written is refused before the first request.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from crawler.cli.export import export_result, form_of
from crawler.cli.places import Place
from crawler.cli.plans import check_sources, database_of, flags_of, make_plan
from crawler.cli.running import run_plans, say
from crawler.errors import UsageError
from crawler.wording import printable
from storage import RunState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crawler.result import CrawlResult

__all__ = ["command"]

EXIT_UNWRITTEN = 5


@click.command()
@click.argument("targets", nargs=-1, required=True, metavar="SPIDER|FILE.py[:CLASS]... [URL]...")
@click.option("-a", "--arg", "args", multiple=True, metavar="NAME=VALUE", help="Spider argument.")
@click.option("-s", "--set", "sets", multiple=True, metavar="KEY=VALUE", help="Setting.")
@click.option("--urls", metavar="FILE[:COLUMN]|-", help="Start URLs from a file or stdin.")
@click.option("--db", metavar="FILE", help="Database; default: <spider>.db here.")
@click.option("-o", "--output", metavar="FILE", help="Also write the items: .jsonl, .csv, .json.")
@click.option("--limit", type=int, metavar="N", help="End after N pages.")
@click.option("--max-time", metavar="D", help="End after a while, e.g. 90s or 2h.")
@click.option("--fresh", is_flag=True, help="Begin a new run even where one could go on.")
@click.option("--resume", is_flag=True, help="Go on with the last run, whatever changed.")
@click.option("--wait", is_flag=True, help="Stay when everything has to wait.")
@click.option("-q", "--quiet", is_flag=True, help="No progress, no summary.")
def command(
    targets: tuple[str, ...],
    args: tuple[str, ...],
    sets: tuple[str, ...],
    urls: str | None,
    db: str | None,
    output: str | None,
    limit: int | None,
    max_time: str | None,
    fresh: bool,
    resume: bool,
    wait: bool,
    quiet: bool,
) -> int:
    """Run spiders, or go on with an interrupted run of the same.

    A spider is a name in spiders/ (`crawler list`), or a file. URLs replace its start
    URLs: `crawler run pages https://example.com/`.
    """
    if fresh and resume:
        raise UsageError("--fresh and --resume exclude each other", hint="give one of them")
    names = [target for target in targets if "://" not in target]
    starts = [target for target in targets if "://" in target]
    check_sources(names, starts, urls)
    sink = _sink(output, names)
    flags = flags_of(sets, limit=limit, max_time=max_time, wait=wait)
    plans = [make_plan(name, args, starts, urls, flags) for name in names]
    path = database_of(db, plans)
    how = "fresh" if fresh else "resume" if resume else "auto"
    results = run_plans(plans, path, how=how, quiet=quiet)
    if sink is None:
        return max(result.exit_code for result in results)
    return _write_items(path, results[0], sink)


def _sink(output: str | None, names: Sequence[str]) -> Path | None:
    """Where the items are to go; raises UsageError for what could not be written later."""
    if output is None:
        return None
    if len(names) > 1:
        raise UsageError(
            f"-o takes the items of one spider, and {len(names)} are named",
            hint="leave it out; then, for each: crawler export SPIDER --db FILE -o FILE",
        )
    path = Path(output)
    form_of(path)
    if path.exists():
        raise UsageError(f"{output} is there already", hint="name another file, or remove it")
    if not path.parent.is_dir():
        raise UsageError(
            f"{output} has no folder: {path.parent}",
            hint=f"mkdir -p {shlex.quote(str(path.parent))}",
        )
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise UsageError(f"{output}: the folder may not be written", hint="name another one")
    return path


def _write_items(db: Path, result: CrawlResult, sink: Path) -> int:
    """Write the items of a run that has ended; the exit code is the crawl's, unless it was 0
    and the file could not be written."""
    if result.state is not RunState.FINISHED:
        say(f"{sink} is written when the run has ended: run the same command again")
        return result.exit_code
    try:
        export_result(Place(db, result.run), sink)
    except UsageError as error:
        say(printable(f"error: {error}"))
        say(f"  hint: the items are in the database: crawler export {result.run} --db {db}")
        return result.exit_code or EXIT_UNWRITTEN
    return result.exit_code
