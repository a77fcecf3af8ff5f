"""`crawler fetch` as a person types it: what goes where, and how mistakes are told."""

from __future__ import annotations

import base64
import io
import json
import os
import pty
import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple, Protocol

import pytest

from crawler import Request, Response
from crawler.cli import main
from crawler.plain import is_textual, markdown_of, text_of
from crawler.testing import Reply, Site

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PAGE = (
    "<!doctype html><title>The\n shop</title><style>p{}</style><h1>Books &amp; more</h1>"
    "<p>one<br>two <a href='/a?b'>link</a><script>bad()</script><!-- no --><p hidden>hid</p>"
    "<table><tr><td>1<td>2</table>"
)
EVIL = "\x1b]0;x\x07\u202egnol"
SPIDER = """
from crawler import Retry, Settings, Spider

class Shop(Spider):
    start_urls = ["https://shop.test/"]
    settings = Settings(user_agent="shop/1")
    statuses = [404]
    token: str = "none"
    breaks: bool = False
    def before_request(self, request):
        if self.breaks:
            raise ValueError("no token")
        return request.replace(headers={"X-Token": self.token, **(request.headers or {})})
"""


class Said(NamedTuple):
    code: int
    out: bytes
    err: str


class Call(Protocol):
    def __call__(self, *argv: str) -> Said: ...


@pytest.fixture
def site() -> Iterator[Site]:
    routes = {
        "/": Reply.html(PAGE).gzip(),
        "/old": Reply.redirect("/older", 301),
        "/older": Reply.redirect("/"),
        "/png": Reply(body=b"\x89PNG\0\0", headers=(("Content-Type", "image/png"),)),
        "/robots.txt": Reply.text("User-agent: *\nDisallow: /private"),
    }
    with Site(routes).threaded() as served:
        yield served


@pytest.fixture
def call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> Call:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spiders").mkdir()
    (tmp_path / "spiders" / "shop.py").write_text(SPIDER)

    def run(*argv: str) -> Said:
        capsysbinary.readouterr()
        code = main(["fetch", *argv])
        out, err = capsysbinary.readouterr()
        return Said(code, out, err.decode())

    return run


def test_the_body_goes_to_stdout_and_how_it_came_to_stderr(call: Call, site: Site) -> None:
    said = call(site.url("/old"))
    assert said.code == 0
    assert said.out == PAGE.encode()
    lines = said.err.splitlines()
    assert [line for line in lines if line.startswith("GET ")] == [
        f"GET {site.url(path)}" for path in ("/robots.txt", "/old", "/older", "/")
    ]
    results = [line.split()[0] for line in lines if line.startswith("  ")]
    assert results == ["200", "301", "302", "200"]
    assert "connect " in lines[1]
    assert "connect " not in lines[3]
    assert "HTTP/1.1 200 OK" in lines
    assert "content-encoding: gzip" in lines
    assert f"reused, request 4 on it · client 1 of {site.addresses[0]}, 1 open" in lines[-2]
    assert lines[-1].startswith(f"{len(PAGE)} B · text/html · utf-8 · gzip: ")
    assert lines[-1].endswith("on the wire · “The shop”")


def test_quiet_says_nothing_but_the_body(call: Call, site: Site) -> None:
    assert call(site.url("/"), "-q") == (0, PAGE.encode(), "")


@pytest.mark.parametrize(
    ("form", "shown"),
    [
        ("--text", "Books & more\none\ntwo link\n1 2\n"),
        ("--md", "# Books & more\n\none  \ntwo [link]({site}a?b)\n"),
    ],
)
def test_a_page_can_be_read_as_text_and_as_markdown(
    form: str, shown: str, call: Call, site: Site
) -> None:
    out = call(site.url("/"), form, "-q").out.decode()
    assert out.startswith(shown.replace("{site}", site.url("/")))
    assert "bad()" not in out


def test_json_has_everything(call: Call, site: Site) -> None:
    said = call(site.url("/old"), "--json", "-q", "-H", "X-A: 1")
    known = json.loads(said.out)
    assert known["url"] == site.url("/")
    assert (known["status"], known["error"], known["title"]) == (200, None, "The shop")
    assert known["headers"]["content-encoding"] == "gzip"
    assert known["request"]["headers"] == {"X-A": "1"}
    assert known["body"] == PAGE
    assert [each["decision"] for each in known["attempts"]] == [
        *("robots", "redirect", "redirect", "deliver"),
    ]
    binary = json.loads(call(site.url("/png"), "--json", "-q").out)
    assert binary["body"] is None
    assert base64.b64decode(binary["body_base64"]) == b"\x89PNG\0\0"
    failed = json.loads(call(site.url("/private/x"), "--json", "-q").out)
    assert (failed["status"], failed["error"]["code"]) == (None, "robots")


