"""A page as people read it: its visible text by lines, or Markdown.

Owns: which elements stand on lines of their own and which are not shown. Does not own: the
rules of Markdown (markdownify, the extra `md`).

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
    from selectolax.lexbor import LexborHTMLParser

    from crawler.response import Response

__all__ = ["is_textual", "markdown_of", "text_of", "title_of"]

HIDDEN = (
    "head, script, style, template, noscript, svg, math, object, iframe, audio, video, canvas,"
    " datalist, [hidden]"
)
LINES = (
    "address, article, aside, blockquote, br, center, dd, details, dialog, div, dl, dt, fieldset,"
    " figcaption, figure, footer, form, h1, h2, h3, h4, h5, h6, header, hgroup, hr, legend, li,"
    " main, menu, nav, ol, optgroup, option, p, pre, search, section, select, summary, table,"
    " tbody, tfoot, thead, tr, ul"
)
"""Elements that stand on lines of their own."""
BREAK = "\x1e"
TEXTUAL = ("text/", "application/json", "application/xml", "application/javascript")


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
    tree = _copy(page, HIDDEN)
    for node in tree.css(LINES):
        node.insert_before(BREAK)
        node.insert_after(BREAK)
    for node in tree.css("td, th"):
        node.insert_after(" ")
    text = tree.body.text() if tree.body is not None else ""
    lines = (" ".join(line.split()) for line in text.split(BREAK))
    return "\n".join(line for line in lines if line)


def _copy(page: Response, without: str) -> LexborHTMLParser:
    """The page parsed anew, without what a selector matches."""
    from selectolax.lexbor import LexborHTMLParser

    tree = LexborHTMLParser(page.text)
    for node in reversed(tree.css(without)):  # an inner one before it goes with its parent
        node.decompose()
    return tree


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
    tree = _copy(page, "template")
    for name in ("href", "src"):
        for node in tree.css(f"[{name}]"):
            with suppress(FetchError):
                node.attrs[name] = join(page.base_url, node.attributes[name] or "")
    html = tree.body.html if tree.body is not None else ""
    try:
        text: str = markdownify.markdownify(html or "", heading_style="atx", bullets="-")
    except RecursionError as error:
        raise UsageError(
            f"{page.url} is nested too deeply for Markdown", hint="--text reads it at any depth"
        ) from error
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
