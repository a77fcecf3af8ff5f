"""The documents, held against the program: what they show is run, what they name exists.

Conventions of README.md and docs/*.md:
- ```console blocks are run, one after another in one folder per document, in this process.
  A line `$ crawler …` is a command, the lines below it are what it prints, stdout and
  stderr together. `http://127.0.0.1:8080` stands for a bookshop (`crawler.demo.site`) that
  is open meanwhile. Times, rates, shares, sizes, instants and numbers of connections are
  placeholders: any such value will do. `…` stands for any text in a line, and a line of
  `…` alone for any lines.
- ```python blocks are run in the same folder. One that begins with `# name.py` is written
  to that file first, so that commands can use it.
- ```sh blocks are for the reader's machine and are not run; their `make` targets must exist.
- Backticked dotted names of ours, and paths, must exist; so must the targets of links.

`python -m tests.test_docs` writes docs/settings.md anew.
"""

from __future__ import annotations

import importlib
import io
import os
import pkgutil
import re
import shlex
import sys
import tomllib
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from crawler.cli import main
from crawler.layers import flag_layer, resolve
from crawler.settings import Settings, vocabulary
from storage.schema import VIEWS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from crawler.demo.site import Bookshop
    from crawler.settings import Field

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SETTINGS = ROOT / "docs" / "settings.md"
SHOWN_SITE = "127.0.0.1:8080"

EVERY = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)


# -- blocks are run ----------------------------------------------------------------------------


class Block(NamedTuple):
    kind: str
    """console, python, sh, …"""
    line: int
    text: str


class Command(NamedTuple):
    argv: list[str]
    shown: str


_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# (\w+\.py)\n")


def blocks(document: Path) -> list[Block]:
    text = document.read_text("utf-8")
    return [
        Block(found[1], text.count("\n", 0, found.start()) + 1, found[2])
        for found in _FENCE.finditer(text)
    ]


def commands(block: Block) -> Iterator[Command]:
    first, *parts = re.split(r"^\$ ", block.text, flags=re.MULTILINE)
    assert not first, f"line {block.line}: a console block begins with a command"
    for part in parts:
        line, _, shown = part.partition("\n")
        program, *argv = shlex.split(line, comments=True)
        assert program == "crawler", f"line {block.line}: only `crawler` is run here"
        yield Command(argv, shown)


PLACEHOLDERS = (
    (r"127\.0\.0\.(\d+):\d+", r"127.0.0.\1:<port>"),
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "<instant>"),
    (r"\b\d[\d,.]*/s\b", "<rate>"),
    (r"\b\d[\d.]*(?: ?(?:ms|s|min|h)\b)+", "<time>"),
    (r"\b\d[\d.]*%", "<share>"),
    (r"\b\d[\d.,]* (?:B|KiB|MiB)\b", "<size>"),
    (r"\b\d+ connections?\b", "<connections>"),
    (r"[ \t]+", " "),
    (r"--+(?: --+)*", "--"),
)


def normal(text: str) -> list[str]:
    """Lines with every placeholder's value replaced by its name."""
    for pattern, name in PLACEHOLDERS:
        text = re.sub(pattern, name, text)
    return [line.strip() for line in text.strip().splitlines()]


def fits(shown: list[str], said: list[str]) -> bool:
    """Whether what was said is what is shown, `…` standing for anything."""
    if not shown:
        return not said
    if shown[0] == "…":
        return any(fits(shown[1:], said[n:]) for n in range(len(said) + 1))
    if not said:
        return False
    pattern = ".*".join(re.escape(part) for part in shown[0].split("…"))
    return re.fullmatch(pattern, said[0]) is not None and fits(shown[1:], said[1:])


def run(argv: list[str]) -> str:
    """What a command prints, on both streams."""
    told = io.StringIO()
    with redirect_stdout(told), redirect_stderr(told):
        main(argv)
    return told.getvalue()


def run_python(block: Block, text: str) -> None:
    if found := _FILE.match(text):
        Path(found[1]).write_text(text, "utf-8")
        importlib.invalidate_caches()
        importlib.import_module(Path(found[1]).stem)
        return
    program = compile(text, f"block at line {block.line}", "exec", dont_inherit=True)
    exec(program, {"__name__": "__main__"})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder that modules can be imported from; nothing of ours set."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("builtins.input", lambda prompt="": "")
    for name in [name for name in os.environ if name.startswith("CRAWLER_")]:
        monkeypatch.delenv(name)
    return tmp_path


@EVERY
def test_what_a_document_shows_is_what_happens(
    document: Path, folder: Path, bookshop: Bookshop
) -> None:
    here = bookshop.start_url.removeprefix("http://").rstrip("/")
    for block in blocks(document):
        text = block.text.replace(SHOWN_SITE, here)
        if block.kind == "python":
            run_python(block, text)
        elif block.kind == "console":
            for command in commands(block._replace(text=text)):
                said = run(command.argv)
                line = f"line {block.line}: crawler {shlex.join(command.argv)}\n{said}"
                assert fits(normal(command.shown), normal(said)), line
    for made in folder.glob("*.py"):
        sys.modules.pop(made.stem, None)


@EVERY
def test_blocks_are_of_a_known_kind(document: Path) -> None:
    assert {block.kind for block in blocks(document)} <= {"console", "python", "sh", "sql", "text"}


