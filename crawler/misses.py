"""Selectors that match nothing: how often each was asked, and where it stops matching.

Owns: the record of what was asked of a page (`Asked`), the steps of a selector with the
matches of each, a class or an id like the one that is written. Does not own: selecting
(`node`).

Invariants: a selector is a miss only if it never matched; explaining asks the page again
and changes nothing.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from crawler.errors import SpiderError, nearest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from crawler.node import Selectable

__all__ = ["Asked", "Miss", "Step", "explain", "steps_of"]

MOST_SELECTORS = 1_000
MOST_NODES = 1_000
"""Of a page, whose names are compared with a mistyped one."""
_NAME = re.compile(r"([.#])((?:[\w-]|[^\x00-\x7f])+)")


class Step(NamedTuple):
    """A selector up to one of its steps."""

    selector: str
    matches: int


class Miss(NamedTuple):
    """A selector that matched nothing."""

    selector: str
    asked: int
    """How often."""
    steps: tuple[Step, ...]
    """Its beginnings, shortest first, up to the first without a match; of a list of
    selectors those of the first."""
    near: Step | None
    """One like it that matches; None: none was found."""

    @property
    def told(self) -> str:
        """Where it stops matching, in one line; empty: that cannot be told."""
        last = self.steps[-2:] if len(self.steps) > 1 else ()
        told = [f"{step.selector} matches {step.matches}" for step in last]
        if self.near is not None:
            told.append(f"did you mean {self.near.selector} ({self.near.matches})?")
        return "; ".join(told)


class Asked:
    """What was asked of a page and its nodes; a `watch` for `node.watched`."""

    def __init__(self) -> None:
        self._asked: dict[str, int] = {}
        self._places: dict[str, Selectable] = {}
        """Selectors without a match so far, and where they were asked first."""

    def __repr__(self) -> str:
        return f"<Asked {len(self._asked)} selectors, {len(self._places)} without a match>"

    def __call__(self, selector: str, where: Selectable, is_match: bool) -> None:
        """A selector was asked; of more than 1,000 different ones only these are kept."""
        count = self._asked.get(selector)
        if count is None:
            if len(self._asked) >= MOST_SELECTORS:
                return
            if not is_match:
                self._places[selector] = where
        self._asked[selector] = (count or 0) + 1
        if is_match:
            self._places.pop(selector, None)

    def misses(self) -> list[Miss]:
        """Those that never matched, in the order in which they were asked first."""
        return [
            explain(selector, where, asked=self._asked[selector])
            for selector, where in self._places.items()
        ]


def explain(selector: str, where: Selectable, *, asked: int = 1) -> Miss:
    """Where a selector that matches nothing stops matching."""
    steps: list[Step] = []
    near = None
    for step in (known := steps_of(selector)):
        steps.append(Step(step, _matches(step, where)))
        if not steps[-1].matches:
            base = steps[-2].selector if len(steps) > 1 else ""
            near = _near(base, step[len(base) :], known[-1][len(step) :], where)
            break
    return Miss(selector, asked, tuple(steps), near)


def steps_of(selector: str) -> list[str]:
    """`div.a > p b` as `div.a`, `div.a > p`, `div.a > p b`; a list ends at its first comma."""
    text = selector.strip()
    ends: list[int] = []
    for place in _marks(text):
        if text[place] == ",":
            text = text[:place]
            break
        ends.append(place)
    steps = [text[:end].rstrip() for end in [*filter(None, ends), len(text)]]
    return [step for step in dict.fromkeys(steps) if step and step[-1] not in ">+~"]


def _marks(text: str) -> Iterator[int]:
    """Where white space, combinators and commas stand outside of quotes and brackets."""
    depth, quote, is_escaped = 0, "", False
    for place, char in enumerate(text):
        if is_escaped or char == "\\":
            is_escaped = not is_escaped
        elif quote:
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        elif char in "([":
            depth += 1
        elif char in ")]":
            depth -= 1
        elif not depth and (char.isspace() or char in ",>+~"):
            yield place


def _near(base: str, step: str, rest: str, where: Selectable) -> Step | None:
    """A class or an id of the step in place of which the page has one that is much like it;
    with the rest of the selector where that matches too."""
    for found in reversed(list(_NAME.finditer(step))):
        mark, written = found.groups()
        before, after = base + step[: found.start()], step[found.end() :]
        name = nearest(written, _names(mark, f"{_open(before)}{after}", where))
        for candidate in (f"{before}{mark}{name}{after}{rest}", f"{before}{mark}{name}{after}"):
            if name and (matches := _matches(candidate, where)):
                return Step(candidate, matches)
    return None


def _open(before: str) -> str:
    """With any element where none is named."""
    return before if before and before[-1] not in " >+~" else f"{before}*"


def _names(mark: str, selector: str, where: Selectable) -> set[str]:
    """Classes or ids of what a selector matches."""
    attribute = "class" if mark == "." else "id"
    try:
        nodes = where.css(selector)
    except SpiderError:
        return set()
    return {
        name for node in nodes[:MOST_NODES] for name in node.attributes.get(attribute, "").split()
    }


def _matches(selector: str, where: Selectable) -> int:
    try:
        return len(where.css(selector))
    except SpiderError:  # a beginning that is no selector by itself
        return 0
