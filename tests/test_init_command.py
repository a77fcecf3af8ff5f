"""`crawler init`: a project that works at once, and that nothing of a person's is lost to."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from crawler.cli.init import EXAMPLES, SHOWN, settings_file
from crawler.layers import Layer, resolve
from crawler.settings import Settings
from tests.commands import call, here

if TYPE_CHECKING:
    from tests.commands import Call

__all__ = ["call", "here"]

MADE = {
    "spiders/__init__.py",
    "spiders/books.py",
    "tests/__init__.py",
    "tests/test_books.py",
    "crawler.toml",
    ".gitignore",
}


def files(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_a_new_project_works_at_once(call: Call, here: Path) -> None:
    said = call("init", "my shop")
    assert (said.code, said.out) == (0, "")
    assert set(files(here / "my shop")) == MADE
    assert said.err.splitlines()[-4:] == [
        "next:",
        "  cd 'my shop' && crawler run books --limit 20",
        "  crawler shell https://books.toscrape.com/",
        "  crawler new NAME URL",
    ]
    # Plainly `pytest`, as a person would, from the folder above: it must find the spider.
    command = [str(Path(sys.executable).with_name("pytest")), "-q", "-p", "no:cacheprovider"]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [*command, "my shop"], cwd=here, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_made_twice_is_made_once(call: Call, here: Path) -> None:
    assert call("init").code == 0
    before = files(here)
    said = call("init")
    assert said.code == 0
    assert files(here) == before
    assert len([line for line in said.err.splitlines() if line.startswith("kept ")]) == len(MADE)
    assert "made " not in said.err


def test_what_is_there_is_kept_and_what_it_lacks_is_said(call: Call, here: Path) -> None:
    (here / "spiders").mkdir()
    (here / "spiders" / "books.py").write_text("mine = 1\n")
    (here / ".gitignore").write_text(".venv\n")
    said = call("init", ".")
    assert (here / "spiders" / "books.py").read_text() == "mine = 1\n"
    assert "kept spiders/books.py, it was there\n" in said.err
    assert "kept .gitignore, it was there; add a line to it: *.db*\n" in said.err
    assert "made crawler.toml\n" in said.err


def test_settings_in_a_pyproject_are_not_doubled_by_a_file(call: Call, here: Path) -> None:
    (here / "pyproject.toml").write_text('[project]\nname = "shop"\n')
    call("init")
    assert (here / "crawler.toml").is_file()
    (here / "crawler.toml").unlink()
    (here / "pyproject.toml").write_text("[tool.crawler]\nlimit = 5\n")
    assert call("init").code == 0
    assert not (here / "crawler.toml").exists()
    (here / "pyproject.toml").write_text("[tool.crawler\n")
    assert "pyproject.toml could not be read" in call("init").error[0]


def test_what_a_new_settings_file_shows_is_what_holds_without_it() -> None:
    text = settings_file()
    assert tomllib.loads(text) == {}
    shown = [line.removeprefix("# ") for line in text.splitlines() if " = " in line]
    assert [line.partition(" = ")[0] for line in shown[1:-1]] == list(SHOWN)
    effective = Settings().effective()
    for line in shown:
        key = line.partition(" = ")[0]
        (value,) = flat(tomllib.loads(line))
        given = resolve([Layer("crawler.toml", {key: value})])
        if key in effective and key not in {"contact", *EXAMPLES}:
            assert given.effective()[key] == effective[key], key


def flat(table: object) -> list[object]:
    if not isinstance(table, dict):
        return [table]
    return [leaf for inner in table.values() for leaf in flat(inner)]


@pytest.mark.parametrize(
    ("folder", "error"),
    [
        ("file", "file/spiders/__init__.py cannot be written"),
        ("file/inner", "file/inner/spiders/__init__.py cannot be written"),
        ("locked/inner", "cannot be written"),
    ],
)
def test_a_folder_that_cannot_be_a_project_is_refused(
    call: Call, here: Path, folder: str, error: str
) -> None:
    (here / "file").write_text("")
    (here / "locked").symlink_to("/proc/self")  # not even root may make a file in there
    said = call("init", folder)
    assert said.code == 2
    assert error in said.error[0]
    assert said.error[1]
