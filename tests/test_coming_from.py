"""The coming-from pages: whatever a table calls ours exists, as it is written there.

Read are the cells of the column `here`; each name in backticks must be a setting, a command
with its options, an option of `crawler run`, a view or one of its columns, an error code, a
file that we know, or a name of the package, with the keywords that are shown.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import crawler
from crawler import CrawlResult, Node, Request, Response, Spider
from crawler.codes import CODES
from crawler.settings import DomainSettings, vocabulary
from tests.markdown import code, tables
from tests.reference import views
from tests.reference_commands import is_command, loaded, options
from tests.test_docs_names import resolves

DOCS = Path(__file__).parent.parent / "docs"
PAGES = ("coming-from-scrapy.md", "coming-from-crawlee.md")
FILES = {"spiders/", "crawler.toml", "pyproject.toml", "[tool.crawler]", "books.db"}
OBJECTS: dict[str, Any] = {"page": Response, "node": Node, "result": CrawlResult}
"""What documents call an instance."""
WORDS = {"auto", "await", "None", "pages", "book_latest", "logging", "print"}
"""Values and names of examples."""

_CALL = re.compile(r"@?([\w.]+)(?:\((.*)\))?")


def settings() -> set[str]:
    keys = {field.key for field in vocabulary()}
    return keys | {key.partition(".")[0] for key in keys if "HOST" in key}


def columns() -> set[str]:
    there = views()
    return {*there, *(f"{view}.{name}" for view, names in there.items() for name in names)}


def is_setting(text: str) -> bool:
    """A key, with or without a value; `domains."pattern".field`."""
    key = text.partition(" = ")[0]
    if of_some := re.fullmatch(r'domains\."[^"]+"\.(\w+)', key):
        return of_some[1] in DomainSettings.types
    return key in settings() or key == "domain.*"


def is_name(text: str) -> bool:
    """A name of the package, an attribute, a call with keywords that it takes."""
    if not (found := _CALL.fullmatch(text)):
        return False
    first, _, field = found[1].partition(".")
    owner = OBJECTS.get(first) or getattr(crawler, first, None)
    if owner is None:
        return first == "crawler" and resolves(found[1])
    if field and not has(owner, field):
        return False
    told = set(re.findall(r"\b(\w+)=", re.sub(r"\"[^\"]*\"", "", found[2] or "")))
    target = getattr(owner, field, owner) if field else owner
    return not told or told <= set(inspect.signature(target).parameters)


def has(owner: type, field: str) -> bool:
    return hasattr(owner, field) or any(
        field in getattr(each, "__annotations__", {}) for each in owner.__mro__
    )


def is_ours(text: str) -> bool:
    if text.startswith("crawler "):
        return is_command(text)
    if text.startswith("-"):
        return text in options(loaded("run"))
    known = text in FILES | WORDS | set(CODES) | columns()
    return known or is_setting(text) or is_name(text)


@pytest.mark.parametrize("page", PAGES)
def test_what_a_table_calls_ours_exists(page: str) -> None:
    cells = [row[1] for table in tables(DOCS / page) if "here" in table[0] for row in table[1:]]
    told = {name for cell in cells for name in code(cell)}
    assert len(told) > 40
    assert sorted(name for name in told if not is_ours(name)) == []


@pytest.mark.parametrize("page", PAGES)
def test_a_table_has_three_columns_and_says_what_is_not_there(page: str) -> None:
    for table in tables(DOCS / page):
        assert table[0][1:] == ["here", "remark"]
        assert {len(row) for row in table} == {3}
        for row in table[1:]:
            assert row[0]
            assert row[1], f"{row[0]}: `–` where there is nothing"


def test_forty_settings_of_scrapy_are_told() -> None:
    (table,) = (t for t in tables(DOCS / PAGES[0]) if "CONCURRENT_REQUESTS" in t[1][0])
    told = {name for row in table for name in code(row[0]) if name.isupper()}
    assert len(told) >= 40


def test_names_that_do_not_exist_are_noticed() -> None:
    good = ("domain.delay", "crawler config", "Retry(attempts=3)", "page.follow", "v_runs.pages")
    assert [name for name in good if not is_ours(name)] == []
    bad = ("domain.delays", "crawler confg", "Retry(tries=3)", "page.xpath", "v_runs.page", "-z")
    assert [name for name in bad if is_ours(name)] == []
    assert (has(Spider, "name"), has(Request, "args"), has(Request, "meta")) == (True, True, False)
