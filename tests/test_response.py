"""Pages: charset, selectors, links, follow and forms, on bytes."""

from __future__ import annotations

import asyncio
import html
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.errors import FetchError, NoMatch, SpiderError
from crawler.headers import Headers
from crawler.request import Request
from crawler.response import Response
from crawler.spider import Spider
from crawler.urls import join

URL = "http://127.0.0.1/shop/list.html?page=1"


def page_of(body: str | bytes, *, url: str = URL, kind: str = "text/html") -> Response:
    content = body.encode() if isinstance(body, str) else body
    fields = [(b"Content-Type", kind.encode())] if kind else []
    return Response(Request(url), url, 200, fields, content)


class Shop(Spider):
    def book(self, page: Response, shelf: str = "", *, row: int = 0) -> None: ...


SHOP = Shop()


# Headers and text ---------------------------------------------------------------------


def test_headers_are_found_in_any_case_and_keep_repeated_fields_apart() -> None:
    headers = Headers([(b"Set-Cookie", b"a=1"), (b"set-cookie", b"b=2"), (b"X-Name", "ü".encode())])
    assert headers["SET-COOKIE"] == "a=1, b=2"
    assert headers.get_all("Set-Cookie") == ["a=1", "b=2"]
    assert headers.get("x-name") == "ü"
    assert headers.get("Location") is None
    assert headers.get_all("Location") == []
    assert "x-NAME" in headers
    assert list(headers) == ["set-cookie", "x-name"]


@pytest.mark.parametrize(
    ("kind", "body", "text"),
    [
        ("text/html; charset=iso-8859-1", b"\x93\xe9\x94", "“é”"),
        ("text/html; charset=windows-1251", "Привет".encode("cp1251"), "Привет"),
        ("text/html; charset='UTF-8'", b"\xef\xbb\xbfa", "a"),
        ("text/plain; charset=latin1", b"\xef\xbb\xbf\xc3\xa9", "é"),
        ("text/plain; charset=utf-16", "\ufeffé".encode("utf-16-le"), "é"),
        ("text/plain; charset=utf-7", b"+AGE-", "+AGE-"),
        ("text/plain; charset=rot13", b"abc", "abc"),
        ("text/plain; charset=nonsense", "é".encode(), "é"),
        ("text/plain", b"a\xffb", "a\ufffdb"),
        ("text/html; charset=utf-8", b"a\xffb", "a\ufffdb"),
        ("text/html; charset=shift_jis", "本①".encode("cp932"), "本①"),
        ("text/html", b"<meta charset=windows-1251>" + "Да".encode("cp1251"), "Да"),
        ("text/html", "<p>é".encode(), "é"),
    ],
)
def test_text_and_tree_are_read_in_the_same_charset(kind: str, body: bytes, text: str) -> None:
    page = page_of(body, kind=kind)
    assert page.get("body") == text
    assert page.text.endswith(text)


def test_the_header_wins_over_the_document() -> None:
    page = page_of("<meta charset=windows-1251><p>é</p>", kind="text/html; charset=utf-8")
    assert page.get("p") == "é"


def test_json_is_read_from_any_charset_or_refused_with_the_url() -> None:
    assert page_of('{"a": [1]}', kind="application/json").json() == {"a": [1]}
    assert page_of("\ufeff[1]".encode("utf-16-le"), kind="application/json").json() == [1]
    with pytest.raises(SpiderError, match="is no JSON"):
        page_of("<p>").json()


def test_a_page_without_content_type_is_html_if_it_begins_like_it() -> None:
    assert page_of("<!-- x --><!DOCTYPE html><p>", kind="").is_html
    assert page_of("<html>", kind="Application/XHTML+XML; charset=utf-8").is_html
    assert not page_of("%PDF <html", kind="application/pdf").is_html
    assert not page_of("hello", kind="").is_html


