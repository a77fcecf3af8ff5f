"""What a person may set: one typed vocabulary, typos refused.

Owns: names, types, defaults and units of every setting, and how a wrong name is told.
Does not own: the checks of a value (`settings_groups`), the places where they are set
(`layers`), what a setting does (the part it is named after), or flags of the command.

Invariant: the docstring under a field is its documentation (`vocabulary`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args, get_origin

from crawler.errors import SettingsError, nearest
from crawler.settings_groups import SettingsGroup, did_you_mean, entry_name, is_group
from crawler.units import (
    Address,
    Addresses,
    Bytes,
    Count,
    HeaderText,
    HostName,
    Patience,
    Proxies,
    Rate,
    Seconds,
    Text,
    Whole,
    disclosed,
    expected,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "BodySettings",
    "DomainSettings",
    "Field",
    "HeadSettings",
    "PoolSettings",
    "RobotsSettings",
    "Settings",
    "SettingsGroup",
    "TimeoutSettings",
    "TlsSettings",
    "UnfinishedSettings",
    "known",
    "matches",
    "setting_types",
    "tables",
    "vocabulary",
]

KIB = 1024
MIB = 1024 * KIB


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
    http2: bool = False
    """Whether HTTP/2 is offered in the TLS handshake; needs the extra `http2`."""
    proxies: Proxies = ()
    """Proxies to send through: one, or several in turn, a failing one rests; None: direct."""
    verify: bool = True
    """Whether certificates are checked; false, for named domains only: anybody may pose."""
    local_address: Address | None = None
    """Address of this machine that connections leave from; None: the system's choice."""


class PoolSettings(SettingsGroup):
    """The client cache and its sockets."""

    clients: Count = 256
    """HTTP clients kept at once, one per domain; the least recently used idle one goes."""
    sockets: Count | None = None
    """Sockets open at once over all domains; None: from the descriptor limit, at most 1,024."""
    keepalive: Seconds = 15.0
    """Seconds an idle connection is kept for reuse; 0: each is closed after one request."""
    transport: Literal["native", "httpcore"] = "native"
    """What speaks HTTP: our own engine, or httpx's."""


class TimeoutSettings(SettingsGroup):
    """Patience with one request."""

    connect: Patience = 10.0
    """Seconds to resolve the name and connect, TLS not included."""
    tls: Patience = 10.0
    """Seconds for the TLS handshake."""
    write: Patience = 20.0
    """Seconds without progress while a request and its body are sent."""
    head: Patience = 20.0
    """Seconds from sending the request to the end of the answer's head."""
    read: Patience = 20.0
    """Seconds without a byte of the body."""
    total: Patience = 300.0
    """Seconds for the whole page, from sending to the last byte."""
    rate: Rate = KIB
    """Bytes a second that a body must bring, averaged over 20 s; 0: no floor."""


class HeadSettings(SettingsGroup):
    """How large the head of an answer may be."""

    bytes: Bytes = 64 * KIB
    """Bytes of status line and fields as received."""
    fields: Count = 200
    """Header fields."""
    interim: Whole = 8
    """Informational answers (1xx) before the real one; 0: any is a failure."""


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
    """Whom the crawl trusts, and as whom it comes."""

    ca_file: Text | None = None
    """File with the authorities to trust (PEM); None: Mozilla's, as certifi ships them."""
    client_cert: Text | None = None
    """File with a certificate of ours and its key (PEM, no passphrase); None: no certificate."""
    minimum: Literal["1.2", "1.3"] = "1.2"
    """Oldest version of TLS that is spoken."""


class Settings(SettingsGroup):
    """All settings of a crawl."""

    concurrency: Count = 256
    """Requests on the wire at once over all domains."""
    unfinished: UnfinishedSettings = UnfinishedSettings()
    domain: DomainSettings = DomainSettings()
    domains: Mapping[str, DomainSettings] = MappingProxyType({})
    """The `domain` settings for some domains, by pattern: `domains."*.example.com".delay = 2`."""
    pool: PoolSettings = PoolSettings()
    resolve: Mapping[HostName, Addresses] = MappingProxyType({})
    """Addresses of a host, in place of its lookup; None: it is looked up."""
    timeout: TimeoutSettings = TimeoutSettings()
    head: HeadSettings = HeadSettings()
    body: BodySettings = BodySettings()
    robots: RobotsSettings = RobotsSettings()
    tls: TlsSettings = TlsSettings()
    redirects: Whole = 10
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
        matching = tuple(pattern for pattern in self.domains if matches(pattern, name))
        merged: dict[tuple[str, ...], DomainSettings] = vars(self).setdefault("_merged", {})
        if matching not in merged:
            given = self.domain.given()
            for pattern in sorted(matching, key=_specificity):
                given |= self.domains[pattern].given()
            merged[matching] = DomainSettings(**given)
        return merged[matching]

    def keys_for(self, name: str) -> list[str]:
        """The key that each of `for_domain(name)` came from, in the order of the fields:
        `domain.delay`, or `domains."*.example.com".delay`."""
        keys = {field: f"domain.{field}" for field in DomainSettings.types}
        matching = (pattern for pattern in self.domains if matches(pattern, name))
        for pattern in sorted(matching, key=_specificity):
            keys |= {
                field: f'domains."{pattern}".{field}' for field in self.domains[pattern].given()
            }
        return list(keys.values())


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
    for table, (_, kind) in tables().items():
        if not is_group(kind):
            words = expected(kind)
            fields.append(Field(f'{table}."HOST"', None, words, docs["Settings", table]))
    return fields


