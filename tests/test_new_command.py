"""`crawler new`: each template, crawled against a site that it fits; names and what is refused."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from crawler import DomainSettings, Settings, crawl_sync
from crawler.cli.scaffold import TEMPLATES, Names, checked_name, spider_text
from crawler.loading import find
from crawler.testing import Reply, Site
from tests.commands import call, here

if TYPE_CHECKING:
    from collections.abc import Iterator

    from crawler import CrawlResult
    from crawler.testing import Received
    from tests.commands import Call

__all__ = ["call", "here"]

ROOT = Path(__file__).parent.parent
SOON = Settings(domain=DomainSettings(delay=0))
FORM = """<form action=/search><input name=q></form>
<form method=post action=/login><input type=hidden name=token value=t1>
<input name=username><input name=password type=password></form>"""


@pytest.fixture
def site() -> Iterator[Site]:
    with Site().threaded() as served:
        yield served


def made(call: Call, *argv: str) -> CrawlResult:
    """What the spider of a new file gives."""
    said = call("new", *argv)
    assert (said.code, said.out) == (0, ""), said.err
    return crawl_sync(find(f"spiders/{argv[0]}.py"), settings=SOON)


def fields(result: CrawlResult) -> list[dict[str, Any]]:
    rows = [{name: getattr(item, name) for name in item.__annotations__} for item in result.items]
    return sorted(rows, key=str)


# ── templates ────────────────────────────────────────────────────────────────────────────


def test_basic_gives_the_entries_of_one_page(call: Call, site: Site) -> None:
    site.add("/", Reply.html("<article><h2>One</h2><a href=/1>more</a></article><article><h2>Two"))
    result = made(call, "news", site.url("/"), "-t", "basic")
    assert fields(result) == [{"title": "One", "link": "/1"}, {"title": "Two", "link": None}]
    assert type(result.items[0]).__name__ == "NewsItem"


def test_follow_gives_what_the_lists_lead_to(call: Call, site: Site) -> None:
    site.add("/", Reply.html("<article><a href=/1>1</a></article><a rel=next href=/?p=2>next</a>"))
    site.add("/?p=2", Reply.html("<article><a href=/2>2</a></article>"))
    for name in ("1", "2"):
        site.add(f"/{name}", Reply.html(f"<h1>Number {name}</h1>"))
    result = made(call, "books", site.url("/"))
    assert [row["title"] for row in fields(result)] == ["Number 1", "Number 2"]
    assert type(result.items[0]).__name__ == "Book"


def test_sitemap_gives_the_pages_of_all_maps_packed_ones_too(call: Call, site: Site) -> None:
    space = 'xmlns="http://www.sitemaps.org/schemas/sitemap/0.9"'
    maps = "".join(f"<sitemap><loc> {site.url(path)} </loc></sitemap>" for path in ("/a", "/b.gz"))
    site.add("/sitemap.xml", xml(f"<sitemapindex {space}>{maps}</sitemapindex>".encode()))
    listed = f"<url><loc><![CDATA[{site.url('/1?x=1&y=2')}]]></loc><lastmod>2026</lastmod></url>"
    site.add("/a", xml(f"<urlset {space}>{listed}</urlset>".encode()))
    packed = f"<urlset><url><loc>{site.url('/2')}</loc></url></urlset>".encode()
    site.add("/b.gz", xml(gzip.compress(packed)))
    for path in ("/1?x=1&y=2", "/2"):
        site.add(path, Reply.html(f"<title>at {path}</title>"))
    result = made(call, "all", site.url(), "-t", "sitemap")
    assert [row["title"] for row in fields(result)] == ["at /1?x=1&y=2", "at /2"]
    site.add("/sitemap.xml", Reply.html("<h1>no sitemap"))
    assert crawl_sync(find("spiders/all.py"), settings=SOON).errors == 1


def xml(body: bytes) -> Reply:
    return Reply(body=body, headers=(("Content-Type", "application/xml"),))


def test_api_follows_the_cursor_and_keeps_the_query(call: Call, site: Site) -> None:
    def answer(request: Received) -> Reply:
        is_first = "cursor" not in request.path
        rows = [{"id": 1, "title": "one"}] if is_first else [{"id": "2", "title": "two"}]
        body = json.dumps({"items": rows, "next": "a&b" if is_first else None})
        return Reply(body=body.encode(), headers=(("Content-Type", "application/json"),))

    site.add("/v1/items", answer)
    result = made(call, "records", site.url("/v1/items?per=1&empty="), "-t", "api")
    assert fields(result) == [{"id": "1", "title": "one"}, {"id": "2", "title": "two"}]
    asked = [request.path for request in site.log if "robots" not in request.path]
    assert asked == ["/v1/items?per=1&empty=", "/v1/items?per=1&empty=&cursor=a%26b"]


@pytest.fixture
def members(site: Site) -> Site:
    """A site with a log-in: pages are shown to whom has its cookies, else it asks."""

    def login(request: Received) -> Reply:
        if request.method == "GET":
            return Reply(
                body=FORM.encode(),
                headers=(("Content-Type", "text/html"), ("Set-Cookie", "seen=1; HttpOnly")),
            )
        is_right = request.body == b"token=t1&username=ann&password=s3cret%26"
        if not is_right or request.header("cookie") != "seen=1":
            return Reply.html(FORM)
        return Reply.code(303, {"Location": "/", "Set-Cookie": "session=abc=; Path=/"})

    def page(request: Received) -> Reply:
        if request.header("cookie") != "seen=1; session=abc=":
            return Reply.redirect("/login")
        links = "<a href=/list>orders</a><a href=/logout>bye</a><a href=/login>again</a>"
        return Reply.html(f"<title>{request.path}</title>{links}")

    site.add("/login", login)
    site.add("/", page)
    site.add("/orders", page)
    site.add("/list", lambda _: Reply.redirect("/orders"))
    return site


def test_login_sees_what_a_member_sees(
    call: Call, members: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_USER", "ann")
    monkeypatch.setenv("SHOP_PASSWORD", "s3cret&")
    result = made(call, "shop", members.url("/login"), "-t", "login")
    assert [row["title"] for row in fields(result)] == ["/", "/orders"]
    assert "/logout" not in {request.path for request in members.log}


def test_login_logs_in_again_when_a_run_goes_on(
    call: Call, members: Site, monkeypatch: pytest.MonkeyPatch, here: Path
) -> None:
    monkeypatch.setenv("SHOP_USER", "ann")
    monkeypatch.setenv("SHOP_PASSWORD", "s3cret&")
    call("new", "shop", members.url("/login"), "-t", "login")
    assert call("run", "shop", "-q", "-s", "domain.delay=0", "--limit", "1").code == 0
    rows = json.loads(call("sql", "select title from shop_item order by title", "--json").out)
    assert [row["title"] for row in rows] == ["/"]
    again = call("run", "shop", "-q", "-s", "domain.delay=0", "--resume")
    assert (again.code, again.err) == (0, "")
    rows = json.loads(call("sql", "select title from shop_item order by title", "--json").out)
    assert [row["title"] for row in rows] == ["/", "/orders"]
    assert [request.method for request in members.log if request.path == "/login"] == [
        *("GET", "POST"),
        *("GET", "POST"),
    ]
    stored = (here / "shop.db").read_bytes()
    assert not [secret for secret in (b"s3cret", b"abc=") if secret in stored]


@pytest.mark.parametrize(
    ("password", "message"),
    [("wrong", "did not take the log-in"), ("", "SHOP_USER and SHOP_PASSWORD are not set")],
)
def test_login_that_is_refused_ends_the_run_with_the_reason(
    call: Call, members: Site, monkeypatch: pytest.MonkeyPatch, password: str, message: str
) -> None:
    monkeypatch.setenv("SHOP_USER", "ann")
    monkeypatch.setenv("SHOP_PASSWORD", password)
    result = made(call, "shop", members.url("/login"), "-t", "login")
    assert (result.ended_by, result.items) == ("error", [])
    assert message in (result.message or "")


@pytest.fixture
def every(call: Call, here: Path) -> list[Path]:
    """A file of each template: for its practice site, and for another one."""
    for template in TEMPLATES:
        assert (
            call("new", f"own-{template}", "https://[::1]:8443/a?b='\\", "-t", template).code == 0
        )
        assert call("new", template, "-t", template).code == 0
    return sorted((here / "spiders").iterdir())


def test_what_is_made_is_clean_to_the_tools_that_people_use(every: list[Path], here: Path) -> None:
    assert len(every) == 2 * len(TEMPLATES)
    config = f"--config={ROOT / 'pyproject.toml'}"
    for command in (["check", config], ["format", "--check", config]):
        done = tool("ruff", *command, "spiders")
        assert done.returncode == 0, done.stdout + done.stderr
    cache = f"--cache-dir={ROOT / '.mypy_cache' / 'templates'}"
    done = tool("mypy", "--strict", cache, "--follow-imports=silent", *map(str, every), cwd=ROOT)
    assert done.stdout.startswith("Success"), done.stdout + done.stderr
    for file in every:
        assert len(file.read_text().splitlines()) <= 75, file


def tool(name: str, *argv: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", name, *argv], capture_output=True, text=True, cwd=cwd
    )


# ── names ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "module", "cls", "item"),
    [
        ("books", "books", "Books", "Book"),
        ("my-blogs", "my_blogs", "MyBlogs", "MyBlog"),
        ("news", "news", "News", "NewsItem"),
        ("bus", "bus", "Bus", "BusItem"),
        ("glass", "glass", "Glass", "GlassItem"),
        ("stories", "stories", "Stories", "StoriesItem"),
        ("shop2", "shop2", "Shop2", "Shop2Item"),
        ("spider", "spider", "SpiderSpider", "SpiderItem"),
        ("responses", "responses", "Responses", "ResponsesItem"),
        ("runs", "runs", "Runs", "RunsItem"),
        ("item_tables", "item_tables", "ItemTables", "ItemTablesItem"),
    ],
)
def test_one_word_becomes_all_names(name: str, module: str, cls: str, item: str) -> None:
    names = Names.of(checked_name(name))
    assert names == (name, module, cls, item)
    source, _ = spider_text(names, "login", None)
    space: dict[str, Any] = {"__name__": "made"}
    exec(compile(source, "made", "exec", dont_inherit=True), space)
    assert space[cls].name == name


@pytest.mark.parametrize(
    ("argv", "error", "hint"),
    [
        (["Shop"], "`Shop` cannot be the name", "crawler new shop"),
        (["2ch"], "`2ch` cannot be the name", "crawler new site_2ch"),
        (["shop.py"], "cannot be the name", "crawler new shop"),
        (["a--b"], "cannot be the name", "crawler new a_b"),
        ([""], "cannot be the name", "crawler new site"),
        (["x" * 65], "cannot be the name", "crawler new xxx"),
        (["class"], "`class` is a word of Python", "crawler new class_site"),
        (["pages"], "the name of a bundled spider", "crawler new my_pages"),
        (["mine"], "spiders/mine.py is there already", "crawler new mine_2"),
        (["other"], "spiders/mine.py has a spider `other` already", "crawler new other_2"),
        (["https://www.shop.test/"], "cannot be", "crawler new shop https://www.shop.test/"),
        (["shop", "-t", "folow"], "unknown template `folow`", "did you mean `-t follow`?"),
        (["shop", "-t", "zzz"], "unknown template `zzz`", "basic, follow, sitemap, api, login"),
        (["shop", "shop.test"], "shop.test", "crawler new shop https://shop.test"),
        (["shop", "ftp://shop.test"], "only http and https", "http://"),
    ],
)
def test_what_cannot_be_made_is_refused_with_a_way_on(
    call: Call, here: Path, argv: list[str], error: str, hint: str
) -> None:
    (here / "spiders").mkdir()
    mine = here / "spiders" / "mine.py"
    mine.write_text("from crawler import Spider\n\n\nclass Other(Spider):\n    start_urls = []\n")
    (here / "spiders" / "broken.py").write_text("1 / 0\n")
    said = call("new", *argv)
    assert said.code == 2
    assert error in said.error[0]
    assert hint in said.error[1]
    assert sorted(file.name for file in (here / "spiders").glob("*.py")) == ["broken.py", "mine.py"]


def test_a_spider_is_not_made_inside_the_folder_of_the_spiders(
    call: Call, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "spiders").mkdir()
    monkeypatch.chdir(here / "spiders")
    assert call("new", "shop").error[1] == "cd .. && crawler new shop"


def test_the_way_on_is_shown(call: Call, here: Path) -> None:
    said = call("new", "my-shop", "https://Shop.test/a b?c=d&e", "-t", "login")
    assert said.err.splitlines() == [
        "made spiders/my_shop.py (template login)",
        "next:",
        "  export MY_SHOP_USER=… MY_SHOP_PASSWORD=…",
        "  crawler shell 'https://shop.test/a%20b?c=d&e'",
        "  crawler parse my-shop 'https://shop.test/a%20b?c=d&e'",
        "  crawler run my-shop --limit 10",
    ]
    assert call("list", "--json").out.count('"my-shop"') == 1
