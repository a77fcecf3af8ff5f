"""Values as people write them: durations, sizes, choices. Pure.

Owns: `2h` and `32MiB`, the bounded types of settings, and how a type is told in words.
Does not own: which setting has which type (`settings`).

Invariants: a number means seconds or bytes; a value that is converted again stays as it is;
NaN and infinity are refused.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec

__all__ = [
    "Bytes",
    "Count",
    "HeaderText",
    "Patience",
    "Seconds",
    "Text",
    "convert",
    "expected",
    "parse_duration",
    "parse_size",
]

Seconds = Annotated[float, msgspec.Meta(ge=0, extra={"unit": "seconds"})]
Patience = Annotated[float, msgspec.Meta(gt=0, extra={"unit": "seconds"})]
"""Seconds of which none would make no sense."""
Bytes = Annotated[int, msgspec.Meta(ge=1, extra={"unit": "bytes"})]
Count = Annotated[int, msgspec.Meta(ge=1)]
Text = Annotated[str, msgspec.Meta(min_length=1)]
HeaderText = Annotated[str, msgspec.Meta(pattern=r"\A[!-~](?:[ -~]*[!-~])?\Z")]
"""What a header can carry: printable ASCII without space around it (RFC 9110 §5.5)."""

DURATIONS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
SIZES = {"": 1, "b": 1} | {
    f"{letter}{suffix}": factor**power
    for power, letter in enumerate("kmgt", start=1)
    for suffix, factor in (("ib", 1024), ("b", 1000))
}
_NUMBER = r"\d+(?:\.\d+)?"


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


def convert(raw: Any, kind: Any) -> Any:
    """A value as `kind` wants it; text is read the way a person writes it.

    Raises ValueError or TypeError.
    """
    if not isinstance(raw, str):
        value = msgspec.convert(raw, kind)
    else:
        value = msgspec.convert(_read(raw, kind), kind, strict=False)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"not a finite number: {raw!r}")
    return value


def _read(text: str, kind: Any) -> Any:
    if text.lower() == "none" and type(None) in get_args(kind):
        return None
    unit = _unit(kind)
    if unit is None or text == "auto":
        return text
    return parse_duration(text) if unit == "seconds" else parse_size(text)


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
            return f"seconds{' above 0' if meta.gt == 0 else ''} (90, '2h', '500ms')"
        if unit == "bytes":
            return "bytes (65536, '32MiB')"
        if inner is str:
            return "a text of printable ASCII" if meta.pattern else "a text"
        return f"a whole number, {meta.ge} or more"
    if args := get_args(kind):
        return ", or ".join("none" if arg is type(None) else expected(arg) for arg in args)
    return {bool: "true or false"}.get(kind, str(getattr(kind, "__name__", kind)))
