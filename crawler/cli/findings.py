"""What the doctor finds out about this machine and this folder, without a network.

Owns: asking the system, each question bounded in time. Does not own: what an answer means
(`crawler.checks`), the settings' and spiders' mistakes (`checking`).

Invariants: nothing is changed and nothing is sent; httpx is not imported; a question that
the system does not answer is no error.
"""

from __future__ import annotations

import os
import platform
import shutil
import socket
import sqlite3
import ssl
import sys
import threading
import time
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crawler import checks
from crawler.about import NAME, VERSION
from crawler.checks import Verdict
from crawler.cli.checking import check_project
from crawler.pool.budget import (
    FEWEST_DESCRIPTORS,
    derive_limit,
    open_descriptors,
    raise_descriptor_limit,
    restore_descriptor_limit,
)
from crawler.requirements import Requirement
from crawler.wording import plural, size
from storage import StorageError
from storage.reading import Reader

if TYPE_CHECKING:
    from collections.abc import Iterator

    from crawler.settings import Settings

__all__ = ["about_machine", "about_project"]

FOR_US = frozenset({"test", "bench"})
"""Extras for work on the framework itself."""
LOOK_UP_S = 0.5
MOST_DATABASES = 50
PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
CA_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE")
BESIDE = ("-lock", "-control", "-live", "-wal", "-shm")
"""Endings of the files beside a database that is in use."""


def about_machine(settings: Settings) -> Iterator[Verdict]:
    """Programs and system."""
    yield checks.python(
        (sys.version_info.major, sys.version_info.minor, sys.version_info.micro),
        platform.python_implementation(),
        f"{platform.system()} {platform.release()} {platform.machine()}",
    )
    yield Verdict("ok", "crawler", f"{VERSION} in {Path(__file__).parent.parent}")
    yield from _packages()
    yield checks.loop(_version("uvloop"), sys.platform)
    yield checks.sqlite(sqlite3.sqlite_version, sqlite3.threadsafety, _compile_options())
    yield _descriptors(settings)
    yield _authorities(settings)
    yield checks.names(_nameservers(), _localhost())
    yield checks.proxies([name for name in PROXY_VARIABLES if _is_set(name)])
    yield checks.clock(time.time(), Path(__file__).stat().st_mtime)
    yield _terminal()


def about_project(folder: Path) -> Iterator[Verdict]:
    """The folder, its settings, its spiders, its databases."""
    yield checks.disk(
        str(folder.resolve()),
        shutil.disk_usage(folder).free,
        is_writable=os.access(folder, os.W_OK | os.X_OK),
    )
    yield checks.file_system(_kind_of(folder))
    checked = check_project(folder, os.environ)
    if not checked.problems:
        told = f"{plural(checked.settings, 'setting')} from {plural(checked.sources, 'source')}"
        yield Verdict("ok", "settings", told)
        yield Verdict("ok", "spiders", f"{plural(checked.spiders, 'spider')} can be made")
    else:
        more = len(checked.problems) - 1
        rest = f" (and {plural(more, 'problem')} more)" if more else ""
        advice = "crawler config --check"
        yield Verdict("fail", "settings and spiders", f"{checked.problems[0].what}{rest}", advice)
    yield from _databases(folder)


def _is_set(name: str) -> bool:
    return bool(os.environ.get(name) or os.environ.get(name.lower()))


# ── packages ─────────────────────────────────────────────────────────────────────────────


def _packages() -> Iterator[Verdict]:
    try:
        lines = requires(NAME) or []
    except PackageNotFoundError:
        lines = []
    asked = [Requirement.parse(line, sys.platform) for line in lines]
    installed = {each.package: _version(each.package) for each in asked if each.extra not in FOR_US}
    yield from checks.dependencies(asked, installed)
    yield from checks.extras(asked, installed, package=NAME, hidden=FOR_US)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _compile_options() -> list[str]:
    connection = sqlite3.connect(":memory:")
    try:
        rows = connection.execute("PRAGMA compile_options").fetchall()
    finally:
        connection.close()
    return [str(row[0]) for row in rows]


# ── system ───────────────────────────────────────────────────────────────────────────────


def _descriptors(settings: Settings) -> Verdict:
    """What a crawl would have: the limit is raised for the question, and set back."""
    before, raised = raise_descriptor_limit()
    try:
        in_use = open_descriptors()
        sockets = derive_limit(settings.pool.sockets, raised, in_use)
    finally:
        if raised != before:
            restore_descriptor_limit(before)
    return checks.descriptors(
        soft=before, raised=raised, sockets=sockets, fewest=FEWEST_DESCRIPTORS, in_use=in_use
    )


