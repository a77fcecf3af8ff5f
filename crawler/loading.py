"""Finding spiders: by name in a folder and among the bundled ones, or by file.

Owns: importing people's spider files, what is said when one is broken, the hash by which
a changed spider is noticed. Does not own: arguments (`spider`), or what a spider does.

Invariants: a broken file never hides the spiders of another; a spider of the person's own
folder goes before a bundled one of the same name; a file is imported once per process.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import traceback
from contextlib import redirect_stdout
from hashlib import blake2b, sha256
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from crawler.errors import SpiderLoadError, nearest
from crawler.spider import Spider

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

__all__ = ["BUNDLED", "Broken", "Found", "Listing", "code_hash", "find", "listing", "twins"]

BUNDLED = {"pages": "crawler.pages"}
"""Spiders that work wherever crawler is installed: name to module."""


class Found(NamedTuple):
    """A spider that can be run."""

    name: str
    spider: type[Spider]
    file: Path
    is_bundled: bool

    @property
    def summary(self) -> str:
        """First line of the spider's docstring; empty: it has none."""
        return (self.spider.__doc__ or "").strip().partition("\n")[0]


class Broken(NamedTuple):
    """A spider file that could not be imported."""

    file: Path
    line: int | None
    """Where in the file it went wrong; None: not inside the file."""
    reason: str
    hint: str

    def told(self) -> str:
        """File, reason and line in one sentence."""
        where = "" if self.line is None else f" (line {self.line})"
        return f"{self.file} could not be imported: {self.reason}{where}"


class Listing(NamedTuple):
    """What a folder and the package hold."""

    spiders: tuple[Found, ...]
    broken: tuple[Broken, ...]
    files: int
    """Spider files looked at, broken ones included."""


def find(target: str, folder: Path | str = "spiders") -> type[Spider]:
    """The spider called `target`, or the one in `file.py` or `file.py:Class`.

    Raises SpiderLoadError, whose hint holds the nearest name or the next command.
    """
    path, colon, class_name = target.rpartition(":")
    if colon and path.endswith(".py"):
        return _from_file(Path(path), class_name)
    if target.endswith(".py"):
        return _from_file(Path(target), None)
    return _by_name(target, Path(folder))


def listing(folder: Path | str = "spiders") -> Listing:
    """Every spider that `find` would find by name, and the files that are broken."""
    files = _files(Path(folder))
    spiders: list[Found] = []
    broken: list[Broken] = []
    for file in files:
        outcome = _load(file)
        if isinstance(outcome, Broken):
            broken.append(outcome)
        else:
            spiders += [Found(spider.name, spider, file, False) for spider in _spiders(outcome)]
    own = {found.name for found in spiders}
    spiders += [_bundled(name) for name in BUNDLED if name not in own]
    return Listing(tuple(spiders), tuple(broken), len(files))


def twins(known: Listing) -> list[str]:
    """A sentence for each name that several spiders have: only one of them can be meant."""
    places: dict[str, list[str]] = {}
    for entry in known.spiders:
        places.setdefault(entry.name, []).append(f"{entry.file}:{entry.spider.__name__}")
    return [
        f"{len(files)} spiders are called `{name}`: {', '.join(files)}"
        for name, files in places.items()
        if len(files) > 1
    ]


def code_hash(spider: type[Spider]) -> str:
    """SHA-256 (hex) of the files that define the spider and its parents.

    The crawler's own classes and the standard library's do not count; a class that was
    typed in (a notebook) counts by its source, or else by its name.
    """
    digest = sha256()
    seen = set()
    for parent in reversed(spider.__mro__):
        source = b"" if _is_ours(parent) else _source(parent)
        if source and source not in seen:
            seen.add(source)
            digest.update(source + b"\0")
    return digest.hexdigest()


# ── by name ──────────────────────────────────────────────────────────────────────────────


def _by_name(name: str, folder: Path) -> type[Spider]:
    first = folder / f"{name}.py"
    if name.isidentifier() and first.is_file():
        module = _load(first)
        if isinstance(module, Broken):
            raise _import_error(module)
        for spider in _spiders(module):
            if spider.name == name:
                return spider
    if name in BUNDLED and not _files(folder):
        return _bundled(name).spider
    return _chosen(name, listing(folder), folder)


