"""The wrong calls in tests/typing/ are the type checker's errors, and the only ones."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CASES = sorted((HERE / "typing").glob("*.py"))
EXPECTED = re.compile(r"# E: (.+)$")
REPORTED = re.compile(r"(?:.*[/\\])?(?P<file>[^/\\]+\.py):(?P<line>\d+): error: (?P<text>.*)$")

Place = tuple[str, int]


@pytest.fixture(scope="module")
def reported() -> dict[Place, str]:
    """What mypy says about all cases, in one run; notes belong to their error."""
    cache = HERE.parent / ".mypy_cache" / "typing"
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--no-pretty"]
    command += [f"--cache-dir={cache}", "--follow-imports=silent", *map(str, CASES)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=HERE.parent)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    errors: dict[Place, str] = {}
    for line in done.stdout.splitlines():
        found = REPORTED.match(line)
        if found:
            place = found["file"], int(found["line"])
            errors[place] = f"{errors.get(place, '')}\n{found['text']}"
    return errors


def _expected() -> dict[Place, str]:
    return {
        (case.name, number): found[1]
        for case in CASES
        for number, line in enumerate(case.read_text().splitlines(), 1)
        if (found := EXPECTED.search(line))
    }


@pytest.mark.parametrize(("place", "text"), _expected().items(), ids=str)
def test_a_wrong_call_is_an_error(reported: dict[Place, str], place: Place, text: str) -> None:
    assert text in reported.get(place, "nothing is reported")


def test_a_right_call_is_none(reported: dict[Place, str]) -> None:
    wrong = _expected()
    assert {place: text for place, text in reported.items() if place not in wrong} == {}
