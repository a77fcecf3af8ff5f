"""`crawler run`: run spiders, or go on with a run that was interrupted.

Owns: the options of the command. Does not own: what is asked for (`plans`, `files`),
carrying it out (`running`), the outputs (`feeds`).

Invariants: an output that could not be written is refused before the first request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from crawler.errors import UsageError

if TYPE_CHECKING:
    from crawler.cli.voice import LogFormat

__all__ = ["command"]


@click.command()
@click.argument("targets", nargs=-1, required=True, metavar="SPIDER|FILE.py[:CLASS]... [URL]...")
@click.option(
    "-a",
    "--arg",
    "args",
    multiple=True,
    metavar="NAME=VALUE",
    help="Spider argument, e.g. -a shelf=poetry; may be repeated.",
)
@click.option(
    "-s",
    "--set",
    "sets",
    multiple=True,
    metavar="NAME=VALUE",
    help="Setting, e.g. -s domain.delay=2; may be repeated.",
)
@click.option("--urls", metavar="FILE[:COLUMN]|-", help="Start URLs from a file or stdin.")
@click.option("--db", metavar="FILE", help="Database; default: <spider>.db here.")
@click.option(
    "-o",
    "--output",
    multiple=True,
    metavar="FILE|TABLE=FILE|-",
    help="Also write the items, while it runs: .jsonl, .csv, .json; - is stdout.",
)
@click.option("-O", "--overwrite", is_flag=True, help="Replace files of -o that are there.")
@click.option("--append", is_flag=True, help="Add to files of -o that are there.")
@click.option(
    "--limit",
    type=int,
    metavar="N",
    help="End after N pages of the run, those before an interruption included.",
)
@click.option(
    "--max-time",
    metavar="D",
    help="End this command after a while, e.g. 90s or 2h; a plain number is seconds.",
)
@click.option("--fresh", is_flag=True, help="Begin a new run even where one could go on.")
@click.option("--resume", is_flag=True, help="Go on with the last run, whatever changed.")
@click.option("--wait", is_flag=True, help="Stay when everything has to wait.")
@click.option(
    "--live",
    type=click.Choice(["full", "line", "off"]),
    help="What is shown meanwhile. full: the whole view; line: a line each 30 s; off:"
    " nothing; default: what fits the terminal. NO_COLOR takes the colours"
    " away, LC_ALL=C all but ASCII.",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Form of what is said on stderr.",
)
@click.option("-v", "--verbose", count=True, help="A line for each page; -vv: for each item too.")
@click.option("-q", "--quiet", is_flag=True, help="No progress, no summary.")
def command(
    targets: tuple[str, ...],
    args: tuple[str, ...],
    sets: tuple[str, ...],
    urls: str | None,
    db: str | None,
    output: tuple[str, ...],
    overwrite: bool,
    append: bool,
    limit: int | None,
    max_time: str | None,
    fresh: bool,
    resume: bool,
    wait: bool,
    live: str | None,
    log_format: LogFormat,
    verbose: int,
    quiet: bool,
) -> int:
    """Run spiders, or go on with an interrupted run of the same.

    A spider is a name in spiders/ (`crawler list`), or a file. URLs replace its start
    URLs: `crawler run pages https://example.com/`.

    A file of -o has the items of the run at any time, and a run that goes on goes on with
    its files. FILE takes the items of all tables, a .csv those of the first; TABLE=FILE
    takes those of one. With -o - stdout gets the whole run as JSON lines.
    """
    from crawler.cli import plans as asked
    from crawler.cli.feeds import Outputs
    from crawler.cli.files import parse_sinks
    from crawler.cli.running import run_plans
    from crawler.cli.voice import speak

    speak(log_format)
    if quiet and verbose:
        raise UsageError("-v and -q exclude each other", hint="give one of them")
    if fresh and resume:
        raise UsageError("--fresh and --resume exclude each other", hint="give one of them")
    names = [target for target in targets if "://" not in target]
    starts = [target for target in targets if "://" in target]
    asked.check_sources(names, starts, urls)
    outputs = Outputs(parse_sinks(output), overwrite=overwrite, append=append)
    with outputs.data_only():
        flags = asked.flags_of(sets, limit=limit, max_time=max_time, wait=wait)
        files = [sink.spelled for sink in outputs.sinks if sink.file and len(names) == 1]
        also = asked.command_words(files, sets, limit=limit, max_time=max_time)
        plans = [asked.make_plan(name, args, starts, urls, flags, also) for name in names]
        path = asked.database_of(db, plans)
        outputs.check(path, len(plans))
        if outputs.is_on_terminal:
            live = live or "off"
        how = "fresh" if fresh else "resume" if resume else "auto"
        results = run_plans(
            plans, path, how=how, quiet=quiet, live=live, verbosity=verbose, outputs=outputs
        )
    return outputs.exit_code(max(result.exit_code for result in results))
