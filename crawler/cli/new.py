"""`crawler new`: a spider's file from a template.

Owns: what is checked before, what is said after. Does not own: names and templates
(`scaffold`).

Invariant: nothing is written before every mistake was told.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from crawler.cli.scaffold import (
    TEMPLATES,
    Names,
    checked_name,
    environment_name,
    new_file,
    spider_text,
)
from crawler.errors import UsageError
from crawler.loading import BUNDLED, listing

__all__ = ["command"]

FOLDER = Path("spiders")


@click.command()
@click.argument("name")
@click.argument("url", required=False)
@click.option(
    "-t",
    "--template",
    default="follow",
    show_default=True,
    metavar="NAME",
    help="; ".join(f"{name}: {kind.summary}" for name, kind in TEMPLATES.items()) + ".",
)
def command(name: str, url: str | None, template: str) -> None:
    """Make spiders/NAME.py from a template, to start from URL.

    Without URL it starts from a practice site, or from example.com.
    """
    names = Names.of(checked_name(name))
    file = FOLDER / f"{names.module}.py"
    _check_free(names)
    text, start = spider_text(names, template, url)
    if not new_file(file, text):
        raise _taken(file, names)
    lines = [f"made {file} (template {template})", "next:"]
    if template == "login":
        env = environment_name(names)
        lines.append(f"  export {env}_USER=… {env}_PASSWORD=…")
    lines += [
        f"  crawler shell {shlex.quote(start)}",
        f"  crawler parse {name} {shlex.quote(start)}",
        f"  crawler run {name} --limit 10",
    ]
    click.echo("\n".join(lines), err=True)


def _check_free(names: Names) -> None:
    """Raises UsageError where the name is taken, or this is no place for a spider."""
    if Path.cwd().name == FOLDER.name:
        raise UsageError(
            "this is the folder of the spiders: the project is the one above it",
            hint=f"cd .. && crawler new {names.spider}",
        )
    if names.spider in BUNDLED:
        raise UsageError(
            f"`{names.spider}` is the name of a bundled spider",
            hint=f"crawler new my_{names.spider}",
        )
    for found in listing(FOLDER).spiders:
        if found.name == names.spider:
            raise _taken(found.file, names)


def _taken(file: Path, names: Names) -> UsageError:
    return UsageError(
        f"{file} has a spider `{names.spider}` already"
        if file.stem != names.module
        else f"{file} is there already",
        hint=f"edit it, or take another name: crawler new {names.module}_2",
    )
