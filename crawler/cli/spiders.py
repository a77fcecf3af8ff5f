"""`crawler list`: the spiders that can be run."""

from __future__ import annotations

import sys

import click

from crawler.cli.output import write_rows
from crawler.loading import listing

__all__ = ["command"]


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def command(as_json: bool) -> None:
    """List the spiders in spiders/ and the bundled ones.

    Files that cannot be imported are told on stderr and hide nothing.
    """
    known = listing()
    rows = [
        (found.name, "bundled" if found.is_bundled else str(found.file), found.summary)
        for found in sorted(known.spiders)
    ]
    write_rows(sys.stdout, ("name", "file", "summary"), rows, "json" if as_json else "table")
    for broken in known.broken:
        click.echo(f"warning: {broken.told()}", err=True)
        click.echo(f"  hint: {broken.hint}", err=True)
