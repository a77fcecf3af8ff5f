"""What a person may set: one typed vocabulary, typos refused.

Owns: names, types, defaults and units of every setting, and how a wrong one is told.
Does not own: the places where they are set (`layers`), what a setting does (the part it is
named after), or flags of the command.

Invariants: a value is in effect only if its name and type were checked; settings never
change after they were built. The docstring under a field is its documentation
(`vocabulary`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Literal,
    NamedTuple,
    dataclass_transform,
    get_origin,
    get_type_hints,
)

import msgspec

from crawler.errors import SettingsError, nearest
from crawler.units import Bytes, Count, HeaderText, Patience, Seconds, Text, convert, expected

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = [
    "BodySettings",
    "DomainSettings",
    "Field",
    "PoolSettings",
    "RobotsSettings",
    "Settings",
    "SettingsGroup",
    "TimeoutSettings",
    "TlsSettings",
    "UnfinishedSettings",
    "checked",
    "did_you_mean",
    "known",
    "setting_types",
    "vocabulary",
]

KIB = 1024
MIB = 1024 * KIB


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
        scalars = {key: v for key, v in self.effective().items() if not key.startswith("domains.")}
        return hash((type(self), *scalars.items()))

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self._given_fields())
        return f"{type(self).__name__}({given})"

    def given(self) -> dict[str, Any]:
        """Dotted name to value of what was given explicitly, defaults' values included."""
        flat: dict[str, Any] = {}
        for name, value in self._given_fields():
            flat |= _flat(name, value, SettingsGroup.given)
        return flat

    def effective(self) -> dict[str, Any]:
        """Dotted name to value of everything, given or not."""
        flat: dict[str, Any] = {}
        for name in self.types:
            flat |= _flat(name, getattr(self, name), SettingsGroup.effective)
        return flat

    def _given_fields(self) -> Iterator[tuple[str, Any]]:
        return ((name, value) for name, value in vars(self).items() if name in self.types)


class UnfinishedSettings(SettingsGroup):
    """Bound on pages that are received but not yet stored."""

    pages: Count = 2_000
    """Pages received and not yet committed, beyond which nothing new is sent."""
    bytes: Bytes = 64 * MIB
    """Bytes of such pages, beyond which nothing new is sent."""


class DomainSettings(SettingsGroup):
    """How one domain is treated."""

    concurrency: Count = 8
    """Requests on the wire to one domain at once; reached only while it is healthy, from 1."""
    delay: Seconds | Literal["auto"] = "auto"
    """Seconds between starts; auto: twice the time to first byte, 0.25 to 2 s; 0: no pause."""
    group: Literal["host", "site"] = "host"
    """What one domain is: a host with its port, or all hosts of a registrable domain."""
    give_up: Seconds = 3_600.0
    """Seconds an unreachable domain is tried before its queue is failed; 0: at the first."""
    probes: Count = 8
    """Failed attempts in a row to reach a domain before its queue is failed."""


class PoolSettings(SettingsGroup):
    """The client cache and its sockets."""

    clients: Count = 256
    """HTTP clients kept at once, one per domain; the least recently used idle one goes."""
    sockets: Count | None = None
    """Sockets open at once over all domains; None: from the descriptor limit, at most 1,024."""
    keepalive: Seconds = 15.0
    """Seconds an idle connection is kept for reuse; 0: each is closed after one request."""


class TimeoutSettings(SettingsGroup):
    """Patience with one request."""

    connect: Patience = 10.0
    """Seconds to resolve, connect and shake hands."""
    head: Patience = 20.0
    """Seconds from sending the request to the end of the answer's head."""
    read: Patience = 20.0
    """Seconds without a byte of the body."""
    total: Patience = 300.0
    """Seconds for the whole page, from sending to the last byte."""


class BodySettings(SettingsGroup):
    """How large a page may be."""

    wire: Bytes = 32 * MIB
    """Bytes of a body as received, before decoding."""
    decoded: Bytes | None = None
    """Bytes of a body after decoding; None: 10 MiB for text and 32 MiB for anything else."""


