"""A slip of the finger in any name a person types: exit 2, the right name, no request."""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from crawler.cli import COMMANDS, main
from crawler.errors import SettingsError, nearest
from crawler.settings import DomainSettings, Settings, SettingsGroup, setting_types
from crawler.testing import Site

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import click

RIGHT = 0.95
"""Share of slips whose suggestion must be the name that was meant."""
KEYS = tuple(setting_types())
TABLES = tuple(f'domains."*.example.com".{name}' for name in DomainSettings.types)
ARGUMENTS = ("max_pages", "shelf", "language", "with_covers", "since")
SPIDER = """
from crawler import Spider

class Books(Spider):
    start_urls = ["{url}"]
    max_pages: int = 1
    shelf: str = "poetry"
    language: str = "en"
    with_covers: bool = False
    since: str = ""
"""


def slips(name: str, *, where: int = 0, each: int = 1) -> Iterator[str]:
    """The name with a letter dropped, two swapped, one doubled: `each` of a kind, from
    `where` on; what is the name still, or no letter, is left out."""
    random = Random(name)
    places = [n for n in range(where, len(name)) if name[n].isalpha()]
    for place in random.sample(places, min(each, len(places))):
        yield name[:place] + name[place + 1 :]
        yield name[:place] + name[place] + name[place:]
        if place > where and name[place - 1] != name[place] and name[place - 1].isalpha():
            yield name[: place - 1] + name[place] + name[place - 1] + name[place + 1 :]


class Told(NamedTuple):
    """A mistake as the command tells it."""

    code: int
    error: str
    hint: str

    @property
    def suggestion(self) -> str:
        """The name that it says was meant; empty: it says none."""
        return self.hint.partition("did you mean `")[2].partition("`")[0]


def call(*argv: str) -> Told:
    """The command in this process; it says one error and one hint, and nothing else."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(argv)
    lines = err.getvalue().splitlines()
    assert out.getvalue() == "", argv
    assert len(lines) == 2, (argv, lines)
    assert lines[0].startswith("error: "), argv
    assert lines[1].startswith("  hint: "), argv
    return Told(code, lines[0].removeprefix("error: "), lines[1].removeprefix("  hint: "))


def check(found: list[tuple[str, str]], kind: tuple[str, ...]) -> None:
    """Of (meant, suggested) nearly all agree, and none is of another kind of name."""
    assert {suggested for _, suggested in found} <= {*kind, ""}
    wrong = [(meant, suggested) for meant, suggested in found if meant != suggested]
    assert found
    assert len(wrong) <= (1 - RIGHT) * len(found), wrong


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a spider, whose site must see nobody."""
    monkeypatch.chdir(tmp_path)
    with Site().threaded() as site:
        folder = tmp_path / "spiders"
        folder.mkdir()
        folder.joinpath("books.py").write_text(SPIDER.format(url=site.url("/")))
        yield tmp_path
        assert site.stats().opened == 0
    assert not list(tmp_path.glob("*.db*"))


# -- settings ---------------------------------------------------------------------------------


def by_flag(key: str, place: Path, patch: pytest.MonkeyPatch) -> Told:
    told = call("run", "books", "-s", f"{key}=1")
    assert "(from -s)" in told.error
    return told


def in_file(key: str, place: Path, patch: pytest.MonkeyPatch) -> Told:
    place.joinpath("crawler.toml").write_text(f"{key} = 1\n")
    told = call("run", "books")
    assert "crawler.toml" in told.error
    return told


def in_project(key: str, place: Path, patch: pytest.MonkeyPatch) -> Told:
    place.joinpath("pyproject.toml").write_text(f"[tool.crawler]\n{key} = 1\n")
    told = call("run", "books")
    assert "pyproject.toml" in told.error
    return told


