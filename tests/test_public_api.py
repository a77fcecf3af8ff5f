"""The names that users rely on: exported once, lazily, and quick to import."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import crawler
import storage

SOURCE = Path(crawler.__file__)
HEAVY = ("httpx", "selectolax", "sqlite_utils", "rich", "tenacity", "protego")


def typed_names() -> dict[str, str]:
    """Name → module, as the type-checking block imports them."""
    tree = ast.parse(SOURCE.read_text())
    (block,) = (
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    return {
        alias.asname or alias.name: node.module or ""
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def lazy_names() -> dict[str, str]:
    """Name → module, as `__getattr__` finds them."""
    where = {name: f"crawler.{module}" for name, module in crawler._WHERE.items()}
    return {**where, "__version__": "crawler.about"}


def test_type_checkers_and_the_interpreter_see_the_same_names_in_the_same_modules() -> None:
    assert typed_names() == lazy_names()
    assert sorted(crawler.__all__) == sorted(lazy_names())
    assert len(set(crawler.__all__)) == len(crawler.__all__)


@pytest.mark.parametrize("name", sorted(crawler.__all__))
def test_every_exported_name_is_there_and_public_where_it_lives(name: str) -> None:
    value = getattr(crawler, name)
    module = import_module(lazy_names()[name])
    if name != "__version__":
        assert name in module.__all__
        assert value is getattr(module, name)


def test_an_unknown_name_is_an_attribute_error_that_names_it() -> None:
    with pytest.raises(AttributeError, match="Spidr"):
        crawler.Spidr  # noqa: B018
    assert dir(crawler) == sorted(crawler.__all__)


def test_storages_names_are_all_there() -> None:
    for name in storage.__all__:
        assert getattr(storage, name) is not None
    assert len(set(storage.__all__)) == len(storage.__all__)


@pytest.mark.parametrize("module", ["crawler", "crawler.cli"])
def test_importing_costs_no_heavy_package(module: str) -> None:
    program = f"import sys, {module}; print(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


def test_the_package_is_marked_as_typed() -> None:
    for package in (crawler, storage):
        assert Path(package.__file__ or "").with_name("py.typed").is_file()


def test_every_public_class_and_function_is_documented() -> None:
    bare = [
        name
        for name in crawler.__all__
        if callable(value := getattr(crawler, name)) and not value.__doc__
    ]
    assert bare == []
