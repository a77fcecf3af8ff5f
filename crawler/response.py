"""A page that was fetched: its bytes, its text, its tree and the requests it leads to.

Owns: which charset a body is read in (BOM, then header, then what the document declares,
then UTF-8 with replacement), parsing on first use and once, resolving references against
the document's base URL, links, follow, follow_all and forms.
Does not own: fetching and decompression, or what callbacks give (`harvest`).

Invariants: a page is immutable to callbacks; selectolax is imported by the first page that
is parsed; a reference that is not http or https never becomes a request.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, cast

import msgspec

from crawler.errors import FetchError, SpiderError
from crawler.headers import Headers, bom_charset, charset_of, is_html
from crawler.node import Node, Selectable
from crawler.request import Request, Requests, Results
from crawler.urls import join
from crawler.web.forms import changed, read_form, with_query

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from selectolax.lexbor import LexborHTMLParser

__all__ = ["Response"]

P = ParamSpec("P")
WEB = ("http://", "https://")
_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*:").match
HTML_BEGINS = (b"<!doctype html", b"<html", b"<head", b"<body")


class Response(Selectable):
    """What a callback gets: the answer to a request, or the page for short."""

    __slots__ = (
        "_base",
        "_encoding",
        "_headers",
        "_raw_headers",
        "_text",
        "_tree",
        "body",
        "depth",
        "request",
        "status",
        "url",
    )

    def __init__(
        self,
        request: Request,
        url: str,
        status: int,
        headers: Sequence[tuple[bytes, bytes]] = (),
        body: bytes = b"",
        depth: int = 0,
        encoding: str | None = None,
    ) -> None:
        self.request = request
        self.url = url
        """Canonical URL of this page; a redirect's target is a page of its own."""
        self.status = status
        self.body = body
        """Decompressed."""
        self.depth = depth
        """Links followed since a start URL; 0: a start URL."""
        self._raw_headers = headers
        self._encoding = encoding
        """Python's name of a charset that overrules all others; None: found out when needed."""
        self._headers: Headers | None = None
        self._text: str | None = None
        self._tree: LexborHTMLParser | None = None
        self._base: str | None = None

    def __repr__(self) -> str:
        return f"<Response {self.status} {self.url} {len(self.body)} bytes>"

    # What it says ---------------------------------------------------------------------

    @property
    def headers(self) -> Headers:
        """Header fields, by name in any case."""
        if self._headers is None:
            self._headers = Headers(self._raw_headers)
        return self._headers

    @property
    def content_type(self) -> str | None:
        """The Content-Type header; None: there is none."""
        if self._headers is not None:
            return self._headers.get("content-type")
        for name, value in self._raw_headers:
            if name.lower() == b"content-type":
                return value.decode("latin-1")
        return None

    @property
    def is_html(self) -> bool:
        """Announced as HTML, or unannounced and beginning like it."""
        announced = self.content_type
        if announced:
            return is_html(announced)
        beginning = self.body[:1024].lower()
        return any(mark in beginning for mark in HTML_BEGINS)

    @property
    def encoding(self) -> str | None:
        """What BOM or header say; None: neither does, the document or UTF-8 decides."""
        if self._encoding is None:
            self._encoding = bom_charset(self.body) or charset_of(self.content_type)
        return self._encoding

    @property
    def text(self) -> str:
        """The body as text; bytes that are wrong in its charset become U+FFFD."""
        if self._text is None:
            charset = self.encoding
            if charset is None and self.is_html:
                self._text = self._root().raw_html.decode("utf-8", "replace")
            else:
                self._text = self.body.decode(charset or "utf-8", "replace").removeprefix("\ufeff")
        return self._text

    def json(self) -> Any:
        """The body as JSON. Raises SpiderError when it is none."""
        try:
            return msgspec.json.decode(self.body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            pass
        try:
            return msgspec.json.decode(self.text)
        except (msgspec.DecodeError, UnicodeEncodeError) as error:
            raise SpiderError(f"{self.url} is no JSON: {error}") from error

    # Its tree -------------------------------------------------------------------------

    def _root(self) -> LexborHTMLParser:
        if self._tree is None:
            from selectolax.lexbor import LexborHTMLParser

            charset = self.encoding
            if charset is None or (charset == "utf-8" and self.body[:3] == b"\xef\xbb\xbf"):
                self._tree = LexborHTMLParser(self.body, encoding=True)
            elif charset == "utf-8":
                self._tree = LexborHTMLParser(self.body)
            else:
                self._tree = LexborHTMLParser(self.text)
        return self._tree

    def _where(self) -> str:
        return self.url

    @property
    def base_url(self) -> str:
        """What relative references are resolved against: `<base href>`, or the page's URL."""
        if self._base is None:
            base = self._root().css_first("base[href]") if self.is_html else None
            reference = base.attributes.get("href") if base is not None else None
            self._base = (_resolve(self.url, reference) if reference else None) or self.url
        return self._base

    def links(self) -> list[str]:
        """Distinct absolute http(s) URLs of `a` and `area`, in document order.

        Without fragments; a reference to a place in the page itself is no link. A page
        that is no HTML has none.
        """
        if not self.is_html:
            return []
        base = self.base_url
        directory = base.partition("?")[0].rpartition("/")[0] + "/"
        if directory.endswith("//"):
            directory = base
        nodes = self._root().css("a[href], area[href]")
        found: dict[str | None, None] = {}
        for reference in dict.fromkeys([node.attributes["href"] for node in nodes]):
            if not reference:
                continue
            reference = reference.partition("#")[0]
            if not reference:
                continue
            is_by_path = reference[0] > " " and reference[0] != "?"
            found[_resolve(directory if is_by_path else base, reference)] = None
        found.pop(None, None)
        return cast("list[str]", list(found))

    # Where it leads -------------------------------------------------------------------

    def follow(
        self,
        target: str | Node,
        callback: Callable[Concatenate[Response, P], Results],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Request:
        """A request for a reference, or for what a node refers to (`href`, else `src`).

        Further arguments are the callback's; options come after: `.replace(priority=5)`.
        Raises SpiderError for what is no http or https URL.
        """
        reference = target if isinstance(target, str) else _reference(target)
        url = None if reference is None else self._absolute(reference)
        if url is None:
            raise SpiderError(f"{target!r} on {self.url} leads to no http or https URL")
        return Request(url, callback, args=_arguments(callback, args, kwargs))

    def follow_all(
        self,
        targets: str | Iterable[str | Node],
        callback: Callable[Concatenate[Response, P], Results],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Requests:
        """A request for each match of a selector, or each of some nodes or references.

        No match gives no request; what leads elsewhere than to http or https (mailto:, an
        `a` without href) is left out. Raises SpiderError for another element that refers
        to nothing: the selector meant its child.
        """
        arguments = _arguments(callback, args, kwargs)
        requests = Requests()
        for target in self.css(targets) if isinstance(targets, str) else targets:
            reference = target if isinstance(target, str) else _reference(target)
            if reference is None and cast("Node", target).raw.tag not in ("a", "area"):
                raise SpiderError(f"{target!r} on {self.url} has neither href nor src")
            url = None if reference is None else self._absolute(reference)
            if url is not None:
                requests.append(Request(url, callback, args=arguments))
        return requests

    def form(self, selector: str, /, **fields: str | Sequence[str] | None) -> Request:
        """The request that sends a form, as the page fills it in, with these fields changed.

        A list gives a field several values, None leaves it out. The answer goes to `parse`
        unless `.replace(callback=...)` says otherwise. Raises NoMatch.
        """
        node = self.first(selector)
        form = read_form(node.raw, self._root())
        url = self._absolute(form.action) if form.action else self.url
        if url is None:
            raise SpiderError(f"the form {selector!r} on {self.url} has no http or https target")
        entries = changed(form.entries, fields)
        if form.method == "GET":
            return Request(with_query(url, entries))
        return Request(url, method="POST", data=entries, files={} if form.is_multipart else None)

    def _absolute(self, reference: str) -> str | None:
        base = self.url if _SCHEME(reference) else self.base_url
        return _resolve(base, reference)


@lru_cache(maxsize=16_384)
def _resolve(base: str, reference: str) -> str | None:
    """An absolute http(s) URL; None: it is none. Cached: pages of a site share their links."""
    try:
        url = join(base, reference)
    except FetchError:
        return None
    return url if url.startswith(WEB) else None


def _reference(node: Node) -> str | None:
    attributes = node.raw.attributes
    return attributes.get("href") or attributes.get("src")


def _arguments(
    callback: Callable[..., Results], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Keyword arguments of the callback; positional ones get the names they stand for."""
    if not args:
        return kwargs
    code = getattr(callback, "__code__", None)
    names = code.co_varnames[2 : code.co_argcount] if code is not None else ()
    if len(args) > len(names):
        raise SpiderError(f"callback {callback!r} takes no argument {args[len(names)]!r}")
    return dict(zip(names, args, strict=False)) | kwargs