def test_selectolax_is_imported_by_the_first_page_that_is_parsed() -> None:
    program = (
        "import sys; from crawler.response import Response; from crawler.request import Request\n"
        "page = Response(Request('http://a/'), 'http://a/', 200, [], b'<html><p>x')\n"
        "before = 'selectolax' in sys.modules; page.get('p')\n"
        "print(before, 'selectolax' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == ["False", "True"], done.stderr


# Selectors ----------------------------------------------------------------------------

CARDS = """
<div class=card id=1><h2> One <b>bold</b> </h2><a href=" /1 ">x</a><i data-x></i></div>
<div class=card id=2><h2>Two</h2><a>y</a></div>
"""


def test_page_and_node_answer_the_same_four_questions() -> None:
    page = page_of(CARDS)
    first, second = page.css("div.card")
    assert first.get("h2") == page.get("h2") == "One bold"
    assert page.get("h2::text") == "One bold"
    assert page.getall("h2") == ["One bold", "Two"]
    assert page.get("a", "href") == page.get("a::attr(href)") == "/1"
    assert page.getall("a::attr(href)") == ["/1"]
    assert page.get("i", "data-x") == ""
    assert second.first("h2").text == "Two"
    assert second.get("::attr(id)") == "2"
    assert second.raw.tag == "div"
    assert first.attributes == {"class": "card", "id": "1"}
    assert repr(second) == '<Node div class="card" id="2">'
    assert second.html.startswith("<div")
    assert page.css("table") == []
    assert page.getall("table") == []


def test_a_selector_without_a_match_names_itself_and_the_page() -> None:
    page = page_of(CARDS)
    with pytest.raises(NoMatch, match=r"'h3' matched nothing on http://127\.0\.0\.1/shop"):
        page.get("h3")
    with pytest.raises(NoMatch):
        page.first("h3")
    with pytest.raises(NoMatch, match="attr"):
        page.css("div")[1].get("a", "href")
    assert page.get("h3", default=None) is None
    assert page.css("div")[1].get("a", "href", default="none") == "none"


@pytest.mark.parametrize("selector", ["a[", "", " ", ":nope", "..", "a::before", "::text b"])
def test_a_bad_selector_is_named(selector: str) -> None:
    page = page_of(CARDS)
    questions: list[Any] = [page.css, page.first, page.get, page.getall]
    questions.append(lambda selector: page.follow_all(selector, SHOP.book))
    for ask in questions:
        with pytest.raises(SpiderError) as caught:
            ask(selector)
        assert not isinstance(caught.value, NoMatch)
        assert selector.strip() in str(caught.value)


def test_a_selector_of_text_gives_no_nodes() -> None:
    with pytest.raises(SpiderError, match="get"):
        page_of(CARDS).css("h2::text")


# Links --------------------------------------------------------------------------------


def test_links_are_distinct_absolute_and_in_document_order() -> None:
    page = page_of(
        """<a href="b.html#x">1</a><a href="b.html">2</a><map><area href="/c"></map><a>3</a>
        <a href="?q=1">4</a><a href="//other.example/d">5</a><a href="mailto:a@b.c">6</a>
        <a href="#top">7</a><a href="">8</a><a href>9</a><a href="javascript:void(0)">10</a>
        <a href="http://[">11</a><a href=" ../e?f=/ ">12</a><a href="HTTP://X.example">13</a>"""
    )
    assert page.links() == [
        "http://127.0.0.1/shop/b.html",
        "http://127.0.0.1/c",
        "http://127.0.0.1/shop/list.html?q=1",
        "http://other.example/d",
        "http://127.0.0.1/e?f=/",
        "http://x.example/",
    ]


references = st.text(st.sampled_from("ab./?:@\\\\ &;%é\t"), min_size=1, max_size=12)


@given(references, st.sampled_from([URL, "http://127.0.0.1/", "http://127.0.0.1/a//?b/c"]))
def test_a_link_is_what_its_reference_means_on_its_page(reference: str, url: str) -> None:
    try:
        expected = [each for each in [join(url, reference)] if each.startswith("http")]
    except FetchError:
        expected = []
    page = page_of(f'<a href="{html.escape(reference)}">', url=url)
    assert page.links() == expected
    assert [request.url for request in page.follow_all("a", SHOP.book)] == expected


def test_the_base_element_decides_what_references_mean() -> None:
    page = page_of('<base href="/other/"><a href="a">1</a><a href="?b">2</a><img src="c">')
    assert page.links() == ["http://127.0.0.1/other/a", "http://127.0.0.1/other/?b"]
    assert page.follow("d", SHOP.book).url == "http://127.0.0.1/other/d"
    assert page.follow_all("img", SHOP.book)[0].url == "http://127.0.0.1/other/c"
    assert page_of('<base href="mailto:x"><a href="a">').links() == ["http://127.0.0.1/shop/a"]


def test_what_is_no_html_has_no_links() -> None:
    assert page_of('<a href="b">', kind="application/pdf").links() == []


def test_a_page_at_a_bare_host_resolves_its_links() -> None:
    assert page_of('<a href="b">', url="http://127.0.0.1").links() == ["http://127.0.0.1/b"]


# Following ----------------------------------------------------------------------------


def test_follow_takes_references_and_nodes_and_gives_arguments_to_the_callback() -> None:
    page = page_of('<a href="b">1</a><img src="c.png">')
    request = page.follow("b", SHOP.book, "poetry", row=3)
    assert request.url == "http://127.0.0.1/shop/b"
    assert request.callback == SHOP.book
    assert request.args == {"shelf": "poetry", "row": 3}
    assert page.follow(page.first("a"), SHOP.book).url == request.url
    assert page.follow(page.first("img"), SHOP.book).url == "http://127.0.0.1/shop/c.png"


@pytest.mark.parametrize("target", ["mailto:a@b.c", "javascript:1", "ftp://a/", "http://["])
def test_follow_refuses_what_leads_nowhere_and_follow_all_leaves_it_out(target: str) -> None:
    page = page_of(f'<a href="{target}">1</a><a name=x>2</a>')
    with pytest.raises(SpiderError):
        page.follow(target, SHOP.book)
    with pytest.raises(SpiderError):
        page.follow(page.css("a")[1], SHOP.book)
    assert page.follow_all("a", SHOP.book) == []
    assert page.follow_all([target], SHOP.book) == []


def test_follow_all_takes_selectors_nodes_and_references() -> None:
    page = page_of('<p><a href="b">1</a><a href="c">2</a></p>')
    expected = ["http://127.0.0.1/shop/b", "http://127.0.0.1/shop/c"]
    for targets in ("p a", page.css("a"), ["b", "c"], iter(page.links())):
        requests = page.follow_all(targets, SHOP.book, shelf="x").replace(priority=5)
        assert [request.url for request in requests] == expected
        assert {request.priority for request in requests} == {5}
        assert all(request.args == {"shelf": "x"} for request in requests)
    assert page.follow_all("table a", SHOP.book) == []


def test_a_selector_that_means_its_child_is_told_so() -> None:
    with pytest.raises(SpiderError, match="neither href nor src"):
        page_of("<h3><a href=b>1</a></h3>").follow_all("h3", SHOP.book)


# Forms --------------------------------------------------------------------------------

FORM = """
<form id=f action="/go?old=1" method=post>
  <input name=token value=t type=hidden><input name=user><input name=off value=1 disabled>
  <input type=checkbox name=box checked><input type=checkbox name=box value=no>
  <input type=radio name=r value=1><input type=radio name=r value=2 checked>
  <select name=one><option>first<option value=2>second</select>
  <select name=many multiple><option selected>a<option>b<option selected value=C>c</select>
  <textarea name=note>
text</textarea><input type=submit name=s value=Send><input value=nameless>
</form><input name=outside value=o form=f>
"""


def test_a_form_is_sent_as_the_page_fills_it_in() -> None:
    request = page_of(FORM).form("form", user="me", many=["x", "y"], box=None, extra="e")
    assert (request.method, request.url) == ("POST", "http://127.0.0.1/go?old=1")
    assert request.data == (
        ("token", "t"),
        ("user", "me"),
        ("r", "2"),
        ("one", "first"),
        ("many", "x"),
        ("many", "y"),
        ("note", "text"),
        ("outside", "o"),
        ("extra", "e"),
    )
    untouched = page_of(FORM).form("#f").data
    assert isinstance(untouched, tuple)
    assert ("box", "on") in untouched
    assert [pair for pair in untouched if pair[0] == "many"] == [("many", "a"), ("many", "C")]


def test_a_get_form_puts_its_fields_into_the_query() -> None:
    page = page_of('<form action="?old=1#x"><input name=q value="a b"></form>')
    request = page.form("form").replace(callback=SHOP.book)
    assert (request.method, request.url) == ("GET", "http://127.0.0.1/shop/list.html?q=a+b")
    assert page_of("<form><input name=q></form>").form("form", q="ä").url.endswith("?q=%C3%A4")


def test_a_form_keeps_its_encoding_and_must_lead_somewhere() -> None:
    page = page_of("<form method=POST enctype=multipart/form-data><input name=a value=b></form>")
    assert page.form("form").files == {}
    with pytest.raises(SpiderError, match="target"):
        page_of("<form action=mailto:a@b.c>").form("form")
    with pytest.raises(NoMatch):
        page_of("<p>").form("form")


# Fetching in a callback ---------------------------------------------------------------


def test_fetch_belongs_into_a_crawl_and_goes_where_the_crawl_says() -> None:
    spider = Shop()
    with pytest.raises(RuntimeError, match="not being crawled"):
        asyncio.run(spider.fetch(Request(URL)))

    async def answer(request: Request) -> Response:
        return Response(request, request.url, 200)

    spider._fetch = answer
    assert asyncio.run(spider.fetch(Request(URL))).url == URL
