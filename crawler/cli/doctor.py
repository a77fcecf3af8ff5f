"""`crawler doctor`: is this machine fit to crawl, and this folder, and can HOST be reached?

Owns: the order of the checks, their form, the exit code. Does not own: facts (`findings`,
`probe`) or verdicts (`crawler.checks`).

Invariants: nothing is sent unless a HOST is named; one failure is an exit code of 1.
"""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import click

from crawler.cli.output import write_rows
from crawler.errors import UsageError
from crawler.wording import plural, printable

if TYPE_CHECKING:
    from crawler.checks import Verdict
    from crawler.settings import Settings

__all__ = ["command"]

EXIT_FAILED = 1
STATE = 6
"""Characters of the first column."""
COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command()
@click.argument("host", required=False)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def command(host: str | None, as_json: bool) -> int:
    """Check versions, limits, certificates, names, disk and project: one line each.

    With HOST (or a URL) also whether it can be reached, and how long that takes; only
    then anything is sent.
    """
    from crawler.cli.findings import about_machine, about_project

    settings = _settings()
    url = _url(host) if host is not None else None
    verdicts = [*about_machine(settings), *about_project(Path())]
    if url is not None:
        from crawler.cli.probe import about_host

        verdicts += about_host(url, settings)
    if as_json:
        columns = ("state", "check", "found", "advice")
        write_rows(sys.stdout, columns, [tuple(each) for each in verdicts], "json")
    else:
        width = max(len(each.name) for each in verdicts)
        for each in verdicts:
            click.echo(_line(each, width))
    states = [each.state for each in verdicts]
    failures, warnings = states.count("fail"), states.count("warn")
    if failures or warnings:
        told = [plural(failures, "failure")] if failures else []
        told += [plural(warnings, "warning")] if warnings else []
        click.echo(" and ".join(told), err=True)
    return EXIT_FAILED if failures else 0


def _settings() -> Settings:
    """Those of the project; the defaults where they are wrong, which a check tells."""
    from crawler.layers import environment_layer, file_layers, resolve
    from crawler.settings import Settings

    try:
        return resolve([*file_layers(Path()), environment_layer(os.environ)])
    except UsageError:
        return Settings()


def _url(host: str) -> str:
    """What to ask HOST for: its robots.txt, which anybody may. Raises UsageError.

    Without a scheme it is https, and http on this machine and its network.
    """
    from crawler.errors import FetchError
    from crawler.urls import canonicalise, is_private

    try:
        target = canonicalise(host if "://" in host else f"https://{host}")
        if "://" not in host and is_private(target.domain):
            target = canonicalise(f"http://{host}")
    except FetchError as error:
        hint = "crawler doctor example.com, or a URL: crawler doctor http://localhost:8000"
        raise UsageError(f"`{host}` is no host", hint=hint) from error
    return f"{target.origin}/robots.txt"


def _line(verdict: Verdict, width: int) -> str:
    """One line; on a terminal that is too narrow for it, more, below what was found."""
    arrow = f"  → {verdict.advice}" if verdict.advice else ""
    text = printable(f"{verdict.name.ljust(width)}  {verdict.found}{arrow}")
    if sys.stdout.isatty():
        room = max(shutil.get_terminal_size().columns - STATE, 2 * width)
        indent = " " * (width + 2)
        lines = textwrap.wrap(text, room, subsequent_indent=indent, break_on_hyphens=False)
        text = f"\n{' ' * STATE}".join(lines)
    colour = None if os.environ.get("NO_COLOR") else COLOURS[verdict.state]
    return click.style(verdict.state.ljust(STATE), fg=colour) + text
