"""`crawler list`: what can be run, with which arguments, and what is broken."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING

import pytest

from tests.commands import call, here

if TYPE_CHECKING:
    from pathlib import Path

    from tests.commands import Call

__all__ = ["call", "here"]

SHOP = '''\
from typing import Literal
from crawler import Spider

class Shop(Spider):
    """Sells.

    More.
    """
    shelf: str
    order: Literal["up", "down"] = "up"
    pages: int | None = None
    tags: list[str] = ["a"]
'''


@pytest.fixture
def spiders(here: Path) -> Path:
    (here / "spiders").mkdir()
    (here / "spiders" / "shop.py").write_text(SHOP)
    return here / "spiders"


def test_spiders_are_listed_with_types_and_defaults_of_their_arguments(
    call: Call, spiders: Path
) -> None:
    said = call("list", "--json")
    assert (said.code, said.err) == (0, "")
    pages, shop = json.loads(said.out)
    assert (pages["name"], pages["file"]) == ("pages", "bundled")
    assert (shop["file"], shop["summary"]) == ("spiders/shop.py", "Sells.")
    assert [tuple(argument.values()) for argument in shop["arguments"]] == [
        ("shelf", "str", None, True),
        ("order", "up|down", "up", False),
        ("pages", "int | None", None, False),
        ("tags", "list[str]", ["a"], False),
    ]


def test_every_form_has_the_same_spiders(call: Call, spiders: Path) -> None:
    told = "shelf: str; order: up|down = 'up'; pages: int | None = None; tags: list[str] = ['a']"
    table = call("list")
    assert (table.code, table.err) == (0, "")
    assert table.out == call("list", "--table").out
    assert told in table.out
    lines = [json.loads(line) for line in call("list", "--nl").out.splitlines()]
    assert lines == json.loads(call("list", "--json").out)
    _, _, row = csv.reader(io.StringIO(call("list", "--csv").out))
    assert row == ["shop", "spiders/shop.py", told, "Sells."]


def test_broken_files_hide_nothing_and_make_the_exit_code_2(call: Call, spiders: Path) -> None:
    (spiders / "bad.py").write_text("x = 1\nraise ValueError('\\x1b[31mred')\n")
    (spiders / "odd.py").write_text(
        "from __future__ import annotations\nfrom crawler import Spider\n"
        "class Odd(Spider):\n    when: Nowhere = None\n"
    )
    said = call("list", "--json")
    assert said.code == 2
    assert [row["name"] for row in json.loads(said.out)] == ["pages", "shop"]
    assert said.err.splitlines() == [
        "error: spiders/bad.py could not be imported: ValueError: \\x1b[31mred (line 2)",
        "  hint: correct the file; the other spiders still work",
        "error: spiders/odd.py: spider odd: its annotations cannot be read: "
        "name 'Nowhere' is not defined",
        "  hint: import their names at run time, not under TYPE_CHECKING",
    ]


def test_a_folder_without_spiders_is_told_how_to_get_one(call: Call, here: Path) -> None:
    said = call("list")
    assert said.code == 0
    assert "pages" in said.out
    assert said.err == "no file in spiders/ here: `crawler new NAME` makes one\n"


def test_two_spiders_of_one_name_are_told_of_with_their_files(call: Call, spiders: Path) -> None:
    text = "from crawler import Spider\nclass Twin(Spider): ...\n"
    (spiders / "twin.py").write_text(text)
    (spiders / "other.py").write_text(text)
    told = "2 spiders are called `twin`: spiders/other.py:Twin, spiders/twin.py:Twin"
    for said in (call("list"), call("config", "--check")):
        assert (said.code, f"warning: {told}\n" in said.err) == (0, True)
    assert "has no start URL" in call("run", "twin").err
