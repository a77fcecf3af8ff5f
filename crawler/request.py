"""What a spider asks for: a frozen Request, and its two other forms, row and bytes.

Owns: the options of a request, which of them go together, the JSON payload that a store
keeps beside URL, method and priority, and the body that goes over the wire.
Does not own: what one option may be (`options`), canonical URLs and fingerprints (`urls`),
depth and ids (the store), or who answers the callback (`spider`).

Invariants: a request that could be made can be stored, and decode(encode(r)) == r for a
request whose callback is set; equal requests have equal body bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import fields, is_dataclass
from hashlib import blake2b
from typing import Any, Final, NamedTuple, Protocol, TypeAlias, TypedDict, Unpack
from urllib.parse import urlencode

import msgspec
from msgspec import Struct, structs

from crawler.errors import SpiderError
from crawler.options import (
    File,
    Form,
    are_statuses,
    check_flag,
    check_headers,
    check_instant,
    check_priority,
    check_proxy,
    check_seconds,
    check_text,
    form_pairs,
    is_token,
    named_files,
    refusal,
)
from crawler.units import masked

__all__ = [
    "Body",
    "Callback",
    "Request",
    "Requests",
    "Results",
    "body_bytes",
    "decode",
    "encode",
    "encode_body",
    "via_of",
]

Results: TypeAlias = object
"""What a callback answers with: an item, a Request, None, or an iterable of them; by
return or yield, from a plain or an async function. It annotates all of these forms."""

Callback: TypeAlias = Callable[..., Results]

DEFAULT_CALLBACK: Final = "parse"
_NO_STATUSES: Final[tuple[int, ...]] = ()
_checked_callbacks: set[object] = set()


class Changes(TypedDict, total=False):
    """What `Request.replace` can change: the arguments of `Request`."""

    url: str
    callback: Callback | None
    method: str
    headers: Mapping[str, str] | None
    json: Any
    data: Form | None
    body: bytes | None
    files: Mapping[str, File] | None
    priority: int
    key: str | None
    revisit: bool
    session: str | None
    proxy: str | None
    timeout: float | None
    retry: Any
    statuses: tuple[int, ...]
    not_before: float | None
    args: Mapping[str, Any]


class _Destination(Struct, frozen=True):
    """The two arguments of a Request that may be given by position."""

    url: str
    """Absolute http or https URL, as written."""
    callback: Callback | None = None
    """A method of the spider; None: its `parse`."""


class Request(_Destination, frozen=True, kw_only=True):
    """One thing to fetch. Raises SpiderError for what could not be sent or stored.

    `json`, `data` (with or without `files`) and `body` exclude one another.
    """

    method: str = "GET"
    headers: Mapping[str, str] | None = None
    """Added to, and instead of, the ones that every request gets."""
    json: Any = None
    """Sent as JSON; None: no JSON body."""
    data: Form | None = None
    """Form fields, urlencoded, or multipart beside `files`; kept as pairs."""
    body: bytes | None = None
    files: Mapping[str, File] | None = None
    """Sent as multipart/form-data; an empty mapping asks for that form without files."""
    priority: int = 0
    """Higher goes first inside its domain."""
    key: str | None = None
    """Part of the fingerprint: requests that are alike but for it are different."""
    revisit: bool = False
    """True: fetched although the URL was fetched before in this run."""
    session: str | None = None
    """Name of the session it belongs to; kept with the request, no cookies are kept yet."""
    proxy: str | None = None
    """`http://`, `https://` or `socks5://` URL of a proxy, with credentials if it asks; None:
    as the settings say."""
    timeout: float | None = None
    """Seconds for the whole exchange; None: as the settings say."""
    retry: Any = None
    """A `Retry` of plain numbers; None: the spider's."""
    statuses: tuple[int, ...] = _NO_STATUSES
    """Delivered besides 2xx and the spider's own; any collection is taken."""
    not_before: float | None = None
    """Wall-clock instant, in seconds since 1970; None: as soon as its turn comes."""
    args: Mapping[str, Any] = {}
    """Keyword arguments of the callback: JSON values."""

    def __post_init__(self) -> None:
        callback = self.callback
        if callback is not None:
            function = getattr(callback, "__func__", None)
            if function is None or function not in _checked_callbacks:
                _check_callback(callback)
        args, url = self.args, self.url
        if type(url) is not str or not url.isascii():
            _check_url(url)
        if args or type(args) is not dict:
            _check_args(args)
        if (
            self.priority != 0
            or self.timeout is not None
            or self.not_before is not None
            or self.revisit is not False
            or self.statuses is not _NO_STATUSES
        ):
            _check_numbers(self)
        if (
            self.headers is not None
            or self.json is not None
            or self.data is not None
            or self.body is not None
            or self.files is not None
            or self.retry is not None
            or self.key is not None
            or self.session is not None
            or self.proxy is not None
        ):
            _check_content(self)
        if self.method != "GET":
            _check_method(self)

    def __repr__(self) -> str:
        """All options, a proxy without its credentials."""
        return _Destination.__repr__(self if self.proxy is None else self._masked())

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """As `repr`, for those who print with rich."""
        shown = self if self.proxy is None else self._masked()
        return [(name, getattr(shown, name)) for name in self.__struct_fields__]

    def _masked(self) -> Request:
        return self.replace(proxy=masked(self.proxy or ""))

    @property
    def is_plain(self) -> bool:
        """A GET that its URL alone identifies: no body, no key, no revisit."""
        return (
            self.method == "GET"
            and self.key is None
            and not self.revisit
            and self.json is None
            and self.data is None
            and self.body is None
            and self.files is None
        )

    def replace(self, **changes: Unpack[Changes]) -> Request:
        """The same request, but for these changes. Raises SpiderError as Request does."""
        try:
            return structs.replace(self, **changes)
        except TypeError as error:
            raise SpiderError(f"Request.replace: {error}") from error


