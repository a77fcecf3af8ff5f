"""The shape of the code, read from its imports and held against one table of layers.

`docs/architecture.md` holds the table where it exists, below a line `<!-- layers -->`, as
`| layer | modules |` with backticked module names; else the table of this file holds.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENT = ROOT / "docs" / "architecture.md"
PACKAGES = ("storage", "crawler", "spiders")

LAYERS = """
| layer | modules |
|---|---|
| 0 | `storage.records` `storage.bulk` `storage.known` |
| 1 | `storage.store` |
| 2 | `storage.schema` `storage.lock` |
| 3 | `storage.ledger` |
| 4 | `storage.jobs` `storage.tables` |
| 5 | `storage.group` `storage.reading` |
| 6 | `storage.writer` `storage.memory` `storage.export` |
| 7 | `storage.sqlite` |
| 8 | `storage` |
| 10 | `crawler.about` `crawler.errors` `crawler.headers` `crawler.units` `crawler.wording` |
| 11 | `crawler.urls` `crawler.node` `crawler.options` |
| 12 | `crawler.pool.stream` `crawler.pool.leases` `crawler.pool.tls` `crawler.pool.faults` |
| 13 | `crawler.pool.budget` `crawler.pool.decode` |
| 14 | `crawler.pool.backend` |
| 15 | `crawler.pool.connection` |
| 16 | `crawler.pool.transport` |
| 17 | `crawler.pool.clients` |
| 18 | `crawler.pool` |
| 19 | `crawler.web` `crawler.web.forms` `crawler.web.redirects` `crawler.web.robots` |
| 20 | `crawler.items` `crawler.request` `crawler.retry` |
| 21 | `crawler.response` |
| 22 | `crawler.settings` `crawler.window` `crawler.plugins` |
| 23 | `crawler.pace` `crawler.layers` |
| 24 | `crawler.actions` `crawler.spider` `crawler.harvest` |
| 25 | `crawler.scheduler` `crawler.downloader` |
| 26 | `crawler.run` `crawler.frontier` |
| 27 | `crawler.wire` `crawler.result` |
| 28 | `crawler.errands` |
| 29 | `crawler.visits` |
| 30 | `crawler.seeding` |
| 31 | `crawler.engine` |
| 32 | `crawler.crawling` `crawler.loading` `crawler.pages` `crawler.progress` `crawler.report` |
| 33 | `crawler` |
| 34 | `crawler.testing.replies` |
| 35 | `crawler.testing.site` |
| 36 | `crawler.testing` |
| 37 | `crawler.demo` `crawler.demo.site` `crawler.demo.shop` |
| 38 | `crawler.cli.output` `crawler.cli.places` |
| 39 | `crawler.cli.config` `crawler.cli.export` `crawler.cli.report` `crawler.cli.runs` |
| 39 | `crawler.cli.spiders` `crawler.cli.sql` |
| 40 | `crawler.cli.run` |
| 41 | `crawler.cli.demo` |
| 42 | `crawler.cli` |
| 43 | `crawler.__main__` |
| 44 | `spiders` `spiders.*` |
"""

PUBLIC_STORAGE = {
    *("storage", "storage.reading", "storage.export"),
    *("storage.feed", "storage.tail"),
}
BANNED = {
    *("util", "utils", "helper", "helpers", "common", "base", "manager", "handler"),
    *("handlers", "service", "context", "mixin", "managers", "services", "mixins", "bases"),
}
LONGEST_FILE = 500
LONGEST_FUNCTION = 60
SILENT = re.compile(r"(Error|Match|Stop\w*)$")
_ROW = re.compile(r"^\| *(\d+) *\|(.*)\|$")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


class Module(NamedTuple):
    name: str
    path: Path
    tree: ast.Module


@cache
def modules() -> dict[str, Module]:
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            name = name.removesuffix(".__init__")
            found[name] = Module(name, path, ast.parse(path.read_text()))
    return found


def imported(module: Module) -> set[str]:
    """Modules that are imported anywhere in one: at its top, for typing, in functions."""
    names: set[str] = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            inner = whole & modules().keys()
            names |= inner
            if len(inner) < len(whole):
                names.add(node.module)
    return names


def ours(module: Module) -> set[str]:
    return {name for name in imported(module) if name.partition(".")[0] in PACKAGES}


@cache
def layers() -> dict[str, int]:
    text = LAYERS
    if DOCUMENT.is_file() and "<!-- layers -->" in DOCUMENT.read_text():
        text = DOCUMENT.read_text().partition("<!-- layers -->")[2]
    table = {}
    for line in text.splitlines():
        if row := _ROW.match(line.strip()):
            for name in re.findall(r"`([^`]+)`", row[2]):
                assert name not in table, f"{name} stands in two rows"
                table[name] = int(row[1])
    return table


def layer_of(name: str) -> int | None:
    package = name.rpartition(".")[0]
    return layers().get(name, layers().get(f"{package}.*"))


def classes(module: Module) -> list[ast.ClassDef]:
    return [node for node in ast.walk(module.tree) if isinstance(node, ast.ClassDef)]


EVERY = pytest.mark.parametrize("module", list(modules().values()), ids=lambda module: module.name)


# -- layers --------------------------------------------------------------------------------


def test_every_module_has_its_place_in_the_table() -> None:
    missing = sorted(name for name in modules() if layer_of(name) is None)
    gone = sorted(name for name in layers() if name not in modules() and not name.endswith("*"))
    assert (missing, gone) == ([], [])


@EVERY
def test_a_module_imports_only_from_lower_layers(module: Module) -> None:
    mine = layer_of(module.name)
    assert mine is not None
    wrong = {
        name: layer
        for name in ours(module)
        if (layer := layer_of(name)) is None or layer >= mine
        if not module.name.startswith("spiders")
    }
    assert wrong == {}, f"{module.name} stands in layer {mine}"


@EVERY
def test_imports_are_absolute(module: Module) -> None:
    relative = [n for n in ast.walk(module.tree) if isinstance(n, ast.ImportFrom) and n.level]
    assert [node.lineno for node in relative] == []


def test_imports_go_round_in_no_circle() -> None:
    left = {name: ours(module) & modules().keys() - {name} for name, module in modules().items()}
    while ready := [name for name, needs in left.items() if not needs & left.keys()]:
        for name in ready:
            del left[name]
    assert left == {}


def test_storage_imports_nothing_of_the_crawler() -> None:
    for module in modules().values():
        packages = {name.partition(".")[0] for name in ours(module)}
        if module.name.partition(".")[0] == "storage":
            assert packages <= {"storage"}, module.name
        elif module.name.partition(".")[0] == "spiders":
            assert packages <= {"crawler", "spiders"}, module.name


def test_the_crawler_imports_the_public_names_of_storage_only() -> None:
    for module in modules().values():
        if module.name.partition(".")[0] == "crawler":
            inner = {name for name in ours(module) if name.partition(".")[0] == "storage"}
            assert inner <= PUBLIC_STORAGE, module.name


def test_httpx_is_imported_in_one_module() -> None:
    users = [name for name, module in modules().items() if "httpx" in imported(module)]
    assert users == ["crawler.pool.transport"]


PURE = (
    *("crawler.urls", "crawler.retry", "crawler.pace", "crawler.window", "crawler.actions"),
    *("crawler.scheduler", "crawler.pool.leases", "crawler.pool.expiry", "crawler.proxies"),
    *("crawler.pool.keepalive", "crawler.pool.deadlines", "crawler.pool.parsing"),
    *("crawler.web.forms", "crawler.web.redirects", "crawler.web.robots"),
    *("crawler.meter", "crawler.forecast", "crawler.steering", "crawler.wishes"),
)


@pytest.mark.parametrize("name", PURE)
def test_what_is_pure_has_no_clock_no_socket_and_no_await(name: str) -> None:
    module = modules()[name]
    assert not imported(module) & {"time", "asyncio", "socket", "threading", "httpx"}
    waiting = (ast.Await, ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith)
    assert not [node for node in ast.walk(module.tree) if isinstance(node, waiting)]


# -- names and sizes -------------------------------------------------------------------------


@EVERY
def test_no_module_or_class_has_a_name_that_says_nothing(module: Module) -> None:
    names = [*module.name.split("."), *(node.name for node in classes(module))]
    words = {word.lower() for name in names for word in _WORD.findall(name)}
    assert words & BANNED == set()


@EVERY
def test_a_file_is_short_and_says_first_what_it_is(module: Module) -> None:
    lines = module.path.read_text().splitlines()
    assert len(lines) <= LONGEST_FILE
    if lines:
        assert ast.get_docstring(module.tree)


@EVERY
def test_a_function_is_short(module: Module) -> None:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    spans = {
        node.name: (node.end_lineno or 0) - node.lineno + 1
        for node in ast.walk(module.tree)
        if isinstance(node, kinds)
    }
    assert {name: span for name, span in spans.items() if span > LONGEST_FUNCTION} == {}


def _is_stateful(node: ast.ClassDef) -> bool:
    """It makes private state of its own, and is no exception."""
    if any(SILENT.search(ast.unparse(parent)) for parent in node.bases):
        return False
    starts = [m for m in node.body if isinstance(m, ast.FunctionDef) and m.name == "__init__"]
    return any(
        isinstance(target, ast.Attribute) and target.attr.startswith("_")
        for start in starts
        for statement in ast.walk(start)
        if isinstance(statement, ast.Assign | ast.AnnAssign)
        for target in (
            statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        )
    )


@cache
def telling() -> set[str]:
    """Names of our classes that have a `__repr__`, their own or one of ours they inherit."""
    nodes = [node for module in modules().values() for node in classes(module)]
    names = {
        node.name
        for node in nodes
        if any(isinstance(m, ast.FunctionDef) and m.name == "__repr__" for m in node.body)
    }
    while (
        found := {node.name for node in nodes if names & set(map(ast.unparse, node.bases))} - names
    ):
        names |= found
    return names


@EVERY
def test_what_has_state_tells_it_in_its_repr(module: Module) -> None:
    if not module.name.startswith("crawler"):
        return
    mute = [
        node.name
        for node in classes(module)
        if _is_stateful(node) and not node.name.startswith("_")
        if not telling() & {node.name, *map(ast.unparse, node.bases)}
    ]
    assert mute == []
