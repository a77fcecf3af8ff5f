"""Redirects: where they lead, with which method and headers, and when they lead nowhere."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.errors import FetchError
from crawler.web.redirects import REDIRECTS, Hop, next_hop


def hop(location: str | None, **changes: Any) -> Hop:
    values: dict[str, Any] = {
        "url": "http://a.test/dir/page",
        "method": "GET",
        "status": 302,
        "via": (),
        "limit": 10,
    }
    return next_hop(location=location, **values | changes)


def code_of(location: str | None, **changes: Any) -> str:
    with pytest.raises(FetchError) as caught:
        hop(location, **changes)
    return caught.value.code


@pytest.mark.parametrize(
    ("method", "status", "becomes", "keeps_body"),
    [
        ("GET", 301, "GET", True),
        ("HEAD", 302, "HEAD", True),
        ("HEAD", 303, "HEAD", True),
        ("POST", 301, "GET", False),
        ("POST", 302, "GET", False),
        ("POST", 303, "GET", False),
        ("PUT", 303, "GET", False),
        ("PUT", 301, "PUT", True),
        ("DELETE", 302, "DELETE", True),
        ("POST", 307, "POST", True),
        ("POST", 308, "POST", True),
        ("PATCH", 308, "PATCH", True),
    ],
)
def test_the_status_decides_method_and_body(
    method: str, status: int, becomes: str, keeps_body: bool
) -> None:
    led = hop("/next", method=method, status=status)
    assert (led.method, led.keeps_body) == (becomes, keeps_body)


def test_what_counts_as_a_redirect() -> None:
    assert sorted(REDIRECTS) == [301, 302, 303, 307, 308]


@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("http://b.test/x", "http://b.test/x"),
        ("/root", "http://a.test/root"),
        ("sibling", "http://a.test/dir/sibling"),
        ("../up", "http://a.test/up"),
        ("?q=1", "http://a.test/dir/page?q=1"),
        ("//c.test", "http://c.test/"),
        ("  /spaces  ", "http://a.test/spaces"),
        ("/x#fragment", "http://a.test/x"),
        ("http://user:secret@b.test/", "http://b.test/"),
        ("HTTP://B.TEST:80/", "http://b.test/"),
    ],
)
def test_the_target_is_resolved_and_canonical(location: str, url: str) -> None:
    assert hop(location).target.url == url


@pytest.mark.parametrize(
    "location",
    [
        None,
        "",
        "   ",
        "javascript:alert(1)",
        "mailto:me@a.test",
        "data:text/html,x",
        "file:///etc/passwd",
        "ftp://a.test/",
        "http://",
        "http://[::1/",
        "https://a b.test/",
    ],
)
def test_a_target_that_cannot_be_fetched_is_an_error(location: str | None) -> None:
    assert code_of(location) == "bad-redirect"


@pytest.mark.parametrize(
    ("location", "keeps"),
    [
        ("/same", True),
        ("http://a.test:80/same", True),
        ("https://a.test/", False),
        ("http://a.test:8080/", False),
        ("http://www.a.test/", False),
        ("http://b.test/", False),
    ],
)
def test_headers_travel_within_one_origin_only(location: str, keeps: bool) -> None:
    assert hop(location).keeps_headers is keeps


def test_a_chain_never_comes_back_to_one_of_its_urls() -> None:
    via = ("http://a.test/1", "http://a.test/2")
    assert code_of("/1", via=via) == "redirect-loop"
    assert code_of("/dir/page") == "redirect-loop"
    assert code_of("/dir/page#other") == "redirect-loop"
    assert hop("/3", via=via).via == (*via, "http://a.test/dir/page")


def follow(limit: int) -> int:
    """How many hops an endless chain is followed for."""
    url, via = "http://a.test/0", tuple[str, ...]()
    for hops in range(100):
        if len(via) == limit:
            with pytest.raises(FetchError, match=f"redirects={limit}") as caught:
                hop(f"/{hops + 1}", url=url, via=via, limit=limit)
            assert caught.value.code == "redirect-limit"
            return hops
        led = hop(f"/{hops + 1}", url=url, via=via, limit=limit)
        url, via = led.target.url, led.via
    raise AssertionError("never stopped")


@pytest.mark.parametrize("limit", [0, 1, 5, 10])
def test_a_chain_has_as_many_hops_as_the_limit_allows(limit: int) -> None:
    assert follow(limit) == limit


@given(location=st.text(max_size=60), status=st.sampled_from(sorted(REDIRECTS)))
def test_any_location_is_a_target_or_an_error(location: str, status: int) -> None:
    try:
        led = hop(location, status=status)
    except FetchError as error:
        failed = error.code
    else:
        failed = ""
        assert led.target.url.startswith(("http://", "https://"))
    assert failed in ("", "bad-redirect", "redirect-loop")
