"""robots.txt: what each answer means, what was cut, who is meant, how long it holds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.web.robots import RobotsCache, Verdict, agent_token, is_verdict, verdict_for

ORIGIN = "http://a.test"
AGENT = "poolcrawl"
BYTES = 500 * 1024


def allows(body: bytes, path: str, *, agent: str = AGENT, status: int = 200) -> bool | None:
    cache = RobotsCache()
    cache.store(ORIGIN, verdict_for(status, body, BYTES), now=0.0, lifetime=60.0)
    return cache.allowed(ORIGIN, ORIGIN + path, agent, 0.0)


NOTHING = b"User-agent: *\nDisallow: /\n"


@pytest.mark.parametrize("status", [200, 203, 206])
def test_a_success_is_parsed(status: int) -> None:
    assert is_verdict(status)
    assert allows(NOTHING, "/", status=status) is False


@pytest.mark.parametrize("status", [300, 304, 400, 401, 403, 404, 410, 451, 499])
def test_a_refusal_to_show_it_allows_all_whatever_the_body_says(status: int) -> None:
    assert is_verdict(status)
    assert allows(NOTHING, "/", status=status) is True


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 599])
def test_a_server_in_trouble_is_no_verdict(status: int) -> None:
    assert not is_verdict(status)


@pytest.mark.parametrize("path", ["/", "/a"])
@pytest.mark.parametrize("body", [b"", b"<html>not found</html>", b"\x00\xff\xfe", b"Disallow"])
def test_what_is_no_robots_file_allows_all(body: bytes, path: str) -> None:
    assert allows(body, path) is True


def test_a_byte_order_mark_does_not_hide_the_first_group() -> None:
    assert allows(b"\xef\xbb\xbf" + NOTHING, "/") is False


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_lines_end_in_any_of_three_ways(end: bytes) -> None:
    assert allows(NOTHING.replace(b"\n", end), "/") is False


def test_a_bad_byte_costs_its_line_only() -> None:
    assert allows(b"User-agent: *\nDisallow: /\xff\nDisallow: /b\n", "/b") is False


def cut(body: bytes, max_bytes: int, path: str) -> bool | None:
    cache = RobotsCache()
    cache.store(ORIGIN, verdict_for(200, body, max_bytes), now=0.0, lifetime=1.0)
    return cache.allowed(ORIGIN, ORIGIN + path, AGENT, 0.0)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_half_a_rule_at_the_cut_is_dropped(end: bytes) -> None:
    head = end.join([b"User-agent: *", b"Disallow: /private", b""])
    body = head + b"Allow: /private/but-only-this" + end
    for size in range(len(head), len(body) - len(end)):
        assert cut(body, size, "/private/x") is False


def test_a_rule_that_ends_at_the_cut_counts() -> None:
    body = b"User-agent: *\nDisallow: /a\nDisallow: /b\n"
    assert cut(body, len(b"User-agent: *\nDisallow: /a"), "/a") is False
    assert cut(body, len(b"User-agent: *\nDisallow: /a"), "/b") is True


def test_a_file_of_the_greatest_size_is_read_to_its_end() -> None:
    body = b"User-agent: *\n" + b"#" * 50 + b"\nDisallow: /end"
    assert cut(body, len(body), "/end") is False


@pytest.mark.parametrize(
    ("user_agent", "token"),
    [
        ("poolcrawl/1.0 (+https://example.org)", "poolcrawl"),
        ("Some Bot", "Some"),
        ("bot", "bot"),
        ("", ""),
    ],
)
def test_groups_are_matched_by_the_product_token(user_agent: str, token: str) -> None:
    assert agent_token(user_agent) == token


def test_our_own_group_comes_before_everybodys() -> None:
    body = b"User-agent: *\nDisallow: /\n\nUser-agent: PoolCrawl\nDisallow: /no\n"
    assert allows(body, "/yes") is True
    assert allows(body, "/no") is False
    assert allows(body, "/yes", agent="other") is False


def test_the_longest_rule_wins() -> None:
    body = b"User-agent: *\nDisallow: /a\nAllow: /a/b\nDisallow: /*.pdf$\n"
    assert [allows(body, path) for path in ("/a", "/a/b", "/x.pdf", "/x.pdfs")] == [
        False,
        True,
        False,
        True,
    ]


@pytest.mark.parametrize(
    ("value", "seconds"), [(b"2.5", 2.5), (b"0", 0.0), (b"-1", 0.0), (b"nan", 0.0), (b"x", 0.0)]
)
def test_a_crawl_delay_is_seconds_or_nothing(value: bytes, seconds: float) -> None:
    cache = RobotsCache()
    verdict = verdict_for(200, b"User-agent: *\nCrawl-delay: " + value, BYTES)
    cache.store(ORIGIN, verdict, now=0.0, lifetime=60.0)
    assert cache.crawl_delay(ORIGIN, AGENT) == seconds
    assert cache.crawl_delay("http://unknown.test", AGENT) == 0.0


def test_a_verdict_is_fresh_for_its_lifetime_and_then_unknown() -> None:
    cache = RobotsCache()
    assert cache.allowed(ORIGIN, ORIGIN, AGENT, 0.0) is None
    cache.store(ORIGIN, Verdict(None, 404), now=100.0, lifetime=60.0)
    assert cache.allowed(ORIGIN, ORIGIN, AGENT, 159.9) is True
    assert cache.allowed(ORIGIN, ORIGIN, AGENT, 160.0) is None


def test_origins_of_one_host_have_verdicts_of_their_own() -> None:
    cache = RobotsCache()
    cache.store("http://a.test", Verdict(None, 404), now=0.0, lifetime=60.0)
    assert cache.allowed("https://a.test", "https://a.test/", AGENT, 0.0) is None


def test_at_most_the_limit_is_remembered_and_the_oldest_verdict_goes() -> None:
    cache = RobotsCache(limit=3)
    for n in range(5):
        cache.store(f"http://d{n}.test", Verdict(None, 404), now=0.0, lifetime=60.0)
    known = [cache.allowed(f"http://d{n}.test", "http://d/", AGENT, 0.0) for n in range(5)]
    assert known == [None, None, True, True, True]
    assert cache.stats() == (3, 5, 3)
    assert repr(cache) == "<RobotsCache 3/3 origins, 3 asked>"


@given(body=st.binary(max_size=300), path=st.text(max_size=30), size=st.integers(0, 300))
def test_no_file_and_no_url_breaks_the_reader(body: bytes, path: str, size: int) -> None:
    assert cut(b"User-agent: *\n" + body, size, "/" + path) in (True, False)
