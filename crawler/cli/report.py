"""`crawler report`: the summary of a run."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys

import click

from crawler.cli.places import db_option, locate_run, target_argument
from crawler.cli.voice import folded
from crawler.report import render, summarise
from storage.reading import Reader

__all__ = ["command"]


@click.command()
@target_argument
@db_option
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def command(target: str | None, db: str | None, as_json: bool) -> None:
    """Tell how a run went: the one named, or the latest."""
    run = locate_run(target, db)
    with Reader(run.file) as reader:
        summary = summarise(reader, run.id)
        if summary.state == "running" and not reader.is_in_use:
            summary = dataclasses.replace(summary, state="interrupted", ended_by="crash")
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(summary), indent=2, ensure_ascii=False))
    else:
        text = render(summary, str(run.file))
        is_terminal = sys.stdout.isatty()
        click.echo(folded(text, shutil.get_terminal_size().columns) if is_terminal else text)
