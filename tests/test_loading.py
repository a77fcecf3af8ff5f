"""Finding spiders by name and by file, and what is said when there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from crawler.errors import SpiderLoadError
from crawler.loading import code_hash, find, listing
from crawler.pages import Pages

if TYPE_CHECKING:
    from pathlib import Path

BOOKS = '''\
from crawler.spider import Spider

class Books(Spider):
    """Books and their prices.

    More.
    """
    async def parse(self, page): ...
'''
TWO = """\
from crawler.spider import Spider

class _Shop(Spider):
    name = "shop"
class News(_Shop): ...
class Blog(_Shop):
    name = "my-blog"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["", *__import__("sys").path])
    spiders = tmp_path / "spiders"
    spiders.mkdir()
    return spiders


def refusal(target: str) -> SpiderLoadError:
    with pytest.raises(SpiderLoadError) as caught:
        find(target)
    return caught.value


def test_a_spider_is_found_by_its_name_wherever_it_stands_in_the_folder(folder: Path) -> None:
    (folder / "books.py").write_text(BOOKS)
    (folder / "sites.py").write_text(TWO)
    assert find("books").__name__ == "Books"
    assert find("my-blog").__name__ == "Blog"
    assert find("books") is find("books")


def test_a_spider_is_found_in_a_file_and_by_its_class(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(BOOKS)
    (tmp_path / "two.py").write_text(TWO)
    assert find("one.py").name == "books"
    assert find(f"{tmp_path}/two.py:Blog").name == "my-blog"


def test_the_general_spider_is_found_without_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find("pages") is Pages


def test_a_spider_of_ones_own_goes_before_a_bundled_one(folder: Path) -> None:
    (folder / "mine.py").write_text(BOOKS.replace("Books", "Pages"))
    assert find("pages") is not Pages
    assert [found.is_bundled for found in listing().spiders] == [False]


def test_an_unknown_name_is_refused_with_the_nearest_one(folder: Path) -> None:
    (folder / "books.py").write_text(BOOKS)
    error = refusal("boks")
    assert str(error) == (
        "spider `boks` not found in spiders/ (looked at 1 file; 2 spiders: books, pages)"
    )
    assert error.hint == "did you mean `books`?"


def test_an_unknown_name_like_no_other_is_refused_with_the_way_on(folder: Path) -> None:
    error = refusal("zzz")
    assert error.hint == "`crawler list`, or give a file: `crawler run path/to/zzz.py`"


def test_a_broken_file_is_told_with_its_line_and_hides_no_other_spider(folder: Path) -> None:
    (folder / "books.py").write_text(BOOKS)
    (folder / "shop.py").write_text("import re\n\nimport nothing_of_that_name\n")
    assert find("books").name == "books"
    known = listing()
    assert [found.name for found in known.spiders] == ["books", "pages"]
    assert known.spiders[0].summary == "Books and their prices."
    assert [broken.line for broken in known.broken] == [3]
    error = refusal("shop")
    assert str(error) == (
        "spiders/shop.py could not be imported: No module named 'nothing_of_that_name' (line 3)"
    )
    assert "pip install nothing_of_that_name; the other spiders still work" in str(error.hint)


def test_a_name_that_may_be_in_a_broken_file_is_refused_with_that_file(folder: Path) -> None:
    (folder / "shop.py").write_text("1/0\n")
    error = refusal("zzz")
    assert "ZeroDivisionError: division by zero (line 1); is it in there?" in str(error.hint)


def test_a_syntax_error_is_told_with_its_line(folder: Path) -> None:
    (folder / "shop.py").write_text("x = 1\ny = = 2\n")
    error = refusal("spiders/shop.py")
    assert "spiders/shop.py could not be imported: invalid syntax (line 2)" in str(error)


def test_a_file_with_two_spiders_wants_the_class_named(folder: Path) -> None:
    (folder / "sites.py").write_text(TWO)
    error = refusal("spiders/sites.py")
    assert str(error) == "spiders/sites.py has 2 spiders: News, Blog"
    assert error.hint == "say which one: `spiders/sites.py:News`"
    error = refusal("spiders/sites.py:Newz")
    assert error.hint == "did you mean `spiders/sites.py:News`?"


def test_a_file_without_a_spider_or_that_is_not_there_is_refused(folder: Path) -> None:
    (folder / "empty.py").write_text("")
    assert str(refusal("spiders/empty.py")) == "spiders/empty.py has no spider"
    error = refusal("spiders/emty.py")
    assert str(error) == "no such file: spiders/emty.py"
    assert error.hint == "did you mean `spiders/empty.py`?"


def test_a_name_that_two_files_give_is_refused_with_both(folder: Path) -> None:
    (folder / "a.py").write_text(BOOKS)
    (folder / "b.py").write_text(BOOKS)
    error = refusal("books")
    assert str(error) == "2 spiders are called `books`: spiders/a.py:Books, spiders/b.py:Books"


def test_spider_files_may_import_each_other(folder: Path) -> None:
    (folder / "books.py").write_text(BOOKS)
    (folder / "more.py").write_text("from books import Books\nclass More(Books): ...\n")
    assert find("more").__name__ == "More"


def test_the_hash_follows_the_code_of_a_spider_and_of_its_parents(
    folder: Path, tmp_path: Path
) -> None:
    (folder / "first.py").write_text(BOOKS)
    (folder / "same.py").write_text(BOOKS)
    (folder / "other.py").write_text(BOOKS + "\n# changed\n")
    first, same, other = (find(f"spiders/{name}.py") for name in ("first", "same", "other"))
    assert code_hash(first) == code_hash(same)
    assert code_hash(first) != code_hash(other)
    (folder / "parent.py").write_text(BOOKS)
    child = "from parent import Books\nclass Child(Books): ...\n"
    (folder / "child.py").write_text(child)
    before = code_hash(find("spiders/child.py"))
    assert before not in (code_hash(first), code_hash(Pages))
    assert len(before) == 64


def test_a_spider_that_was_typed_in_has_a_hash(folder: Path) -> None:
    typed = type("Typed", (Pages,), {"__module__": "nowhere"})
    assert len(code_hash(typed)) == 64


def test_a_file_of_the_name_that_was_asked_for_is_told_of(folder: Path) -> None:
    (folder / "empty.py").write_text("")
    (folder / "books2.py").write_text(BOOKS)
    error = refusal("empty")
    assert (str(error), error.hint) == (
        "spiders/empty.py has no spider",
        "a spider is a subclass of Spider",
    )
    assert refusal("books2").hint == "spiders/books2.py holds `books` (names come from the class)"


def test_what_a_file_prints_as_it_is_imported_is_no_data(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "books.py").write_text(f"print('hello')\n{BOOKS}")
    find("books")
    assert capsys.readouterr() == ("", "hello\n")
