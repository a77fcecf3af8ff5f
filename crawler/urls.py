"""What a URL is to a crawl: its canonical form, its domain, its fingerprint. Pure.

Canonical is the WHATWG serialisation (URL Standard §4.5) without fragment and userinfo;
nothing is sorted, dropped or lowered beyond that. The domain is the lower-case IDNA host
plus a port that is not the scheme's default: the unit of queue, pool, pace and lease.

Invariants: canonicalise(canonicalise(u).url) == canonicalise(u); two URLs that serialise
alike have one fingerprint; only http and https have a canonical form.
"""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import blake2b
from ipaddress import ip_address
from typing import NamedTuple

import ada_url
from publicsuffixlist import PublicSuffixList

from crawler.errors import FetchError

__all__ = ["Target", "canonicalise", "fingerprint", "is_private", "join", "site_of", "with_scheme"]


class Target(NamedTuple):
    """Where a URL leads."""

    url: str
    """Canonical."""
    origin: str
    """`scheme://host[:port]`: the unit of robots.txt and of credentials."""
    domain: str
    fingerprint: bytes
    """Of a plain GET; other requests ask `fingerprint`."""


@lru_cache(maxsize=32_768)
def canonicalise(url: str) -> Target:
    """Resolve an absolute URL to what it means to the crawl.

    Links repeat from page to page, so the answers are cached. Raises FetchError
    (`bad-url`) for what is not an absolute http or https URL with a host.
    """
    try:
        href = ada_url.normalize_url(url.strip())
    except ValueError as error:
        raise FetchError("bad-url", _wrong_with(url), url=url) from error
    scheme, _, rest = href.partition("://")
    if scheme not in ("http", "https"):
        raise FetchError("bad-url", "only http and https can be crawled", url=url)
    rest = rest.partition("#")[0]
    authority, slash, path = rest.partition("/")
    if "@" in authority:
        authority = authority.rpartition("@")[2]
    canonical = f"{scheme}://{authority}{slash}{path}"
    return Target(
        url=canonical,
        origin=f"{scheme}://{authority}",
        domain=_domain(authority),
        fingerprint=fingerprint("GET", canonical),
    )


def _wrong_with(url: str) -> str:
    """Why a URL is none."""
    scheme, mark, rest = url.strip().partition("://")
    if not mark or not scheme:
        return "not an absolute URL"
    host, colon, port = re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")[2].rpartition(":")
    is_port = bool(colon) and host.startswith("[") == host.endswith("]")
    if is_port and not (port.isdecimal() and int(port) < 65_536):
        return f"its port is `{port}`, not 0 to 65535"
    return "its host is neither a name nor an address" if rest else "it has no host"


def with_scheme(text: str) -> str:
    """What was typed without a scheme, with the likelier one: http in the own network."""
    host, slash, path = text.partition("/")
    return f"{'http' if is_private(host) else 'https'}://{host}/{path if slash else ''}"


def _domain(authority: str) -> str:
    """Without the dot that ends a complete name: it is the same host (RFC 1034 §3.1)."""
    if not authority.endswith(".") and ".:" not in authority:
        return authority
    host, colon, port = authority.partition(":")
    return f"{host.rstrip('.') or host}{colon}{port}"


def fingerprint(method: str, url: str, body: bytes = b"", key: str = "") -> bytes:
    """128 bits over method, canonical URL, body and the user's key."""
    digest = blake2b(f"{method} {url}".encode(), digest_size=16)
    if body or key:
        digest.update(b"\0%d\0" % len(body) + body + key.encode())
    return digest.digest()


def join(base: str, reference: str) -> str:
    """Resolve a reference against a base URL. Raises FetchError (`bad-url`)."""
    try:
        return ada_url.join_url(base, reference.strip())
    except ValueError as error:
        raise FetchError("bad-url", f"not a URL reference: {reference!r}", url=base) from error


def is_private(domain: str) -> bool:
    """A literal address that is not public, or localhost: this machine's own network."""
    host = domain.rpartition(":")[0] if domain.rpartition(":")[2].isdigit() else domain
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return not ip_address(host.strip("[]")).is_global
    except ValueError:
        return False


@lru_cache(maxsize=1)
def _suffixes() -> PublicSuffixList:
    return PublicSuffixList()


@lru_cache(maxsize=8_192)
def site_of(domain: str) -> str:
    """The registrable domain (public suffix plus one label); an address is its own site."""
    host = domain.rpartition(":")[0] if domain.rpartition(":")[2].isdigit() else domain
    host = host.rstrip(".")
    if host.startswith("[") or host.replace(".", "").isdigit():
        return host
    return _suffixes().privatesuffix(host) or host