def test_placeholders_fit_any_value_and_nothing_else() -> None:
    shown = normal("a-1 finished after 98 ms: x.db\n…\nlast … of 3 pages")
    assert fits(shown, normal("a-1 finished after 1.2 s: x.db\nlast line of 3 pages"))
    assert fits(shown, normal("a-1 finished after 2 min: x.db\nb\nc\nlast one of 3 pages"))
    assert not fits(shown, normal("a-1 finished after 98 ms: x.db\nlast line of 4 pages"))
    assert not fits(shown, normal("a-2 finished after 98 ms: x.db\nlast line of 3 pages"))
    assert not fits(shown, normal("a-1 finished after 98 ms: x.db"))


# -- names exist ---------------------------------------------------------------------------------

_CODE = re.compile(r"`([^`\n]+)`")
_OURS = re.compile(r"(?:crawler|storage|spiders)(?:\.\w+)+")
_PATH = re.compile(r"(?:crawler|storage|spiders|tests|benchmarks|docs)/[\w./]*")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def prose(document: Path) -> str:
    return _FENCE.sub("", document.read_text("utf-8"))


def anchors(document: Path) -> set[str]:
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in _HEADING.findall(prose(document))
    }


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
    told = _CODE.findall(prose(document))
    names = {name for name in told if _OURS.fullmatch(name) and not name.endswith((".py", ".toml"))}
    paths = {name for name in told if _PATH.fullmatch(name)}
    assert sorted(name for name in names if not resolves(name)) == []
    assert sorted(path for path in paths if not (ROOT / path).exists()) == []


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
    told |= {name[5:] for name in _CODE.findall(prose(document)) if re.fullmatch(r"make \w+", name)}
    assert told <= targets


@EVERY
def test_a_document_holds_no_path_of_a_machine(document: Path) -> None:
    assert re.findall(r"/(?:home|root|tmp|Users|work)\b\S*", document.read_text("utf-8")) == []


def test_every_dependency_has_its_reason() -> None:
    table = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    told = (ROOT / "docs" / "decisions.md").read_text("utf-8")
    wanted = [each.partition(";")[0].strip() for each in table["dependencies"]]
    assert [each for each in wanted if f"`{each}`" not in told] == []


def test_every_public_view_is_named_in_the_architecture() -> None:
    told = set(_CODE.findall(prose(ROOT / "docs" / "architecture.md")))
    assert {view.name for view in VIEWS} <= told


def test_the_table_of_figures_can_be_found() -> None:
    before, _, rest = (ROOT / "README.md").read_text("utf-8").partition("<!-- figures -->\n")
    table, mark, _ = rest.partition("<!-- /figures -->\n")
    assert before.endswith("\n")
    assert mark
    for peer in ("ours", "httpx loop", "aiohttp loop", "Scrapy", "Crawlee"):
        assert re.search(rf"^\| {peer}\b", table, re.MULTILINE), peer


# -- settings ------------------------------------------------------------------------------------

HEAD = """# Settings

Written by `python -m tests.test_docs` from `crawler.settings.vocabulary`; a test holds them equal.

Where a setting comes from, later ones over earlier ones, field by field: the defaults below; `[tool.crawler]` in pyproject.toml; crawler.toml; the spider's `settings = Settings(...)`; the environment (`CRAWLER_DOMAIN_DELAY` is `domain.delay`); flags (`-s domain.delay=1`). `crawler config` shows what is set and where, `crawler config --list` everything. An unknown name or an impossible value is an error with the nearest right name, before any request.

The `domain.*` settings can be given for some domains by pattern, in each of these places but the environment: `-s 'domains."*.example.com".delay=2'`. Of two patterns that fit, the longer wins, field by field. `verify = false` can be given for named domains only: not as `domain.verify`, and not for a pattern that every domain fits.

`resolve` names hosts: `-s resolve.shop.test=127.0.0.2`, in a file `resolve = {"shop.test" = "127.0.0.2"}`, in code `Settings(resolve={"shop.test": "127.0.0.2"})`. The name in the request, in the certificate and in the rows stays the host's.

Durations are seconds (`90`) or `500ms`, `1.5s`, `10m`, `2h`, `1h30m`, `7d`; sizes are bytes (`65536`) or `64KiB`, `10MB`.

| setting | default | what it is | value |
|---|---|---|---|
"""  # noqa: E501 - one paragraph a line, as in the documents


def settings_text() -> str:
    """docs/settings.md as it should be."""
    return HEAD + "".join(map(_row, vocabulary()))


def _row(field: Field) -> str:
    cells = (f"`{field.key}`", f"`{_told(field)}`", field.doc, field.expected)
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |\n"


def _told(field: Field) -> str:
    """A default as one would write it."""
    value = field.default
    if value == ():
        return "none"
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and field.expected.startswith("bytes"):
        for unit, size in (("MiB", 1 << 20), ("KiB", 1 << 10)):
            if value % size == 0:
                return f"{value // size}{unit}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def test_the_settings_document_is_what_the_vocabulary_says() -> None:
    assert SETTINGS.read_text("utf-8") == settings_text(), (
        "python -m tests.test_docs writes it anew"
    )


def test_defaults_in_the_settings_document_can_be_set_as_they_are_written() -> None:
    rows = [(field.key, _told(field)) for field in vocabulary()]
    given = [f"{key}={told}" for key, told in rows if told != "none"]
    assert resolve([flag_layer(given)]) == Settings()


if __name__ == "__main__":
    SETTINGS.write_text(settings_text(), "utf-8")
