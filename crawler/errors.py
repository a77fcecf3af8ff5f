"""The exception tree; what a mistyped name may have meant.

    CrawlerError
    ├── UsageError            a person's mistake: exit 2, one line and one hint
    │   ├── SettingsError     an unknown or impossible setting
    │   └── SpiderLoadError   the spider cannot be found, imported or built
    ├── SpiderError           a callback's mistake: the page fails, the crawl goes on
    │   ├── NoMatch           a selector found nothing and no default was given
    │   └── ItemError         what the callback returned cannot become a row
    └── FetchError            the wire's: carries a code of CODES
    StopCrawl                 not an error: a callback raises it to end the run in good order

Owns: classes. Does not own: what their codes mean (`codes`), what is done about them (`retry`).
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from crawler.codes import CODES, Code, advice, code_of

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "CODES",
    "Code",
    "CrawlerError",
    "FetchError",
    "ItemError",
    "NoMatch",
    "SettingsError",
    "SpiderError",
    "SpiderLoadError",
    "StopCrawl",
    "UsageError",
    "advice",
    "code_of",
    "nearest",
]


class CrawlerError(Exception):
    """Anything this package raises on purpose."""


class UsageError(CrawlerError):
    """A mistake in what was asked for; `hint` is the next command or the line to change.

    A traceback, a notebook's too, shows the hint below the message, as a note.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "hint":
            self.__notes__ = [f"hint: {value}"] if value else []


class SettingsError(UsageError):
    """An unknown setting, or a value it cannot have."""


class SpiderLoadError(UsageError):
    """A spider that cannot be found, imported or built from its arguments."""


class SpiderError(CrawlerError):
    """A callback did something that cannot be carried out."""

    code = "callback"


class NoMatch(SpiderError):
    """`selector` matched nothing on `url`; pass `default=` where that is no mistake."""

    code = "no-match"

    def __init__(self, selector: str, url: str) -> None:
        super().__init__(f"{selector!r} matched nothing on {url}")
        self.selector = selector
        self.url = url


class ItemError(SpiderError):
    """An item that cannot become a row: wrong type, field or name."""

    code = "item-invalid"


class StopCrawl(Exception):
    """Raise in a callback to end the run in good order; the page's results are kept."""


class FetchError(CrawlerError):
    """A request that got no usable answer; `code` is one of CODES or `http-<status>`."""

    pause_s = 1.0
    """Seconds before it is tried again where it was nobody's fault."""

    def __init__(self, code: str, message: str = "", *, url: str = "") -> None:
        super().__init__(message or CODES[code].meaning)
        self.code = code
        self.url = url

    @property
    def fault(self) -> str:
        """Whose fault it is: domain, request, permanent or local."""
        return CODES[self.code].fault if self.code in CODES else "request"

    def __str__(self) -> str:
        where = f"{self.url}: " if self.url else ""
        return f"{self.code}: {where}{self.args[0]}"


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The known name most like a mistyped one; None: none is like it.

    First by slips of the finger (a letter dropped, doubled, changed, or two swapped), which
    for short names tell more than how much two names have in common.
    """
    known = list(dict.fromkeys(names))
    typed = name.casefold()
    slips = {each: _slips(typed, each.casefold(), max(1, len(each) // 4)) for each in known}
    least = min((n for n in slips.values() if n is not None), default=None)
    if least is not None:
        known = [each for each in known if slips[each] == least]
    by_likeness = {each.casefold(): each for each in reversed(known)}
    found = get_close_matches(typed, by_likeness, n=1, cutoff=0.6 if least is None else 0.0)
    return by_likeness[found[0]] if found else None


def _slips(typed: str, meant: str, most: int) -> int | None:
    """Slips between two names, two letters swapped being one; None: more than `most`."""
    if abs(len(typed) - len(meant)) > most:
        return None
    before: list[int] = []
    last = list(range(len(meant) + 1))
    for i, char in enumerate(typed, 1):
        row = [i]
        for j, wanted in enumerate(meant, 1):
            cost = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (char != wanted))
            if i > 1 and j > 1 and char == meant[j - 2] and typed[i - 2] == wanted:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        before, last = last, row
    return last[-1] if last[-1] <= most else None
