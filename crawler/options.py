"""What the options of a request may be. Pure.

Owns: the check of each option by itself, and how a refusal reads.
Does not own: which options exclude one another, or what a row keeps of them (`request`).

Invariants: what passes here can be sent and stored; a refusal names the option and shows
the value, but for what may be secret: values of headers, and credentials in a proxy's URL.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

from crawler.errors import SpiderError
from crawler.units import Proxies, is_proxy, shown

__all__ = [
    "File",
    "Form",
    "are_statuses",
    "check_flag",
    "check_headers",
    "check_instant",
    "check_priority",
    "check_proxy",
    "check_seconds",
    "check_text",
    "form_pairs",
    "is_token",
    "named_files",
    "refusal",
]

Form: TypeAlias = Mapping[str, str | Sequence[str]] | Sequence[tuple[str, str]]
File: TypeAlias = bytes | tuple[str, bytes] | tuple[str, bytes, str]
"""Content, or (file name, content), or (file name, content, content type)."""

MAX_PRIORITY: Final = 2**63 - 1
"""What a database's integer holds."""
END_OF_TIME: Final = 253_402_300_800
"""The year 10,000, in seconds since 1970: what no calendar can write."""
SHOWN_LENGTH: Final = 80

_token = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch
_field_value = re.compile(r"(?:[!-~](?:[\t -~]*[!-~])?)?").fullmatch
_unsendable = re.compile(r"[^\t -~]").search


def refusal(option: str, value: object, wanted: str) -> SpiderError:
    """The error for an option that is not what it must be."""
    shown = repr(value)
    if len(shown) > SHOWN_LENGTH:
        shown = f"{shown[:SHOWN_LENGTH]}…"
    return SpiderError(f"{option} of a request must be {wanted}, not {shown}")


def is_token(text: object) -> bool:
    """Whether it can be a method or the name of a header (RFC 9110 §5.6.2)."""
    return isinstance(text, str) and _token(text) is not None


def are_statuses(value: object) -> bool:
    """Whether it is a collection of status codes: whole numbers, 100 to 999."""
    if not isinstance(value, Collection) or isinstance(value, str | bytes | Mapping):
        return False
    return all(_is_whole(status) and 100 <= status <= 999 for status in value)


def check_text(option: str, value: object) -> None:
    """Raises SpiderError for what is not text."""
    if not isinstance(value, str):
        raise refusal(option, value, "text")


def check_flag(option: str, value: object) -> None:
    """Raises SpiderError for what is not a bool."""
    if not isinstance(value, bool):
        raise refusal(option, value, "True or False")


def check_priority(value: Any) -> None:
    """Raises SpiderError for what is not a whole number that a row can hold."""
    if not _is_whole(value) or abs(value) > MAX_PRIORITY:
        raise refusal("priority", value, "a whole number of at most 64 bits")


def check_seconds(option: str, value: Any) -> None:
    """Raises SpiderError for what is not a finite number above 0."""
    if not _is_number(value) or not 0 < value < math.inf:
        raise refusal(option, value, "seconds above 0")


def check_instant(option: str, value: Any) -> None:
    """Raises SpiderError for what is not an instant that a clock can show."""
    if not _is_number(value) or not 0 <= value < END_OF_TIME:
        raise refusal(option, value, "seconds since 1970, as time.time() gives them")


def check_headers(headers: object) -> None:
    """Raises SpiderError for fields that are not sent: names that are no token, values
    beyond ASCII, with control characters, or with space around them (RFC 9110 §5.5)."""
    if not isinstance(headers, Mapping):
        raise refusal("headers", headers, "a mapping of names to values")
    for name, value in headers.items():
        if not is_token(name):
            raise SpiderError(f"header {name!r} of a request: that is no name of a header")
        if not isinstance(value, str):
            raise SpiderError(f"header {name!r} of a request must be text, not {_kind(value)}")
        if not _field_value(value):
            bad = _unsendable(value)
            what = f"{bad[0]!r} cannot be sent" if bad else "space around it cannot be sent"
            raise SpiderError(f"header {name!r} of a request must be printable ASCII: {what}")


def check_proxy(url: object) -> None:
    """Raises SpiderError for what is not `SCHEME://[user:password@]host[:port]`, the scheme
    http, https, socks5 or socks5h."""
    if not isinstance(url, str) or not is_proxy(url):
        wanted = "http://, https:// or socks5://, then [user:password@]host[:port]"
        raise refusal("proxy", shown(url, Proxies), wanted)


def form_pairs(data: Form) -> tuple[tuple[str, str], ...]:
    """The fields of a form, one pair for each value. Raises SpiderError for other shapes."""
    if isinstance(data, str | bytes) or not isinstance(data, Mapping | Collection):
        raise refusal("data", data, "a mapping of form fields, or pairs")
    fields = data.items() if isinstance(data, Mapping) else data
    return tuple(pair for field in fields for pair in _pairs_of(field))


def _pairs_of(field: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(field, tuple | list) or len(field) != 2:
        raise refusal("data", field, "made of pairs: name and value")
    name, value = field
    for part in value if isinstance(value, list | tuple) else (value,):
        if not isinstance(name, str) or not isinstance(part, str):
            raise SpiderError(f"form field {name!r} must be text: {part!r}")
        yield name, part


def named_files(files: Mapping[str, File]) -> dict[str, tuple[str, bytes, str]]:
    """File name, content and type of each file. Raises SpiderError for other shapes."""
    if not isinstance(files, Mapping):
        raise refusal("files", files, "a mapping of field names to files")
    return {name: _named_file(name, file) for name, file in files.items()}


def _named_file(name: object, file: Any) -> tuple[str, bytes, str]:
    parts = (name, file) if isinstance(file, bytes) else file
    match parts:
        case (str(filename), bytes(content)) if isinstance(name, str):
            return filename, content, "application/octet-stream"
        case (str(filename), bytes(content), str(kind)) if isinstance(name, str):
            if _field_value(kind):
                return filename, content, kind
    raise SpiderError(f"file {name!r}: give bytes, or (file name, bytes[, content type])")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _kind(value: object) -> str:
    return type(value).__name__