class RobotsSettings(SettingsGroup):
    """The robots exclusion protocol (RFC 9309)."""

    obey: bool = True
    """Whether robots.txt is fetched and obeyed."""
    bytes: Bytes = 500 * KIB
    """Bytes of robots.txt that are read; the rest is ignored (RFC 9309 §2.5)."""
    cache: Seconds = 86_400.0
    """Seconds a robots.txt holds (RFC 9309 §2.4: at most 24 h); 0: asked anew each time."""


class TlsSettings(SettingsGroup):
    """Whom the crawl trusts."""

    verify: bool = True
    """Whether certificates are checked; false: anybody may pose as the site."""
    ca_file: Text | None = None
    """File with the authorities to trust (PEM); None: Mozilla's, as certifi ships them."""


class Settings(SettingsGroup):
    """All settings of a crawl."""

    concurrency: Count = 256
    """Requests on the wire at once over all domains."""
    unfinished: UnfinishedSettings = UnfinishedSettings()
    domain: DomainSettings = DomainSettings()
    domains: Mapping[str, DomainSettings] = MappingProxyType({})
    """The `domain` settings for some domains, by pattern: `domains."*.example.com".delay = 2`."""
    pool: PoolSettings = PoolSettings()
    timeout: TimeoutSettings = TimeoutSettings()
    body: BodySettings = BodySettings()
    robots: RobotsSettings = RobotsSettings()
    tls: TlsSettings = TlsSettings()
    redirects: Annotated[int, msgspec.Meta(ge=0)] = 10
    """Redirects followed in a chain; 0: none, a redirect is a failure."""
    limit: Count | None = None
    """Pages after which the run ends, done or not; None: no limit."""
    max_time: Patience | None = None
    """Seconds after which the run ends, done or not; None: no limit."""
    patience: Seconds = 600.0
    """Seconds to sit waiting when nothing can start; 0: end at once with state `waiting`."""
    user_agent: HeaderText | None = None
    """The User-Agent header; None: name and version of the spider's crawler."""
    contact: HeaderText | None = None
    """URL or mail address added to the User-Agent; None: nothing is added."""
    on_error: Literal["keep", "drop"] = "keep"
    """What a callback yielded before it raised: kept with the error, or dropped."""

    @property
    def origins(self) -> Mapping[str, str]:
        """Dotted name to the layer a value came from; a name that is not here is a default."""
        return MappingProxyType(vars(self).get("_origins", {}))

    def for_domain(self, name: str) -> DomainSettings:
        """The settings of one domain (`host` or `host:port`).

        Every matching pattern gives its fields; of two that give the same, the longest
        wins. A pattern without a port matches the host on any port.
        """
        if not self.domains:
            return self.domain
        matching = tuple(pattern for pattern in self.domains if _matches(pattern, name))
        merged: dict[tuple[str, ...], DomainSettings] = vars(self).setdefault("_merged", {})
        if matching not in merged:
            given = self.domain.given()
            for pattern in sorted(matching, key=lambda text: (len(text), text)):
                given |= self.domains[pattern].given()
            merged[matching] = DomainSettings(**given)
        return merged[matching]


class Field(NamedTuple):
    """One setting, as documentation shows it."""

    key: str
    """Dotted name."""
    default: Any
    expected: str
    """What a value must be, in words."""
    doc: str


def vocabulary() -> list[Field]:
    """Every setting with default, meaning and unit, in the order of the source."""
    import ast
    import inspect
    import sys

    docs: dict[tuple[str, str], str] = {}
    for node in ast.parse(inspect.getsource(sys.modules[__name__])).body:
        if isinstance(node, ast.ClassDef):
            for field, text in zip(node.body, node.body[1:], strict=False):
                match field, text:
                    case (
                        ast.AnnAssign(target=ast.Name(id=name)),
                        ast.Expr(value=ast.Constant(value=str(doc))),
                    ):
                        docs[node.name, name] = inspect.cleandoc(doc)
    defaults = Settings().effective()
    fields = []
    for key, kind in setting_types().items():
        group, _, name = key.rpartition(".")
        owner = type(getattr(Settings, group)) if group else Settings
        fields.append(Field(key, defaults[key], expected(kind), docs[owner.__name__, name]))
    return fields


