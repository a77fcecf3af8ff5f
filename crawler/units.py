"""Values as people write them: durations, sizes, addresses, proxies, choices. Pure.

Owns: `2h` and `32MiB`, the bounded types of settings, how a type is told in words, and
what of a value may be shown. Does not own: which setting has which type (`settings`).

Invariants: a number means seconds or bytes; a value that is converted again stays as it is;
NaN and infinity are refused; what `shown` gives holds no credentials of a proxy.
"""

from __future__ import annotations

import math
import re
from ipaddress import ip_address
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, NamedTuple, get_args, get_origin

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "Address",
    "Addresses",
    "Bytes",
    "Count",
    "HeaderText",
    "HostName",
    "Patience",
    "Proxies",
    "Rate",
    "Seconds",
    "Text",
    "Whole",
    "convert",
    "disclosed",
    "expected",
    "is_proxy",
    "masked",
    "parse_addresses",
    "parse_duration",
    "parse_host",
    "parse_proxies",
    "parse_size",
    "shown",
]

Seconds = Annotated[float, msgspec.Meta(ge=0, extra={"unit": "seconds"})]
Patience = Annotated[float, msgspec.Meta(gt=0, extra={"unit": "seconds"})]
"""Seconds of which none would make no sense."""
Bytes = Annotated[int, msgspec.Meta(ge=1, extra={"unit": "bytes"})]
Rate = Annotated[int, msgspec.Meta(ge=0, extra={"unit": "bytes"})]
"""Bytes a second; 0 stands for no bound."""
Count = Annotated[int, msgspec.Meta(ge=1)]
Whole = Annotated[int, msgspec.Meta(ge=0)]
Text = Annotated[str, msgspec.Meta(min_length=1)]
HeaderText = Annotated[str, msgspec.Meta(pattern=r"\A[!-~](?:[ -~]*[!-~])?\Z")]
"""What a header can carry: printable ASCII without space around it (RFC 9110 §5.5)."""
HostName = Annotated[str, msgspec.Meta(extra={"unit": "host"})]
"""A name without scheme and port, as URLs have it: lower case, IDNA; no literal address."""
Address = Annotated[str, msgspec.Meta(extra={"unit": "address"})]
"""A literal IPv4 or IPv6 address."""
Addresses = Annotated[str, msgspec.Meta(extra={"unit": "addresses"})]
"""Literal addresses, separated by commas, at least one; a list of them is joined."""
Proxies = Annotated[tuple[str, ...], msgspec.Meta(extra={"unit": "proxies"})]
"""URLs of proxies; of text, what commas separate."""

DURATIONS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
SIZES = {"": 1, "b": 1} | {
    f"{letter}{suffix}": factor**power
    for power, letter in enumerate("kmgt", start=1)
    for suffix, factor in (("ib", 1024), ("b", 1000))
}
_NUMBER = r"\d+(?:\.\d+)?"

_proxy = re.compile(
    r"(?:https?|socks5h?)://(?:[^\s/?#@,\\\x00-\x20\x7f\ud800-\udfff]*@)?(\[[0-9a-f:.]+\]|[\w.-]+)(?::(\d{1,5}))?/?",
    re.IGNORECASE,
).fullmatch
_host = re.compile(r"[^\s/?#@:\\*%,.\[\]]+(?:\.[^\s/?#@:\\*%,.\[\]]+)*\.?").fullmatch


def parse_duration(text: str) -> float:
    """Seconds in `90`, `1.5s`, `500ms`, `10m`, `2h`, `1h30m` or `7d`; raises ValueError."""
    lowered = text.strip().lower()
    if re.fullmatch(_NUMBER, lowered):
        return float(lowered)
    if not re.fullmatch(rf"(?:{_NUMBER}(?:ms|s|min|m|h|d)\s*)+", lowered):
        raise ValueError(f"not a duration: {text!r}")
    parts = re.findall(rf"({_NUMBER})(ms|s|min|m|h|d)", lowered)
    return math.fsum(float(number) * DURATIONS[unit] for number, unit in parts)


def parse_size(text: str) -> int:
    """Bytes in `65536`, `64KiB`, `1.5MiB` or `10MB` (decimal); raises ValueError."""
    found = re.fullmatch(rf"({_NUMBER})\s*([a-z]*)", text.strip().lower())
    if found is None or found[2] not in SIZES:
        raise ValueError(f"not a size: {text!r}")
    number = int(found[1]) if found[1].isdigit() else float(found[1])
    return int(number * SIZES[found[2]])


def parse_host(text: str) -> str:
    """The name of a host as URLs have it: `Bücher.example` is `xn--bcher-kva.example`.

    Raises ValueError for what has a scheme, port or path, and for a literal address: that
    is never looked up.
    """
    host = _serialised(text)
    if _is_address(host):
        raise ValueError("an address, not a name")
    return host


def parse_addresses(text: str) -> tuple[str, ...]:
    """The addresses in `127.0.0.2` or `192.0.2.1, 2001:db8::1`, each as it is written
    shortest; raises ValueError for anything else and for none."""
    return tuple(str(ip_address(part.strip())) for part in text.split(","))


def parse_proxies(text: str) -> tuple[str, ...]:
    """The URLs in `http://a:3128, socks5://b:1080`; `none` and nothing are no proxy."""
    if text.strip().lower() in ("", "none"):
        return ()
    return tuple(part.strip() for part in re.split(r",(?=\s*[a-zA-Z0-9]*://)", text))


