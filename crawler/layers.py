"""Where settings come from: files, the spider, the environment, flags; merged field by field.

Owns: reading each place, the merging, the origin of every effective value.
Does not own: which settings there are, and what each may be (`settings`).

Invariants: a layer overrides what it gives and nothing else, even when it gives a default's
value; a later layer goes over an earlier one; a file that a setting names can be used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from crawler.errors import SettingsError
from crawler.settings import (
    DomainSettings,
    Settings,
    checked,
    did_you_mean,
    known,
    setting_types,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

__all__ = ["Layer", "environment_layer", "file_layers", "flag_layer", "resolve"]


class Layer(NamedTuple):
    """Settings from one place."""

    origin: str
    """What people call the place: pyproject.toml, spider, environment, -s."""
    values: Mapping[str, Any]
    """Dotted name to value as it stands there."""


def resolve(layers: Sequence[Layer]) -> Settings:
    """Merge layers, later ones over earlier ones, and remember where each value came from.

    Raises SettingsError, naming the setting and its origin, for the first unknown name or
    impossible value, and for a file that cannot be used.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer in layers:
        for written, raw in layer.values.items():
            key, kind = known(written, layer.origin)
            values[key] = checked(key, raw, kind, layer.origin)
            origins[key] = layer.origin
    settings = Settings(**_nested(values))
    vars(settings)["_origins"] = origins
    _check_files(settings)
    return settings


def file_layers(folder: Path) -> list[Layer]:
    """What pyproject.toml ([tool.crawler]) and crawler.toml in `folder` set, if they are there.

    Raises SettingsError for a file that is not TOML.
    """
    import tomllib

    layers = []
    for name, path in (("pyproject.toml", ("tool", "crawler")), ("crawler.toml", ())):
        try:
            table = tomllib.loads((folder / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise SettingsError(f"{name} could not be read: {error}") from error
        for step in path:
            table = table.get(step, {})
            if not isinstance(table, dict):
                raise SettingsError(f"`{step}` in {name} is not a table", hint="[tool.crawler]")
        if table:
            layers.append(Layer(name, dict(_leaves(table, ()))))
    return layers


def environment_layer(environ: Mapping[str, str]) -> Layer:
    """What CRAWLER_* variables set: CRAWLER_DOMAIN_DELAY is `domain.delay`.

    Raises SettingsError for a CRAWLER_* variable that is no setting.
    """
    names = {f"CRAWLER_{key.replace('.', '_').upper()}": key for key in setting_types()}
    values = {}
    for name, value in environ.items():
        if not name.startswith("CRAWLER_"):
            continue
        if name not in names:
            raise SettingsError(
                f"unknown setting `{name}` (from environment)", hint=did_you_mean(name, names)
            )
        values[names[name]] = value
    return Layer("environment", values)


def flag_layer(pairs: Iterable[str], origin: str = "-s") -> Layer:
    """What `KEY=VALUE` strings set; raises SettingsError for one without `=`."""
    values = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise SettingsError(f"`{pair}` (from {origin}) is not KEY=VALUE")
        values[key.strip()] = value.strip()
    return Layer(origin, values)


def _check_files(settings: Settings) -> None:
    """Refuse a file now that would fail every https request later."""
    path = settings.tls.ca_file
    if path is None:
        return
    import ssl

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
    except (OSError, ValueError) as error:
        origin = settings.origins.get("tls.ca_file", "spider")
        reason = getattr(error, "strerror", None) or str(error)
        raise SettingsError(
            f"setting `tls.ca_file` = {path!r} (from {origin}): expected a file that can be read"
            f" ({reason})",
            hint="name a PEM file with at least one certificate",
        ) from error


def _leaves(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*path, name))
        elif path[:1] == ("domains",) and len(path) > 1:
            yield f'domains."{".".join(path[1:])}".{name}', value
        else:
            yield ".".join((*path, name)), value


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted names to the keyword arguments of Settings."""
    tree: dict[str, Any] = {}
    domains: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        group, _, name = key.rpartition(".")
        if not group:
            tree[name] = value
        elif group.startswith("domains."):
            domains.setdefault(group.removeprefix("domains.").strip('"'), {})[name] = value
        else:
            tree.setdefault(group, {})[name] = value
    for group, given in tree.items():
        if isinstance(given, dict):
            tree[group] = type(getattr(Settings, group))(**given)
    if domains:
        tree["domains"] = {pattern: DomainSettings(**given) for pattern, given in domains.items()}
    return tree
