"""`crawler config --check`: every mistake of a project, one line each, and where it stands."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

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
    start_urls = "https://example.com/"
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
            ("`timeout.head` = -1 (from pyproject.toml)", "seconds above 0"),
            ("`limit` = 'many' (from crawler.toml)", "a whole number"),
            ("`pool.cliens` (from crawler.toml)", "→ did you mean `pool.clients`?"),
            ("`domain.concurency` (from crawler.toml)", "`domain.concurrency`?"),
            ('`domains."*.example.com".verify`', "(from crawler.toml): expected true"),
            ("`CRAWLER_LIMT` (from environment)", "→ did you mean `CRAWLER_LIMIT`?"),
            ("`patience` = 'x\\x1b[31m' (from environment)", "seconds"),
            ("`foo` (from -s) is not KEY=VALUE", ""),
            ("`redirects` = '-1' (from -s)", "a whole number, 0 or more"),
            ("spiders/bad.py could not be imported", "(line 1) → "),
            ("spiders/many.py: spider wrong: start_urls must be a list of URLs", "→ start_urls"),
            ("spider loud could not be made: ZeroDivisionError", "→ correct its __init__"),
            ("spider quiet could not be made: SystemExit: bye", "→"),
        ],
        strict=True,
    ):
        for part in parts:
            assert part in line


def test_a_project_that_is_fine_is_said_to_be(call: Call, here: Path, spiders: Path) -> None:
    (here / "crawler.toml").write_text("limit = 3\npatience = 2\n")
    (spiders / "good.py").write_text(
        SPIDERS.partition("class Wrong")[0] + "class Needy" + SPIDERS.partition("class Needy")[2]
    )
    assert call("config", "--check") == (0, "settings and spiders are fine\n", "")
    assert json.loads(call("config", "--check", "--json").out) == []


def test_what_a_crawl_would_refuse_is_a_mistake_once(call: Call, here: Path, spiders: Path) -> None:
    (here / "crawler.toml").write_text('domain.local_address = "192.0.2.1"\n')
    (spiders / "good.py").write_text("from crawler import Spider\nclass Good(Spider): pass\n")
    said = call("config", "--check")
    assert (said.code, len(said.out.splitlines())) == (2, 1)
    assert "domain.local_address 192.0.2.1 is no address of this machine" in said.out
    assert call("config", "--check", "-s", "domain.local_address=127.0.0.1").code == 0


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
    assert "(from crawler.toml): expected a file that can be read" in said.out


def test_a_group_is_listed_with_its_meaning(call: Call) -> None:
    lines = call("config", "--list", "pool").out.splitlines()
    assert lines[0].split() == ["setting", "value", "origin", "meaning"]
    assert {line.split()[0].partition(".")[0] for line in lines[2:]} == {"pool"}


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        (("--check", "pool"), "--check and a KEY exclude each other"),
        (("--check", "--list"), "--check and --list exclude each other"),
        (("pool", "--domain", "x.test"), "a KEY and --domain exclude each other"),
    ],
)
def test_what_says_nothing_together_is_refused(
    call: Call, argv: tuple[str, ...], error: str
) -> None:
    said = call("config", *argv)
    assert said.code == 2
    assert said.error[0] == error
