"""Selectors that match nothing: how often each was asked, and where it stops matching.

Owns: the record of what was asked of a page (`Asked`), the steps of a selector with the
matches of each (`explain`), a selector like it that does match. Does not own: selecting
(`node`), which changes nothing here but for the question being told.

Invariants: a selector is a miss only if it never matched; explaining asks the page again
and changes nothing.
"""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, NamedTuple

from crawler.errors import SpiderError, nearest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from crawler.node import Node, Selectable

__all__ = ["Asked", "Miss", "Step", "explain", "steps_of"]

MOST_SELECTORS = 1_000
LEAST = 3
"""Letters of a name that may be a mistyped one: `a` is not like `p`."""
LIKE_A_TAG = 0.75
_SIMPLE = re.compile(
    r"(?:[\w-]|\\.|[^\x00-\x7f])+|\*"
    r"|[.#](?:[\w-]|\\.|[^\x00-\x7f])+"
    r"|\[(?:[^\]\"']|\"[^\"]*\"|'[^']*')*\]"
    r"|:[\w-]+(?:\([^()]*\))?"
)
_ATTRIBUTE = re.compile(r"\[\s*([\w-]+)").match


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
    """Its beginnings, shortest first; the last one is itself, or the first without a match."""
    near: Step | None
    """One like it that matches; None: none was found."""
    is_looser: bool = False
    """The one like it is the same with a condition less."""

    @property
    def told(self) -> str:
        """Where it stops matching, in one line; empty: that cannot be told."""
        last = self.steps[-2:] if len(self.steps) > 1 else ()
        steps = [f"{step.selector} matches {step.matches}" for step in last]
        if self.near is not None and self.is_looser:
            steps.append(f"{self.near.selector} matches {self.near.matches}")
        elif self.near is not None:
            steps.append(f"did you mean {self.near.selector} ({self.near.matches})?")
        return "; ".join(dict.fromkeys(steps))


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
    """Where a selector that matches nothing stops matching. Raises SpiderError for a bad one.

    Of a list of selectors it is the first one that looks mistyped, else the first.
    """
    misses = [_explained(each, where) for each in _listed(selector)]
    chosen = next((miss for miss in misses if miss.near and not miss.is_looser), misses[0])
    return chosen._replace(selector=selector, asked=asked)


def _explained(selector: str, where: Selectable) -> Miss:
    steps: list[Step] = []
    near, is_looser = None, False
    for step in steps_of(selector):
        matches = len(where.css(step))
        steps.append(Step(step, matches))
        if not matches:
            before = steps[-2].selector if len(steps) > 1 else ""
            near, is_looser = _near(step, before, selector.strip()[len(step) :], where)
            break
    return Miss(selector, 1, tuple(steps), near, is_looser)


def steps_of(selector: str) -> list[str]:
    """`div.a > p b` as `div.a`, `div.a > p`, `div.a > p b`; a list of selectors has none."""
    text = selector.strip()
    marks = list(_marks(text))
    if any(text[place] == "," for place in marks):
        return []
    steps = [text[:end].rstrip() for end in [*filter(None, marks), len(text)]]
    return [step for step in dict.fromkeys(steps) if step and step[-1] not in ">+~"]


def _listed(selector: str) -> list[str]:
    """The selectors of a list, `a, b` as `a` and `b`."""
    ends = [place for place in _marks(selector) if selector[place] == ","]
    starts = [0, *(end + 1 for end in ends)]
    return [selector[start:end].strip() for start, end in zip(starts, [*ends, None], strict=True)]


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


def _near(step: str, before: str, rest: str, where: Selectable) -> tuple[Step | None, bool]:
    """A selector like `step` that matches, with the rest behind it when that matches too;
    and whether it is only looser."""
    for changed, is_looser in _changed(step, before, where):
        for candidate in dict.fromkeys((changed + rest, changed)):
            if matches := _count(candidate, where):
                return Step(candidate, matches), is_looser
    return None, False


def _changed(step: str, before: str, where: Selectable) -> Iterator[tuple[str, bool]]:
    """Forms of a step that its page might have: a name like one that is written there, then
    a descendant for a child, then, marked as looser, with one condition less."""
    glue = re.match(r"[\s>+~]*", step[len(before) :])
    base = before + (glue[0] if glue else "")
    simples = _SIMPLE.findall(step[len(base) :])
    looser = []
    for n in reversed(range(len(simples))):
        others = simples[:n] + simples[n + 1 :]
        kept = base + ("".join(others) or "*")
        found = _found(kept, where)
        if not found:
            continue
        written = simples[n].lstrip(".#")
        name = nearest(written, _names(simples[n], found)) if len(written) >= LEAST else None
        if name and (simples[n] != written or _is_typo(written, name)):
            mark = simples[n][0] if simples[n][0] in ".#" else ""
            yield base + "".join([*simples[:n], mark + name, *simples[n + 1 :]]), False
        if others:
            looser.append(kept)
    if base.rstrip().endswith((">", "+", "~")):
        yield f"{before} {step[len(base) :]}", False
    yield from ((kept, True) for kept in looser)


def _is_typo(written: str, tag: str) -> bool:
    """Tags are short, and many are like another: `article` is not `title`."""
    return SequenceMatcher(None, written, tag).ratio() >= LIKE_A_TAG


def _names(simple: str, nodes: list[Node]) -> set[str]:
    """What stands on these nodes in the place of a class, an id, an attribute or a tag."""
    if simple[0] == ".":
        return {name for node in nodes for name in node.attributes.get("class", "").split()}
    if simple[0] == "#":
        return {node.attributes["id"] for node in nodes if "id" in node.attributes}
    if simple[0] in "[:":
        return set()
    return {node.raw.tag or "" for node in nodes}


def _found(selector: str, where: Selectable) -> list[Node]:
    try:
        return where.css(selector)
    except SpiderError:
        return []


def _count(selector: str, where: Selectable) -> int:
    return len(_found(selector, where))