def _chosen(name: str, known: Listing, folder: Path) -> type[Spider]:
    found = [entry for entry in known.spiders if entry.name == name]
    if len(found) == 1:
        return found[0].spider
    if found:
        where = ", ".join(f"{entry.file}:{entry.spider.__name__}" for entry in found)
        raise SpiderLoadError(
            f"{len(found)} spiders are called `{name}`: {where}",
            hint=f"say which one: `{found[0].file}:{found[0].spider.__name__}`",
        )
    names = [entry.name for entry in known.spiders]
    looked = f"looked at {_counted(known.files, 'file')}; {_counted(len(names), 'spider')}: "
    file = folder / f"{name}.py"
    inside = [entry.name for entry in known.spiders if entry.file == file]
    if file.is_file() and not inside and file not in [each.file for each in known.broken]:
        raise SpiderLoadError(f"{file} has no spider", hint="a spider is a subclass of Spider")
    message = f"spider `{name}` not found in {folder}/ ({looked}{', '.join(names)})"
    best = nearest(name, names)
    if inside:
        hint = f"{file} holds `{'`, `'.join(inside)}` (names come from the class)"
    elif best is not None:
        hint = f"did you mean `{best}`?"
    elif known.broken:
        hint = f"{known.broken[0].told()}; is it in there?"
    else:
        hint = f"`crawler list`, or give a file: `crawler run path/to/{name}.py`"
    raise SpiderLoadError(message, hint=hint)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*.py") if not file.name.startswith("_"))


def _bundled(name: str) -> Found:
    module = importlib.import_module(BUNDLED[name])
    spider = next(spider for spider in _spiders(module) if spider.name == name)
    return Found(name, spider, Path(module.__file__ or ""), True)


# ── by file ──────────────────────────────────────────────────────────────────────────────


def _from_file(file: Path, class_name: str | None) -> type[Spider]:
    if not file.is_file():
        siblings = [str(sibling) for sibling in _files(file.parent)]
        best = nearest(str(file), siblings)
        raise SpiderLoadError(
            f"no such file: {file}", hint=f"did you mean `{best}`?" if best else "`crawler list`"
        )
    module = _load(file)
    if isinstance(module, Broken):
        raise _import_error(module)
    spiders = {spider.__name__: spider for spider in _spiders(module)}
    if class_name is not None and class_name not in spiders:
        best = nearest(class_name, spiders) or next(iter(spiders), None)
        raise SpiderLoadError(
            f"{file} has no spider `{class_name}` (it has: {', '.join(spiders) or 'none'})",
            hint=f"did you mean `{file}:{best}`?" if best else "a spider is a subclass of Spider",
        )
    if class_name is None and len(spiders) != 1:
        some = next(iter(spiders), None)
        raise SpiderLoadError(
            f"{file} has {len(spiders)} spiders: {', '.join(spiders)}"
            if some
            else f"{file} has no spider",
            hint=f"say which one: `{file}:{some}`" if some else "a spider is a subclass of Spider",
        )
    return spiders[class_name] if class_name else next(iter(spiders.values()))


def _spiders(module: ModuleType) -> Iterator[type[Spider]]:
    """The spiders a module defines itself; a leading underscore marks one only to inherit."""
    for value in list(vars(module).values()):
        if (
            isinstance(value, type)
            and issubclass(value, Spider)
            and value.__module__ == module.__name__
            and not value.__name__.startswith("_")
        ):
            yield value


# ── importing ────────────────────────────────────────────────────────────────────────────


def _load(file: Path) -> ModuleType | Broken:
    """Import a file as `<folder>.<stem>`; what it raises becomes an answer."""
    path = file.resolve()
    name = f"{path.parent.name}.{path.stem}"
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__file__", None) != str(path):
        name += "_" + blake2b(str(path).encode(), digest_size=6).hexdigest()
        known = sys.modules.get(name)
    if known is not None:
        return known
    _make_importable(Path.cwd(), path.parent)
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        return Broken(file, None, "not a Python file", "its name must end in .py")
    module = sys.modules[name] = module_from_spec(spec)
    try:
        with redirect_stdout(sys.stderr):  # what a file prints is no data of a command
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        return _broken(file, path, error)
    return module


def _make_importable(*folders: Path) -> None:
    """Let spider files import their neighbours; last, so that nothing installed is hidden."""
    sys.path += [str(folder) for folder in folders if str(folder) not in sys.path]


def _broken(file: Path, path: Path, error: BaseException) -> Broken:
    frames = traceback.extract_tb(error.__traceback__)
    line = next((frame.lineno for frame in reversed(frames) if frame.filename == str(path)), None)
    hint = "correct the file; the other spiders still work"
    reason = str(error) or type(error).__name__
    if isinstance(error, SyntaxError):
        line, reason = error.lineno, error.msg
    elif isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        hint = f"{sys.executable} -m pip install {package}; the other spiders still work"
    elif not isinstance(error, (ImportError, SpiderLoadError)):
        reason = f"{type(error).__name__}: {reason}"
    return Broken(file, line, reason, hint)


def _import_error(broken: Broken) -> SpiderLoadError:
    return SpiderLoadError(broken.told(), hint=broken.hint)


def _is_ours(cls: type) -> bool:
    package = cls.__module__.partition(".")[0]
    return package == "crawler" or (
        package in sys.stdlib_module_names and cls.__module__ != "__main__"
    )


def _source(cls: type) -> bytes:
    module = sys.modules.get(cls.__module__)
    file = getattr(module, "__file__", None)
    try:
        return Path(file).read_bytes() if file else inspect.getsource(cls).encode()
    except (OSError, TypeError):
        return f"{cls.__module__}.{cls.__qualname__}".encode()
