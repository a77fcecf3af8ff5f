"""Numbers and foreign text as people read them. Pure.

Owns: the form of counts, durations, sizes and shares; making text from the web safe for a
terminal. Does not own: what is said.

Invariants: what `printable` returns is one line without control or bidirectional characters.
"""

from __future__ import annotations

__all__ = ["count", "duration", "plural", "printable", "share", "size"]

_DURATIONS = ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "m"), (60, "m", 1, "s"))
_SIZES = ("KiB", "MiB", "GiB", "TiB")


def count(number: int) -> str:
    """`61,114`."""
    return f"{number:,}"


def plural(number: int, noun: str, many: str | None = None) -> str:
    """`1 page`, `2,000 pages`; `many` where an `s` does not do it."""
    return f"{number:,} {noun if number == 1 else many or noun + 's'}"


def duration(seconds: float) -> str:
    """`96 ms`, `1.9 s`, `4m 09s`, `2h 04m`, `3d 02h`."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for large, large_unit, small, small_unit in _DURATIONS:
        if whole >= large:
            return f"{whole // large}{large_unit} {whole % large // small:02d}{small_unit}"
    return f"{whole} s"


def size(number: int) -> str:
    """`812 B`, `64.0 KiB`, `1.9 GiB`."""
    if number < 1024:
        return f"{number} B"
    value = float(number)
    for unit in _SIZES:
        value /= 1024
        if value < 1023.95 or unit == _SIZES[-1]:
            break
    return f"{value:.1f} {unit}"


def share(part: float) -> str:
    """A fraction as `97.4%`; 100% only when it is all."""
    text = f"{part * 100:.1f}%"
    return "99.9%" if text == "100.0%" and part < 1 else text.replace("100.0", "100")


def printable(text: str, width: int | None = None) -> str:
    """Text in one line, its unprintable characters escaped; cut at `width` (None: not cut)."""
    text = text if width is None else text[: width + 1]
    line = "".join(
        char if char.isprintable() else " " if char.isspace() else repr(char)[1:-1] for char in text
    )
    if width is None or len(line) <= width:
        return line
    return line[: max(width - 1, 0)] + "…"