def test_a_file_gets_the_body_and_is_never_replaced(call: Call, site: Site, tmp_path: Path) -> None:
    assert call(site.url("/png"), "-o", "x.png").out == b""
    assert (tmp_path / "x.png").read_bytes() == b"\x89PNG\0\0"
    asked = len(site.log)
    said = call(site.url("/png"), "-o", "x.png")
    assert said.code == 2
    assert "is there already" in said.err
    assert len(site.log) == asked
    assert call(site.url("/"), "--text", "-o", "x.txt").code == 0
    assert (tmp_path / "x.txt").read_text().startswith("Books & more\n")
    assert call(site.url("/png"), "-o", os.devnull).code == 0


@pytest.mark.parametrize(
    ("path", "error", "hint"),
    [
        ("/nowhere", "http-404", "statuses = [404] in a spider"),
        ("/private/x", "robots.txt forbids it", "-s robots.obey=false"),
    ],
)
def test_what_a_crawl_would_not_deliver_is_an_error_with_a_hint(
    path: str, error: str, hint: str, call: Call, site: Site
) -> None:
    said = call(site.url(path), "-q")
    assert said.code == 1
    first, second = said.err.splitlines()
    assert first.startswith("error: ")
    assert error in first
    assert second.startswith("  hint: ")
    assert hint in second
    assert bool(said.out) == (path == "/nowhere")


def test_the_hint_about_robots_works(call: Call, site: Site) -> None:
    said = call(site.url("/private/x"), "-s", "robots.obey=false", "-q")
    assert "http-404" in said.err


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (["shop.test/x"], "`shop.test/x` has no scheme", "crawler fetch https://shop.test/x"),
        (["ftp://shop.test/"], "only http and https", "https://"),
        (["http://"], "error: http://: it has no host", "https://"),
        ([], "neither a URL nor --curl", "crawler fetch https://"),
        (["{site}", "--curl", "curl {site}"], "a URL and --curl", "crawler fetch"),
        (["--curl", "curl '{site}' -F a=b"], "option -F of curl", "files="),
        (["{site}", "-H", "nonsense"], "is no header", "Name: value"),
        (["{site}", "-X", "G T"], "method", "correct"),
        (["{site}", "-d", "@nofile"], "@nofile cannot be read", "-d @FILE"),
        (["{site}", "-s", "robots.obye=false"], "unknown setting", "robots.obey"),
        (["{site}", "--spider", "shpo"], "`shpo`", "shop"),
        (["{site}", "--spider", "shop", "-a", "tokn=1"], "no argument tokn", "token"),
        (["{site}", "-a", "token=1"], "none is named", "--spider"),
        (["{site}", "-o", "nowhere/x"], "no folder", "mkdir -p nowhere"),
        (["{site}", "--jsn"], "--jsn", "--json"),
    ],
)
def test_a_mistake_is_one_error_and_a_hint_before_any_request(
    arguments: list[str], error: str, hint: str, call: Call, site: Site
) -> None:
    said = call(*[each.replace("{site}", site.url("/")) for each in arguments])
    assert (said.code, said.out, site.log) == (2, b"", [])
    first, second = said.err.splitlines()
    assert first.startswith("error: ")
    assert error in first
    assert second.startswith("  hint: ")
    assert hint in second


def test_method_headers_and_data_are_sent_as_curl_would(call: Call, site: Site) -> None:
    site.add("/api", Reply.text("ok"))
    said = call(site.url("/api"), "-d", "a=1", "-d", "b=2", "-H", "X-A: 1", "-q")
    assert said.out == b"ok"
    sent = site.log[-1]
    assert (sent.method, sent.body) == ("POST", b"a=1&b=2")
    headers = {name.lower(): value for name, value in sent.headers}
    assert headers["content-type"] == "application/x-www-form-urlencoded"
    assert headers["x-a"] == "1"


def test_a_curl_command_is_fetched_and_options_can_be_added(
    call: Call, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = f"curl '{site.url('/')}' \\\n  -H 'Accept-Encoding: zstd' -b 'a=1' --compressed"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(command.encode())))
    said = call("--curl", "-", "-H", "Cookie: b=2", "-X", "HEAD", "-q")
    assert said.code == 0
    assert said.err.startswith("note: Accept-Encoding: ")
    sent = site.log[-1]
    assert sent.method == "HEAD"
    assert [value for name, value in sent.headers if name.lower() == "cookie"] == ["b=2; a=1"]


def test_a_request_can_be_printed_as_a_curl_command_and_read_again(call: Call, site: Site) -> None:
    said = call(site.url("/"), "--spider", "shop", "-a", "token=it's", "-d", "x", "--as-curl")
    assert (said.code, said.err, site.log) == (0, "", [])
    shown = said.out.decode()
    assert shown.startswith(f"curl -L --compressed {site.url('/')} \\\n")
    assert "user-agent: shop/1" in shown
    again = call("--curl", shown, "--as-curl").out.decode()
    assert again == shown


