"""What `crawler run` is asked for, made into plans: spider, arguments, settings, identity.

Owns: targets, arguments, start URLs, flags that are settings, the default database.
Does not own: running a plan (`running`), options of the command (`run`).

Invariants: every mistake is told before the first request; equal plans have one identity.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from crawler.cli.sources import UrlPipe, feed, is_pipe, open_urls
from crawler.errors import FetchError, SettingsError, SpiderLoadError, UsageError
from crawler.layers import Layer, environment_layer, file_layers, flag_layer, resolve
from crawler.loading import code_hash, find
from crawler.spider import Spider
from crawler.units import disclosed
from crawler.urls import canonicalise, with_scheme

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crawler.settings import Settings

__all__ = ["Plan", "check_sources", "command_words", "database_of", "flags_of", "make_plan"]


class Plan(NamedTuple):
    """One spider to run."""

    spider: Spider
    settings: Settings
    identity: str
    """Its arguments and start URLs as canonical JSON: what a run is found again by."""
    code: str
    """Hash of its source."""
    command: str | None = None
    """Spider or file, URLs, arguments, --urls, outputs and bounds as they were typed, last
    the names that -s set: JSON, by which reports name the command to go on with the run.
    None: it was begun otherwise."""
    pipe: UrlPipe | None = None
    """Where its start URLs come from, when they come while it runs."""


def check_sources(names: Sequence[str], starts: Sequence[str], urls: str | None) -> None:
    """Raise UsageError where it is unclear what is to be crawled."""
    hosts = [name for name in names if _is_address(name)]
    if hosts:
        spider = next((name for name in names if name not in hosts), "pages")
        url = with_scheme(hosts[0])
        raise UsageError(f"`{hosts[0]}` has no scheme", hint=f"crawler run {spider} {url}")
    if not names:
        raise UsageError("no spider was named", hint=f"crawler run pages {starts[0]}")
    if starts and urls is not None:
        raise UsageError(
            "start URLs are given twice, by --urls and as arguments", hint="give one of them"
        )
    if urls is not None and len(names) > 1 and is_pipe(urls):
        raise UsageError(
            f"--urls {urls} can be read once, and {len(names)} spiders are named",
            hint="write the URLs to a file first: --urls FILE",
        )


def _is_address(name: str) -> bool:
    """A URL without its scheme: no spider has such a name, and no file of one."""
    is_file = name.endswith(".py") or ".py:" in name or Path(name).exists()
    return not is_file and not name.startswith((".", "/")) and any(c in name for c in ".:")


def command_words(
    outputs: Sequence[str], sets: Sequence[str], *, limit: int | None, max_time: str | None
) -> list[str]:
    """How a command names outputs and bounds, and last what -s set: not the values, which may
    be secrets."""
    given = [("-o", each) for each in outputs]
    given += [("--limit", str(limit))] if limit is not None else []
    given += [("--max-time", max_time)] if max_time is not None else []
    given += [("-s", disclosed(each.partition("=")[0].strip())) for each in sets]
    return [word for pair in given for word in pair]


def database_of(db: str | None, plans: Sequence[Plan]) -> Path:
    """The file of these runs. Raises UsageError where there can be none."""
    names = [plan.spider.name for plan in plans]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(
                f"spider {name} is named {names.count(name)} times",
                hint="name it once; two runs at once need a --db each",
            )
    own = f"{names[0]}.db"
    scheme, mark, _ = (db or "").partition("://")
    if mark:
        raise UsageError(f"--db {scheme}://… is no file: only SQLite so far", hint=f"--db {own}")
    if db is not None and (not db.strip() or db in (":memory:", "memory:")):
        raise UsageError(f"--db `{db}` is no file: a run is kept in one", hint=f"--db {own}")
    path = Path(own if db is None else db)
    if path.is_dir():
        raise UsageError(f"--db {path} is a folder", hint=f"a file in it: --db {path / own}")
    return path


def make_plan(
    name: str,
    args: Sequence[str],
    starts: Sequence[str],
    urls: str | None,
    flags: Sequence[Layer],
    also: Sequence[str] = (),
) -> Plan:
    """The plan of one target; `also`: further words of its command. Raises UsageError for
    every mistake in what was asked for."""
    kind = find(name)
    spider, identity, own = _made(kind, _arguments(args))
    layers = [*file_layers(Path()), Layer("spider", own.given())]
    settings = resolve([*layers, environment_layer(os.environ), *flags])
    pipe = None
    if starts:
        spider.start_urls = [_checked(url) for url in starts]
        identity["start_urls"] = spider.start_urls
    if urls is not None:
        identity["urls"] = urls
        source = open_urls(urls)
        if isinstance(source, UrlPipe):
            pipe = source
            feed(spider, pipe)
        else:
            spider.start_urls = source
    elif type(spider).start is Spider.start and spider.start_urls in ((), []):
        raise UsageError(
            f"spider {spider.name} has no start URL", hint=f"crawler run {name} https://…"
        )
    return Plan(
        spider=spider,
        settings=settings,
        identity=msgspec.json.encode(identity, order="deterministic").decode(),
        code=code_hash(kind),
        command=msgspec.json.encode([*_words(name, args, starts, urls), *also]).decode(),
        pipe=pipe,
    )


def _words(name: str, args: Sequence[str], starts: Sequence[str], urls: str | None) -> list[str]:
    given = [word for arg in args for word in ("-a", arg)]
    return [name, *starts, *given, *(["--urls", urls] if urls is not None else [])]


def _made(kind: type[Spider], arguments: dict[str, str]) -> tuple[Spider, dict[str, Any], Settings]:
    """A spider, its arguments as plain values, its settings.

    Whatever the person's own code raises becomes a SpiderLoadError.
    """
    try:
        spider = kind(**arguments)
        return spider, msgspec.json.decode(spider.canonical_arguments()), spider.settings
    except UsageError as error:
        error.hint = error.hint or "correct its -a NAME=VALUE; left out, the default holds"
        raise
    except (Exception, SystemExit) as error:
        what = f"{type(error).__name__}: {error}"
        raise SpiderLoadError(
            f"spider {kind.name} could not be made: {what}{_user_line(kind, error)}",
            hint="correct its __init__; it passes **arguments on to super().__init__",
        ) from error


def _user_line(kind: type[Spider], error: BaseException) -> str:
    """Where in the spider's own file it was raised; empty: not in there."""
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    frames = [each for each in traceback.extract_tb(error.__traceback__) if each.filename == file]
    return f" ({os.path.relpath(frames[-1].filename)}, line {frames[-1].lineno})" if frames else ""


def _arguments(args: Sequence[str]) -> dict[str, str]:
    found = {}
    for pair in args:
        name, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"argument `{pair}` is not NAME=VALUE", hint="-a max_pages=100")
        found[name.strip()] = value
    return found


def _checked(url: str) -> str:
    try:
        return canonicalise(url).url
    except FetchError as error:
        told = f"start URL {url}: {error.args[0]}"
        raise UsageError(told, hint="give http://… or https://…") from error


def flags_of(
    sets: Sequence[str], *, limit: int | None, max_time: str | None, wait: bool
) -> list[Layer]:
    """The layers of settings that options make."""
    layers = [flag_layer(sets)]
    if limit is not None:
        hint = "--limit 100; without it there is no bound"
        layers.append(_flag("--limit", "limit", limit, hint))
    if max_time is not None:
        layers.append(_flag("--max-time", "max_time", max_time, "--max-time 90s, 15m or 2h"))
    if wait:
        layers.append(Layer("--wait", {"patience": float(10**9)}))
    return layers


def _flag(origin: str, key: str, value: Any, hint: str) -> Layer:
    layer = Layer(origin, {key: value})
    try:
        resolve([layer])
    except SettingsError as error:
        raise UsageError(str(error), hint=hint) from error
    return layer
