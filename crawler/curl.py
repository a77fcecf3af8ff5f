"""curl command lines: reading one as browsers copy it, and writing one for a request. Pure.

Owns: the options of curl that mean something to a request. Does not own: the words of a
command (`shellwords`), sending it.

Invariants: what is not understood is refused by its name, never left out; what was left to
the crawler is told in a note; reading what `render` wrote asks for the same.
"""

from __future__ import annotations

import re
from base64 import b64encode
from getopt import GetoptError, getopt
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import quote_plus, unquote

from crawler.errors import FetchError, SpiderError, UsageError, nearest
from crawler.request import Request, encode_body
from crawler.shellwords import join, split
from crawler.urls import canonicalise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

__all__ = ["Parsed", "arguments", "parse", "render"]

FORM: Final = "application/x-www-form-urlencoded"
CODINGS = frozenset(("gzip", "deflate", "br", "identity", "*"))
"""Content codings that are undone here."""
WITH_VALUE = {
    "--request": "X",
    "--header": "H",
    "--data": "d",
    "--cookie": "b",
    "--user": "u",
    "--user-agent": "A",
    "--referer": "e",
    "--proxy": "x",
    "--max-time": "m",
    **dict.fromkeys(("--data-ascii", "--data-raw", "--data-binary", "--data-urlencode"), ""),
    **dict.fromkeys(("--json", "--url"), ""),
}
"""Options and their letters; empty: none."""
ALONE = {
    "--get": "G",
    "--head": "I",
    "--insecure": "k",
    "--globoff": "g",
    "--location": "L",
    "--silent": "s",
    "--show-error": "S",
    "--verbose": "v",
    "--include": "i",
    "--fail": "f",
    "--no-buffer": "N",
    "--progress-bar": "#",
    **dict.fromkeys(("--compressed", "--no-progress-meter", "--http1.1"), ""),
}
"""Those without a value; from `--location` on they change nothing here."""
LETTERS = {f"-{letter}": name for name, letter in (WITH_VALUE | ALONE).items() if letter}
FILE = "the body goes to a file with `crawler fetch … -o FILE`"
UPLOAD = "a spider can: Request(url, method='POST', files={...})"
JAR = "no cookies are kept: leave it out"
INSTEAD = {
    **dict.fromkeys(("-o", "--output", "-O", "--remote-name"), FILE),
    **dict.fromkeys(("-F", "--form"), UPLOAD),
    **dict.fromkeys(("-c", "--cookie-jar"), JAR),
    **dict.fromkeys(("-E", "--cert"), "leave it out, and add: -s tls.client_cert=FILE"),
    "-T": "give the content as the body: -X PUT --data-binary @FILE",
    "--cacert": "leave it out, and add: -s tls.ca_file=FILE",
    "--connect-timeout": "leave it out, and add: -s timeout.connect=SECONDS",
    "--http2": "leave it out, and add: -s domain.http2=true",
    "--max-redirs": "leave it out, and add: -s redirects=NUMBER",
    "--resolve": "leave it out, and add: -s resolve.HOST=ADDRESS",
    "--retry": "leave it out: a failed request is tried three times in all",
}
OURS = frozenset(("content-length", "connection", "transfer-encoding", "te"))
"""Header fields that are the connection's own affair."""
NAMED_ALWAYS = frozenset(("accept", "accept-encoding", "user-agent", "host"))
"""Header fields that are never left out."""


class Parsed(NamedTuple):
    """What a command line asks for."""

    request: Request
    is_insecure: bool
    """The certificate is not checked."""
    notes: tuple[str, ...]
    """What was left to the crawler, and why."""


def arguments(command: str) -> list[str]:
    """The words of a command behind `curl`. Raises UsageError when it is another's."""
    if re.match(r'\s*curl(\.exe)?\s+\^"', command):
        raise UsageError("that is a command for Windows", hint="copy it as cURL (bash)")
    words = split(command)
    if not words or words[0].rpartition("/")[2] != "curl":
        raise UsageError(
            f"no curl command: it begins with `{words[0] if words else ''}`",
            hint="copy it as cURL (bash); `--curl -` reads it from stdin, quotes and all",
        )
    return words[1:]


def parse(words: Sequence[str], read: Callable[[str], bytes] | None = None) -> Parsed:
    """What curl's arguments ask for. `read` gives the content of a file (`-d @FILE`); None:
    there are none. Raises UsageError for what is not understood, by its name."""
    asked = _Asked(read)
    for option, value in _options(words):
        asked.take(option, value)
    return asked.made()


