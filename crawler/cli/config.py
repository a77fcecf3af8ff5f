"""`crawler config`: the settings in effect, and where each came from."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from crawler.cli.checking import check_project, set_by
from crawler.cli.output import write_rows
from crawler.errors import UsageError, nearest
from crawler.layers import Layer, environment_layer, file_layers, flag_layer, resolve
from crawler.loading import find, listing, twins
from crawler.settings import vocabulary
from crawler.settings_groups import path_of
from crawler.wording import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crawler.settings import Settings

__all__ = ["command"]

EXIT_WRONG = 2


@click.command()
@click.argument("key", required=False)
@click.option("--list", "with_all", is_flag=True, help="Every setting, with its meaning.")
@click.option("--domain", metavar="HOST", help="What holds for this host, and by which pattern.")
@click.option("--spider", metavar="NAME", help="With what this spider sets.")
@click.option("-s", "--set", "flags", multiple=True, metavar="KEY=VALUE", help="As for `run`.")
@click.option("--check", "is_check", is_flag=True, help="Look for mistakes, in the spiders too.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def command(
    key: str | None,
    with_all: bool,
    domain: str | None,
    spider: str | None,
    flags: tuple[str, ...],
    is_check: bool,
    as_json: bool,
) -> int:
    """Show settings with their value and origin: those that something sets, or with --list
    every one; KEY shows one setting or one group, --domain what holds for one host.

    --check tells every mistake in files, environment, -s and spiders, one a line, and
    then ends with 2.
    """
    _alone("a KEY", key, ("--domain", domain))
    if is_check:
        others = (("a KEY", key), ("--list", with_all), ("--domain", domain), ("--spider", spider))
        _alone("--check", is_check, *others)
        return _check(flags, as_json=as_json)
    layers = file_layers(Path.cwd())
    if spider is not None:
        layers.append(Layer("spider", set_by(find(spider))))
    settings = resolve([*layers, environment_layer(os.environ), flag_layer(flags)])
    rows = _rows(settings)
    if domain is not None:
        keys = settings.keys_for(domain.lower())
        rows = sorted(
            (row for row in rows if row[0] in keys), key=lambda row: keys.index(str(row[0]))
        )
    elif key is not None:
        rows = _chosen(key, rows)
    elif not with_all:
        rows = [row for row in rows if row[2] != "default"]
    if rows or as_json:
        is_one = key is not None and len(rows) == 1
        _show(rows, with_meaning=with_all or as_json or is_one, as_json=as_json)
    else:
        click.echo("all settings have their defaults; `--list` shows them", err=True)
    return 0


def _alone(name: str, given: object, *others: tuple[str, object]) -> None:
    """Raises UsageError for what is given beside something that it says nothing to."""
    for other, value in others if given else ():
        if value:
            hint = "crawler config --help"
            raise UsageError(f"{name} and {other} exclude each other", hint=hint)


def _show(rows: list[tuple[object, ...]], *, with_meaning: bool, as_json: bool) -> None:
    columns = ("setting", "value", "origin", "meaning")
    width = len(columns) if with_meaning else 3
    if not as_json:
        rows = [(name, _told(value), *rest) for name, value, *rest in rows]
    cut = [row[:width] for row in rows]
    write_rows(sys.stdout, columns[:width], cut, "json" if as_json else "table")


def _check(flags: Sequence[str], *, as_json: bool) -> int:
    problems = check_project(Path(), os.environ, flags)
    for told in twins(listing()):
        click.echo(printable(f"warning: {told}"), err=True)
    if as_json:
        write_rows(sys.stdout, ("problem", "hint"), problems, "json")
    elif not problems:
        click.echo("settings and spiders are fine")
    for problem in () if as_json else problems:
        hint = f" → {problem.hint}" if problem.hint else ""
        click.echo(printable(problem.what + hint))
    return EXIT_WRONG if problems else 0


def _rows(settings: Settings) -> list[tuple[object, ...]]:
    fields = {field.key: field for field in vocabulary()}
    values = settings.effective() | settings.shown()
    described = {_described(name) for name in values}
    values |= {key: field.default for key, field in fields.items() if key not in described}
    origins = settings.origins
    return [
        (name, value, origins.get(name, "default"), fields[_described(name)].doc)
        for name, value in values.items()
    ]


def _described(name: str) -> str:
    """The key in the vocabulary that says what a setting of one domain or host means."""
    match path_of(name):
        case "domains", _, field:
            return f"domain.{field}"
        case table, _ if '"' in name:
            return f'{table}."HOST"'
    return name


def _chosen(key: str, rows: list[tuple[object, ...]]) -> list[tuple[object, ...]]:
    chosen = [row for row in rows if row[0] == key or str(row[0]).startswith(f"{key}.")]
    if not chosen:
        best = nearest(key, [str(row[0]) for row in rows])
        hint = f"did you mean `{best}`?" if best else "`crawler config --list` shows all settings"
        raise UsageError(f"unknown setting `{key}`", hint=hint)
    return chosen


def _told(value: object) -> object:
    if value is None or value == ():
        return "none"
    if isinstance(value, tuple):
        return ", ".join(value)
    return str(value).lower() if isinstance(value, bool) else value
