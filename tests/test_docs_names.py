"""The documents, held against the project: names, paths and links in them lead somewhere.

Backticked dotted names of ours, and paths, must exist; so must the targets of links and of
`make`. Some facts must be told: a reason for each dependency, every public view.
"""

from __future__ import annotations

import pkgutil
import re
import tomllib
from typing import TYPE_CHECKING

import pytest

from storage.schema import VIEWS
from tests.markdown import DOCUMENTS, ROOT, anchors, blocks, code, name_of, prose
from tests.reference_commands import is_command
from tests.test_docs import made_in

if TYPE_CHECKING:
    from pathlib import Path

EVERY = pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
HOW_TOS = [page for page in DOCUMENTS if page.parent.name == "how-to"]

_OURS = re.compile(r"(?:crawler|storage|spiders)(?:\.\w+)+")
_PATH = re.compile(r"(?:crawler|storage|spiders|tests|benchmarks|docs)/[\w./-]*")
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def resolves(name: str) -> bool:
    """Whether a dotted name is a module, or found in one."""
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        owner, _, field = name.rpartition(".")
        try:
            return field in getattr(pkgutil.resolve_name(owner), "__annotations__", {})
        except (ImportError, AttributeError):
            return False
    return True


@EVERY
def test_names_and_paths_in_a_document_exist(document: Path) -> None:
    told = code(prose(document))
    names = {name for name in told if _OURS.fullmatch(name) and not name.endswith((".py", ".toml"))}
    paths = {name for name in told if _PATH.fullmatch(name)} - made_in(document)
    assert sorted(name for name in names if not resolves(name)) == []
    assert sorted(path for path in paths if not (ROOT / path).exists()) == []


@EVERY
def test_commands_in_a_document_exist_with_their_options(document: Path) -> None:
    lines = [name for name in code(prose(document)) if name.startswith("crawler ")]
    for block in blocks(document):
        if block.kind == "sh":
            lines += re.findall(r"^(?:\.venv/bin/)?(crawler .*?)(?: [|>;&#]|$)", block.text, re.M)
    assert sorted(line for line in lines if not is_command(line)) == []


@EVERY
def test_links_inside_the_project_lead_somewhere(document: Path) -> None:
    for target in _LINK.findall(prose(document)):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = document.parent / path if path else document
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@EVERY
def test_make_targets_in_a_document_exist(document: Path) -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    told = set(re.findall(r"\bmake (\w+)$", "\n".join(b.text for b in blocks(document)), re.M))
    told |= {name[5:] for name in code(prose(document)) if re.fullmatch(r"make \w+", name)}
    assert told <= targets


@EVERY
def test_a_document_holds_no_path_of_a_machine(document: Path) -> None:
    assert re.findall(r"/(?:home|root|tmp|Users|work)\b\S*", document.read_text("utf-8")) == []


@pytest.mark.parametrize("page", HOW_TOS, ids=name_of)
def test_a_how_to_is_short(page: Path) -> None:
    assert len(page.read_text("utf-8").splitlines()) <= 120


def test_every_dependency_has_its_reason() -> None:
    table = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    told = (ROOT / "docs" / "decisions.md").read_text("utf-8")
    wanted = [each.partition(";")[0].strip() for each in table["dependencies"]]
    assert [each for each in wanted if f"`{each}`" not in told] == []


def test_every_public_view_is_named_in_the_architecture() -> None:
    told = set(code(prose(ROOT / "docs" / "architecture.md")))
    assert {view.name for view in VIEWS} <= told


def test_the_table_of_figures_can_be_found() -> None:
    before, _, rest = (ROOT / "README.md").read_text("utf-8").partition("<!-- figures -->\n")
    table, mark, _ = rest.partition("<!-- /figures -->\n")
    assert before.endswith("\n")
    assert mark
    for peer in ("ours", "httpx loop", "aiohttp loop", "Scrapy", "Crawlee"):
        assert re.search(rf"^\| {peer}\b", table, re.MULTILINE), peer
