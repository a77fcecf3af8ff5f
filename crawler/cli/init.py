"""`crawler init`: a project that works at once, in a folder.

Owns: which files a project begins with. Does not own: their text, but for the settings
(`scaffold`, `crawler.settings`).

Invariants: what is there is kept and named; made twice is the same as made once; nothing
is asked.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import click

from crawler.cli.scaffold import Names, new_file, read_template, spider_text
from crawler.layers import file_layers
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
EXAMPLES = {"limit": "1000", "max_time": '"2h"'}
"""Where the default is none."""


@click.command()
@click.argument("folder", metavar="[DIR]", default=".")
def command(folder: str) -> None:
    """Make a project in DIR (default: here): a spider, its test, settings.

    What is there is kept, so that it can be called in a folder with files.
    """
    root = Path(folder)
    kept = []
    for path, text in _files(root).items():
        if new_file(path, text):
            click.echo(f"made {path}", err=True)
        else:
            kept.append(path)
    for path in kept:
        click.echo(f"kept {path}, it was there{_lacks(path)}", err=True)
    first = "" if root.resolve() == Path.cwd() else f"cd {shlex.quote(folder)} && "
    _, start = spider_text(Names.of(SPIDER), "follow", None)
    for line in (
        "next:",
        f"  {first}crawler run {SPIDER} --limit 20",
        f"  crawler shell {start}",
        "  crawler new NAME URL",
    ):
        click.echo(line, err=True)


def _files(root: Path) -> dict[Path, str]:
    """Path to text. Raises SettingsError for a pyproject.toml that cannot be read."""
    names = Names.of(SPIDER)
    spider, _ = spider_text(names, "follow", None)
    test = read_template("test.py").substitute(name=SPIDER, cls=names.cls, item=names.item)
    files = {
        root / "spiders" / "__init__.py": '"""Spiders: one file for each."""\n',
        root / "spiders" / f"{SPIDER}.py": spider,
        root / "tests" / "__init__.py": '"""Tests; they need no network."""\n',
        root / "tests" / f"test_{SPIDER}.py": test,
        root / ".gitignore": "*.db*\n__pycache__/\n",
    }
    has_some = (root / "pyproject.toml").is_file() and file_layers(root)
    if not has_some or has_some[0].origin != "pyproject.toml":
        files[root / "crawler.toml"] = settings_file()
    return files


def _lacks(kept: Path) -> str:
    """What is missing in a .gitignore that was there: a database does not belong into git."""
    if kept.name != ".gitignore" or "*.db" in kept.read_text(errors="replace"):
        return ""
    return "; add a line to it: *.db*"


def settings_file() -> str:
    """The text of a new crawler.toml: what matters most, as comments with the defaults."""
    fields = {field.key: field for field in vocabulary()}
    parts = [
        "# Settings of this project; a line with # in front shows what holds without it.\n"
        "# `crawler config --list` explains every setting, `crawler config --check` this file.\n",
        "# Whom site owners can write to: a URL or mail address, sent with every request.\n"
        '# contact = "https://example.org/about-my-crawler"\n',
    ]
    for key in SHOWN:
        field = fields[key]
        note = " For example:" if key in EXAMPLES else ""
        value = EXAMPLES.get(key) or json.dumps(field.default)
        doc = field.doc.replace("None:", "without it:")
        parts.append(f"# {doc}{note}\n# {key} = {value}\n")
    parts.append('# The same for some sites.\n# domains."*.example.com".delay = 5\n')
    return "\n".join(parts)