class Requests(list[Request]):
    """What `follow_all` returns: a list that can be changed as one."""

    def replace(self, **changes: Unpack[Changes]) -> Requests:
        """Each request with these changes."""
        return Requests([request.replace(**changes) for request in self])


def _check_callback(callback: Callback) -> None:
    owner, name = getattr(callback, "__self__", None), getattr(callback, "__name__", "")
    function = getattr(callback, "__func__", None)
    is_method = hasattr(owner, "callback") and not isinstance(owner, type)
    if function is None or not is_method or getattr(type(owner), name, None) is not function:
        raise SpiderError(
            f"callback {name or callback!r} is not a method of the spider: it is stored by "
            "name, so that the request outlives this process"
        )
    _checked_callbacks.add(function)


def _check_args(args: object) -> None:
    if not isinstance(args, Mapping) or not all(isinstance(name, str) for name in args):
        raise refusal("args", args, "a mapping of names to values")
    for name, value in args.items():
        _check_json(value, f"argument {name!r} of a callback")
    _encoded(args, "arguments of a callback")


def _check_json(value: Any, what: str) -> None:
    """Refuse what would come back from JSON as something else."""
    kind = type(value)
    if kind in (str, bool, int, type(None)) or (kind is float and value - value == 0):
        return
    if kind is list:
        for part in value:
            _check_json(part, what)
    elif kind is dict and all(type(key) is str for key in value):
        for part in value.values():
            _check_json(part, what)
    else:
        raise SpiderError(f"{what} is no JSON value: {value!r} ({kind.__name__})")


def _encoded(value: Any, what: str) -> bytes:
    try:
        return msgspec.json.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise SpiderError(f"{what} cannot be written as JSON: {error}") from error


def _check_url(url: object) -> None:
    check_text("url", url)
    _encoded(url, "URL of a request")


def _check_method(request: Request) -> None:
    if not is_token(request.method):
        raise refusal("method", request.method, "an HTTP method")
    structs.force_setattr(request, "method", request.method.upper())


