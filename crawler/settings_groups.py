"""What a group of settings is: named fields with types, checked at once, frozen.

Owns: building, comparing and flattening a group; how a wrong value is told, and that no
value of a proxy is told with its credentials. Does not own: which groups and settings
there are (`settings`), or what a type of value may be (`units`).

Invariants: a value is in a group only if its name and type were checked; a group never
changes after it was built; certificates go unchecked only for domains that are named.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

from crawler.errors import SettingsError, nearest
from crawler.units import convert, disclosed, expected, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["SettingsGroup", "checked", "did_you_mean", "entry_name", "is_group", "path_of"]

EXPLAINED = "`crawler config --list` has the meaning and the default of every setting"
UNVERIFIED = '`domains."HOST".verify = false`: only for domains that are named'


@dataclass_transform(kw_only_default=True, frozen_default=True, eq_default=False)
class SettingsGroup:
    """Settings that belong together; built by keyword, checked at once, frozen.

    An instance holds only what it was given; the defaults are the class's attributes.
    Raises SettingsError for an unknown name or an impossible value.
    """

    types: ClassVar[Mapping[str, Any]] = {}
    """Field name to type, with its bounds and unit."""

    def __init__(self, **given: Any) -> None:
        for name, value in given.items():
            if name not in self.types:
                raise SettingsError(
                    f"unknown setting `{name}` in {type(self).__name__}",
                    hint=did_you_mean(name, self.types),
                )
            vars(self)[name] = checked(name, value, self.types[name], type(self).__name__)

    def __init_subclass__(cls) -> None:
        hints = get_type_hints(cls, include_extras=True)
        cls.types = {name: hint for name, hint in hints.items() if get_origin(hint) is not ClassVar}

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen: build another one")

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.types)

    def __hash__(self) -> int:
        scalars = {key: v for key, v in self.effective().items() if '"' not in key}
        return hash((type(self), *scalars.items()))

    def __repr__(self) -> str:
        given = ", ".join(
            f"{name}={shown(value, self.types[name])!r}" for name, value in self._given_fields()
        )
        return f"{type(self).__name__}({given})"

    def given(self) -> dict[str, Any]:
        """Dotted name to value of what was given explicitly, defaults' values included."""
        flat: dict[str, Any] = {}
        for name, value in self._given_fields():
            flat |= _flat(name, value, SettingsGroup.given)
        return flat

    def shown(self) -> dict[str, Any]:
        """What `given` says as rows and screens may have it: credentials masked."""
        flat: dict[str, Any] = {}
        for name, value in self._given_fields():
            flat |= _flat(name, shown(value, self.types[name]), SettingsGroup.shown)
        return flat

    def effective(self) -> dict[str, Any]:
        """Dotted name to value of everything, given or not."""
        flat: dict[str, Any] = {}
        for name in self.types:
            flat |= _flat(name, getattr(self, name), SettingsGroup.effective)
        return flat

    def _given_fields(self) -> Iterator[tuple[str, Any]]:
        return ((name, value) for name, value in vars(self).items() if name in self.types)


def is_group(kind: Any) -> bool:
    """Whether a field's type is a group of settings."""
    return isinstance(kind, type) and issubclass(kind, SettingsGroup)


def path_of(key: str) -> tuple[str, ...]:
    """The steps of a key as `known` gives it: `domains."a.b".delay` has three."""
    table, quote, rest = key.partition('."')
    if not quote:
        return tuple(key.split("."))
    entry, _, field = rest.rpartition('"')
    return (table, entry, field[1:]) if field else (table, entry)


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """The hint for a mistyped name."""
    if name.lower().endswith("verify"):
        return UNVERIFIED
    best = nearest(name, names)
    return f"did you mean `{best}`?" if best else "`crawler config --list` shows all settings"


def checked(key: str, raw: Any, kind: Any, origin: str) -> Any:
    """The value as its type wants it; raises SettingsError naming key, value and origin."""
    if get_origin(kind) is Mapping:
        value: Any = _entries(key, raw, kind, origin)
    elif is_group(kind):
        value = _group(key, raw, kind, origin)
    else:
        try:
            value = convert(raw, kind)
        except (TypeError, ValueError, OverflowError) as error:
            raise _refusal(key, shown(raw, kind), origin, expected(kind)) from error
    for name, inner in _flat(key, value, SettingsGroup.given).items():
        if inner is False and _names_nobody(path_of(name)):
            told = raw if name == key else inner
            wanted = "true where no domain is named"
            raise _refusal(name, told, origin, wanted, hint=UNVERIFIED)
    return value


def _refusal(
    key: str, value: Any, origin: str, wanted: str, hint: str | None = None
) -> SettingsError:
    path = path_of(key)
    named = f"domain.{path[-1]}" if path[0] == "domains" else key
    known = EXPLAINED if '"' in named or path[0] == "resolve" else f"`crawler config {named}`"
    return SettingsError(
        f"setting `{disclosed(key)}` = {value!r} (from {origin}): expected {wanted}",
        hint=hint or known,
    )


def _group(key: str, raw: Any, kind: Any, origin: str) -> SettingsGroup:
    """A group as it is; of anything else no more than its type is told: it may hold secrets."""
    if isinstance(raw, SettingsGroup) and isinstance(raw, kind):
        return raw
    raise _foreign(key, raw, origin, kind.__name__, hint=f"write {kind.__name__}(...)")


def _foreign(
    key: str, value: Any, origin: str, wanted: str, hint: str = EXPLAINED
) -> SettingsError:
    kind = type(value).__name__
    return SettingsError(
        f"setting `{disclosed(key)}` (from {origin}) is of type {kind}: expected {wanted}",
        hint=hint,
    )


def _names_nobody(path: tuple[str, ...]) -> bool:
    """Whether it is a `verify` for all domains, or of a pattern that could be any."""
    match path:
        case "domain", "verify":
            return True
        case "domains", pattern, "verify":
            return re.fullmatch(r"[*.]*(:[*\d]*)?", pattern) is not None
    return False


def _entries(key: str, raw: Any, kind: Any, origin: str) -> Mapping[str, Any]:
    name_kind, value_kind = get_args(kind)
    if not isinstance(raw, Mapping):
        if is_group(value_kind):
            hint = f'write {{"*.example.com": {value_kind.__name__}(...)}}'
            raise _foreign(key, raw, origin, "patterns", hint=hint)
        raise _refusal(key, raw, origin, "hosts with their addresses")
    return MappingProxyType(
        {
            entry_name(key, str(name), name_kind, origin): checked(
                f'{key}."{name}"', value, value_kind, origin
            )
            for name, value in raw.items()
        }
    )


def entry_name(table: str, name: str, kind: Any, origin: str) -> str:
    """The name of a table's entry as it is kept, in lower case; raises SettingsError."""
    try:
        return str(convert(name.lower(), kind))
    except ValueError as error:
        raise SettingsError(
            f"setting `{table}` (from {origin}) has {disclosed(name)!r}: expected {expected(kind)}",
            hint="-s resolve.shop.test=127.0.0.1",
        ) from error


def _flat(name: str, value: Any, how: Any) -> dict[str, Any]:
    """One field under its dotted names; of entries that are named, what they were given."""
    if isinstance(value, SettingsGroup):
        return {f"{name}.{key}": inner for key, inner in how(value).items()}
    if isinstance(value, Mapping):
        if how is SettingsGroup.effective:
            how = SettingsGroup.given
        flat: dict[str, Any] = {}
        for entry, inner in value.items():
            flat |= _flat(f'{name}."{entry}"', inner, how)
        return flat
    return {name: value}
