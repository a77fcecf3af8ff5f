"""A page as people read it: its visible text by lines, or Markdown.

Owns: which elements begin a line and which are not shown. Does not own: parsing
(`response`), the rules of Markdown (markdownify, the extra `md`).

Invariants: nothing of scripts and styles is shown; a page that is no HTML is its text; a
deep tree costs no recursion; links in Markdown are absolute.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING

from crawler.errors import FetchError, UsageError
from crawler.urls import join

if TYPE_CHECKING:
    from collections.abc import Iterator

    from selectolax.lexbor import LexborNode

    from crawler.response import Response

__all__ = ["is_textual", "markdown_of", "text_of", "title_of"]

HIDDEN = frozenset(
    (
        *("head", "script", "style", "template", "noscript", "-comment", "!doctype"),
        *("svg", "math", "object", "iframe", "audio", "video", "canvas", "datalist"),
    )
)
LINES = frozenset(
    (
        *("address", "article", "aside", "blockquote", "body", "br", "center", "dd", "details"),
        *("dialog", "div", "dl", "dt", "fieldset", "figcaption", "figure", "footer", "form"),
        *("h1", "h2", "h3", "h4", "h5", "h6", "header", "hgroup", "hr", "legend", "li", "main"),
        *("menu", "nav", "ol", "optgroup", "option", "p", "section", "search", "select"),
        *("summary", "table", "tbody", "tfoot", "thead", "tr", "ul", "pre"),
    )
)
"""Elements that stand on lines of their own."""
CELLS = frozenset(("td", "th"))
TEXTUAL = ("text/", "application/json", "application/xml", "application/javascript")
_SPACE = re.compile(r"[ \t\n\r\f]+")


def is_textual(page: Response) -> bool:
    """Whether the body is text: announced as such, or unannounced and without a NUL."""
    kind = (page.content_type or "").partition(";")[0].strip().lower()
    if kind:
        return kind.startswith(TEXTUAL) or kind.endswith(("+json", "+xml"))
    return b"\0" not in page.body[:4096]


def title_of(page: Response) -> str:
    """The text of `<title>` in one line; empty: there is none, or the page is no HTML."""
    if not page.is_html:
        return ""
    return " ".join((page.get("title", default="") or "").split())


def text_of(page: Response) -> str:
    """The visible text of a page, one line for each block; of what is no HTML its text."""
    if not page.is_html:
        return page.text
    lines, line = [], ""
    for part in _parts(page.css("html")[0].raw):
        if part == "\n":
            lines.append(line)
            line = ""
        else:
            line += part
    lines.append(line)
    shown = [_SPACE.sub(" ", line).strip() for line in lines]
    return "\n".join(line for line in shown if line)


def _parts(root: LexborNode) -> Iterator[str]:
    """Texts in their order, with a line break wherever a block begins or ends."""
    node: LexborNode | None = root
    while node is not None:
        is_shown = node.tag not in HIDDEN and "hidden" not in node.attributes
        if node.tag == "-text":
            yield node.text_content or ""
        elif is_shown and node.tag in LINES:
            yield "\n"
        below = node.child if is_shown and node.tag != "-text" else None
        if below is not None:
            node = below
            continue
        while node is not None and node.next is None:
            node = node.parent
            if node is None or node.tag == "html":
                return
            yield from _after(node)
        if node is not None:
            node = node.next


def _after(node: LexborNode) -> Iterator[str]:
    """What stands behind an element whose children are through."""
    if node.tag in LINES:
        yield "\n"
    elif node.tag in CELLS:
        yield "  "


def markdown_of(page: Response) -> str:
    """The page as Markdown, its links absolute; of what is no HTML its text.

    Raises UsageError when the extra `md` is not installed, and for a page nested so deeply
    that it cannot be written.
    """
    if not page.is_html:
        return page.text
    try:
        import markdownify
    except ImportError as error:
        raise UsageError(
            "Markdown needs the package markdownify", hint='pip install "poolcrawl[md]"'
        ) from error
    from selectolax.lexbor import LexborHTMLParser

    tree = LexborHTMLParser(page.text)
    for name in ("href", "src"):
        for node in tree.css(f"[{name}]"):
            with suppress(FetchError):
                node.attrs[name] = join(page.base_url, node.attributes[name] or "")
    for node in tree.css("script, style, template"):
        node.decompose()
    html = tree.body.html if tree.body is not None else ""
    try:
        text: str = markdownify.markdownify(html or "", heading_style="atx", bullets="-")
    except RecursionError as error:
        raise UsageError(
            f"{page.url} is nested too deeply for Markdown", hint="--text reads it at any depth"
        ) from error
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
