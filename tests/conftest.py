"""What all tests share: one Hypothesis profile, the bookshop, seconds by directory."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from crawler.demo.site import Bookshop

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest.register_assert_rewrite("tests.wire")
# A shared machine makes single examples slow now and then; that is no finding.
settings.register_profile(
    "shared", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("shared")
if os.environ.get("LC_ALL") in ("C", "POSIX"):
    os.environ["LC_ALL"] = "C.UTF-8"  # else what is told is told in ASCII


@pytest.fixture
def bookshop() -> Iterator[Bookshop]:
    """The demo site, fresh: its flaky host has not failed yet."""
    with Bookshop().threaded() as shop:
        yield shop


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Adds up set-up, call and tear-down of all tests below each directory."""
    seconds: defaultdict[str, float] = defaultdict(float)
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                folder = str(PurePosixPath(report.location[0]).parent)
                seconds[folder] += report.duration
    for folder, total in sorted(seconds.items()):
        terminalreporter.write_line(f"{total:6.1f} s  {folder}/")
