"""`crawler parse` as a person types it: items, links, selectors that matched nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Protocol

import pytest

from crawler import Request, Response
from crawler.cli import main
from crawler.misses import explain, steps_of
from crawler.testing import Reply, Site
from tests.commands import Said

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

QUOTES = "".join(
    f"<div class='quote big'><span class=text>q{n}</span><p><a class=tag href=/t{n}>t</a></p></div>"
    for n in range(10)
)
SPIDER = """
from crawler import Response, Results, Spider, item

@item
class Quote:
    text: str
    author: str | None

class Quotes(Spider):
    start_urls = ["https://quotes.test/"]
    allowed_domains = ["127.0.0.1"]
    shelf: str = "a"
    def parse(self, page: Response) -> Results:
        for quote in page.css("div.quote"):
            author = quote.get("small.author", default=None)
            yield Quote(text=quote.get("span.text"), author=author)
        yield from page.follow_all("a.tag", self.tag, page_number=2).replace(priority=3)
        yield from page.follow_all("li.next a", self.parse)
        yield page.follow("http://elsewhere.test/", self.parse)
        yield page.follow("/t1", self.tag)
        yield page.follow("/private/x", self.parse)
    def tag(self, page: Response, page_number: int = 1, *, name: str = "x") -> Results:
        yield {"n": page_number, "name": name, "shelf": self.shelf}
    def needs(self, page: Response, what: int) -> Results:
        return {"what": what + 1}
    def broken(self, page: Response) -> Results:
        yield {"a": 1}
        yield {"a": page.get("span.txt")}
    async def opened(self) -> None:
        if self.shelf == "shut":
            raise ValueError("no key")
    def after_response(self, page: Response) -> None:
        if self.shelf == "bad":
            raise ValueError("not logged in")
