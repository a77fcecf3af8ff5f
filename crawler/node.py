"""Selecting in a parsed page: the four questions that a page and every node answer.

Owns: `css`, `first`, `get`, `getall`, the pseudo-elements `::text` and `::attr(x)`, the
errors for selectors that are wrong or match nothing, and that they can be watched.
Does not own: parsing (`response`); the tree, which is Lexbor's and not safe to be used
from two threads at once.

Invariants: None is answered only where `default=None` asked for it; a text is always
stripped; `::text` and no pseudo-element read alike.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeVar, overload

from crawler.errors import NoMatch, SpiderError
from crawler.wording import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from selectolax.lexbor import LexborHTMLParser, LexborNode

__all__ = ["Node", "Selectable", "split", "watched"]

D = TypeVar("D")
REQUIRED: Final[Any] = object()
_PSEUDO = re.compile(r"^(.*?)::(?:(text)|attr\(\s*([^\s()]+)\s*\))\s*$", re.DOTALL).match

_watch: Callable[[str, Selectable, bool], None] | None = None
"""Told of every selector: what was asked, of whom, whether anything matched. None, as in
every crawl: nobody watches."""


@contextmanager
def watched(watch: Callable[[str, Selectable, bool], None]) -> Iterator[None]:
    """Tell `watch` of every selector that is asked in the block, in the whole process."""
    global _watch
    before, _watch = _watch, watch
    try:
        yield
    finally:
        _watch = before


class Selectable(ABC):
    """Anything that CSS selectors can be asked of."""

    __slots__ = ()

    @abstractmethod
    def _root(self) -> LexborHTMLParser | LexborNode:
        """Where the search starts."""

    @abstractmethod
    def _where(self) -> str:
        """URL of the page, for messages."""

    def css(self, selector: str) -> list[Node]:
        """Every match, in document order. Raises SpiderError for a bad selector."""
        url = self._where()
        return [Node(raw, url) for raw in self._matches(_plain(selector))]

    def first(self, selector: str) -> Node:
        """The first match. Raises NoMatch, and SpiderError for a bad selector."""
        raw = self._first_match(_plain(selector))
        if raw is None:
            raise NoMatch(selector, self._where())
        return Node(raw, self._where())

    @overload
    def get(self, selector: str, attr: str | None = None) -> str: ...

    @overload
    def get(self, selector: str, attr: str | None = None, *, default: D) -> str | D: ...

    def get(self, selector: str, attr: str | None = None, *, default: Any = REQUIRED) -> Any:
        """Stripped text of the first match, or one of its attributes.

        Raises NoMatch when nothing matches, or the match has no such attribute, unless a
        `default` is given; SpiderError for a bad selector.
        """
        css, pseudo = split(selector)
        name = attr or pseudo
        raw = self._first_match(css)
        value = None if raw is None else _value(raw, name)
        if value is not None:
            return value
        if default is REQUIRED:
            raise NoMatch(f"{css}::attr({name})" if name else selector, self._where())
        return default

    def getall(self, selector: str, attr: str | None = None) -> list[str]:
        """Stripped text of every match, or an attribute of those that have it."""
        css, pseudo = split(selector)
        name = attr or pseudo
        values = [_value(raw, name) for raw in self._matches(css)]
        return [value for value in values if value is not None]

    def _matches(self, css: str) -> list[LexborNode]:
        root = self._root()
        if not css:
            return [_element(root)]
        try:
            found = root.css(css)
        except Exception as error:  # selectolax is not imported to name its class
            raise SpiderError(f"not a CSS selector: {css!r}") from error
        if _watch is not None:
            _watch(css, self, bool(found))
        return found

    def _first_match(self, css: str) -> LexborNode | None:
        root = self._root()
        if not css:
            return _element(root)
        try:
            found = root.css_first(css)
        except Exception as error:
            raise SpiderError(f"not a CSS selector: {css!r}") from error
        if _watch is not None:
            _watch(css, self, found is not None)
        return found


class Node(Selectable):
    """An element of a page."""

    __slots__ = ("_url", "raw")

    def __init__(self, raw: LexborNode, url: str) -> None:
        self.raw = raw
        """The Lexbor node."""
        self._url = url

    def _root(self) -> LexborNode:
        return self.raw

    def _where(self) -> str:
        return self._url

    @property
    def text(self) -> str:
        """Stripped text of the element and all below it."""
        return self.raw.text().strip()

    @property
    def html(self) -> str:
        """The element as HTML."""
        return self.raw.html or ""

    @property
    def attributes(self) -> dict[str, str]:
        """Attributes by lower-case name; one without a value is the empty string."""
        return {name: value or "" for name, value in self.raw.attributes.items()}

    def __repr__(self) -> str:
        shown = " ".join(f'{name}="{value}"' for name, value in self.attributes.items())
        return printable(f"<Node {self.raw.tag}{' ' if shown else ''}{shown}>")


@lru_cache(maxsize=1024)
def split(selector: str) -> tuple[str, str | None]:
    """A selector and the attribute it ends in; None: text. `::text` alone is the node."""
    found = _PSEUDO(selector)
    if found is None:
        if not selector.strip():
            raise SpiderError("an empty CSS selector")
        return selector, None
    return found[1].strip(), found[3]


def _plain(selector: str) -> str:
    css, _ = split(selector)
    if css != selector:
        raise SpiderError(f"{selector!r} selects text: ask get() or getall() for it")
    return css


def _value(raw: LexborNode, name: str | None) -> str | None:
    if name is None:
        return raw.text().strip()
    attributes = raw.attributes
    return (attributes[name] or "").strip() if name in attributes else None


def _element(root: LexborHTMLParser | LexborNode) -> LexborNode:
    return getattr(root, "root", None) or root  # type: ignore[return-value]