def _check_numbers(request: Request) -> None:
    check_priority(request.priority)
    check_flag("revisit", request.revisit)
    if request.timeout is not None:
        check_seconds("timeout", request.timeout)
    if request.not_before is not None:
        check_instant("not_before", request.not_before)
    if not are_statuses(request.statuses):
        raise refusal("statuses", request.statuses, "status codes, like (404, 410)")
    structs.force_setattr(request, "statuses", tuple(request.statuses))


def _check_content(request: Request) -> None:
    has_form = request.data is not None or request.files is not None
    if (request.json is not None) + has_form + (request.body is not None) > 1:
        raise SpiderError(f"{request.url}: give one of json, data (with files) and body")
    if request.headers is not None:
        check_headers(request.headers)
    if request.body is not None and not isinstance(request.body, bytes):
        raise refusal("body", request.body, "bytes; encode text yourself")
    if request.key is not None:
        check_text("key", request.key)
    if request.session is not None:
        check_text("session", request.session)
    if request.proxy is not None:
        check_proxy(request.proxy)
    if request.data is not None:
        structs.force_setattr(request, "data", form_pairs(request.data))
    if request.files is not None:
        structs.force_setattr(request, "files", named_files(request.files))
    encode(request, request.url)


def _retry_fields(retry: object) -> dict[str, Any]:
    """The numbers of a Retry that differ from its defaults."""
    if not is_dataclass(retry) or isinstance(retry, type) or not hasattr(retry, "decide"):
        raise refusal("retry", retry, "a Retry")
    plain = type(retry)()
    changed = {
        field.name: getattr(retry, field.name)
        for field in fields(retry)
        if getattr(retry, field.name) != getattr(plain, field.name)
    }
    return {k: sorted(v) if isinstance(v, Set) else v for k, v in changed.items()}


# Rows ---------------------------------------------------------------------------------


class Owner(Protocol):
    """What a stored request needs of its spider to become one again."""

    def callback(self, name: str) -> Callback:
        """The bound method of that name. Raises SpiderError."""

    def restored_retry(self, changed: dict[str, Any]) -> object:
        """A Retry with these fields changed."""