def _authorities(settings: Settings) -> Verdict:
    unused = [name for name in CA_VARIABLES if os.environ.get(name)]
    file, source, age_days = settings.tls.ca_file, "tls.ca_file", None
    if file is None:
        import certifi

        file, source = certifi.where(), f"certifi {_version('certifi')}"
        age_days = _age_days(_version("certifi"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with suppress(OSError):  # then nothing is loaded, and that is told
        context.load_verify_locations(cafile=file)
    loaded: list[dict[str, Any]] = list(context.get_ca_certs())
    now = time.time()
    expired = sum(ssl.cert_time_to_seconds(str(each["notAfter"])) < now for each in loaded)
    return checks.authorities(
        source=source, loaded=len(loaded), expired=expired, age_days=age_days, unused=unused
    )


def _age_days(certifi: str | None) -> float | None:
    """certifi's versions are dates."""
    try:
        made = time.strptime((certifi or "").rpartition("+")[0] or certifi or "", "%Y.%m.%d")
    except ValueError:
        return 0.0
    return (time.time() - time.mktime(made)) / 86_400


def _nameservers() -> list[str]:
    try:
        lines = Path("/etc/resolv.conf").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    words = [line.split() for line in lines]
    return [parts[1] for parts in words if len(parts) > 1 and parts[0] == "nameserver"]


def _localhost() -> list[str] | None:
    """Its addresses; None: the look-up took too long, and its thread is left behind."""
    answer: list[list[str]] = []

    def look_up() -> None:
        try:
            found = socket.getaddrinfo("localhost", None, type=socket.SOCK_STREAM)
        except OSError:
            found = []
        answer.append(list(dict.fromkeys(str(each[4][0]) for each in found)))

    thread = threading.Thread(target=look_up, daemon=True)
    thread.start()
    thread.join(LOOK_UP_S)
    return answer[0] if answer else None


def _kind_of(folder: Path) -> str | None:
    """The type of the file system a folder is on; None: the system does not say."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    place = folder.resolve()
    best, kind = -1, None
    for line in lines:
        mount, _, source = line.partition(" - ")
        point = mount.split()[4].encode().decode("unicode_escape")
        if place.is_relative_to(point) and len(point) >= best:
            best, kind = len(point), source.split()[0]
    return kind


def _terminal() -> Verdict:
    is_dumb = os.environ.get("TERM") == "dumb" or bool(os.environ.get("NO_COLOR"))
    return checks.terminal(
        is_terminal=sys.stderr.isatty(),
        has_colour=sys.stderr.isatty() and not is_dumb,
        width=shutil.get_terminal_size().columns,
        encoding=sys.stdout.encoding or "ascii",
    )


# ── databases ────────────────────────────────────────────────────────────────────────────


def _databases(folder: Path) -> Iterator[Verdict]:
    """One line for each database with files beside it, and for such files without one."""
    files = {str(path): path for path in sorted(folder.glob("*.db*")) if path.is_file()}
    shown = [name for name in files if name.endswith(".db")][:MOST_DATABASES]
    for name in shown:
        beside = [ending for ending in BESIDE if f"{name}{ending}" in files]
        if beside:
            yield _beside(files[name], beside)
    orphans = [
        name
        for name in files
        for ending in BESIDE
        if name.endswith(f".db{ending}") and name.removesuffix(ending) not in files
    ]
    if orphans:
        told = f"{', '.join(orphans)}: left without their database"
        advice = "remove them, or put the database back beside them"
        yield Verdict("warn", "databases", told, advice)
    if not shown and not orphans:
        yield Verdict("ok", "databases", "none here")


def _beside(file: Path, beside: list[str]) -> Verdict:
    """A database with files beside it: in use, or left by a crawl that was killed."""
    try:
        with Reader(file) as reader:
            if reader.is_in_use:
                holder = _holder(file)
                return Verdict("ok", "databases", f"{file} is in use by process {holder}")
    except StorageError as error:
        return Verdict("warn", "databases", str(error), error.hint or "")
    log = Path(f"{file}-wal")
    kept = size(log.stat().st_size) if log.exists() else "nothing"
    told = f"{file}: its crawl was killed; {kept} to fold in ({', '.join(beside)})"
    return Verdict("warn", "databases", told, "the same `crawler run` goes on and clears it up")


def _holder(file: Path) -> str:
    try:
        text = Path(f"{file}-lock").read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return "unknown"
    return text or "unknown"
