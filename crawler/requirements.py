"""What our package asks for, and whether a version is within it. Pure.

Owns: the reading of `Requires-Dist` lines as they stand in our own metadata, the comparison
of versions. Does not own: what is installed (`crawler.cli.findings`).

Invariant: a bound in a form that is not known holds, so a fit is never denied by mistake.
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["Requirement", "numbers_of"]


class Requirement(NamedTuple):
    """One package, as the metadata of ours asks for it."""

    package: str
    bounds: str
    """`>=0.28.1,<0.29`; empty: any version."""
    extra: str | None
    """None: always needed."""
    is_here: bool
    """Whether this platform needs it."""

    @classmethod
    def parse(cls, text: str, platform: str) -> Requirement:
        """A line of `Requires-Dist`."""
        asked, _, marker = text.partition(";")
        found = re.match(r"\s*([\w.-]+)(?:\[[^\]]*\])?\s*\(?([^)]*)\)?", asked)
        package, bounds = (found[1], found[2]) if found else (asked, "")
        extra = re.search(r"extra\s*==\s*[\"']([^\"']+)", marker)
        but = re.search(r"sys_platform\s*!=\s*[\"']([^\"']+)", marker)
        is_here = but is None or but[1] != platform
        return cls(package, bounds.replace(" ", ""), extra[1] if extra else None, is_here)

    def fits(self, version: str) -> bool:
        """Whether an installed version is within the bounds."""
        return all(_holds(version, bound) for bound in self.bounds.split(",") if bound)

    @property
    def line(self) -> str:
        """As pip takes it."""
        return f'pip install "{self.package}{self.bounds}"'


def numbers_of(version: str) -> tuple[int, ...]:
    """The numbers of a version; what makes it a pre-release or a local build is left out."""
    return tuple(int(number) for number in re.findall(r"\d+", version.partition("+")[0])[:4])


def _holds(version: str, bound: str) -> bool:
    found = re.fullmatch(r"(~=|==|!=|>=|<=|>|<)(\d.*)", bound)
    if found is None:
        return True
    sign, edge = found[1], numbers_of(found[2])
    numbers = numbers_of(version)
    longest = max(len(numbers), len(edge))
    mine, theirs = (each + (0,) * (longest - len(each)) for each in (numbers, edge))
    if sign == "~=":
        return mine >= theirs and mine[: len(edge) - 1] == edge[:-1]
    if bound.endswith(".*"):
        return (mine[: len(edge)] == edge) is (sign == "==")
    return {
        "==": mine == theirs,
        "!=": mine != theirs,
        ">=": mine >= theirs,
        "<=": mine <= theirs,
        ">": mine > theirs,
        "<": mine < theirs,
    }[sign]