"""


class Call(Protocol):
    def __call__(self, *argv: str) -> Said: ...


@pytest.fixture
def site() -> Iterator[Site]:
    routes = {
        "/": Reply.html(f"<!doctype html><title>q</title>{QUOTES}"),
        "/old": Reply.redirect("/"),
        "/robots.txt": Reply.text("User-agent: *\nDisallow: /private"),
    }
    with Site(routes).threaded() as served:
        yield served


@pytest.fixture
def call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Call:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spiders").mkdir()
    (tmp_path / "spiders" / "quotes.py").write_text(SPIDER)

    def run(*argv: str) -> Said:
        capsys.readouterr()
        return Said(main(["parse", *argv]), *capsys.readouterr())

    return run


def test_items_links_and_misses_are_shown(call: Call, site: Site, tmp_path: Path) -> None:
    said = call("quotes", site.url("/old"))
    assert said.code == 0
    lines = said.out.splitlines()
    assert "quote: 10 items" in lines
    assert lines[lines.index("quote: 10 items") + 1].split() == ["text", "author"]
    assert "13 links, 10 of them followed" in lines
    refused = [line.split()[-2:] for line in lines if " scope " in line or " robots " in line]
    assert [each[0] for each in refused] == ["scope", "robots"]
    assert any(" duplicate " in line for line in lines)
    assert any(line.startswith("tag ") and " page_number=2 " in line for line in lines)
    assert "2 selectors matched nothing" in lines
    (author,) = (line for line in lines if line.startswith("small.author"))
    assert author.split() == ["small.author", "10"]
    assert f"GET {site.url('/old')}\n  302  " in said.err
    assert list(tmp_path.glob("*.db")) == []
    assert [each.path for each in site.log] == ["/robots.txt", "/old", "/"]


def test_json_is_one_object_with_all_of_it(call: Call, site: Site) -> None:
    said = call("quotes", site.url("/"), "--json", "-q")
    assert said.err == ""
    found = json.loads(said.out)
    assert (found["url"], found["status"], found["errors"]) == (site.url("/"), 200, [])
    assert found["items"]["quote"][9] == {"text": "q9", "author": None}
    assert found["links"][0] == {
        "url": site.url("/t0"),
        "method": "GET",
        "callback": "tag",
        "args": {"page_number": 2},
        "priority": 3,
        "refused": None,
    }
    assert [miss["selector"] for miss in found["misses"]] == ["small.author", "li.next a"]
    assert [miss["asked"] for miss in found["misses"]] == [10, 1]


def test_one_item_is_shown_field_by_field(call: Call, site: Site) -> None:
    arguments = ("--callback", "tag", "--pass", "page_number=7", "--pass", "name=a=b")
    said = call("quotes", site.url("/"), *arguments, "-a", "shelf=z", "-q")
    assert said.code == 0
    assert [line.split() for line in said.out.splitlines()[4:7]] == [
        ["n", "7"],
        ["name", "a=b"],
        ["shelf", "z"],
    ]
    assert said.out.endswith("\nno links\n")


def test_a_callback_that_raises_keeps_what_it_gave_and_shows_its_own_frames(
    call: Call, site: Site
) -> None:
    said = call("quotes", site.url("/"), "--callback", "broken", "-q")
    assert said.code == 1
    assert "items: 1 item" in said.out
    assert "span.txt" in said.out
    assert "did you mean span.text (10)?" in said.out
    lines = said.err.splitlines()
    assert lines[0] == f"error: 'span.txt' matched nothing on {site.url('/')}"
    assert "spiders/quotes.py" in lines[1]
    assert lines[2].strip() == 'yield {"a": page.get("span.txt")}'
    assert said.err.count("  File ") == 1
    found = json.loads(call("quotes", site.url("/"), "--callback", "broken", "--json").out)
    assert [error["code"] for error in found["errors"]] == ["no-match"]
    assert found["items"] == {"items": [{"a": 1}]}


def test_a_hook_that_raises_is_an_error_of_the_page(call: Call, site: Site) -> None:
    said = call("quotes", site.url("/"), "-a", "shelf=bad", "-q")
    assert said.code == 1
    assert "error: hook Quotes.after_response: ValueError: not logged in" in said.err
    assert "no items" in said.out


def test_an_opened_hook_that_raises_shows_its_own_frames_only(call: Call, site: Site) -> None:
    lines = call("quotes", site.url("/"), "-a", "shelf=shut", "-q").err.splitlines()
    assert lines[0] == "error: hook Quotes.opened: ValueError: no key"
    assert [line.split(", ")[-1] for line in lines if "File" in line] == ["in opened"]


@pytest.mark.parametrize(
    ("path", "error"), [("/nowhere", "http-404"), ("/private/x", "robots.txt forbids it")]
)
def test_without_a_page_the_callback_is_not_run(
    path: str, error: str, call: Call, site: Site
) -> None:
    said = call("quotes", site.url(path), "-q")
    assert (said.code, said.out) == (1, "")
    assert error in said.err.splitlines()[0]
    assert said.err.splitlines()[1].startswith("  hint: ")
    found = json.loads(call("quotes", site.url(path), "--json", "-q").out)
    assert len(found["errors"]) == 1


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (["qoutes", "{site}"], "`qoutes`", "quotes"),
        (["quotes", "quotes.test"], "has no scheme", "crawler parse quotes https://quotes.test"),
        (["quotes", "{site}", "--callback", "tga"], "no callback `tga`", "--callback tag"),
        (["quotes", "{site}", "--callback", "fetch"], "no callback `fetch`", "parse"),
        (["quotes", "{site}", "--callback", "zzz"], "no callback `zzz`", "broken, needs, parse"),
        (["quotes", "{site}", "--callback", "needs"], "required argument: 'what'", "--pass what="),
        (
            ["quotes", "{site}", "--callback", "needs", "--pass", "waht=1"],
            "quotes.needs: ",
            "--pass what=",
        ),
        (
            ["quotes", "{site}", "--callback", "needs", "--pass", "what=x"],
            "what=x of quotes.needs",
            "--pass what=",
        ),
        (["quotes", "{site}", "--pass", "a"], "not NAME=VALUE", "--pass"),
        (["quotes", "{site}", "--pass", "a=1"], "argument 'a'", "takes the page alone"),
        (["quotes", "{site}", "-a", "shlef=1"], "no argument shlef", "shelf"),
        (["quotes"], "missing argument", "crawler parse --help"),
    ],
)
def test_a_mistake_is_one_error_and_a_hint_before_any_request(
    arguments: list[str], error: str, hint: str, call: Call, site: Site
) -> None:
    said = call(*[each.replace("{site}", site.url("/")) for each in arguments])
    assert (said.code, site.log) == (2, [])
    assert error in said.error[0]
    assert hint in said.error[1]


# -- where a selector stops matching ------------------------------------------------------------


def page() -> Response:
    body = f"<html><body id=main>{QUOTES}</body></html>".encode()
    return Response(Request("http://x.test/"), "http://x.test/", 200, (), body)


@pytest.mark.parametrize(
    ("selector", "steps", "near"),
    [
        ("div.quote span.txt", [10, 0], "div.quote span.text"),
        ("div.qoute span.text", [0], "div.quote span.text"),
        ("div.quote > a", [10, 0], None),
        ("div.quote > .txt", [10, 0], "div.quote > .text"),
        ("#mian .quote", [0], "#main .quote"),
        ("div.quote.bgi[data-x='a > b'] i", [0], None),
        ("body ~ p", [1, 0], None),
        ("h1", [0], None),
        ("a.tga, b", [0], "a.tag"),
        ("a[title='x, y'], h1", [0], None),
        ("div:is(.qoute, p) > /* x */ i", [0], None),
    ],
)
def test_it_is_told_where_a_selector_stops_matching(
    selector: str, steps: list[int], near: str | None
) -> None:
    miss = explain(selector, page())
    assert [step.matches for step in miss.steps] == steps
    assert (miss.near.selector if miss.near else None) == near
    if miss.near is not None:
        assert len(page().css(miss.near.selector)) == miss.near.matches > 0


def test_a_selector_is_taken_apart_at_its_combinators() -> None:
    assert steps_of("a>b + c  d:not(.x > y) [t='> ']") == [
        *("a", "a>b", "a>b + c", "a>b + c  d:not(.x > y)"),
        "a>b + c  d:not(.x > y) [t='> ']",
    ]
