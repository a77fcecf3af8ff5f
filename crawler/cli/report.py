"""`crawler report`: the summary of a run."""

from __future__ import annotations

import dataclasses
import json

import click

from crawler.cli.places import db_option, locate, target_argument
from crawler.errors import UsageError
from crawler.report import render, summarise
from storage.reading import Reader

__all__ = ["command"]


@click.command()
@target_argument
@db_option
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def command(target: str | None, db: str | None, as_json: bool) -> None:
    """Tell how a run went: the one named, or the latest."""
    place = locate(target, db)
    if place.run is None:
        raise UsageError(f"{place.file} has no run yet", hint="`crawler run SPIDER`")
    with Reader(place.file) as reader:
        summary = summarise(reader, place.run)
        if summary.state == "running" and not reader.is_in_use:
            summary = dataclasses.replace(summary, state="interrupted", ended_by="crash")
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(summary), indent=2, ensure_ascii=False))
    else:
        click.echo(render(summary, str(place.file)))
