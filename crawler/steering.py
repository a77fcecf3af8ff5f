"""Commands to a running crawl: what may be asked, as one line of JSON. Pure.

Owns: the records, the words that a person writes for them, what is no command. Does not
own: the file that carries them (`storage.beside`), carrying them out (`helm`).

Invariants: a line that cannot be read is an answer, never an exception; what `encode`
makes, `parse` reads back; a number is finite and within the bounds of its setting.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Struct

from crawler.errors import UsageError, nearest
from crawler.settings import DomainSettings, known
from crawler.settings_groups import checked, path_of

if TYPE_CHECKING:
    from storage import Line

__all__ = ["ACTIONS", "Command", "encode", "is_action", "parse", "read_action"]

ACTIONS = ("pause", "resume", "stop", "delay", "concurrency")
WITH_VALUE = ("delay", "concurrency")
Action = Literal["pause", "resume", "stop", "delay", "concurrency"]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=500)]
EXAMPLE = "crawler set pause (or resume, stop, delay=2, concurrency=4)"


class Command(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One command."""

    action: Action
    value: float | Literal["auto"] | None = None
    """Seconds of `delay` (auto: learned again), or requests of `concurrency`; else None."""
    domain: Name | None = None
    """A domain, or a pattern of `domains`; None: every one."""
    run: Name | None = None
    """Id of a run; None: every one of the session."""

    def __str__(self) -> str:
        value = "" if self.value is None else f"={_told(self.value)}"
        return f"{self.action}{value}{f' for {self.domain}' if self.domain else ''}"

    def objection(self) -> str | None:
        """Why it makes no sense; None: it does."""
        if self.action in WITH_VALUE:
            kind = DomainSettings.types[self.action]
            try:
                msgspec.convert(self.setting, kind)
            except msgspec.ValidationError:
                return f"{self.action} cannot be {self.value!r}"
        elif self.value is not None:
            return f"{self.action} takes no value"
        elif self.action == "stop" and self.domain is not None:
            return "a run stops as a whole: pause a domain, or leave it out"
        return None

    @property
    def setting(self) -> float | int | str | None:
        """The value as its setting wants it: of requests a whole number."""
        value = self.value
        if self.action == "concurrency" and isinstance(value, float) and value.is_integer():
            return int(value)
        return value


def encode(command: Command) -> bytes:
    """As one line, without its end."""
    return msgspec.json.encode(command)


def parse(line: Line) -> Command | str:
    """The command in a line of the control file, or why there is none in it."""
    if line.data is None:
        return "not understood: longer than 64 KiB"
    try:
        command = msgspec.json.decode(line.data, type=Command)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return f"not understood: {error}"
    return command.objection() or command


def is_action(word: str) -> bool:
    """Whether a word of a command line is an action and no name of a spider or file."""
    is_setting = word.startswith(("domain.", "domains.")) and not word.endswith(".db")
    return word in ACTIONS or "=" in word or is_setting


def read_action(word: str, *, domain: str | None = None, run: str | None = None) -> Command:
    """The command that a person's word means: `pause`, `delay=2`, `domain.delay=2` or
    `domains."HOST".delay=2`. Raises UsageError, with the nearest right word."""
    name, equals, raw = word.partition("=")
    name = name.strip()
    action, inner = _split(name)
    if action not in ACTIONS:
        raise _unknown(name)
    if inner is not None and domain not in (None, inner):
        raise UsageError(f"`{word}` names another domain than --domain {domain}", hint="name one")
    value: Any = None
    if action in WITH_VALUE:
        if not equals:
            example = f"{name}={'2' if action == 'delay' else '4'}"
            raise UsageError(f"`{name}` needs a value", hint=f"crawler set {example}")
        value = checked(name, raw.strip(), DomainSettings.types[action], "the command line")
    elif equals:
        raise UsageError(f"`{name}` takes no value", hint=f"crawler set {name}")
    command = Command(action=action, value=value, domain=inner or domain, run=run)  # type: ignore[arg-type]
    if (objection := command.objection()) is not None:
        raise UsageError(objection, hint=f"crawler set {name}")
    return command


def _split(name: str) -> tuple[str, str | None]:
    """Action and domain in a name, which may be that of a setting."""
    if "." not in name:
        return name, None
    key, _ = known(name, "the command line")
    group, *rest = path_of(key)
    if group == "domain" and rest[-1] in WITH_VALUE:
        return rest[-1], None
    if group == "domains" and rest[-1] in WITH_VALUE:
        return rest[-1], rest[0]
    raise UsageError(
        f"`{key}` cannot be changed while a crawl runs: only delay and concurrency can",
        hint=f"stop it, then `crawler run … -s {key}=…`",
    )


def _unknown(name: str) -> UsageError:
    best = nearest(name, ACTIONS)
    return UsageError(
        f"unknown action `{name}`", hint=f"did you mean `{best}`?" if best else EXAMPLE
    )


def _told(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"
