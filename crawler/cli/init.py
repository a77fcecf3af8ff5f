"""`crawler init`: a project that works at once, in a folder.

Owns: which files a project begins with. Does not own: their text, but for the settings
(`scaffold`, `crawler.settings`).

Invariants: what is there is kept and named; made twice is the same as made once; nothing
is asked.
"""

from __future__ import annotations

import shlex
import tomllib
from pathlib import Path
from typing import NamedTuple

import click

from crawler.cli.scaffold import Names, new_file, read_template, spider_text
from crawler.errors import SettingsError, UsageError
from crawler.layers import Layer, resolve
from crawler.settings import vocabulary

__all__ = ["command", "settings_file"]

SPIDER = "books"
SHOWN = (
    "domain.delay",
    "domain.concurrency",
    "concurrency",
    "robots.obey",
    "limit",
    "max_time",
    "timeout.total",
)
"""Settings that a new project names."""
EXAMPLES = {"limit": 1_000, "max_time": "2h"}
"""Where the default is none."""
IGNORED = ("*.db", "*.db-*", "__pycache__/")


class File(NamedTuple):
    """One file of a new project."""

    path: Path
    text: str


@click.command()
@click.argument("folder", metavar="[DIR]", default=".")
@click.option("--contact", metavar="TEXT", help="URL or mail address for the sites' owners.")
def command(folder: str, contact: str | None) -> None:
    """Make a project in DIR (default: here): a spider, its test, settings.

    What is there is kept, so that it can be called in a folder with files.
    """
    root = Path(folder)
    _check_place(root)
    made, kept = 0, []
    for file in _files(root, contact):
        if new_file(file.path, file.text):
            made += 1
            click.echo(f"made {file.path}", err=True)
        else:
            kept.append(file)
    for file in kept:
        click.echo(f"kept {file.path}, it was there{_missing(file, contact)}", err=True)
    first = "" if root.resolve() == Path.cwd() else f"cd {shlex.quote(folder)} && "
    _, start = spider_text(Names.of(SPIDER), "follow", None)
    for line in (
        "next:" if made else "nothing to make; next:",
        f"  {first}crawler run {SPIDER} --limit 20",
        f"  crawler shell {start}",
        "  crawler new NAME URL",
    ):
        click.echo(line, err=True)


def _check_place(root: Path) -> None:
    """Raises UsageError where there can be no project."""
    place = root.resolve()
    if place.exists() and not place.is_dir():
        raise UsageError(f"{root} is a file", hint="crawler init NEW_FOLDER")
    if place.name == "spiders" and not (place / "spiders").is_dir():
        raise UsageError(
            f"{root} would be a project inside the folder of another one's spiders",
            hint=f"crawler init {shlex.quote(str(place.parent))}",
        )


def _files(root: Path, contact: str | None) -> list[File]:
    names = Names.of(SPIDER)
    spider, _ = spider_text(names, "follow", None)
    test = read_template("test.py").substitute(name=SPIDER, cls=names.cls, item=names.item)
    files = [
        File(root / "spiders" / "__init__.py", '"""Spiders: one file for each."""\n'),
        File(root / "spiders" / f"{SPIDER}.py", spider),
        File(root / "tests" / "__init__.py", '"""Tests; they need no network."""\n'),
        File(root / "tests" / f"test_{SPIDER}.py", test),
        File(root / ".gitignore", "".join(f"{line}\n" for line in IGNORED)),
    ]
    text = settings_file(contact)
    if not _has_table(root / "pyproject.toml"):
        files.append(File(root / "crawler.toml", text))
    elif contact is not None:
        raise UsageError(
            "pyproject.toml has [tool.crawler]: the settings of this project stand there",
            hint=f"add a line to it: contact = {_toml(contact)}",
        )
    return files


def _has_table(pyproject: Path) -> bool:
    """Whether a pyproject.toml sets something of ours already."""
    try:
        tool = tomllib.loads(pyproject.read_text(encoding="utf-8")).get("tool", {})
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"{pyproject} could not be read: {error}", hint="correct it, then: crawler init"
        ) from error
    return isinstance(tool, dict) and "crawler" in tool


def settings_file(contact: str | None = None) -> str:
    """The text of a new crawler.toml: what matters most, as comments with the defaults.

    Raises SettingsError for a contact that no header can carry.
    """
    example = "https://example.org/about-my-crawler"
    if contact is not None:
        resolve([Layer("--contact", {"contact": contact})])
    fields = {field.key: field for field in vocabulary()}
    mark = "# " if contact is None else ""
    parts = [
        "# Settings of this project; a line with # in front shows what holds without it.\n"
        "# `crawler config --list` explains every setting, `crawler config --check` this file.\n",
        "# Whom site owners can write to: a URL or mail address, sent with every request.\n"
        f"{mark}contact = {_toml(contact or example)}\n",
    ]
    for key in SHOWN:
        field = fields[key]
        value = EXAMPLES.get(key, field.default)
        note = " For example:" if key in EXAMPLES else ""
        doc = field.doc.replace("None:", "without it:")
        parts.append(f"# {doc}{note}\n# {key} = {_toml(value)}\n")
    parts.append('# The same for some sites.\n# domains."*.example.com".delay = 5\n')
    return "\n".join(parts)


def _toml(value: object) -> str:
    """A number, truth or text as TOML has it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return f"{value:g}" if isinstance(value, float) else str(value)


def _missing(file: File, contact: str | None) -> str:
    """What a kept file lacks of what was asked for."""
    try:
        lines = file.path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    match file.path.name:
        case ".gitignore":
            wanted = list(IGNORED[:2])
        case "crawler.toml" if contact is not None:
            wanted = [f"contact = {_toml(contact)}"]
        case _:
            wanted = []
    lacking = [line for line in wanted if line not in lines]
    return f"; add to it: {' and '.join(lacking)}" if lacking else ""
