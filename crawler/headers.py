"""Header fields of an answer, and what they say about the body's type and charset.

Owns: the case-insensitive view over raw fields; the labels that may name a charset.
Does not own: which of BOM, header and document wins (`response`).

Invariants: fields keep their order and their spelling; nothing is decoded before it is
asked for; a label decides only between known text encodings (WHATWG Encoding Standard
§4.2), so a server cannot name `utf-7`, `idna` or a codec that is no encoding at all.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Headers", "bom_charset", "charset_of", "is_html", "media_type"]

RawHeaders = Iterable[tuple[bytes, bytes]]

LABELS: Final = {
    "ascii": "cp1252",
    "us-ascii": "cp1252",
    "iso-8859-1": "cp1252",
    "iso8859-1": "cp1252",
    "latin1": "cp1252",
    "latin-1": "cp1252",
    "iso-8859-8-i": "iso8859-8",
    "iso-8859-9": "cp1254",
    "iso-8859-11": "cp874",
    "tis-620": "cp874",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "x-gbk": "gb18030",
    "big5": "big5hkscs",
    "shift_jis": "cp932",
    "shift-jis": "cp932",
    "x-sjis": "cp932",
    "sjis": "cp932",
    "euc-kr": "cp949",
    "ks_c_5601-1987": "cp949",
    "utf-16": "utf-16-le",
    "x-mac-cyrillic": "mac-cyrillic",
    "macintosh": "mac-roman",
}
"""Labels that the web means differently than Python's codec registry does."""

_NAMES: Final = (
    "utf-8 utf-16-le utf-16-be gb18030 big5hkscs cp932 cp949 cp866 cp874 euc_jp iso2022_jp "
    "koi8-r koi8-u mac-roman mac-cyrillic cp1250 cp1251 cp1252 cp1253 cp1254 cp1255 cp1256 "
    "cp1257 cp1258 iso8859-2 iso8859-3 iso8859-4 iso8859-5 iso8859-6 iso8859-7 iso8859-8 "
    "iso8859-10 iso8859-13 iso8859-14 iso8859-15 iso8859-16"
)
ENCODINGS: Final = frozenset(_NAMES.split())
"""Python's names of the encodings that a label may lead to."""

BOMS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


class Headers(Mapping[str, str]):
    """Header fields, found whatever the case of their name (RFC 9110 §5.1). Immutable.

    Several fields of one name read as one value joined by commas (RFC 9110 §5.2), except
    by `get_all`, which keeps them apart as Set-Cookie needs.
    """

    __slots__ = ("_fields",)

    def __init__(self, raw: RawHeaders = ()) -> None:
        fields: dict[str, list[str]] = {}
        for name, value in raw:
            fields.setdefault(name.decode("latin-1").lower(), []).append(_text(value))
        self._fields = fields

    def __getitem__(self, name: str) -> str:
        return ", ".join(self._fields[name.lower()])

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._fields

    def __repr__(self) -> str:
        return f"<Headers {len(self)}: {', '.join(self)}>"

    def get_all(self, name: str) -> list[str]:
        """Every value of a name, in order; none: an empty list."""
        return list(self._fields.get(name.lower(), ()))


def _text(value: bytes) -> str:
    try:
        return value.decode("ascii").strip()
    except UnicodeDecodeError:
        return value.decode("utf-8", "surrogateescape").encode("utf-8", "replace").decode()


@lru_cache(maxsize=512)
def media_type(content_type: str | None) -> str:
    """`text/html` of `Text/HTML; charset=x`; an absent header is the empty string."""
    return (content_type or "").partition(";")[0].strip().lower()


def is_html(content_type: str | None) -> bool:
    """Whether a header announces HTML or XHTML; an absent header does not."""
    return media_type(content_type) in ("text/html", "application/xhtml+xml")


@lru_cache(maxsize=512)
def charset_of(content_type: str | None) -> str | None:
    """Python's name of the charset that a Content-Type names; None: none that is known."""
    for parameter in (content_type or "").split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            return _encoding(value.strip().strip("\"'").strip().lower())
    return None


def bom_charset(body: bytes) -> str | None:
    """What a byte order mark says; None: there is none."""
    return next((charset for bom, charset in BOMS if body.startswith(bom)), None)


def _encoding(label: str) -> str | None:
    try:
        name = codecs.lookup(LABELS.get(label, label)).name
    except (LookupError, ValueError):
        return None
    return name if name in ENCODINGS else None
