"""What the doctor finds out about this machine and this folder, and what it means for a crawl.

Owns: a function for each check; what it asks the system for is an argument with the answer
as its default, so that a test can say what another machine answers. Does not own: a host
(`probe`), the mistakes in settings and spiders (`checking`).

Invariants: nothing is changed and nothing is sent; a question that the system does not
answer is no error; what is not ok says what to do.
"""

from __future__ import annotations

import os
import platform
import re
import resource
import shutil
import socket
import sqlite3
import ssl
import sys
import threading
import time
from contextlib import suppress
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from crawler.about import NAME, VERSION
from crawler.cli.checking import check_project
from crawler.errors import UsageError
from crawler.wording import plural, size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from crawler.settings import Settings

__all__ = ["Verdict", "about_here"]

OLDEST_SQLITE = (3, 40)
SAFE_SQLITE = (3, 51, 3)
FOR_US = {"test", "bench"}
"""Extras for work on the framework itself."""
FEW_SOCKETS = 64
LITTLE_DISK = 1024**3
LEAST_DISK = 64 * 1024**2
LOOK_UP_S = 0.5
IGNORED = {
    "domain.proxies": ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"),
    "tls.ca_file": ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"),
}
"""Setting to variables by which other programs are told the same."""
_OTHER_MACHINES = re.compile(r"nfs\d?|cifs|smb\w*|fuse\.sshfs|.*gluster.*|ceph.*|lustre|afs|gpfs")
"""File systems where the shared memory of write-ahead logging does not work."""


class Verdict(NamedTuple):
    """One line of the doctor."""

    state: Literal["ok", "warn", "fail"]
    name: str
    found: str
    advice: str = ""
    """What to do; empty: nothing."""


def about_here(settings: Settings, folder: Path) -> Iterator[Verdict]:
    """Programs, system, folder and what stands in it."""
    made = f"{platform.python_implementation()} {platform.python_version()}"
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    yield Verdict("ok", "python", f"{made} on {system}")
    yield Verdict("ok", "crawler", f"{VERSION} in {Path(__file__).parent.parent}")
    yield from packages()
    yield sqlite()
    yield authorities(settings.tls.ca_file)
    yield names()
    yield environment(settings)
    yield disk(folder.resolve())
    try:
        import_module("crawler.access")  # what the rest needs, and the packages below it
    except ImportError as error:
        advice = f"pip install --force-reinstall {NAME}"
        yield Verdict("fail", "installation", str(error), advice)
    else:
        yield descriptors(settings.pool.sockets)
        yield project(folder)


# ── what is installed ────────────────────────────────────────────────────────────────────


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _required() -> list[str]:
    """What our metadata asks for, in lines such as `h2>=4.4; extra == "http2"`."""
    try:
        lines = requires(NAME) or []
    except PackageNotFoundError:
        return []
    return [line for line in lines if not re.search(rf"!= [\"']{sys.platform}[\"']", line)]


def packages(
    lines: Sequence[str] | None = None, version_of: Callable[[str], str | None] = _version
) -> Iterator[Verdict]:
    """What is always needed, and the extras: of both what is there and fits."""
    groups: dict[str, list[Verdict]] = {"": []}
    for line in _required() if lines is None else lines:
        extra = re.search(r"extra == [\"'](\w+)", line)
        wrong = groups.setdefault(extra[1] if extra else "", [])
        if found := _unfit(line.partition(";")[0].strip(), version_of):
            wrong.append(found)
    yield from groups.pop("") or [Verdict("ok", "dependencies", "all are there, and fit")]
    here = [name for name, wrong in groups.items() if not wrong and name not in FOR_US]
    missing = [name for name, wrong in groups.items() if wrong and name not in FOR_US]
    advice = f'pip install "{NAME}[{",".join(missing)}]"' if missing else ""
    yield Verdict("ok", "extras", f"{', '.join(here) or 'none'} installed", advice)


def _unfit(asked: str, version_of: Callable[[str], str | None]) -> Verdict | None:
    """What is wrong with one package; None: it is there and fits."""
    package = re.split(r"[^\w.-]", asked)[0]
    found = version_of(package)
    if found is not None and fits(found, asked):
        return None
    told = "is not installed" if found is None else f"{found} does not fit {asked}"
    return Verdict("fail", package, told, f'pip install "{asked}"')


def fits(found: str, asked: str) -> bool:
    """Whether a version is within bounds, written by `>=`, `<` and `~=` as ours are."""
    have = _numbers(found)
    for sign, edge in re.findall(r"(>=|<|~=)([\d.]+)", asked):
        want, same = _numbers(edge), edge.count(".")
        is_below = have < want
        if is_below is not (sign == "<") or (sign == "~=" and have[:same] != want[:same]):
            return False
    return True


def _numbers(found: str) -> tuple[int, ...]:
    """The first four numbers of a version, local builds left out."""
    numbers = [int(number) for number in re.findall(r"\d+", found.partition("+")[0])]
    return tuple([*numbers, 0, 0, 0, 0][:4])


def sqlite(found: str = sqlite3.sqlite_version) -> Verdict:
    """The library below the database, and what is known to be wrong with it."""
    if _numbers(found) < OLDEST_SQLITE:
        advice = "3.40 or newer is needed: a newer Python or system brings it"
        return Verdict("fail", "sqlite", found, advice)
    if _numbers(found) < SAFE_SQLITE:
        told = f"{found}; its bug in write-ahead logging (before 3.51.3) is avoided here"
        return Verdict("ok", "sqlite", told)
    return Verdict("ok", "sqlite", found)


