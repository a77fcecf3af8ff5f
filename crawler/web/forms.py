"""What a browser would send for a form: the entries it holds, its method and its target.

Owns: the form data set (HTML §4.10.22.4) of a parsed form that nobody has typed into, and
the changes a caller makes to it. Pure: reads Lexbor nodes, knows no request.
Does not own: scripts, file inputs, and which button was clicked (none).

Invariants: entries keep document order; a disabled control sends nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlencode

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from selectolax.lexbor import LexborHTMLParser, LexborNode

__all__ = ["Form", "changed", "read_form", "with_query"]

Entry = tuple[str, str]
SILENT = frozenset({"submit", "button", "image", "reset", "file"})


class Form(NamedTuple):
    """A form as it stands in the page."""

    method: str
    """GET or POST."""
    action: str
    """As written; empty: the page's own URL."""
    is_multipart: bool
    entries: tuple[Entry, ...]


def read_form(form: LexborNode, page: LexborHTMLParser) -> Form:
    """The form with the values that the page gives its controls."""
    attributes = form.attributes
    controls = form.css("input, select, textarea")
    name = attributes.get("id")
    if name:
        controls += [
            control
            for control in page.css("input[form], select[form], textarea[form]")
            if control.attributes.get("form") == name and control not in controls
        ]
    is_post = (attributes.get("method") or "").strip().lower() == "post"
    enctype = (attributes.get("enctype") or "").strip().lower()
    return Form(
        method="POST" if is_post else "GET",
        action=(attributes.get("action") or "").strip(),
        is_multipart=is_post and enctype == "multipart/form-data",
        entries=tuple(entry for control in controls for entry in _entries(control)),
    )


def _entries(control: LexborNode) -> Iterator[Entry]:
    attributes = control.attributes
    name = attributes.get("name")
    if not name or "disabled" in attributes:
        return
    if control.tag == "select":
        for value in _selected(control):
            yield name, value
    elif control.tag == "textarea":
        yield name, control.text().removeprefix("\n")
    else:
        kind = (attributes.get("type") or "text").lower()
        is_box = kind in ("checkbox", "radio")
        if kind not in SILENT and (not is_box or "checked" in attributes):
            yield name, attributes.get("value") or ("on" if is_box else "")


def _selected(control: LexborNode) -> list[str]:
    options = [option for option in control.css("option") if "disabled" not in option.attributes]
    chosen = [option for option in options if "selected" in option.attributes]
    if "multiple" not in control.attributes:
        chosen = (chosen or options[:1])[-1:]
    return [_option_value(option) for option in chosen]


def _option_value(option: LexborNode) -> str:
    value = option.attributes.get("value", option)
    return option.text().strip() if value is option else str(value or "")


def changed(
    entries: Sequence[Entry], changes: dict[str, str | Sequence[str] | None]
) -> tuple[Entry, ...]:
    """Entries with these values instead, in their first one's place; None removes a field.

    A field that the form does not have is added at the end: scripts add such fields too.
    """
    result: list[Entry] = []
    left = dict(changes)
    for name, value in entries:
        if name not in changes:
            result.append((name, value))
        elif name in left:
            result += _named(name, left.pop(name))
    for name, given in left.items():
        result += _named(name, given)
    return tuple(result)


def _named(name: str, value: str | Sequence[str] | None) -> list[Entry]:
    if value is None:
        return []
    return [(name, part) for part in ((value,) if isinstance(value, str) else value)]


def with_query(url: str, entries: Sequence[Entry]) -> str:
    """The target of a GET form: the action's own query is replaced (HTML §4.10.22.3)."""
    return f"{url.partition('#')[0].partition('?')[0]}?{urlencode(entries)}"
