"""Every mistake in the settings of a project at once: files, environment, flags, spiders.

Owns: taking each source apart so that one mistake hides no other. Does not own: what a
setting may be (`settings`), the merging (`layers`), what can be had here (`access`).

Invariants: a setting that `crawler run` would refuse is a problem here; nothing is
fetched; whatever a person's own code raises is a problem, not a traceback.
"""

from __future__ import annotations

from functools import partial
from inspect import getattr_static
from typing import TYPE_CHECKING, Any, NamedTuple

from crawler.errors import UsageError
from crawler.layers import Layer, environment_layer, file_layers, flag_layer, resolve
from crawler.loading import listing
from crawler.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from crawler.loading import Found
    from crawler.spider import Spider

__all__ = ["Problem", "check_project", "set_by"]


class Problem(NamedTuple):
    """One mistake."""

    what: str
    """With its origin: a file, environment, -s, or a spider."""
    hint: str
    """The nearest right name, or what to write; empty: it speaks for itself."""


def check_project(
    folder: Path, environ: Mapping[str, str], flags: Sequence[str] = ()
) -> list[Problem]:
    """What is wrong with the settings of a folder, and with its spiders and theirs."""
    problems: list[Problem] = []
    for source in _sources(folder, environ, flags):
        try:
            resolve([source()])
        except UsageError as error:
            problems.append(_problem(error))
    below: list[Layer] = []
    above: list[Layer] = []
    if not problems:  # else a spider's own mistakes would hide behind those
        below, above = file_layers(folder), [environment_layer(environ), flag_layer(flags)]
        problems += _refused([*below, *above])
    known = listing(folder / "spiders")
    problems += [Problem(broken.told(), broken.hint) for broken in known.broken]
    for found in known.spiders:
        wrong = _of_spider(found, below, above)
        problems += [each for each in wrong if each not in problems]
    return problems


def set_by(spider: type[Spider]) -> dict[str, Any]:
    """What a spider sets; one that sets it by its arguments is asked with their defaults.

    Raises SpiderLoadError where an argument has none.
    """
    declared = getattr_static(spider, "settings")
    settings = declared if isinstance(declared, Settings) else spider().settings
    return settings.given()


def _sources(
    folder: Path, environ: Mapping[str, str], flags: Sequence[str]
) -> Iterator[Callable[[], Layer]]:
    """Every setting by itself: what gives it as a layer, or raises UsageError."""
    try:
        layers = file_layers(folder)
    except UsageError as error:
        yield partial(_raise, error)
        layers = []
    for layer in layers:
        for key, value in layer.values.items():
            yield partial(Layer, layer.origin, {key: value})
    for name, value in environ.items():
        yield partial(environment_layer, {name: value})  # nothing for names that are not ours
    for pair in flags:
        yield partial(flag_layer, [pair])


def _raise(error: UsageError) -> Layer:
    raise error


def _refused(layers: Sequence[Layer]) -> list[Problem]:
    """What a crawl would refuse as it begins, with these settings."""
    from crawler.access import check

    try:
        settings = resolve(layers)
        check(settings, settings)
    except UsageError as error:
        return [_problem(error)]
    return []


def _of_spider(found: Found, below: Sequence[Layer], above: Sequence[Layer]) -> list[Problem]:
    """What is wrong with a spider and with its settings among the others.

    One with arguments that must be given can be made by nobody here: of its settings only
    what the class says is looked at.
    """
    spider = found.spider
    try:
        needs = [name for name in spider._declared() if not hasattr(spider, name)]
        if not needs:
            spider().canonical_arguments()
        is_plain = isinstance(getattr_static(spider, "settings"), Settings)
        given = set_by(spider) if is_plain or not needs else {}
    except UsageError as error:
        return [Problem(f"{found.file}: {error}", error.hint or "")]
    except (Exception, SystemExit) as error:
        what = f"spider {found.name} could not be made: {type(error).__name__}: {error}"
        return [Problem(f"{found.file}: {what}", "correct its __init__ or its settings")]
    return _refused([*below, Layer(f"spider {found.name}", given), *above])


def _problem(error: UsageError) -> Problem:
    return Problem(str(error), error.hint or "")