# ── the system ───────────────────────────────────────────────────────────────────────────


def descriptors(wanted: int | None) -> Verdict:
    """The sockets of a crawl: its limit is raised for the question, and set back."""
    from crawler.pool import budget

    before, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        budget.check_descriptors()
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        sockets = budget.derive_limit(wanted, limit, budget.open_descriptors())
    except UsageError as error:
        return Verdict("fail", "descriptors", str(error), error.hint or "")
    finally:
        budget.restore_descriptor_limit(before)
    shown = "no limit" if limit == resource.RLIM_INFINITY else f"{limit:,} in a crawl"
    told = f"{shown}, of which sockets: {sockets:,}"
    if sockets < FEW_SOCKETS and wanted is None:
        return Verdict("warn", "descriptors", told, "ulimit -n 4096 lets more hosts in at once")
    return Verdict("ok", "descriptors", told)


def authorities(file: str | None) -> Verdict:
    """Whom TLS trusts: those in `file`; None: certifi's."""
    source, renew = "tls.ca_file", "name a file with authorities: tls.ca_file"
    if file is None:
        import certifi

        file, source = certifi.where(), f"certifi {_version('certifi')}"
        renew = "pip install --force-reinstall certifi"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cafile=file)
    except OSError as error:
        return Verdict("fail", "authorities", f"{source}: {error.strerror or error}", renew)
    loaded = context.get_ca_certs()
    ends = [ssl.cert_time_to_seconds(str(each["notAfter"])) for each in loaded]
    told = f"{plural(len(loaded), 'certificate')} from {source}"
    if all(end < time.time() for end in ends):
        advice = f"is the clock right? else {renew}"
        return Verdict("fail", "authorities", f"{told}, none of them valid", advice)
    return Verdict("ok", "authorities", told)


def _nameservers() -> list[str]:
    try:
        text = Path("/etc/resolv.conf").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return re.findall(r"^nameserver\s+(\S+)", text, re.MULTILINE)


def _localhost() -> list[str]:
    """Its addresses; none also where the look-up, which cannot be broken off, takes too long."""
    found: list[str] = []

    def look_up() -> None:
        with suppress(OSError):
            found.extend(str(each[4][0]) for each in socket.getaddrinfo("localhost", 0))

    thread = threading.Thread(target=look_up, daemon=True)
    thread.start()
    thread.join(LOOK_UP_S)
    return list(dict.fromkeys(found))


def names(servers: Sequence[str] | None = None, localhost: Sequence[str] | None = None) -> Verdict:
    """Where host names are looked up, and whether that works for the one every machine has."""
    named = _nameservers() if servers is None else servers
    addresses = _localhost() if localhost is None else localhost
    told = f"resolver {', '.join(named[:3]) or 'not named in /etc/resolv.conf'}"
    if not addresses:
        advice = "a line `127.0.0.1 localhost` in /etc/hosts, or another resolver"
        return Verdict("warn", "dns", f"{told}; localhost was not found", advice)
    return Verdict("ok", "dns", f"{told}; localhost is {', '.join(addresses)}")


def environment(settings: Settings, variables: Mapping[str, str] = os.environ) -> Verdict:
    """Variables that other programs obey and a crawl does not; values are not shown."""
    given = settings.given()
    ignored = {
        key: [name for name in names if variables.get(name) or variables.get(name.lower())]
        for key, names in IGNORED.items()
        if key not in given
    }
    told = [name for names in ignored.values() for name in names]
    if not told:
        return Verdict("ok", "environment", "no proxy or authority that would be ignored")
    keys = " and ".join(key for key, names in ignored.items() if names)
    advice = f"what they are for is set here by {keys}"
    return Verdict("warn", "environment", f"{', '.join(told)} set, and not used", advice)


# ── the folder ───────────────────────────────────────────────────────────────────────────


def _kind_of(folder: Path) -> str:
    """The type of the file system a folder is on; empty: the system does not say."""
    try:
        lines = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return ""
    kinds = {}
    for line in lines:
        mount, _, source = line.partition(" - ")
        point = re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), mount.split()[4])
        if folder.is_relative_to(point):
            kinds[len(point)] = source.split()[0]
    return kinds[max(kinds)] if kinds else ""


def disk(
    folder: Path, free: int | None = None, kind: str | None = None, *, is_ours: bool | None = None
) -> Verdict:
    """The folder that databases are made in; `free` in bytes."""
    free = shutil.disk_usage(folder).free if free is None else free
    kind = _kind_of(folder) if kind is None else kind
    if is_ours is None:
        is_ours = os.access(folder, os.W_OK | os.X_OK)
    told = f"{size(free)} free in {folder}{f' ({kind})' if kind else ''}"
    elsewhere = "name a file elsewhere: --db FILE"
    if not is_ours:
        return Verdict("fail", "disk", f"{folder} may not be written", elsewhere)
    if free < LEAST_DISK:
        return Verdict("fail", "disk", told, f"make room, or {elsewhere}")
    if _OTHER_MACHINES.fullmatch(kind):
        told += ": another machine's, where write-ahead logging does not work"
        return Verdict("fail", "disk", told, elsewhere)
    if free < LITTLE_DISK:
        return Verdict("warn", "disk", told, "a page takes 2 to 20 KiB: make room for many")
    return Verdict("ok", "disk", told)


def project(folder: Path) -> Verdict:
    """Mistakes in settings and spiders, the first of them by name."""
    problems = check_project(folder, os.environ)
    if not problems:
        return Verdict("ok", "project", "settings and spiders are fine")
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return Verdict("fail", "project", f"{problems[0].what}{more}", "crawler config --check")
