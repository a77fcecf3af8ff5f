"""`crawler config`: the settings in effect, and where each came from."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from crawler.cli.output import write_rows
from crawler.errors import UsageError, nearest
from crawler.layers import Layer, environment_layer, file_layers, flag_layer, resolve
from crawler.loading import find
from crawler.settings import Settings, vocabulary
from crawler.settings_groups import path_of

if TYPE_CHECKING:
    from crawler.spider import Spider

__all__ = ["command"]


@click.command()
@click.argument("key", required=False)
@click.option("--list", "with_all", is_flag=True, help="Every setting, with its meaning.")
@click.option("--domain", metavar="HOST", help="What holds for this host, and by which pattern.")
@click.option("--spider", metavar="NAME", help="With what this spider sets.")
@click.option("-s", "--set", "flags", multiple=True, metavar="KEY=VALUE", help="As for `run`.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def command(
    key: str | None,
    with_all: bool,
    domain: str | None,
    spider: str | None,
    flags: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show settings with their value and origin: those that something sets, or with --list
    every one; KEY shows one setting or one group, --domain what holds for one host."""
    if key is not None and domain is not None:
        raise UsageError("a KEY and --domain exclude each other")
    layers = file_layers(Path.cwd())
    if spider is not None:
        layers.append(Layer("spider", _set_by(find(spider))))
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
        if not rows and not as_json:
            click.echo("all settings have their defaults; `--list` shows them", err=True)
            return
    columns = ("setting", "value", "origin", "meaning")
    width = len(columns) if with_all or as_json else 3
    if not as_json:
        rows = [(name, _told(value), *rest) for name, value, *rest in rows]
    cut = [row[:width] for row in rows]
    write_rows(sys.stdout, columns[:width], cut, "json" if as_json else "table")


def _set_by(spider: type[Spider]) -> dict[str, Any]:
    """What a spider sets; one that sets it by its arguments is asked with their defaults."""
    declared = vars(spider).get("settings")
    settings = declared if isinstance(declared, Settings) else spider().settings
    return settings.given()


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
