"""curl command lines: what browsers copy is read, what is not understood is refused."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler import Request, UsageError
from crawler.curl import CODINGS, Parsed, arguments, render
from crawler.curl import parse as parse_words
from crawler.pool import ACCEPT_ENCODING
from crawler.request import encode_body
from crawler.shellwords import join, split

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

URL = "https://shop.test/api?q=1"
COPIED = r"""curl 'https://shop.test/api?a=1&b=\[2\]' \
  -H 'accept: application/json' \
  -H 'accept-encoding: gzip, deflate, br, zstd' \
  -H 'content-type: application/json' \
  -b 'sid=1; theme=dark' \
  -H 'user-agent: Mozilla/5.0 (X11)' \
  --data-raw $'{"name":"it\'s \u00e9\n"}' \
  --compressed ;"""


def parse(command: str, read: Callable[[str], bytes] | None = None) -> Parsed:
    return parse_words(arguments(command), read)


def test_a_command_as_a_browser_copies_it_is_read() -> None:
    request, is_insecure, notes = parse(COPIED.removesuffix(" ;"))
    assert request.url == "https://shop.test/api?a=1&b=[2]"
    assert request.method == "POST"
    assert request.body == '{"name":"it\'s é\n"}'.encode()
    assert request.headers == {
        "accept": "application/json",
        "content-type": "application/json",
        "user-agent": "Mozilla/5.0 (X11)",
        "Cookie": "sid=1; theme=dark",
    }
    assert not is_insecure
    assert len(notes) == 1
    assert "accept-encoding" in notes[0]


@pytest.mark.parametrize(
    ("options", "method", "url", "body"),
    [
        ("-d a=1 -d b=2", "POST", URL, b"a=1&b=2"),
        ("-Gd a=1 -d b=2", "GET", f"{URL}&a=1&b=2", None),
        ("-XPUT --data-binary x", "PUT", URL, b"x"),
        ("--json '{\"a\":1}'", "POST", URL, b'{"a":1}'),
        ("--data-urlencode 'n=a b&c' --data-urlencode é", "POST", URL, b"n=a+b%26c&%C3%A9"),
        ("--data-raw @x", "POST", URL, b"@x"),
        ("-I", "HEAD", URL, None),
        ("-X DELETE -sSL -v", "DELETE", URL, None),
        ("-d ''", "POST", URL, b""),
    ],
)
def test_options_make_method_url_and_body(
    options: str, method: str, url: str, body: bytes | None
) -> None:
    request = parse(f"curl {options} '{URL}'").request
    assert (request.method, request.url, request.body) == (method, url, body)


@pytest.mark.parametrize(
    ("options", "name", "value"),
    [
        ("-u me:secret", "Authorization", "Basic bWU6c2VjcmV0"),
        ("-A me/1", "User-Agent", "me/1"),
        ("-e https://a.test/", "Referer", "https://a.test/"),
        ("-b a=1 -H 'Cookie: b=2'", "Cookie", "b=2; a=1"),
        ("-H 'X-A: 1' -H 'x-a: 2'", "x-a", "1, 2"),
        ("-H 'X-Empty;'", "X-Empty", ""),
        ("-d a=1", "Content-Type", "application/x-www-form-urlencoded"),
        ("-d a=1 -H 'Content-Type: text/x'", "Content-Type", "text/x"),
        ("--json {}", "Accept", "application/json"),
        ("-A me/1 -H 'user-agent: you/2'", "user-agent", "you/2"),
        ("-H 'Accept-Encoding: identity'", "Accept-Encoding", "identity"),
    ],
)
def test_options_make_headers(options: str, name: str, value: str) -> None:
    headers = parse(f"curl {options} {URL}".replace("?q=1", "")).request.headers
    assert headers is not None
    assert headers[name] == value


def test_a_proxy_a_time_and_an_unchecked_certificate_are_taken_over() -> None:
    request, is_insecure, _ = parse("curl -k -m 7 -x me:pw@proxy:3128 https://shop.test:8443/")
    assert (request.timeout, request.proxy) == (7.0, "http://me:pw@proxy:3128")
    assert is_insecure


def test_a_body_that_looks_like_an_option_is_one() -> None:
    request = parse(f"curl '{URL}' --data-raw $'------WebKitFormBoundary\\r\\n'").request
    assert request.body == b"------WebKitFormBoundary\r\n"


def test_credentials_in_a_url_become_a_header() -> None:
    request = parse("curl http://me:p%40w@shop.test/x").request
    assert request.url == "http://shop.test/x"
    assert request.headers == {"Authorization": "Basic bWU6cEB3"}


def test_a_file_is_read_as_curl_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "body"
    file.write_bytes(b"a=1\r\nb=2\n")

    def body(option: str) -> bytes | None:
        return parse_words([option, f"@{file}", URL], lambda name: file.read_bytes()).request.body

    assert body("-d") == b"a=1b=2"
    assert body("--data-binary") == b"a=1\r\nb=2\n"
    with pytest.raises(UsageError, match="no file that can be read"):
        parse(f"curl -d @{file} {URL}")


@pytest.mark.parametrize(
    ("command", "error", "hint"),
    [
        ("wget https://x.test/", "begins with `wget`", "cURL (bash)"),
        ("", "begins with ``", "cURL (bash)"),
        ("curl", "no URL", "in quotes"),
        ("curl https://a.test https://b.test", "2 URLs", "in quotes"),
        ("curl https://x.test -F a=@b", "option -F of curl", "files="),
        ("curl https://x.test --jsn 1", "option --jsn", "`--json`"),
        ("curl https://x.test -sZ", "option -Z", "leave it out"),
        ("curl https://x.test -o f", "option -o", "crawler fetch"),
        ("curl https://x.test -H", "-H of curl needs a value", "-H"),
        ("curl https://x.test -H nonsense", "'nonsense' is no header", "Name: value"),
        ("curl https://x.test -H 'Accept:'", "always sent", "value"),
        ("curl https://x.test -H 'X: é'", "printable ASCII", "correct"),
        ("curl https://x.test -b jar.txt", "names a file", "NAME=VALUE"),
        ("curl https://x.test -u me", "no password", "NAME:PASSWORD"),
        ("curl https://x.test -m soon", "is no number", "30"),
        ("curl https://x.test -d a --json b", "--json and --data", "one body"),
        ("curl https://x.test --max-redirs 3", "option --max-redirs", "-s redirects="),
        ("curl https://x.test --compressed=1", "option --compressed", "`--compressed`"),
        ("curl 'https://x.test/[1-3]'", "several URLs", "-g"),
        ("curl ftp://x.test/", "only http and https", "https://"),
        ("curl https://x.test/?a=1&b=2", "a second command", "single quotes"),
        ("curl https://x.test | sh", "a pipe", "single quotes"),
        ('curl https://x.test -d "$TOKEN"', "a variable", "single quotes"),
        ("curl https://x.test -d $(id)", "a variable", "single quotes"),
        ("curl 'https://x.test", "not closed", "--curl -"),
        ('curl ^"https://x.test^"', "Windows", "bash"),
    ],
)
def test_what_is_not_understood_is_refused_by_its_name(command: str, error: str, hint: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse(command, lambda name: b"")
    assert error in str(refused.value)
    assert hint in (refused.value.hint or "")


def test_what_is_asked_for_is_what_can_be_undone() -> None:
    assert set(ACCEPT_ENCODING.split(", ")) == CODINGS - {"identity", "*"}


def test_a_body_with_a_nul_is_no_command_line() -> None:
    with pytest.raises(UsageError, match="NUL"):
        render(Request(URL, method="POST", body=b"a\0b"))


# -- there and back ---------------------------------------------------------------------------

TOKENS = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=8).map(lambda t: f"x{t}")
VALUES = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20)
BODIES = st.none() | st.binary(min_size=1, max_size=40).filter(lambda body: b"\0" not in body)
PATHS = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="\\#"))


@given(
    path=PATHS,
    method=st.sampled_from(["GET", "POST", "PUT", "HEAD", "PATCH"]),
    headers=st.dictionaries(TOKENS, VALUES, max_size=3),
    body=BODIES,
    proxy=st.none() | st.just("socks5://me:p'w@proxy:1080"),
    timeout=st.none() | st.floats(0.001, 1e6),
)
def test_a_request_comes_back_from_its_command_line(
    path: str,
    method: str,
    headers: dict[str, str],
    body: bytes | None,
    proxy: str | None,
    timeout: float | None,
) -> None:
    asked = Request(
        f"http://shop.test/{path}",
        method=method,
        headers=headers,
        body=body,
        proxy=proxy,
        timeout=timeout,
    )
    got, is_insecure, notes = parse(render(asked))
    assert (got.url, got.method, got.proxy, got.timeout) == (asked.url, method, proxy, timeout)
    assert dict(got.headers or {}) == headers
    assert encode_body(got) == encode_body(asked)
    assert (is_insecure, notes) == (False, ())


def test_a_form_and_json_come_back_as_their_bytes() -> None:
    for asked in (
        Request(URL, method="POST", json={"a": ["é", 1]}),
        Request(URL, method="POST", data={"a": "b c"}),
    ):
        got = parse(render(asked)).request
        assert got.body == encode_body(asked).content
        assert dict(got.headers or {})["content-type"] == encode_body(asked).content_type


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))))
def test_words_come_back_from_a_line(words: list[str]) -> None:
    assert split(join(words)) == words


def test_a_shell_reads_the_line_as_it_was_meant() -> None:
    words = ["curl", "it's", "a\nb", '"$HOME" `id` \\', "é\t*", "\udcff", ""]
    done = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {join(words)}"], capture_output=True, check=True
    )
    assert done.stdout.split(b"\0")[:-1] == [
        each.encode("utf-8", "surrogateescape") for each in words
    ]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (r"""a'b'"c"\ d""", ["abc d"]),
        (r"""$'\x41\u00e9\101\e\'\q'""", ["AéA\x1b'\\q"]),
        ('"a\\"b\\$\\x"', ['a"b$\\x']),
        ("a \\\n  b\\\nc", ["a", "bc"]),
        ("'a\\\nb'", ["a\\\nb"]),
        ("'' \"\"", ["", ""]),
        ("cost$ 5", ["cost$", "5"]),
        ('"a\\\\\\$b \\\nc"', ["a\\$b c"]),
    ],
)
def test_quotes_are_those_of_a_posix_shell(line: str, words: list[str]) -> None:
    assert split(line) == words