def test_a_spider_lends_its_settings_hooks_and_arguments(call: Call, site: Site) -> None:
    said = call(site.url("/nowhere"), "--spider", "shop", "-a", "token=7", "-q")
    assert (said.code, said.err) == (0, "")
    headers = {name.lower(): value for name, value in site.log[-1].headers}
    assert (headers["x-token"], headers["user-agent"]) == ("7", "shop/1")
    broken = call(site.url("/"), "--spider", "shop", "-a", "breaks=true", "-q")
    assert broken.code == 1
    lines = broken.err.splitlines()
    assert lines[0].startswith("error: hook Shop.before_request: ValueError: no token")
    assert "spiders/shop.py" in lines[1]
    assert "plugins.py" not in broken.err


def shown_on_a_terminal(*calls: list[str]) -> list[str]:
    """What a terminal of 80 columns gets of each, both streams of it."""
    parent, child = pty.openpty()
    environ = {**os.environ, "COLUMNS": "80"}
    code = (
        f"import crawler.cli as c; [(c.main(['fetch', *each]), print('\f')) for each in {calls!r}]"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=child,
        stdout=child,
        stderr=child,
        env=environ,
    ):
        os.close(child)
        shown = b""
        try:
            while part := os.read(parent, 4096):
                shown += part
        except OSError:  # the end of a terminal, on Linux
            pass
        os.close(parent)
    return shown.decode().replace("\r\n", "\n").split("\f")


def test_a_terminal_gets_the_head_of_a_text_and_nothing_dangerous(site: Site) -> None:
    lines = f"<title>{EVIL}</title>\n{EVIL}\n{'x' * 200}\n" + "line\n" * 97
    site.add("/long", Reply.html(lines))
    long = site.url("/long")
    asked = ([long], [site.url("/png")], [long, "--json", "-q"])
    shown, binary, json_shown, _ = shown_on_a_terminal(*asked)
    assert f"\n{'x' * 79}…\nline\n" in shown
    assert "… 80 more lines; -o FILE writes all" in shown
    assert shown.count("\nline") == 17
    assert "\\x1b]0;x\\x07" in shown
    assert "\x1b]" not in shown
    assert "\u202e" not in shown
    assert "PNG" not in binary
    assert json_shown.isascii()
    assert "\x1b" not in json_shown
    assert "-o FILE writes it" in binary


def test_help_is_quick() -> None:
    heavy = ("httpx", "selectolax", "asyncio", "msgspec", "rich", "sqlite3")
    code = (
        "import sys; from crawler.cli import main;"
        "[main([name, '--help']) for name in ('fetch', 'shell', 'parse')];"
        f"print(*(set({heavy!r}) & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == ""
    assert "--as-curl" in done.stdout


# -- text and Markdown ------------------------------------------------------------------------


def page(body: bytes, kind: str | None = "text/html") -> Response:
    headers = [(b"content-type", kind.encode())] if kind else []
    return Response(Request("http://x.test/a/"), "http://x.test/a/", 200, headers, body)


def test_a_deep_page_has_its_text_and_no_markdown() -> None:
    deep = page(b"<html>" + b"<div>" * 3_000 + b"x")
    assert text_of(deep) == "x"
    with pytest.raises(Exception, match="nested too deeply"):
        markdown_of(deep)


def test_what_is_hidden_within_what_is_hidden_is_left_out_with_it() -> None:
    inner = b"<svg><style><style>a</style></style></svg><div hidden>b<p hidden>c</p></div>"
    one = page(b"<body>" + inner * 50 + b"<p>shown<template><template>d")
    assert text_of(one) == "shown"
    assert markdown_of(one).strip().endswith("shown")
    assert text_of(page(b"<body hidden>x")) == ""


def test_reading_a_page_changes_nothing_of_it() -> None:
    one = page(PAGE.encode())
    before = one.first("html").html
    markdown_of(one)
    text_of(one)
    assert one.first("html").html == before


def test_what_is_no_html_is_its_text() -> None:
    assert text_of(page(b"a <b>", "text/plain")) == "a <b>"
    assert markdown_of(page(b"{}", "application/json")) == "{}"


@pytest.mark.parametrize(
    ("kind", "body", "is_text"),
    [
        ("text/css", b"\0", True),
        ("application/ld+json", b"", True),
        ("image/png", b"abc", False),
        (None, b"abc", True),
        (None, b"a\0c", False),
    ],
)
def test_only_text_is_shown(kind: str | None, body: bytes, is_text: bool) -> None:
    assert is_textual(page(body, kind)) is is_text
