"""`crawler status`: what a run is doing now, or how it was left.

Owns: where the figures come from (the file beside a database that a crawl has open, else
the database), how long it watches. Does not own: the drawing (`screen`, `view`), a report.

Invariants: nothing is written; a file that a killed crawl left is never taken for news.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from crawler.cli.places import Place, db_option, locate, target_argument
from crawler.cli.screen import plain, screen
from crawler.cli.stored import Stored, render, stored
from crawler.cli.view import View, form_of, is_coloured, styled
from crawler.cli.voice import speaks_unicode
from crawler.errors import UsageError
from crawler.live import Live, decode, encode
from crawler.wording import duration
from storage import StorageError, read_live
from storage.reading import Reader

if TYPE_CHECKING:
    from collections.abc import Iterator

    from crawler.cli.table import Line

__all__ = ["command"]

TICK_S = 0.5
STALE_S = 3.0
"""Seconds without news after which it is asked whether the crawl is still alive."""
WIDE, HIGH = 120, 200
"""The screen where there is no terminal."""


@click.command()
@target_argument
@db_option
@click.option("--watch", is_flag=True, help="Look on until the run ends.")
@click.option("--json", "as_json", is_flag=True, help="As JSON; with --watch a line a second.")
def command(target: str | None, db: str | None, watch: bool, as_json: bool) -> None:
    """Show what a run is doing now; where none is, how the last one was left."""
    place = _place(target, db)
    if place.run is None:
        raise UsageError(f"{place.file} has no run yet", hint="`crawler run SPIDER`")
    live = _news(place)
    if live is None:
        _show_stored(place, as_json=as_json)
    elif watch:
        _watch(place, as_json=as_json)
    elif as_json:
        click.echo(encode(live))
    else:
        columns, rows = shutil.get_terminal_size((WIDE, HIGH))
        _print(screen(live, columns, max(rows - 2, 16), hint=_hint(live)))


def _place(target: str | None, db: str | None) -> Place:
    """As the other commands have it; but without a target a crawl that is alive goes first."""
    if target is None and db is None:
        for file in sorted(Path().glob("*.db-live"), key=_written_at, reverse=True):
            place = Place(Path(file.name.removesuffix("-live")), "")
            live = _news(place)
            if live is not None and live.runs:
                return place._replace(run=live.runs[0].run)
    return locate(target, db)


def _written_at(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0


def _news(place: Place) -> Live | None:
    """What the crawl that has the database says of itself; None: there is none, or the run
    that is meant is not among its own."""
    try:
        with Reader(place.file) as reader:
            data = read_live(str(place.file)) if reader.is_in_use else None
        live = decode(data) if data is not None else None
    except (StorageError, ValueError):
        return None
    if live is None or not (place.run == "" or any(run.run == place.run for run in live.runs)):
        return None
    return live


def _hint(live: Live) -> str:
    silent = time.time() - live.at
    return f"no news for {duration(silent)}" if silent > STALE_S else f"process {live.pid}"


def _print(lines: list[Line]) -> None:
    if is_coloured(sys.stdout, os.environ):
        click.echo("\n".join(map(styled, lines)))
    else:
        click.echo(plain(lines, ascii_only=not speaks_unicode(sys.stdout)))


# -- watching --------------------------------------------------------------------------------


def _watch(place: Place, *, as_json: bool) -> None:
    """Show the run until it ends, then the first line of its summary."""
    from crawler.report import render as render_summary
    from crawler.report import summarise

    if as_json:
        for live in _changes(place):
            click.echo(encode(live))
        return
    form = form_of(sys.stdout, None, os.environ)
    if form == "full":
        is_plain = not is_coloured(sys.stdout, os.environ)
        with View(sys.stdout, is_plain=is_plain) as view:
            for live in _changes(place):
                view.hint = _hint(live)
                view.show(live)
    else:
        _say_lines(place)
    assert place.run is not None
    with Reader(place.file) as reader:
        summary = summarise(reader, place.run)
        click.echo(render_summary(summary, str(place.file)).partition("\n")[0])


def _say_lines(place: Place) -> None:
    from crawler.progress import Progress

    progress = Progress(time.monotonic(), first_s=0.0)
    for live in _changes(place):
        for notice in progress.look(live, time.monotonic()):
            click.echo(notice.text)


def _changes(place: Place) -> Iterator[Live]:
    """The session as it is, twice a second, until the run is not among its own any more."""
    pause = threading.Event()
    live = _news(place)
    while live is not None:
        yield live
        pause.wait(TICK_S)
        live = _next(place, live)


def _next(place: Place, before: Live) -> Live | None:
    """Quick while there is news; where there is none, the lock says who is alive."""
    try:
        data = read_live(str(place.file))
        live = decode(data) if data is not None else None
    except (StorageError, ValueError):
        live = None
    if live is None or time.time() - live.at > STALE_S:
        return _news(place)
    return live if any(run.run == place.run for run in live.runs) else None


# -- nobody is at it -------------------------------------------------------------------------


def _show_stored(place: Place, *, as_json: bool) -> None:
    assert place.run is not None
    with Reader(place.file) as reader:
        found: Stored = stored(reader, place.run, str(place.file))
    if as_json:
        import json

        facts: dict[str, Any] = found.facts()
        click.echo(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        columns, rows = shutil.get_terminal_size((WIDE, HIGH))
        _print(render(found, columns, rows, time.time()))