class _Payload(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a row keeps of a request as JSON; `via` is the engine's: the redirect chain."""

    url: str | None = None
    callback: str | None = None
    args: dict[str, Any] = {}
    headers: dict[str, str] | None = None
    json: Any = None
    data: tuple[tuple[str, str], ...] | None = None
    body: bytes | None = None
    files: dict[str, tuple[str, bytes, str]] | None = None
    key: str | None = None
    revisit: bool = False
    session: str | None = None
    proxy: str | None = None
    timeout: float | None = None
    retry: dict[str, Any] | None = None
    statuses: tuple[int, ...] = ()
    not_before: float | None = None
    via: tuple[str, ...] = ()


class _Via(Struct, frozen=True):
    via: tuple[str, ...] = ()


_payloads = msgspec.json.Decoder(_Payload)
_chains = msgspec.json.Decoder(_Via)


def encode(request: Request, canonical_url: str, via: tuple[str, ...] = ()) -> str | None:
    """The payload of a row: JSON of all but URL, method and priority.

    None: a plain request to `parse`. The URL as written is kept where it differs from the
    canonical one, unless it holds credentials: those are in no row. `via` lists the URLs
    of the redirects that led here, oldest first.
    """
    name = DEFAULT_CALLBACK if request.callback is None else request.callback.__name__
    if request.url == canonical_url and not via and not _has_options(request):
        return None if name == DEFAULT_CALLBACK else f'{{"callback":"{name}"}}'
    has_userinfo = request.url.count("@") > canonical_url.count("@")
    is_kept_elsewhere = request.url == canonical_url or has_userinfo
    payload = _Payload(
        url=None if is_kept_elsewhere else request.url,
        callback=None if name == DEFAULT_CALLBACK else name,
        args=dict(request.args),
        headers=None if request.headers is None else dict(request.headers),
        json=request.json,
        data=None if request.data is None else form_pairs(request.data),
        body=request.body,
        files=None if request.files is None else named_files(request.files),
        key=request.key,
        revisit=request.revisit,
        session=request.session,
        proxy=request.proxy,
        timeout=request.timeout,
        retry=None if request.retry is None else _retry_fields(request.retry),
        statuses=tuple(request.statuses),
        not_before=request.not_before,
        via=via,
    )
    return _encoded(payload, f"the request for {request.url}").decode()


def _has_options(request: Request) -> bool:
    return (
        request.headers is not None
        or request.json is not None
        or request.data is not None
        or request.body is not None
        or request.files is not None
        or request.key is not None
        or request.session is not None
        or request.proxy is not None
        or request.timeout is not None
        or request.retry is not None
        or request.not_before is not None
        or request.revisit
        or bool(request.statuses)
        or bool(request.args)
    )


def decode(url: str, method: str, priority: int, payload: str | None, spider: Owner) -> Request:
    """The request of a row, with its callback set.

    Raises SpiderError for a callback that the spider does not have any more, and for a
    payload that cannot be read.
    """
    if payload is None:
        callback = spider.callback(DEFAULT_CALLBACK)
        return Request(url, callback, method=method, priority=priority)
    try:
        kept = _payloads.decode(payload)
    except msgspec.DecodeError as error:
        raise SpiderError(f"the stored request for {url} cannot be read: {error}") from error
    return Request(
        kept.url or url,
        spider.callback(kept.callback or DEFAULT_CALLBACK),
        method=method,
        headers=kept.headers,
        json=kept.json,
        data=kept.data,
        body=kept.body,
        files=kept.files,
        priority=priority,
        key=kept.key,
        revisit=kept.revisit,
        session=kept.session,
        proxy=kept.proxy,
        timeout=kept.timeout,
        retry=None if kept.retry is None else spider.restored_retry(kept.retry),
        statuses=kept.statuses,
        not_before=kept.not_before,
        args=kept.args,
    )


def via_of(payload: str | None) -> tuple[str, ...]:
    """The redirect chain that `encode` put into a payload, oldest first."""
    return () if payload is None else _chains.decode(payload).via


# Bytes --------------------------------------------------------------------------------


class Body(NamedTuple):
    """A request's body as it goes over the wire."""

    content_type: str | None
    """None: there is no body, or the request's headers say what it is."""
    content: bytes


def encode_body(request: Request) -> Body:
    """What is sent, the same for the same request every time."""
    if request.json is not None:
        return Body("application/json", msgspec.json.encode(request.json))
    pairs = form_pairs(request.data or ())
    if request.files is not None:
        return _multipart(pairs, request.files)
    if request.data is not None:
        return Body("application/x-www-form-urlencoded", urlencode(pairs).encode())
    return Body(None, request.body or b"")


def body_bytes(request: Request) -> bytes:
    """The body's part of the fingerprint; empty: no body."""
    return encode_body(request).content


def _multipart(pairs: Iterable[tuple[str, str]], files: Mapping[str, File]) -> Body:
    """RFC 7578; the boundary is a digest of the parts, so that it is the same each time."""
    parts = [f'name="{_quoted(name)}"\r\n\r\n'.encode() + value.encode() for name, value in pairs]
    for name, (filename, content, kind) in named_files(files).items():
        head = f'name="{_quoted(name)}"; filename="{_quoted(filename)}"\r\nContent-Type: {kind}'
        parts.append(head.encode() + b"\r\n\r\n" + content)
    digest = blake2b(digest_size=16)
    for part in parts:
        digest.update(b"%d:" % len(part) + part)
    boundary = digest.hexdigest()
    mark = f"--{boundary}".encode()
    content = b"".join(
        mark + b"\r\nContent-Disposition: form-data; " + part + b"\r\n" for part in parts
    )
    return Body(f"multipart/form-data; boundary={boundary}", content + mark + b"--\r\n")


def _quoted(name: str) -> str:
    """A name inside a multipart header (HTML §4.10.21.8)."""
    return name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