# ── names ────────────────────────────────────────────────────────────────────────────────


@lru_cache(maxsize=1)
def setting_types() -> Mapping[str, Any]:
    """Dotted name of every setting to its type, `domains` apart."""
    types: dict[str, Any] = {}
    for name, kind in Settings.types.items():
        default = getattr(Settings, name)
        if isinstance(default, SettingsGroup):
            types |= {f"{name}.{inner}": kind for inner, kind in default.types.items()}
        elif name != "domains":
            types[name] = kind
    return MappingProxyType(types)


def known(written: str, origin: str) -> tuple[str, Any]:
    """The key as it is kept, and its type."""
    key = written.strip()
    if key in setting_types():
        return key, setting_types()[key]
    names: Iterable[str] = setting_types()
    if key.startswith("domains."):
        pattern, _, name = key.removeprefix("domains.").rpartition(".")
        pattern = pattern.strip("\"'").lower()
        if pattern and name in DomainSettings.types:
            return f'domains."{pattern}".{name}', DomainSettings.types[name]
        names = [
            f'domains."{pattern or "*.example.com"}".{field}' for field in DomainSettings.types
        ]
    elif inner := [name for name in names if name.startswith(f"{key}.")]:
        raise SettingsError(
            f"`{key}` (from {origin}) is a group of settings",
            hint=f"name one of them: {_listed(inner)}",
        )
    siblings = [name for name in names if name.startswith(f"{key.partition('.')[0]}.")]
    hint = f"the group has {_listed(siblings)}" if siblings and not nearest(key, names) else None
    raise SettingsError(
        f"unknown setting `{written}` (from {origin})", hint=hint or did_you_mean(key, names)
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """The hint for a mistyped name."""
    best = nearest(name, names)
    return f"did you mean `{best}`?" if best else "`crawler config --list` shows all settings"


@lru_cache(maxsize=256)
def _pattern(pattern: str) -> re.Pattern[str]:
    text = ".*".join(re.escape(part) for part in pattern.lower().split("*"))
    return re.compile(text if re.search(r":(\d+|\*)$", pattern) else rf"{text}(:\d+)?")


def _matches(pattern: str, name: str) -> bool:
    return _pattern(pattern).fullmatch(name) is not None


def checked(key: str, raw: Any, kind: Any, origin: str) -> Any:
    """The value as its type wants it; raises SettingsError naming key, value and origin."""
    if get_origin(kind) is Mapping:
        return _patterns(key, raw, origin)
    is_group = isinstance(kind, type) and issubclass(kind, SettingsGroup)
    if is_group and isinstance(raw, kind):
        return raw
    try:
        return convert(raw, kind)
    except (TypeError, ValueError, OverflowError) as error:
        raise SettingsError(
            f"setting `{key}` = {raw!r} (from {origin}): expected {expected(kind)}"
        ) from error


def _patterns(key: str, raw: Any, origin: str) -> Mapping[str, DomainSettings]:
    if not isinstance(raw, Mapping):
        raise SettingsError(f"setting `{key}` = {raw!r} (from {origin}): expected patterns")
    return MappingProxyType(
        {
            str(pattern).lower(): checked(f'{key}."{pattern}"', group, DomainSettings, origin)
            for pattern, group in raw.items()
        }
    )


def _flat(name: str, value: Any, how: Any) -> dict[str, Any]:
    """One field under its dotted names."""
    if isinstance(value, SettingsGroup):
        return {f"{name}.{key}": inner for key, inner in how(value).items()}
    if isinstance(value, Mapping):
        return {
            f'{name}."{pattern}".{key}': inner
            for pattern, group in value.items()
            for key, inner in group.given().items()
        }
    return {name: value}