def in_environment(name: str, place: Path, patch: pytest.MonkeyPatch) -> Told:
    patch.setenv(name, "1")
    return call("run", "books")


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (by_flag, KEYS + TABLES),
        (in_file, KEYS),
        (in_project, KEYS),
        (in_environment, tuple(f"CRAWLER_{key.replace('.', '_').upper()}" for key in KEYS)),
    ],
)
def test_a_setting(
    given: Callable[[str, Path, pytest.MonkeyPatch], Told],
    names: tuple[str, ...],
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = []
    for name in names:
        where = name.rfind(".") + 1 if name in TABLES else len("CRAWLER_") * name.isupper()
        for typed in slips(name, where=where):
            if typed in names:
                continue
            with monkeypatch.context() as patch:
                told = given(typed, place, patch)
            assert told.code == 2
            assert typed in told.error
            found.append((name, told.suggestion))
    check(found, names)


def test_a_setting_in_code() -> None:
    kinds = [type(value) for value in vars(Settings).values()]
    groups: set[type[SettingsGroup]] = {Settings}
    groups.update(kind for kind in kinds if issubclass(kind, SettingsGroup))
    for group in sorted(groups, key=lambda group: group.__name__):
        found = []
        for name in group.types:
            for typed in slips(name, each=3):
                if typed not in group.types:
                    with pytest.raises(SettingsError, match=group.__name__) as caught:
                        group(**{typed: 1})
                    found.append((name, Told(2, "", caught.value.hint or "").suggestion))
        if len(group.types) > 2:
            check(found, tuple(group.types))


# -- arguments, options, commands -------------------------------------------------------------


def test_an_argument_of_a_spider(place: Path) -> None:
    found = []
    for name in ARGUMENTS:
        for typed in slips(name, each=4):
            told = call("run", "books", "-a", f"{typed}=1")
            assert told.code == 2
            assert told.error == f"spider books has no argument {typed}"
            suggested = told.hint.partition("did you mean ")[2].partition("?")[0]
            found.append((name, suggested))
    check(found, ARGUMENTS)


@pytest.mark.parametrize("name", COMMANDS)
def test_an_option_of_a_command(name: str, place: Path) -> None:
    command: click.Command = import_module(COMMANDS[name].module).command
    options = [each for each in command.params if each.param_type_name == "option"]
    names = tuple(opt for each in options for opt in each.opts if opt.startswith("--"))
    found = []
    for option in names:
        for typed in slips(option, where=2, each=2):
            if typed not in (*names, "--help"):
                told = call(name, typed, "x")
                assert told.code == 2
                assert told.error == f"unknown option `{typed}` of `crawler {name}`"
                found.append((option, told.suggestion))
    if names:
        check(found, (*names, "--help"))


def test_a_command(place: Path) -> None:
    found = []
    for name in COMMANDS:
        for typed in slips(name, each=3):
            if typed not in COMMANDS:
                told = call(typed)
                assert (told.code, told.error) == (2, f"unknown command `{typed}`")
                found.append((f"crawler {name}", told.suggestion))
    check(found, tuple(f"crawler {name}" for name in COMMANDS))


def test_a_spider_and_a_file(place: Path) -> None:
    for typed in slips("books", each=4):
        told = call("run", typed)
        assert (told.code, told.suggestion) == (2, "books")
        told = call("run", f"spiders/{typed}.py")
        assert (told.code, told.suggestion) == (2, "spiders/books.py")


# -- what is nearest --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "names", "meant"),
    [
        ("rnu", ("run", "runs", "report"), "run"),
        ("runn", ("runs", "run"), "run"),
        ("sq", ("set", "sql", "shell"), "sql"),
        ("Limit", ("limit", "list"), "limit"),
        ("timeout.conect", ("timeout.connect", "timeout.read"), "timeout.connect"),
        ("depth", ("limit", "table"), None),
        ("", ("limit",), None),
        ("x", (), None),
    ],
)
def test_the_nearest_name(typed: str, names: tuple[str, ...], meant: str | None) -> None:
    assert nearest(typed, names) == meant


def test_every_name_is_nearest_to_itself() -> None:
    kinds: list[Callable[[], Any]] = [lambda: KEYS, lambda: COMMANDS, lambda: ARGUMENTS]
    for kind in kinds:
        for name in kind():
            assert nearest(name, kind()) == name