# ── names ────────────────────────────────────────────────────────────────────────────────


@lru_cache(maxsize=1)
def setting_types() -> Mapping[str, Any]:
    """Dotted name of every setting to its type, `tables` apart."""
    types: dict[str, Any] = {}
    for name, kind in Settings.types.items():
        if is_group(kind):
            types |= {f"{name}.{inner}": kind for inner, kind in kind.types.items()}
        elif name not in tables():
            types[name] = kind
    return MappingProxyType(types)


@lru_cache(maxsize=1)
def tables() -> Mapping[str, tuple[Any, Any]]:
    """The settings whose entries a person names, to the types of name and value."""
    kinds = Settings.types.items()
    return {name: get_args(kind)[:2] for name, kind in kinds if get_origin(kind) is Mapping}


def known(written: str, origin: str) -> tuple[str, Any]:
    """The key as it is kept, and its type. Raises SettingsError for an unknown one."""
    key = written.strip()
    if key in setting_types():
        return key, setting_types()[key]
    table, _, rest = key.partition(".")
    names: Iterable[str] = setting_types()
    if table in tables():
        entry, field, kind = _entry(table, rest)
        if entry and kind is not None:
            kept = f'{table}."{entry_name(table, entry, tables()[table][0], origin)}"'
            return f"{kept}.{field}" if field else kept, kind
        names = _entry_keys(table, disclosed(entry))
    key = disclosed(key)
    if inner := [name for name in names if name.startswith(f"{key}.")]:
        raise SettingsError(
            f"`{key}` (from {origin}) is a group of settings",
            hint=f"name one of them: {_listed(inner)}",
        )
    raise SettingsError(
        f"unknown setting `{disclosed(written)}` (from {origin})", hint=_hint(key, names)
    )


def _entry(table: str, rest: str) -> tuple[str, str, Any]:
    """Name, field (empty: the value has none) and type of what stands behind a table's name;
    without a type there is no such field."""
    _, kind = tables()[table]
    entry, field = rest, ""
    if is_group(kind):
        entry, _, field = rest.rpartition(".")
        kind = kind.types.get(field)
    return entry.strip("\"'"), field, kind


def _entry_keys(table: str, entry: str) -> list[str]:
    """What could stand behind a table's name."""
    _, kind = tables()[table]
    if not is_group(kind):
        return [f'{table}."HOST"']
    return [f'{table}."{entry.lower() or "*.example.com"}".{field}' for field in kind.types]


def _hint(key: str, names: Iterable[str]) -> str:
    group, _, rest = key.partition(".")
    if rest and is_group(tables().get(group, (None, None))[1]) and _names_no_field(group, rest):
        entry = rest.strip("\"'")
        return f'write `{group}."{entry}".concurrency = …`'
    siblings = [name for name in names if name.startswith(f"{group}.")]
    if siblings and not key.endswith("verify") and not nearest(key, names):
        return f"the group has {_listed(siblings)}"
    if rest and not siblings and (table := _table_of(group, rest)):
        return f"did you mean `{table}.{rest}`?"
    return did_you_mean(key, names)


def _table_of(group: str, rest: str) -> str | None:
    """The table that a mistyped first part means; None: rather a group, or neither."""
    groups = [key.partition(".")[0] for key in setting_types() if "." in key]
    best = nearest(group, [*groups, *tables()])
    if best is None or best not in tables():
        return None
    return None if is_group(tables()[best][1]) and "." not in rest else best


def _names_no_field(table: str, rest: str) -> bool:
    """Whether what stands behind a table's name is only the name of an entry."""
    fields = tables()[table][1].types
    last = rest.rpartition(".")[2].strip("\"'")
    return not last.endswith("verify") and nearest(last, fields) is None


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


@lru_cache(maxsize=256)
def _pattern(pattern: str) -> re.Pattern[str]:
    text = ".*".join(re.escape(part) for part in pattern.lower().split("*"))
    return re.compile(text if re.search(r":(\d+|\*)$", pattern) else rf"{text}(:\d+)?")


def _specificity(pattern: str) -> tuple[int, str]:
    """Of two that match, the greater one goes over the other."""
    return len(pattern), pattern


def matches(pattern: str, name: str) -> bool:
    """Whether a pattern of `domains` means this domain; one without a port means any port."""
    return _pattern(pattern).fullmatch(name) is not None
