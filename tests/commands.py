"""The commands as a person types them, in this process: what they said, and with which code."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING, NamedTuple, Protocol

import click
import pytest

from crawler.cli import main, program

if TYPE_CHECKING:
    from pathlib import Path


class Said(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def error(self) -> tuple[str, str]:
        """The lines `error:` and `hint:`; nothing else was said."""
        assert self.out == ""
        error, hint = self.err.splitlines()
        return error.removeprefix("error: "), hint.removeprefix("  hint: ")


def check_line(line: str) -> None:
    """Let a command that some text names read its words, without carrying it out."""
    start, name, *words = shlex.split(line)
    assert start == "crawler"
    command = program.get_command(click.Context(program), name)
    assert command is not None, line
    command.make_context(name, words)


class Call(Protocol):
    def __call__(self, *argv: str) -> Said: ...


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to be in, without settings from the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(__import__("sys").path))
    for name in [name for name in os.environ if name.startswith("CRAWLER_")]:
        monkeypatch.delenv(name)
    return tmp_path


@pytest.fixture
def call(here: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    def run(*argv: str) -> Said:
        capsys.readouterr()
        return Said(main(argv), *capsys.readouterr())

    return run
