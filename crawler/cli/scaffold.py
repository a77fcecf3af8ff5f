"""Spiders from templates: which there are, what a name may be, the text of a new file.

Owns: the templates (`crawler/templates/*.tmpl`), their holes, names of spiders, classes and
items made from one word. Does not own: projects (`init`), what is said of a new file (`new`).

Invariants: what is put into Python source is an identifier or a literal; a file that is
there is never written over.
"""

from __future__ import annotations

import json
import keyword
import re
import shlex
from pathlib import Path
from string import Template
from typing import NamedTuple
from urllib.parse import urlsplit

from crawler.errors import FetchError, UsageError, nearest
from crawler.urls import canonicalise
from storage import is_reserved

__all__ = [
    "TEMPLATES",
    "FromTemplate",
    "Names",
    "checked_name",
    "environment_name",
    "new_file",
    "read_template",
    "spider_text",
]

_NAME = re.compile(r"(?=.{1,64}$)[a-z][a-z0-9]*(?:[_-][a-z0-9]+)*").fullmatch
_TAKEN = frozenset(
    ("Spider", "SpiderError", "Request", "Response", "Results", "ElementTree", "Reply", "Site")
)
"""Names that the templates import."""


class FromTemplate(NamedTuple):
    """A template, and the practice site that it fits as it stands."""

    summary: str
    url: str
    """Taken where no URL is given."""
    fitting: dict[str, str] = {}
    """Selectors for that site."""
    general: dict[str, str] = {}
    """Selectors for any other site: a beginning."""


TEMPLATES = {
    "basic": FromTemplate(
        "the entries of one page",
        "https://quotes.toscrape.com/",
        {"entries": "div.quote", "text": "span.text"},
        {"entries": "article", "text": "h2"},
    ),
    "follow": FromTemplate(
        "lists, the pages they lead to, the next list",
        "https://books.toscrape.com/",
        {"links": "article.product_pod h3 a", "next": "li.next a"},
        {"links": "article a", "next": "a[rel=next]"},
    ),
    "sitemap": FromTemplate("every page of a sitemap", "https://example.com/sitemap.xml"),
    "api": FromTemplate("a JSON API with a cursor", "https://example.com/api/items"),
    "login": FromTemplate("pages behind a log-in form", "https://quotes.toscrape.com/login"),
}


class Names(NamedTuple):
    """What one word becomes in a spider's file."""

    spider: str
    module: str
    """The file's name without its ending."""
    cls: str
    item: str

    @classmethod
    def of(cls, name: str) -> Names:
        """The names of a spider that `checked_name` let pass."""
        camel = "".join(part.capitalize() for part in re.split(r"[_-]+", name) if part)
        module = name.replace("-", "_")
        has_singular = re.search(r"(?<!new|.ie)(?<![siu])s$", name) is not None
        item = camel.removesuffix("s")
        if not has_singular or is_reserved(module.removesuffix("s")) or item in _TAKEN:
            item = f"{camel}Item"
        spider = f"{camel}Spider" if camel in _TAKEN else camel
        return cls(name, module, spider, item)

    @property
    def line(self) -> str:
        """The line that names the spider; empty where its class does."""
        return "" if self.cls.lower() == self.spider else f"\n    name = {_literal(self.spider)}"


def checked_name(name: str) -> str:
    """The name, if a spider, its class and its file may have it. Raises UsageError."""
    if keyword.iskeyword(name):
        raise UsageError(f"`{name}` is a word of Python itself", hint=f"crawler new {name}_site")
    if _NAME(name):
        return name
    raise UsageError(
        f"`{name}` cannot be the name of a spider: small letters, digits, - and _, a letter first",
        hint=f"crawler new {_suggested(name)}",
    )


def _suggested(name: str) -> str:
    """A name that is allowed, and like the one that is not."""
    host = urlsplit(name).hostname if "://" in name else None
    word = host.removeprefix("www.").partition(".")[0] if host else name
    word = re.sub(r"[^a-z0-9]+", "_", word.removesuffix(".py").lower()).strip("_")[:48]
    word = word if word and word[0].isalpha() else f"site_{word}".rstrip("_")
    return f"{word} {name}" if host else word


def spider_text(names: Names, template: str, url: str | None) -> tuple[str, str]:
    """The text of a spider's file, and the URL that it starts from.

    Raises UsageError for a URL that cannot be fetched, and for an unknown template.
    """
    kind = TEMPLATES.get(template)
    if kind is None:
        best = nearest(template.lower(), TEMPLATES)
        known = f"-t takes one of {', '.join(TEMPLATES)}"
        hint = f"did you mean `-t {best}`?" if best else known
        raise UsageError(f"unknown template `{template}`", hint=hint)
    try:
        target = canonicalise(url or kind.url)
    except FetchError as error:
        hint = f"crawler new {names.spider} {shlex.quote(f'https://{url}')}"
        raise UsageError(
            f"URL {error}", hint=hint if "://" not in str(url) else "give http://… or https://…"
        ) from error
    start = target.url
    if template == "sitemap" and urlsplit(start).path == "/":
        start = f"{target.origin}/sitemap.xml"
    selectors = kind.fitting if url is None else kind.general
    text = read_template(f"{template}.py").substitute(
        {name: _literal(css) for name, css in selectors.items()},
        title=names.cls,
        name_line=names.line,
        cls=names.cls,
        item=names.item,
        url=_literal(start),
        start=_literal(f"{target.origin}/"),
        domain=_literal(target.domain),
        shown_url=f"{target.domain}{_path(start)}",
        shown_domain=target.domain,
        env=environment_name(names),
    )
    return text, start


def environment_name(names: Names) -> str:
    """How the variables with a spider's secrets begin; CRAWLER_ is taken by the settings."""
    name = names.module.upper()
    return f"SITE_{name}" if name.startswith("CRAWLER") else name


def read_template(name: str) -> Template:
    """One file of the templates: `follow.py`, `test.py`."""
    folder = Path(__file__).parent.parent / "templates"
    return Template((folder / f"{name}.tmpl").read_text(encoding="utf-8"))


def new_file(path: Path, text: str) -> bool:
    """Write a file, with its folder, unless it is there; whether it was written.

    Raises UsageError where it cannot be.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError as error:
        if path.exists():
            return False
        raise _unwritten(path, error) from error
    except OSError as error:
        raise _unwritten(path, error) from error
    return True


def _unwritten(path: Path, error: OSError) -> UsageError:
    what = error.filename or path
    return UsageError(
        f"{path} cannot be written: {what}: {error.strerror}",
        hint="choose a folder that you may write to",
    )


def _path(url: str) -> str:
    """The path of a URL where it says something, as a docstring may have it."""
    path = urlsplit(url).path
    return path if re.fullmatch(r"/[\w./~-]{1,40}", path) else ""


def _literal(text: str) -> str:
    """Text as Python source, in double quotes."""
    return json.dumps(text)
