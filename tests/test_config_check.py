"""`crawler config --check`: every mistake of a project, one line each, and where it stands."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from crawler.cli.checking import line_of
from crawler.layers import variables
from crawler.settings import setting_types
from tests.commands import call, here

if TYPE_CHECKING:
    from pathlib import Path

    from tests.commands import Call

__all__ = ["call", "here"]

SETTINGS = """\
# limit = 1
limit = "many"
pool.cliens = 3

[domain]
delay = "2h"
concurency = 4
[domains."*.example.com"]
verify = "perhaps"
"""
PYPROJECT = """\
[project]
name = "limit"
[tool.crawler]
timeout = { head = -1 }
"""
SPIDERS = """\
from crawler import DomainSettings, Settings, Spider
class Wrong(Spider):
    pages: int = "three"
class Loud(Spider):
    @property
    def settings(self):
        return 1 / 0
class Quiet(Spider):
    def __init__(self, **arguments):
        raise SystemExit("bye")
class Needy(Spider):
    shelf: str
    settings = Settings(limit=3, domain=DomainSettings(delay=1))
class Fine(Spider):
    start_urls = []
    pages: int = 3
    share: float = 1
    names: list[str] = []
"""


@pytest.fixture
def spiders(here: Path) -> Path:
    (here / "spiders").mkdir()
    return here / "spiders"


def test_every_mistake_is_told_once_with_its_place_and_the_nearest_name(
    call: Call, here: Path, spiders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "crawler.toml").write_text(SETTINGS)
    (here / "pyproject.toml").write_text(PYPROJECT)
    (spiders / "many.py").write_text(SPIDERS)
    (spiders / "bad.py").write_text("import nothing_of_that_name\n")
    monkeypatch.setenv("CRAWLER_LIMT", "3")
    monkeypatch.setenv("CRAWLER_PATIENCE", "x\x1b[31m")
    said = call("config", "--check", "-s", "foo", "-s", "redirects=-1")
    assert (said.code, said.err) == (2, "")
    for line, parts in zip(
        said.out.splitlines(),
        [
            ("`timeout.head` = -1 (from pyproject.toml, line 4)", "seconds above 0"),
            ("`limit` = 'many' (from crawler.toml, line 2)", "a whole number"),
            ("`pool.cliens` (from crawler.toml, line 3)", "→ did you mean `pool.clients`?"),
            ("`domain.concurency` (from crawler.toml, line 7)", "`domain.concurrency`?"),
            ('`domains."*.example.com".verify`', "(from crawler.toml, line 9): expected true"),
            ("`CRAWLER_LIMT` (from environment)", "→ did you mean `CRAWLER_LIMIT`?"),
            ("`patience` = 'x\\x1b[31m' (from environment, CRAWLER_PATIENCE)", "seconds"),
            ("`foo` (from -s) is not KEY=VALUE", ""),
            ("`redirects` = '-1' (from -s)", "a whole number, 0 or more"),
            ("spiders/bad.py could not be imported", "(line 1) → "),
            ("argument pages of spider wrong is 'three'", "expected `int`, got `str`"),
            ("spider loud could not be made: ZeroDivisionError", "→ correct its __init__"),
            ("spider quiet could not be made: SystemExit: bye", "→"),
        ],
        strict=True,
    ):
        for part in parts:
            assert part in line


def test_a_project_that_is_fine_is_said_to_be(call: Call, here: Path, spiders: Path) -> None:
    said = call("config", "--check")
    assert said == (0, "0 settings from 0 sources are fine; 1 spider can be made\n", "")
    (here / "crawler.toml").write_text("limit = 3\npatience = 2\n")
    (spiders / "good.py").write_text(
        SPIDERS.partition("class Wrong")[0] + "class Needy" + SPIDERS.partition("class Needy")[2]
    )
    said = call("config", "--check", "-s", "limit=4")
    assert said == (0, "5 settings from 3 sources are fine; 3 spiders can be made\n", "")
    assert json.loads(call("config", "--check", "--json").out) == []


def test_a_settings_file_that_is_no_toml_is_told_with_its_line(call: Call, here: Path) -> None:
    (here / "crawler.toml").write_text("limit = 3\nlimit\n")
    said = call("config", "--check", "--json")
    assert said.code == 2
    (problem,) = json.loads(said.out)
    assert "crawler.toml could not be read" in problem["problem"]
    assert "line 2" in problem["problem"]


def test_a_file_that_a_setting_names_must_be_there(call: Call, here: Path) -> None:
    (here / "crawler.toml").write_text('[tls]\nca_file = "none.pem"\n')
    said = call("config", "--check")
    assert said.code == 2
    assert "(from crawler.toml, line 2): expected a file that can be read" in said.out


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("limit", 2),
        ("domain.concurency", 7),
        ("domains.*.example.com.verify", 9),
        ("domains.*.example.com.delay", None),
    ],
)
def test_a_setting_is_found_on_its_line(key: str, line: int | None) -> None:
    assert line_of(key, SETTINGS.splitlines()) == line


def test_lines_of_tables_within_a_line_and_of_quoted_names_are_found() -> None:
    lines = ['a = """', "x", '"""', "domain = { delay = 1 }", "[resolve]", '"shop.test" = "::1"']
    assert line_of("domain.delay", lines) == 4
    assert line_of("resolve.shop.test", lines) == 6
    assert line_of("limit", lines) is None


def test_the_variable_of_every_setting_is_shown(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = json.loads(call("config", "--env", "--json").out)
    assert {row["setting"]: row["variable"] for row in rows} == {
        key: name for name, key in variables().items()
    }
    assert len(rows) == len(setting_types())
    monkeypatch.setenv("CRAWLER_DOMAIN_DELAY", "3")
    shown = call("config", "--env", "domain.delay").out.splitlines()[-1]
    assert shown.split() == ["CRAWLER_DOMAIN_DELAY", "domain.delay", "3.0", "environment"]


def test_a_group_is_listed_with_its_meaning(call: Call) -> None:
    lines = call("config", "--list", "pool").out.splitlines()
    assert lines[0].split() == ["setting", "value", "origin", "meaning"]
    assert {line.split()[0].partition(".")[0] for line in lines[2:]} == {"pool"}


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        (("--check", "pool"), "--check and a KEY exclude each other"),
        (("--check", "--list"), "--check and --list exclude each other"),
        (("--env", "--domain", "x.test"), "--env and --domain exclude each other"),
        (("pool", "--domain", "x.test"), "a KEY and --domain exclude each other"),
        (("--env", "pol"), "unknown setting `pol`"),
    ],
)
def test_what_says_nothing_together_is_refused(
    call: Call, argv: tuple[str, ...], error: str
) -> None:
    said = call("config", *argv)
    assert said.code == 2
    assert said.error[0] == error
