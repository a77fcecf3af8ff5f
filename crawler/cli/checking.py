"""Every mistake in the settings of a project at once: files, environment, flags, spiders.

Owns: taking each source apart so that one mistake hides no other, the lines where settings
stand. Does not own: what a setting may be (`settings`), the merging (`layers`).

Invariants: a setting that `crawler run` would refuse is a problem here; nothing is
fetched; whatever a person's own code raises is a problem, not a traceback.
"""

from __future__ import annotations

import tomllib
from inspect import getattr_static
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from crawler.errors import UsageError
from crawler.layers import Layer, environment_layer, file_layers, flag_layer, resolve
from crawler.loading import listing
from crawler.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from crawler.loading import Found
    from crawler.spider import Spider

__all__ = ["Checked", "Problem", "check_project", "check_settings", "line_of", "set_by"]


class Problem(NamedTuple):
    """One mistake."""

    what: str
    """With its origin: a file and its line, environment, -s, or a spider."""
    hint: str
    """The nearest right name, or what to write; empty: it speaks for itself."""


class Checked(NamedTuple):
    """What was looked at, and what is wrong with it."""

    settings: int
    sources: int
    """Places that set something."""
    spiders: int
    """Spiders that can be made, the bundled ones included."""
    problems: tuple[Problem, ...]


def check_settings(folder: Path, environ: Mapping[str, str], flags: Sequence[str] = ()) -> Checked:
    """Files in the folder, environment and flags."""
    problems: list[Problem] = []
    sources: list[list[Callable[[], Layer]]] = []
    try:
        sources += [_each_setting(folder, layer) for layer in file_layers(folder)]
    except UsageError as error:
        problems.append(_problem(error))
    ours = {name: value for name, value in environ.items() if name.startswith("CRAWLER_")}
    sources.append([_variable(name, value) for name, value in ours.items()])
    sources.append([_flag(pair) for pair in flags])
    for source in sources:
        for layer in source:
            try:
                resolve([layer()])
            except UsageError as error:
                problems.append(_problem(error))
    settings = sum(map(len, sources))
    return Checked(settings, sum(map(bool, sources)), 0, tuple(problems))


def check_project(folder: Path, environ: Mapping[str, str], flags: Sequence[str] = ()) -> Checked:
    """The same, and every spider: its file, its settings among the others, its defaults."""
    found = check_settings(folder, environ, flags)
    problems = list(found.problems)
    below: list[Layer] = []
    above: list[Layer] = []
    if not problems:
        below, above = file_layers(folder), [environment_layer(environ), flag_layer(flags)]
    known = listing(folder / "spiders")
    problems += [Problem(broken.told(), broken.hint) for broken in known.broken]
    settings, sources, made = found.settings, found.sources, 0
    for spider in known.spiders:
        wrong, given = _check_spider(spider, below, above)
        problems += wrong
        made += not wrong
        settings += given
        sources += given > 0
    return Checked(settings, sources, made, tuple(problems))


def set_by(spider: type[Spider]) -> dict[str, Any]:
    """What a spider sets; one that sets it by its arguments is asked with their defaults.

    Raises SpiderLoadError where an argument has none.
    """
    declared = getattr_static(spider, "settings")
    settings = declared if isinstance(declared, Settings) else spider().settings
    return settings.given()


# ── sources ──────────────────────────────────────────────────────────────────────────────


def _each_setting(folder: Path, layer: Layer) -> list[Callable[[], Layer]]:
    """The settings of a file, each with its line."""
    try:
        lines = (folder / layer.origin).read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    table = "tool.crawler." if layer.origin == "pyproject.toml" else ""

    def alone(key: str, value: Any) -> Callable[[], Layer]:
        number = line_of(f"{table}{key}", lines)
        where = layer.origin if number is None else f"{layer.origin}, line {number}"
        return lambda: Layer(where, {key: value})

    return [alone(key, value) for key, value in layer.values.items()]


def line_of(key: str, lines: Sequence[str]) -> int | None:
    """The line of a TOML file on which a key, its steps joined by dots, is set; that of the
    table it stands in where it has none of its own. None: not found."""
    table: tuple[str, ...] = ()
    around = None
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if text.startswith("["):
            table = _path(text)
        elif "=" in text and not text.startswith("#"):
            path = ".".join((*table, *_path(f"{text.partition('=')[0]}= 0")))
            if path == key:
                return number
            if key.startswith(f"{path}."):
                around = number
    return around


def _path(source: str) -> tuple[str, ...]:
    """The steps of the one key in a piece of TOML; nothing where it is none."""
    try:
        found: Any = tomllib.loads(source)
    except tomllib.TOMLDecodeError:
        return ()
    path = []
    while isinstance(found, dict) and found:
        ((step, found),) = found.items()
        path.append(step)
    return tuple(path)


def _variable(name: str, value: str) -> Callable[[], Layer]:
    return lambda: environment_layer({name: value})._replace(origin=f"environment, {name}")


def _flag(pair: str) -> Callable[[], Layer]:
    return lambda: flag_layer([pair])


# ── spiders ──────────────────────────────────────────────────────────────────────────────


def _check_spider(
    found: Found, below: Sequence[Layer], above: Sequence[Layer]
) -> tuple[list[Problem], int]:
    """What is wrong with a spider, and how many settings it has.

    One with arguments that must be given can be made by nobody here: of its settings only
    what the class says is looked at.
    """
    spider = found.spider
    try:
        needed = [name for name in spider._declared() if not hasattr(spider, name)]
        problems = [Problem(f"{found.file}: {what}", hint) for what, hint in _defaults(spider)]
        if problems:
            return problems, 0
        is_plain = isinstance(getattr_static(spider, "settings"), Settings)
        given = set_by(spider) if is_plain or not needed else {}
        if not needed:
            spider().canonical_arguments()
        resolve([*below, Layer(f"spider {found.name}", given), *above])
    except UsageError as error:
        return [Problem(f"{found.file}: {error}", error.hint or "")], 0
    except (Exception, SystemExit) as error:
        what = f"spider {found.name} could not be made: {type(error).__name__}: {error}"
        return [Problem(f"{found.file}: {what}", "correct its __init__ or its settings")], 0
    return [], len(given)


def _defaults(spider: type[Spider]) -> Iterator[tuple[str, str]]:
    """Arguments whose default is none of their type, or whose type `-a` cannot give."""
    for name, kind in spider._declared().items():
        if not hasattr(spider, name):
            continue
        value = getattr(spider, name)
        try:
            msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            what = f"argument {name} of spider {spider.name} is {value!r:.80} unless it is given"
            yield f"{what}: {str(error)[:1].lower()}{str(error)[1:]}", "correct default or type"
        except TypeError as error:
            what = f"argument {name} of spider {spider.name} has a type that cannot be given"
            yield f"{what}: {error}", "annotate it as ClassVar, or put `_` in front of its name"


def _problem(error: UsageError) -> Problem:
    return Problem(str(error), error.hint or "")
