r"""The words of a command line in a POSIX shell, and how words are quoted for one. Pure.

Owns: single, double and `$'…'` quotes, backslashes, lines that go on. Does not own: what
the words mean (`curl`). `shlex` knows no `$'…'`, which browsers write.

Invariants: `split(join(words)) == words`; what only a running shell could do (variables,
pipes, a second command) is refused by its name.
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

from crawler.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["join", "split"]

_TOKEN = re.compile(
    r"(?P<goes_on>\\\r?\n)"
    r"|(?P<space>\s+)"
    r"|'(?P<single>[^']*)'"
    r"|\$'(?P<ansi>(?:[^'\\]|\\.)*)'"
    r'|"(?P<double>(?:[^"\\]|\\.)*)"'
    r"|\\(?P<escaped>.)"
    r"|(?P<plain>[^\s'\"\\$`|&;<>()]+|\$(?![\w{(\"'@*#?!$-]))",
    re.DOTALL,
)
_ESCAPE = re.compile(
    r"\\(?:x(?P<hex>[0-9a-fA-F]{1,2})|u(?P<short>[0-9a-fA-F]{1,4})|U(?P<long>[0-9a-fA-F]{1,8})"
    r"|(?P<octal>[0-7]{1,3})|c(?P<control>.)|(?P<letter>.))",
    re.DOTALL,
)
_LETTERS = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}
_LETTERS |= {"e": "\x1b", "E": "\x1b"}
_NEEDS = {"$": "a variable", "`": "a command in it", "|": "a pipe", "&": "a second command"}
_NEEDS |= {";": "a second command", "<": "a redirection", ">": "a redirection"}


def split(command: str) -> list[str]:
    """The words of a command; bytes that are no UTF-8 come as surrogates.

    Raises UsageError for a quote that is not closed, and for what needs a shell.
    """
    words: list[str] = []
    word: bytes | None = None
    position = 0
    while position < len(command):
        token = _TOKEN.match(command, position)
        if token is None:
            raise _refusal(command, position)
        position = token.end()
        kind, text = token.lastgroup or "", token[token.lastgroup or 0]
        if kind == "space":
            if word is not None:
                words.append(_text(word))
            word = None
        elif kind != "goes_on":
            word = (word or b"") + _piece(kind, text)
    return words if word is None else [*words, _text(word)]


def join(words: Iterable[str]) -> str:
    """The words as a command line. Raises UsageError for a NUL, which none can hold."""
    return " ".join(map(_quoted, words))


def _refusal(command: str, position: int) -> UsageError:
    char = command[position]
    if char in "'\"" or command.startswith("$'", position):
        return UsageError(
            f"a quote is not closed: {command[position : position + 40]}",
            hint="`--curl -` reads the command from stdin, with all its quotes",
        )
    what = _NEEDS.get(char, "a shell")
    return UsageError(
        f"the command needs a shell: {what} at `{command[position : position + 40]}`",
        hint="put the URL into single quotes",
    )


def _piece(kind: str, text: str) -> bytes:
    if kind == "ansi":
        return _ansi(text)
    if kind == "double":
        if found := re.search(r"(?<!\\)(?:\\\\)*(\$[\w{(]|`)", text):
            raise _refusal(text, found.start(1))
        text = re.sub(r'\\([$`"\\])', r"\1", re.sub(r"\\\r?\n", "", text))
    return _bytes(text)


def _ansi(text: str) -> bytes:
    """The content of `$'…'`; `\\x` and octal escapes are bytes."""
    parts, position = [], 0
    for found in _ESCAPE.finditer(text):
        parts.append(_bytes(text[position : found.start()]))
        position = found.end()
        value = found[found.lastgroup or 0]
        match found.lastgroup:
            case "hex":
                parts.append(bytes((int(value, 16),)))
            case "octal":
                parts.append(bytes((int(value, 8) & 0xFF,)))
            case "short" | "long":
                parts.append(_char(int(value, 16)))
            case "control":
                parts.append(bytes((ord(value.upper()) & 0x1F,)))
            case _:
                known = value in _LETTERS or value in "\\'\"?"
                parts.append(_bytes(_LETTERS.get(value, value) if known else f"\\{value}"))
    return b"".join([*parts, _bytes(text[position:])])


def _char(code: int) -> bytes:
    if code > 0x10FFFF:
        raise UsageError(f"\\U{code:x} is no character", hint="at most \\U10ffff")
    return chr(code).encode("utf-8", "surrogatepass")


def _quoted(word: str) -> str:
    if "\0" in word:
        raise UsageError("a NUL cannot stand in a command line", hint="send it from a file")
    if word.isprintable() and not any("\ud800" <= char <= "\udfff" for char in word):
        return shlex.quote(word)
    return f"$'{''.join(map(_escaped, word))}'"


def _escaped(char: str) -> str:
    if char in "\\'":
        return f"\\{char}"
    if char.isprintable():
        return char
    return "".join(f"\\x{byte:02x}" for byte in _bytes(char))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _text(word: bytes) -> str:
    if b"\0" in word:
        raise UsageError("a NUL cannot stand in a command line", hint="send it from a file")
    return word.decode("utf-8", "surrogateescape")
