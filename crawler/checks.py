"""What facts about a machine mean for a crawl: ok, a warning or a failure, and what to do.

Owns: every verdict of `crawler doctor`. Does not own: finding the facts out
(`crawler.cli.findings`), talking to a host (`crawler.cli.probe`), bounds of versions
(`requirements`).

Invariants: pure: the same facts give the same verdict; what is not ok says what to do.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal, NamedTuple

from crawler.requirements import numbers_of
from crawler.wording import duration, plural, size

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from crawler.requirements import Requirement

__all__ = [
    "Verdict",
    "authorities",
    "clock",
    "dependencies",
    "descriptors",
    "disk",
    "extras",
    "file_system",
    "loop",
    "names",
    "proxies",
    "python",
    "sqlite",
    "terminal",
]

OLDEST_PYTHON = (3, 11)
OLDEST_SQLITE = (3, 40, 0)
SAFE_SQLITE = (3, 51, 3)
FEW_SOCKETS = 64
LITTLE_DISK = 1024**3
LEAST_DISK = 64 * 1024**2
OLD_AUTHORITIES_DAYS = 730
NARROW = 80
DAY_S = 86_400
NEVER_WAL = re.compile(
    r"nfs\d?|cifs|smb\w*|fuse\.sshfs|.*gluster.*|ceph.*|lustre|afs|gpfs"
).fullmatch
"""File systems of other machines: the shared memory of write-ahead logging does not work."""
MAYBE_WAL = re.compile(r"9p|virtiofs|drvfs|fuse\..+|vboxsf").fullmatch


class Verdict(NamedTuple):
    """One line of the doctor."""

    state: Literal["ok", "warn", "fail"]
    name: str
    found: str
    advice: str = ""
    """What to do; empty: nothing."""


# ── what is installed ────────────────────────────────────────────────────────────────────


def python(version: tuple[int, int, int], implementation: str, system: str) -> Verdict:
    """The interpreter and the system it runs on."""
    found = f"{implementation} {'.'.join(map(str, version))} on {system}"
    if version[:2] < OLDEST_PYTHON:
        return Verdict("fail", "python", found, "Python 3.11 or newer is needed")
    if system.partition(" ")[0] not in ("Linux", "Darwin", "macOS"):
        return Verdict("warn", "python", found, "Linux and macOS are what is tested")
    return Verdict("ok", "python", found)


def dependencies(
    requirements: Collection[Requirement], installed: Mapping[str, str | None]
) -> list[Verdict]:
    """What is always needed: one verdict, or one for each package that does not fit."""
    needed = [each for each in requirements if each.extra is None and each.is_here]
    if not needed:
        return [Verdict("warn", "dependencies", "the package is not installed", "pip install -e .")]
    wrong = []
    for each in needed:
        version = installed.get(each.package)
        if version is None:
            wrong.append(Verdict("fail", each.package, "is not installed", each.line))
        elif not each.fits(version):
            found = f"{version} does not fit {each.bounds}"
            wrong.append(Verdict("fail", each.package, found, each.line))
    return wrong or [Verdict("ok", "dependencies", f"{plural(len(needed), 'package')} fit")]


def extras(
    requirements: Collection[Requirement],
    installed: Mapping[str, str | None],
    *,
    package: str,
    hidden: Collection[str] = (),
) -> list[Verdict]:
    """What can be installed beside; one that is too old is a warning of its own."""
    groups: dict[str, list[Requirement]] = {}
    for each in requirements:
        if each.extra is not None and each.extra not in hidden and each.is_here:
            groups.setdefault(each.extra, []).append(each)
    here, missing, wrong = [], [], []
    for name, parts in groups.items():
        versions = [(part, installed.get(part.package)) for part in parts]
        if any(version is None for _, version in versions):
            missing.append(name)
            continue
        here.append(name)
        for part, version in versions:
            if version is not None and not part.fits(version):
                found = f"{part.package} {version} does not fit {part.bounds}"
                wrong.append(Verdict("warn", f"extra {name}", found, part.line))
    advice = f'pip install "{package}[{",".join(missing)}]"' if missing else ""
    found = f"{', '.join(here) or 'none'} installed"
    if missing:
        found += f"; {', '.join(missing)} not"
    return [Verdict("ok", "extras", found, advice), *wrong]


def loop(uvloop: str | None, platform: str) -> Verdict:
    """What runs the crawl; `uvloop` is its version."""
    if uvloop is not None:
        return Verdict("ok", "event loop", f"uvloop {uvloop}")
    if platform == "win32":
        return Verdict("ok", "event loop", "asyncio's own: there is no uvloop on Windows")
    return Verdict("fail", "event loop", "uvloop is not installed", "pip install uvloop")


def sqlite(version: str, thread_safety: int, options: Collection[str]) -> Verdict:
    """The library below the database; `options` are those it was compiled with."""
    numbers = numbers_of(version)
    lacks = sorted({"OMIT_WAL", "OMIT_JSON", "OMIT_WINDOWFUNC"} & set(options))
    if numbers < OLDEST_SQLITE:
        advice = "3.40 or newer is needed: a newer Python or system brings it"
        return Verdict("fail", "sqlite", version, advice)
    if lacks or not thread_safety:
        found = f"{version}, compiled with {', '.join(lacks) or 'THREADSAFE=0'}"
        return Verdict("fail", "sqlite", found, "use a Python with a complete SQLite")
    if numbers < SAFE_SQLITE:
        found = (
            f"{version}; its write-ahead-log bug (before 3.51.3) needs one connection that writes"
            " while another checkpoints: here one does both"
        )
        return Verdict("ok", "sqlite", found)
    return Verdict("ok", "sqlite", version)


# ── the system ───────────────────────────────────────────────────────────────────────────


def descriptors(*, soft: int, raised: int, sockets: int, fewest: int, in_use: int) -> Verdict:
    """The limit of open files, what a crawl raises it to, and the sockets that leaves.

    `fewest` are what a crawl of one host needs beside the `in_use` ones. A negative limit
    is none.
    """
    limit = f"{soft:,}" if soft >= 0 else "no limit"
    more = f", a crawl raises it to {raised:,}" if raised > soft >= 0 else ""
    found = f"{limit} (ulimit -n){more}; pool.sockets = {sockets:,}"
    if 0 <= raised < in_use + fewest:
        return Verdict("fail", "descriptors", found, "ulimit -n 1024")
    if sockets < FEW_SOCKETS:
        advice = "ulimit -n 4096: few hosts can be crawled at once"
        return Verdict("warn", "descriptors", found, advice)
    return Verdict("ok", "descriptors", found)


def authorities(
    *, source: str, loaded: int, expired: int, age_days: float | None, unused: Sequence[str]
) -> Verdict:
    """Whom TLS trusts: certificates loaded from `source`, how many of them have expired.

    `age_days` of certifi's list; None: another file is used. `unused` names variables that
    other programs obey.
    """
    found = f"{plural(loaded, 'certificate')} from {source}"
    if unused:
        found += f"; {' and '.join(unused)} not used, tls.ca_file is the setting"
    own = age_days is not None
    renew = (
        "pip install --upgrade certifi" if own else "apt-get install --reinstall ca-certificates"
    )
    if not loaded:
        return Verdict("fail", "authorities", f"no certificate in {source}", renew)
    if expired == loaded:
        found = f"all {plural(loaded, 'certificate')} from {source} have expired"
        return Verdict("fail", "authorities", found, f"is the clock right? else {renew}")
    if age_days is not None and age_days > OLD_AUTHORITIES_DAYS:
        return Verdict("warn", "authorities", f"{found}; {age_days / 365:.0f} years old", renew)
    return Verdict("ok", "authorities", found)


def names(nameservers: Sequence[str], localhost: Sequence[str] | None) -> Verdict:
    """Where host names are looked up; `localhost` None: its look-up did not end in time."""
    servers = ", ".join(nameservers[:3])
    found = f"resolver {servers}" if servers else "no resolver named in /etc/resolv.conf"
    if localhost is None:
        advice = "a line `127.0.0.1 localhost` in /etc/hosts, or another resolver"
        return Verdict("warn", "dns", f"{found}; localhost was not found in time", advice)
    if not localhost:
        advice = "a line `127.0.0.1 localhost` in /etc/hosts"
        return Verdict("warn", "dns", f"{found}; localhost has no address", advice)
    return Verdict("ok", "dns", f"{found}; localhost is {', '.join(localhost)}")


def disk(folder: str, free: int, *, is_writable: bool) -> Verdict:
    """The folder that databases are made in; `free` in bytes."""
    found = f"{size(free)} free in {folder}"
    if not is_writable:
        advice = "go to a folder of your own, or name a file elsewhere: --db FILE"
        return Verdict("fail", "folder", f"{folder} may not be written", advice)
    if free < LEAST_DISK:
        return Verdict("fail", "folder", found, "make room, or name a file elsewhere: --db FILE")
    if free < LITTLE_DISK:
        return Verdict("warn", "folder", found, "a page takes 2 to 20 KiB: make room for many")
    return Verdict("ok", "folder", found)


def file_system(kind: str | None) -> Verdict:
    """What the folder lies on; None: the system does not tell."""
    if kind is None:
        return Verdict("ok", "file system", "not told by this system")
    if NEVER_WAL(kind):
        advice = "write-ahead logging does not work there: --db FILE on a disk of this machine"
        return Verdict("fail", "file system", f"{kind}, of another machine", advice)
    if MAYBE_WAL(kind):
        advice = "if the database gets locked or damaged: --db FILE on another disk"
        return Verdict("warn", "file system", f"{kind}, which may not share memory", advice)
    return Verdict("ok", "file system", kind)


def clock(now: float, known_past: float) -> Verdict:
    """The wall clock beside an instant that has certainly passed."""
    behind = known_past - now
    if behind > DAY_S:
        found = f"{duration(behind)} before this program was installed"
        return Verdict("fail", "clock", found, "set it: certificates and robots.txt depend on it")
    return Verdict("ok", "clock", "plausible")


def proxies(variables: Sequence[str]) -> Verdict:
    """Variables by which other programs find their proxies; their values are not shown."""
    if not variables:
        return Verdict("ok", "proxies", "none in the environment")
    found = f"{', '.join(variables)} set, and not used"
    return Verdict("warn", "proxies", found, "to use one: -s domain.proxies=http://HOST:PORT")


def terminal(*, is_terminal: bool, has_colour: bool, width: int, encoding: str) -> Verdict:
    """Where progress is shown."""
    is_unicode = encoding.lower().replace("-", "").startswith("utf")
    if not is_terminal:
        found = f"none: lines instead of the live view, {encoding}"
    else:
        found = f"{width} columns, {'colour' if has_colour else 'no colour'}, {encoding}"
    if not is_unicode:
        return Verdict("warn", "terminal", found, "PYTHONUTF8=1 shows all characters")
    if is_terminal and width < NARROW:
        return Verdict("warn", "terminal", found, f"{NARROW} columns make room for the live view")
    return Verdict("ok", "terminal", found)