def render(
    request: Request, *, headers: Mapping[str, str] | None = None, flags: Sequence[str] = ()
) -> str:
    """The curl command that asks for the same, quoted for a POSIX shell.

    `headers`: all that are sent; None: those of the request. `flags` are added as they are.
    Raises UsageError for a body that no command line can hold.
    """
    body = encode_body(request)
    given = {"content-type": body.content_type} if body.content_type else {}
    shown = dict(request.headers or {}) if headers is None else dict(headers)
    fields = {name.lower(): (name, value) for name, value in (given | shown).items()}
    if b"\0" in body.content:
        raise UsageError(
            "the body has a NUL byte, which no command line can hold",
            hint="write it to a file, and send that: --data-binary @FILE",
        )
    parts = [["curl", *flags, *(["-g"] if re.search(r"[\[\]{}]", request.url) else [])]]
    parts[0].append(request.url)
    if request.method == "HEAD" and not body.content:
        parts.append(["-I"])
    elif request.method != ("POST" if body.content else "GET"):
        parts.append(["-X", request.method])
    parts += [
        ["-H", f"{name}: {value}" if value else f"{name};"] for name, value in fields.values()
    ]
    if body.content:
        if "content-type" not in fields:
            parts.append(["-H", "Content-Type:"])
        parts.append(["--data-raw", body.content.decode("utf-8", "surrogateescape")])
    if request.proxy is not None:
        parts.append(["-x", request.proxy])
    if request.timeout is not None:
        parts.append(["-m", f"{request.timeout!r}"])
    lines = [join(part) for part in parts]
    is_short = sum(map(len, lines)) + len(lines) <= 100
    return " ".join(lines) if is_short else " \\\n  ".join(lines)


# -- options ------------------------------------------------------------------------------


