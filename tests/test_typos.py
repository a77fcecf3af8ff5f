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


class Tally:
    """Slips that were understood, and those that were not."""

    def __init__(self, kind: tuple[str, ...]) -> None:
        self._kind = frozenset(kind)
        self._right = 0
        self._wrong: list[tuple[str, str, str]] = []

    def __repr__(self) -> str:
        return f"<Tally {self._right} right, {len(self._wrong)} not>"

    def count(self, meant: str, typed: str, suggested: str) -> None:
        assert suggested in self._kind or not suggested, (typed, suggested, "another kind")
        if suggested == meant:
            self._right += 1
        else:
            self._wrong.append((meant, typed, suggested))

    def check(self) -> None:
        total = self._right + len(self._wrong)
        assert total > 0
        assert self._right >= RIGHT * total, (self._right, total, self._wrong)


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


def test_a_setting_by_flag(place: Path) -> None:
    tally = Tally((*KEYS, *TABLES))
    for key in KEYS + TABLES:
        field = key.rpartition(".")[2]
        where = 0 if key in KEYS else len(key) - len(field)
        for typed in slips(key, where=where):
            if typed not in KEYS:
                told = call("run", "books", "-s", f"{typed}=1")
                assert told.code == 2
                assert typed in told.error
                assert "(from -s)" in told.error
                tally.count(key, typed, told.suggestion)
    tally.check()


@pytest.mark.parametrize("file", ["crawler.toml", "pyproject.toml"])
def test_a_setting_in_a_file(file: str, place: Path) -> None:
    tally = Tally(KEYS)
    header = "[tool.crawler]\n" if file == "pyproject.toml" else ""
    for key in KEYS:
        for typed in slips(key):
            if typed not in KEYS:
                place.joinpath(file).write_text(f"{header}{typed} = 1\n")
                told = call("run", "books")
                assert told.code == 2
                assert file in told.error
                tally.count(key, typed, told.suggestion)
    tally.check()


def test_a_setting_in_the_environment(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = tuple(f"CRAWLER_{key.replace('.', '_').upper()}" for key in KEYS)
    tally = Tally(names)
    for name in names:
        for typed in slips(name, where=len("CRAWLER_")):
            if typed not in names:
                with monkeypatch.context() as patch:
                    patch.setenv(typed, "1")
                    told = call("run", "books")
                assert told.code == 2
                assert typed in told.error
                tally.count(name, typed, told.suggestion)
    tally.check()


def test_a_setting_in_code() -> None:
    kinds = [type(value) for value in vars(Settings).values()]
    groups: set[type[SettingsGroup]] = {Settings}
    groups.update(kind for kind in kinds if issubclass(kind, SettingsGroup))
    for group in sorted(groups, key=lambda group: group.__name__):
        tally = Tally(tuple(group.types))
        for name in group.types:
            for typed in slips(name, each=3):
                if typed not in group.types:
                    with pytest.raises(SettingsError, match=group.__name__) as caught:
                        group(**{typed: 1})
                    tally.count(name, typed, Told(2, "", caught.value.hint or "").suggestion)
        if len(group.types) > 2:
            tally.check()


# -- arguments, options, commands -------------------------------------------------------------


def test_an_argument_of_a_spider(place: Path) -> None:
    tally = Tally(ARGUMENTS)
    for name in ARGUMENTS:
        for typed in slips(name, each=4):
            told = call("run", "books", "-a", f"{typed}=1")
            assert told.code == 2
            assert told.error == f"spider books has no argument {typed}"
            suggested = told.hint.partition("did you mean ")[2].partition("?")[0]
            tally.count(name, typed, suggested)
    tally.check()


def commands() -> dict[str, click.Command]:
    return {name: import_module(entry.module).command for name, entry in COMMANDS.items()}


@pytest.mark.parametrize("name", COMMANDS)
def test_an_option_of_a_command(name: str, place: Path) -> None:
    command = commands()[name]
    options = [each for each in command.params if each.param_type_name == "option"]
    names = tuple(opt for each in options for opt in each.opts if opt.startswith("--"))
    tally = Tally((*names, "--help"))
    for option in names:
        for typed in slips(option, where=2, each=2):
            if typed not in (*names, "--help"):
                told = call(name, typed, "x")
                assert told.code == 2
                assert told.error == f"unknown option `{typed}` of `crawler {name}`"
                tally.count(option, typed, told.suggestion)
    if names:
        tally.check()


def test_a_command(place: Path) -> None:
    tally = Tally(tuple(f"crawler {name}" for name in COMMANDS))
    for name in COMMANDS:
        for typed in slips(name, each=3):
            if typed not in COMMANDS:
                told = call(typed)
                assert (told.code, told.error) == (2, f"unknown command `{typed}`")
                tally.count(f"crawler {name}", typed, told.suggestion)
    tally.check()


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
