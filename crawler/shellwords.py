r"""The words of a command line in a POSIX shell, and how words are quoted for one. Pure.

Owns: `$'…'`, which browsers write and `shlex` does not know, and lines that go on. Does not
own: the other quotes (`shlex`), what the words mean (`curl`).

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

_PIECE = re.compile(
    r"(?P<goes_on>\\\r?\n)"
    r"|(?P<kept>'[^']*'|\\.)"
    r"|\$'(?P<ansi>(?:[^'\\]|\\.)*)'"
    r'|"(?P<double>(?:[^"\\]|\\.)*)"'
    r"|(?P<shell>\$[\w{(\"@*#?!$-]|[`|&;<>()])",
    re.DOTALL,
)
_DOUBLE = re.compile(r"\\(?:\r?\n|([$`])|.)|(\$[\w{(]|`)", re.DOTALL)
_ESCAPE = re.compile(
    rb"\\(?:x([0-9a-fA-F]{1,2})|([0-7]{1,3})"
    rb"|u([0-9a-fA-F]{1,4})|U([0-9a-fA-F]{1,8})|(.))",
    re.DOTALL,
)
_LETTERS = dict(zip(b"abeEfnrtv\\'\"?", b"\a\b\x1b\x1b\f\n\r\t\v\\'\"?", strict=True))
_NEEDS = {"$": "a variable", "`": "a command in it", "|": "a pipe", "&": "a second command"}
_NEEDS |= {";": "a second command", "<": "a redirection", ">": "a redirection"}


def split(command: str) -> list[str]:
    """The words of a command; bytes that are no UTF-8 come as surrogates.

    Raises UsageError for a quote that is not closed, and for what needs a shell.
    """
    try:
        words = shlex.split(_PIECE.sub(_piece, command))
    except ValueError as error:
        raise UsageError(
            "a quote of the command is not closed",
            hint="`--curl -` reads the command from stdin, with all its quotes",
        ) from error
    return [_text(_bytes(word)) for word in words]


def join(words: Iterable[str]) -> str:
    """The words as a command line."""
    return " ".join(map(_quoted, words))


def _piece(found: re.Match[str]) -> str:
    """A piece of a command as `shlex` reads it."""
    match found.lastgroup:
        case "goes_on":
            return ""
        case "ansi":
            return shlex.quote(_text(_ESCAPE.sub(_unescaped, _bytes(found["ansi"]))))
        case "double":
            return '"' + _DOUBLE.sub(_doubled, found["double"]) + '"'
        case "shell":
            raise _refusal(found.string[found.start() :])
    return found[0]


def _doubled(found: re.Match[str]) -> str:
    """What `shlex` would not undo within double quotes."""
    if found[2]:
        raise _refusal(found.string[found.start() :])
    return found[1] or ("" if found[0].endswith("\n") else found[0])


def _refusal(rest: str) -> UsageError:
    return UsageError(
        f"the command needs a shell: {_NEEDS.get(rest[0], 'a subshell')} at `{rest[:40]}`",
        hint="put the URL into single quotes",
    )


def _unescaped(found: re.Match[bytes]) -> bytes:
    """An escape of `$'…'`; `\\x` and octal ones are bytes, an unknown one is kept."""
    hexed, octal, short, long, letter = found.groups()
    if hexed or octal:
        return bytes((int(hexed or octal, 16 if hexed else 8) & 0xFF,))
    if letter:
        return bytes((_LETTERS[letter[0]],)) if letter[0] in _LETTERS else found[0]
    code = int(short or long, 16)
    if code > 0x10FFFF:
        raise UsageError(f"\\U{code:x} is no character", hint="at most \\U10ffff")
    return chr(code).encode("utf-8", "surrogatepass")


def _quoted(word: str) -> str:
    if word.isprintable():
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
    return word.decode("utf-8", "surrogateescape")