def _options(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Long name and value of each option (empty: it takes none); a URL is `--url`."""
    short = "".join(f"{each[1]}{':' * (name in WITH_VALUE)}" for each, name in LETTERS.items())
    long = [*(f"{name[2:]}=" for name in WITH_VALUE), *(name[2:] for name in ALONE)]
    rest = list(words)
    while rest:
        try:
            options, rest = getopt(rest, short, long)
        except GetoptError as error:
            raise _refusal(error) from error
        yield from ((LETTERS.get(name, name), value) for name, value in options)
        yield from (("--url", url) for url in rest[:1])
        rest = rest[1:]


def _refusal(error: GetoptError) -> UsageError:
    name = f"--{error.opt}" if len(error.opt) > 1 else f"-{error.opt}"
    if "requires" in error.msg:
        return UsageError(f"option {name} of curl needs a value", hint=f"{name} VALUE")
    near = nearest(name, WITH_VALUE | ALONE) if name.startswith("--") else None
    fallback = f"did you mean `{near}`?" if near else "leave it out, if it is not needed"
    return UsageError(f"option {name} of curl is not understood", hint=INSTEAD.get(name, fallback))


class _Asked:
    """What the options ask for, as far as they have been read."""

    def __init__(self, read: Callable[[str], bytes] | None) -> None:
        self._read = read
        self._urls: list[str] = []
        self._method: str | None = None
        self._fields: dict[str, tuple[str, str]] = {}
        """Of -H: name as written and value, by lower-case name."""
        self._without: set[str] = set()
        self._more: dict[str, str] = {}
        """Header fields by options of their own: -H goes before them."""
        self._data: list[bytes] = []
        self._flags: set[str] = set()
        self._proxy: str | None = None
        self._timeout: float | None = None
        self._notes: list[str] = []

    def __repr__(self) -> str:
        return f"<_Asked {self._urls} {len(self._fields)} fields>"

    def take(self, option: str, value: str) -> None:
        """One option more."""
        match option:
            case "--url":
                self._urls.append(value)
            case "--request":
                self._method = value
            case "--header":
                self._take_header(value)
            case "--cookie" if "=" in value:
                self._more["Cookie"] = value
            case "--cookie":
                raise UsageError(f"-b {value} names a file", hint="-b 'NAME=VALUE; …'")
            case "--user":
                self._more["Authorization"] = _basic(value)
            case "--user-agent":
                self._more["User-Agent"] = value
            case "--referer":
                self._more["Referer"] = value.removesuffix(";auto")
            case "--proxy":
                self._proxy = value if "://" in value else f"http://{value}"
            case "--max-time":
                self._timeout = _seconds(value)
            case _ if option in ALONE:
                self._flags.add(option)
            case _:
                self._take_data(option, value)

    def _take_header(self, line: str) -> None:
        name, colon, value = line.partition(":")
        name, value = name.strip(), value.strip()
        if not colon and line.endswith(";"):
            self._fields[name[:-1].lower()] = (name[:-1], "")
            return
        if not colon or line.startswith("@"):
            raise UsageError(f"-H {line!r} is no header", hint="-H 'Name: value'")
        key = name.lower()
        if not value and key in NAMED_ALWAYS:
            raise UsageError(f"-H '{line}': {name} is always sent", hint="give it a value")
        if not value:
            self._without.add(key)
        elif key in OURS:
            self._notes.append(f"{name} is the connection's own: the one given is not sent")
        elif key == "accept-encoding" and not _is_undone(value):
            self._notes.append(f"{name}: the crawler asks for what it can decode")
        elif key in self._fields:
            glue = "; " if key == "cookie" else ", "
            self._fields[key] = (name, self._fields[key][1] + glue + value)
        else:
            self._fields[key] = (name, value)

    def _take_data(self, option: str, value: str) -> None:
        is_first, is_json = not self._data, option == "--json"
        if not is_first and (is_json or "--json" in self._flags):
            raise UsageError("--json and --data are given, or --json twice", hint="give one body")
        if is_json:
            self._flags.add(option)
        if option == "--data-urlencode":
            self._data.append(self._urlencoded(value))
        elif option == "--data-raw" or not value.startswith("@"):
            self._data.append(_bytes(value))
        else:
            content = self._content(value[1:])
            is_stripped = option in ("--data", "--data-ascii")
            self._data.append(re.sub(rb"[\r\n\0]", b"", content) if is_stripped else content)

    def _urlencoded(self, value: str) -> bytes:
        found = re.search("[=@]", value)
        if found is None:
            return quote_plus(_bytes(value)).encode()
        name, rest = value[: found.start()], value[found.end() :]
        content = _bytes(rest) if found[0] == "=" else self._content(rest)
        return _bytes(f"{name}=" if name else "") + quote_plus(content).encode()

    def _content(self, name: str) -> bytes:
        if self._read is None or name == "-":
            raise UsageError(f"@{name} is no file that can be read here", hint="give the content")
        try:
            return self._read(name)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UsageError(f"@{name} cannot be read: {reason}", hint="-d @FILE") from error

    # -- the request ---------------------------------------------------------------------

    def made(self) -> Parsed:
        """The request. Raises UsageError where there is none, or more than one."""
        url = self._url()
        body = b"&".join(self._data) if self._data else None
        if body is not None and "--get" in self._flags:
            url, body = _with_query(url, body.decode("utf-8", "surrogateescape")), None
        usual = "HEAD" if "--head" in self._flags else "GET" if body is None else "POST"
        try:
            request = Request(
                url,
                method=self._method or usual,
                headers=self._headers(has_body=body is not None) or None,
                body=body,
                proxy=self._proxy,
                timeout=self._timeout,
            )
        except SpiderError as error:
            raise UsageError(str(error), hint="correct it, or leave it out") from error
        return Parsed(request, "--insecure" in self._flags, tuple(self._notes))

    def _url(self) -> str:
        if len(self._urls) != 1:
            raise UsageError(
                f"the curl command has {len(self._urls) or 'no'} URLs: {' '.join(self._urls)}"
                if self._urls
                else "the curl command has no URL",
                hint="one URL, in quotes: curl 'https://…'",
            )
        (url,) = self._urls
        if "--globoff" not in self._flags:
            if re.search(r"(?<!\\)(\{|\[[^\]:]+-)", url):
                raise UsageError(
                    f"curl would make several URLs of {url}", hint="-g takes it as it is"
                )
            url = re.sub(r"\\([\[\]{}])", r"\1", url)
        if "://" not in url:
            self._notes.append("the URL has no scheme: http, as curl takes it")
            url = f"http://{url}"
        try:
            canonicalise(url)
        except FetchError as error:
            told = f"{url}: {error.args[0]}"
            raise UsageError(told, hint="give one like https://example.com/") from error
        return self._without_userinfo(url)

    def _without_userinfo(self, url: str) -> str:
        scheme, _, rest = url.partition("://")
        authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
        user, at, host = authority.rpartition("@")
        if not at:
            return url
        self._more.setdefault("Authorization", _basic(unquote(user)))
        return f"{scheme}://{host}{rest[len(authority) :]}"

    def _headers(self, *, has_body: bool) -> dict[str, str]:
        headers = dict(self._fields.values())
        usual = self._more.copy()
        if has_body and "--json" in self._flags:
            usual |= {"Content-Type": "application/json", "Accept": "application/json"}
        elif has_body:
            usual["Content-Type"] = FORM
        for name, value in usual.items():
            if name.lower() not in self._without.union(self._fields):
                headers[name] = value
            elif name == "Cookie" and "cookie" in self._fields:
                headers[self._fields["cookie"][0]] += f"; {value}"
        return headers


def _with_query(url: str, data: str) -> str:
    base, mark, fragment = url.partition("#")
    return f"{base}{'&' if '?' in base else '?'}{data}{mark}{fragment}"


def _basic(user: str) -> str:
    if ":" not in user:
        raise UsageError(f"-u {user} has no password", hint="-u NAME:PASSWORD")
    return f"Basic {b64encode(_bytes(user)).decode()}"


def _seconds(value: str) -> float | None:
    """None: 0, by which curl means no limit."""
    if not re.fullmatch(r"\d+(\.\d+)?(e[+-]?\d+)?", value):
        raise UsageError(f"-m {value} of curl is no number", hint="-m 30")
    return float(value) or None


def _is_undone(value: str) -> bool:
    codings = {each.partition(";")[0].strip().lower() for each in value.split(",")}
    return codings <= CODINGS


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
