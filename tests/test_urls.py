"""URLs: one canonical form, one fingerprint, one domain."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.errors import FetchError
from crawler.urls import canonicalise, fingerprint, is_private, join, site_of

parts = st.text(st.sampled_from("abcÄé%20?#/.;:@&=+\\ ~'|[]"), max_size=25)


def _canonical(url: str) -> str | None:
    try:
        return canonicalise(url).url
    except FetchError:
        return None


@given(st.sampled_from(["http://", "https://", "HTTP://U:p@"]), parts, parts)
def test_the_canonical_form_is_its_own_canonical_form(scheme: str, host: str, path: str) -> None:
    url = _canonical(f"{scheme}{host}.example/{path}")
    if url is not None:
        assert _canonical(url) == url
        assert "#" not in url


@pytest.mark.parametrize(
    ("written", "canonical", "domain"),
    [
        ("HTTP://Example.COM:80/a/../b?z=1&a=2#top", "http://example.com/b?z=1&a=2", "example.com"),
        ("https://user:secret@example.com/", "https://example.com/", "example.com"),
        ("http://example.com", "http://example.com/", "example.com"),
        ("http://example.com:8080/%7Ea", "http://example.com:8080/%7Ea", "example.com:8080"),
        ("http://bücher.example/ä", "http://xn--bcher-kva.example/%C3%A4", "xn--bcher-kva.example"),
        ("http://0x7f.1/", "http://127.0.0.1/", "127.0.0.1"),
        ("http://[::1]:80/", "http://[::1]/", "[::1]"),
        (" http://a.example/\tb\n", "http://a.example/b", "a.example"),
        ("http://a.example/?#", "http://a.example/?", "a.example"),
    ],
)
def test_a_url_is_read_as_browsers_read_it(written: str, canonical: str, domain: str) -> None:
    target = canonicalise(written)
    assert (target.url, target.domain) == (canonical, domain)
    assert target.origin == canonical.partition("://")[0] + "://" + domain


@pytest.mark.parametrize("url", ["", "/a", "mailto:a@b.c", "javascript:1", "http://", "file:///x"])
def test_what_cannot_be_crawled_has_no_canonical_form(url: str) -> None:
    with pytest.raises(FetchError) as caught:
        canonicalise(url)
    assert caught.value.code == "bad-url"


def test_a_fingerprint_depends_on_method_url_body_and_key() -> None:
    url = "http://a.example/"
    plain = canonicalise(url).fingerprint
    assert plain == fingerprint("GET", url)
    assert len(plain) == 16
    others = [
        fingerprint("POST", url),
        fingerprint("GET", url + "b"),
        fingerprint("GET", url, b"x"),
        fingerprint("GET", url, b"", "x"),
        fingerprint("GET", url, b"x", "x"),
    ]
    assert len({plain, *others}) == 6


def test_a_reference_is_resolved_against_its_base() -> None:
    assert join("http://a.example/b/c?d", " ../e ") == "http://a.example/e"
    with pytest.raises(FetchError):
        join("http://a.example/", "http://[")


@pytest.mark.parametrize(
    ("domain", "site"),
    [
        ("www.example.co.uk:8080", "example.co.uk"),
        ("a.b.example.com", "example.com"),
        ("127.0.0.1:80", "127.0.0.1"),
        ("localhost", "localhost"),
        ("com", "com"),
    ],
)
def test_the_site_is_the_registrable_domain(domain: str, site: str) -> None:
    assert site_of(domain) == site


@pytest.mark.parametrize(
    ("domain", "private"),
    [
        ("127.0.0.1:8000", True),
        ("[::1]:8000", True),
        ("[fe80::1]", True),
        ("10.0.0.1", True),
        ("localhost:80", True),
        ("a.localhost", True),
        ("8.8.8.8", False),
        ("[2606:4700::1111]:80", False),
        ("example.com:8000", False),
    ],
)
def test_only_literal_addresses_and_localhost_are_known_to_be_private(
    domain: str, private: bool
) -> None:
    assert is_private(domain) is private


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1:99999/", "its port is `99999`, not 0 to 65535"),
        ("http://[::1]:x/", "its port is `x`, not 0 to 65535"),
        ("http://[bad/", "its host is neither a name nor an address"),
        ("http://", "it has no host"),
        ("a.example/x", "not an absolute URL"),
    ],
)
def test_it_is_told_what_is_wrong_with_a_url(url: str, reason: str) -> None:
    with pytest.raises(FetchError) as caught:
        canonicalise(url)
    assert caught.value.args[0] == reason
