"""docs/reference says what the code says: nothing missing, nothing stale, examples that work."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

import click
import pytest

from crawler import Response, Results, Retry, Settings, Spider, crawl_sync, item
from crawler.cli import COMMANDS
from crawler.codes import CODES
from crawler.layers import flag_layer, resolve
from crawler.settings import vocabulary
from crawler.testing import Reply, Site
from storage import meanings
from storage.reading import Reader
from tests import reference, reference_commands
from tests.markdown import code, tables

if TYPE_CHECKING:
    from pathlib import Path

EVERY_PAGE = pytest.mark.parametrize("name", reference.PAGES)
EVERY_COMMAND = pytest.mark.parametrize("name", COMMANDS)


@EVERY_PAGE
def test_a_page_is_what_the_code_says(name: str) -> None:
    page = (reference.FOLDER / name).read_text("utf-8")
    assert page == reference.written(name), f"it is stale: `{reference.HOW}` writes it anew"


def test_there_is_no_page_that_nobody_writes() -> None:
    assert {file.name for file in reference.FOLDER.iterdir()} == set(reference.PAGES)


# -- settings ------------------------------------------------------------------------------------


def test_defaults_can_be_set_as_they_are_written() -> None:
    rows = [(field.key, reference.told(field)) for field in vocabulary()]
    given = [f"{key}={told}" for key, told in rows if told != "none"]
    assert resolve([flag_layer(given)]) == Settings()


# -- commands ------------------------------------------------------------------------------------


@EVERY_COMMAND
def test_every_command_has_its_words(name: str) -> None:
    command = reference_commands.loaded(name)
    assert command.help
    for each in command.params:
        if isinstance(each, click.Option):
            assert each.hidden or each.help, f"{name} {each.opts[-1]} has no help"


@EVERY_COMMAND
def test_the_example_of_a_command_is_one(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for line in reference_commands.EXAMPLES[name].splitlines():
        program, called, *args = shlex.split(line, comments=True)
        assert (program, called) == ("crawler", name)
        with reference_commands.loaded(name).make_context(name, args) as context:
            assert context.params


def test_nothing_is_told_of_commands_that_are_not_there() -> None:
    assert set(reference_commands.EXAMPLES) == set(COMMANDS)
    assert set(reference_commands.EXITS) <= set(COMMANDS)
    used = {word for name in COMMANDS for word in reference_commands.words_used(name)}
    assert used == set(reference_commands.ARGUMENTS)
    codes = {code for name in COMMANDS for code in reference_commands.exits(name)}
    assert codes == set(reference_commands.EXIT_CODES)


# -- schema --------------------------------------------------------------------------------------


@item(key="url")
class Book:
    url: str
    title: str
    price: float


class Shop(Spider):
    """Something of everything: an item, a 404, a URL out of scope, a callback that raises."""

    retry = Retry(attempts=1)

    def parse(self, page: Response) -> Results:
        yield Book(url=page.url, title="One", price=1.5)
        yield from page.follow_all("a", self.parse)
        page.get("h1")


@pytest.fixture(scope="module")
def crawled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("reference") / "shop.db"
    front = Reply.html('<h1>Shop</h1><a href="/missing">a</a><a href="http://other.test/">b</a>')
    with Site({"/": front, "/robots.txt": Reply.code(404)}).threaded() as site:
        spider = Shop()
        spider.start_urls = [site.url("/")]
        spider.allowed_domains = [site.url("/").split("/")[2]]
        crawl_sync(spider, db=file)
    return file


@pytest.mark.parametrize("name", reference.SAMPLES)
def test_a_sample_query_works_on_a_real_crawl(name: str, crawled: Path) -> None:
    with Reader(crawled) as reader:
        columns, rows = reader.query(reference.SAMPLES[name])
    assert columns
    assert list(rows) or name == "v_queue"


def test_every_view_and_column_is_explained_and_nothing_else() -> None:
    there = reference.views()
    lacking = [
        (v, c) for v, columns in there.items() for c in columns if not meanings.meaning(v, c)
    ]
    assert lacking == []
    assert set(meanings.ROWS) == set(there)
    assert [
        (v, c) for v, columns in meanings.OWN.items() for c in columns if c not in there[v]
    ] == []
    shared = {(v, c) for v, columns in there.items() for c in columns if c in meanings.COLUMNS}
    used = {column for view, column in shared if column not in meanings.OWN.get(view, {})}
    assert set(meanings.COLUMNS) - used == set()


def test_item_tables_have_the_private_columns_that_are_told(crawled: Path) -> None:
    with Reader(crawled) as reader:
        columns, _ = reader.query("SELECT * FROM book")
    assert [name for name in columns if name.startswith("_")] == list(meanings.PRIVATE)


# -- errors --------------------------------------------------------------------------------------


def test_every_code_is_told_once() -> None:
    page = reference.FOLDER / "errors.md"
    rows = [row for table in tables(page) if table[0][0] == "code" for row in table[1:]]
    told = [name for cells in rows for name in code(cells[0]) if not name.startswith("http-")]
    assert len(told) == len(set(told))
    assert set(told) == set(CODES)


DECIDED = [name for name in CODES if CODES[name].fault not in ("spider", "rule")]


@pytest.mark.parametrize("name", DECIDED)
def test_what_is_told_of_a_fault_is_what_the_retry_policy_decides(name: str) -> None:
    assert reference.outcome(Retry(), code=name) == CODES[name].fault


def test_what_is_told_of_answers_is_what_the_retry_policy_decides() -> None:
    outcomes = {
        (status, after): reference.outcome(Retry(), status=status, after=after)
        for status, after in ((429, None), (503, "30"), (503, None), (404, None), (401, "30"))
    }
    assert list(outcomes.values()) == ["domain", "domain", "request", "permanent", "permanent"]


def test_settings_in_hints_exist() -> None:
    keys = {field.key for field in vocabulary()}
    groups = {key.partition(".")[0] for key in keys if "." in key}
    hints = " ".join(each.hint for each in CODES.values())
    told = set(re.findall(r"(?<!/)\b[a-z_]+\.[a-z_]+\b", hints))
    assert {name for name in told if name.partition(".")[0] in groups} <= keys