def is_proxy(url: str) -> bool:
    """Whether it is `SCHEME://[user[:password]@]host[:port]`, the scheme one of http,
    https, socks5 and socks5h; `@`, `,`, `/`, `?` and `#` of a password percent-encoded."""
    found = _proxy(url)
    if found is None or not 0 < int(found[2] or 80) < 65_536:
        return False
    host = found[1]
    if host.startswith("["):
        return _is_address(host.strip("[]"))
    try:
        return bool(_serialised(host))
    except ValueError:
        return False


def masked(url: str) -> str:
    """A proxy's URL, right or wrong, as it may be shown: with `***` for credentials."""
    scheme, separator, rest = url.partition("://") if "://" in url else ("", "", url)
    _, at, place = rest.rpartition("@")
    place = re.sub(r":(?!\d*/?$)[^\]]*$", ":***", place)
    who = "***@" if at else ""
    if "@" in scheme:
        scheme = "***"
    return f"{scheme}{separator}{who}{place}"


def disclosed(text: str) -> str:
    """What a person typed in the wrong place, as it may be shown: `masked` where it holds
    something like a proxy's URL, else as it is."""
    return masked(text) if "@" in text or "://" in text else text


def shown(value: Any, kind: Any) -> Any:
    """A value of a type, or what was given for one, as it may be shown and stored."""
    if _unit(kind) != "proxies":
        return value
    match value:
        case str():
            return ",".join(map(masked, parse_proxies(value))) or value
        case list() | tuple() | set() | frozenset():
            return tuple(shown(each, kind) for each in value)
        case int() | float() | None:
            return value
    return type(value).__name__


def _settled_proxies(urls: tuple[str, ...]) -> tuple[str, ...]:
    for url in urls:
        if not is_proxy(url):
            raise ValueError(f"not a proxy: {masked(url)!r}")
    return urls


def _settled_seconds(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"not a finite number: {value!r}")
    return value


def _serialised(host: str) -> str:
    """A host without port as URLs have it (URL Standard §3.5); raises ValueError."""
    import ada_url

    if not _host(host):
        raise ValueError("not a host")
    return str(ada_url.normalize_url(f"http://{host}/"))[len("http://") : -1]


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _same(value: Any) -> Any:
    return value


def _joined(value: Any) -> Any:
    is_list = isinstance(value, list | tuple) and all(isinstance(part, str) for part in value)
    return ",".join(value) if is_list else value


class _Form(NamedTuple):
    """How values with one unit are written."""

    words: str
    read: Callable[[str], Any] = _same
    """Text to what the type is converted from."""
    settle: Callable[[Any], Any] = _same
    """A converted value to its one form; raises ValueError."""
    gather: Callable[[Any], Any] = _same
    """What is no text to what the type is converted from."""


FORMS: Final = {
    "seconds": _Form("seconds", parse_duration, _settled_seconds),
    "bytes": _Form("bytes, {} or more (65536, '32MiB')", parse_size),
    "host": _Form("the name of a host, without scheme and port", settle=parse_host),
    "address": _Form("an address (192.0.2.1, 2001:db8::1)", settle=lambda v: str(ip_address(v))),
    "addresses": _Form(
        "addresses (192.0.2.1, 2001:db8::1), separated by commas, or a list of them",
        settle=lambda value: ",".join(parse_addresses(value)),
        gather=_joined,
    ),
    "proxies": _Form(
        "proxies, separated by commas: SCHEME://[user:password@]host[:port],"
        " SCHEME one of http, https, socks5, socks5h",
        parse_proxies,
        _settled_proxies,
    ),
}
"""Unit to how it is written."""


def convert(raw: Any, kind: Any) -> Any:
    """A value as `kind` wants it; text is read the way a person writes it.

    Raises ValueError or TypeError.
    """
    unit = _unit(kind)
    if not isinstance(raw, str):
        value = msgspec.convert(raw if unit is None else FORMS[unit].gather(raw), kind)
    else:
        value = msgspec.convert(_read(raw, kind), kind, strict=False)
    return value if unit is None or value in (None, "auto") else FORMS[unit].settle(value)


def _read(text: str, kind: Any) -> Any:
    if text.lower() == "none" and type(None) in get_args(kind):
        return None
    unit = _unit(kind)
    return text if unit is None or text == "auto" else FORMS[unit].read(text)


def _unit(kind: Any) -> str | None:
    for part in (kind, *get_args(kind)):
        for meta in getattr(part, "__metadata__", ()):
            if meta.extra:
                return str(meta.extra["unit"])
    return None


def expected(kind: Any) -> str:
    """A type in words."""
    if get_origin(kind) is Literal:
        return " or ".join(repr(choice) for choice in get_args(kind))
    if get_origin(kind) is Annotated:
        inner, meta = get_args(kind)
        if (unit := _unit(kind)) == "seconds":
            return f"seconds{' above 0' if meta.gt == 0 else ', 0 or more'} (90, '2h', '500ms')"
        if unit is not None:
            return FORMS[unit].words.format(meta.ge)
        if inner is str:
            return "a text of printable ASCII" if meta.pattern else "a text"
        return f"a whole number, {meta.ge} or more"
    if args := get_args(kind):
        return ", or ".join("none" if arg is type(None) else expected(arg) for arg in args)
    return {bool: "true or false"}.get(kind, str(getattr(kind, "__name__", kind)))
