"""Where settings come from: files, the spider, the environment, flags; merged field by field.

Owns: reading each place, the merging, the origin of every effective value.
Does not own: which settings there are, and what each may be (`settings`).

Invariants: a layer overrides what it gives and nothing else, even when it gives a default's
value; a later layer goes over an earlier one; a file that a setting names can be used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, get_args, get_origin

from crawler.errors import SettingsError
from crawler.settings import Settings, known, setting_types, tables
from crawler.settings_groups import checked, did_you_mean, path_of
from crawler.units import disclosed

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

__all__ = ["Layer", "environment_layer", "file_layers", "flag_layer", "resolve"]

PEM_HOLDS = {
    "ca_file": "at least one certificate",
    "client_cert": "a certificate and its key, without a passphrase",
}


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
            raise SettingsError(
                f"{name} could not be read: {error}",
                hint="correct it; `crawler config --check` tells when it is right",
            ) from error
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
                f"unknown setting `{name}` (from environment)", hint=_hint(name, names)
            )
        values[names[name]] = value
    return Layer("environment", values)


def flag_layer(pairs: Iterable[str], origin: str = "-s") -> Layer:
    """What `KEY=VALUE` strings set; raises SettingsError for one without `=`."""
    values = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise SettingsError(
                f"`{disclosed(pair)}` (from {origin}) is not KEY=VALUE", hint="-s domain.delay=2"
            )
        values[key.strip()] = value.strip()
    return Layer(origin, values)


def _hint(name: str, names: Iterable[str]) -> str:
    """Of a variable that is no setting."""
    table = name.removeprefix("CRAWLER_").partition("_")[0].lower()
    if table in tables():
        return f"no variable sets the table `{table}`: set it in a file, in the spider or by -s"
    return did_you_mean(name, names)


def _check_files(settings: Settings) -> None:
    """Refuse a file now that would fail every https request later."""
    for name, path in (
        ("ca_file", settings.tls.ca_file),
        ("client_cert", settings.tls.client_cert),
    ):
        if path is None:
            continue
        import ssl

        try:
            _load(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), name, path)
        except (OSError, ValueError) as error:
            origin = settings.origins.get(f"tls.{name}", "spider")
            reason = getattr(error, "strerror", None) or str(error)
            raise SettingsError(
                f"setting `tls.{name}` = {path!r} (from {origin}): expected a file that can be"
                f" read ({reason})",
                hint=f"name a PEM file with {PEM_HOLDS[name]}",
            ) from error


def _load(context: ssl.SSLContext, name: str, path: str) -> None:
    if name == "ca_file":
        context.load_verify_locations(cafile=path)
    else:
        # With a passphrase given, even an empty one, OpenSSL does not ask the terminal for it.
        context.load_cert_chain(path, password="")


def _leaves(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*path, name))
        else:
            yield ".".join((*path, name)), value


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted names to the keyword arguments of Settings."""
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *groups, name = path_of(key)
        branch = tree
        for group in groups:
            branch = branch.setdefault(group, {})
        branch[name] = value
    return {name: _built(Settings.types[name], given) for name, given in tree.items()}


def _built(kind: Any, given: Any) -> Any:
    """A group of what was given for it; the entries of a table each by itself."""
    if get_origin(kind) is Mapping:
        return {entry: _built(get_args(kind)[1], inner) for entry, inner in given.items()}
    return kind(**given) if isinstance(kind, type) and isinstance(given, dict) else given
