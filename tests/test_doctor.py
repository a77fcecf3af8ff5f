"""`crawler doctor`: what facts mean, what is found here, and one host asked."""

from __future__ import annotations

import ast
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trustme

import crawler.pool
from crawler import checks
from crawler.requirements import Requirement
from crawler.testing import Reply, Site, dead_address
from tests.commands import call, here
from tests.stored_runs import write_run

if TYPE_CHECKING:
    from collections.abc import Callable

    from crawler.checks import Verdict
    from tests.commands import Call

__all__ = ["call", "here"]

NEEDED = [
    Requirement.parse(line, "linux")
    for line in (
        "httpx<0.29,>=0.28.1",
        "httpcore~=1.0.9",
        "uvloop>=0.21; sys_platform != 'win32'",
        'h2>=4.4.1; extra == "http2"',
        'hpack>=4.1; extra == "http2"',
        'socksio>=1.0; extra == "socks"',
        'crawlee[parsel,sql-sqlite]>=1.11; extra == "bench"',
    )
]
FIT: dict[str, str | None] = {"httpx": "0.28.1", "httpcore": "1.0.10", "uvloop": "0.21.0"}


def packages(**installed: str | None) -> list[Verdict]:
    versions = FIT | installed
    return [
        *checks.dependencies(NEEDED, versions),
        *checks.extras(NEEDED, versions, package="poolcrawl", hidden={"bench"}),
    ]


def limits(soft: int, raised: int, sockets: int = 1024) -> Verdict:
    return checks.descriptors(soft=soft, raised=raised, sockets=sockets, fewest=24, in_use=10)


def trust(loaded: int = 140, expired: int = 3, age: float | None = 30.0, *unused: str) -> Verdict:
    return checks.authorities(
        source="certifi", loaded=loaded, expired=expired, age_days=age, unused=unused
    )


def screen(width: int = 120, encoding: str = "utf-8", *, is_terminal: bool = True) -> Verdict:
    return checks.terminal(is_terminal=is_terminal, has_colour=True, width=width, encoding=encoding)


# ── verdicts ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("verdict", "state", "found", "advice"),
    [
        (checks.python((3, 11, 2), "CPython", "Linux 6.1"), "ok", "CPython 3.11.2 on", ""),
        (checks.python((3, 10, 9), "CPython", "Linux 6.1"), "fail", "3.10.9", "3.11 or newer"),
        (checks.python((3, 12, 0), "CPython", "Windows 11"), "warn", "Windows", "tested"),
        (packages()[0], "ok", "3 packages fit", ""),
        (packages(httpx="0.27.2")[0], "fail", "0.27.2 does not fit <0.29,>=0.28.1", "httpx<0.29"),
        (packages(httpx="0.30")[0], "fail", "0.30 does not fit", 'pip install "httpx'),
        (packages(httpcore="1.1.0")[0], "fail", "1.1.0 does not fit ~=1.0.9", "httpcore~=1.0.9"),
        (packages(uvloop=None)[0], "fail", "is not installed", "uvloop>=0.21"),
        (checks.dependencies([], {})[0], "warn", "not installed", "pip install"),
        (packages()[1], "ok", "none installed; http2, socks not", '"poolcrawl[http2,socks]"'),
        (packages(h2="4.4.1")[1], "ok", "none installed", "http2"),
        (packages(h2="4.4.1", hpack="4.1", socksio="1.0.0")[1], "ok", "http2, socks inst", ""),
        (packages(h2="4.3.0", hpack="4.1")[2], "warn", "h2 4.3.0 does not fit", "h2>=4.4.1"),
        (checks.loop("0.22.1", "linux"), "ok", "uvloop 0.22.1", ""),
        (checks.loop(None, "linux"), "fail", "not installed", "pip install uvloop"),
        (checks.loop(None, "win32"), "ok", "asyncio", ""),
        (checks.sqlite("3.39.4", 3, []), "fail", "3.39.4", "3.40 or newer"),
        (checks.sqlite("3.40.1", 3, ["ENABLE_FTS5"]), "ok", "3.51.3) needs one connection", ""),
        (checks.sqlite("3.51.3", 1, []), "ok", "3.51.3", ""),
        (checks.sqlite("3.51.3", 0, []), "fail", "THREADSAFE=0", "complete SQLite"),
        (checks.sqlite("3.45.0", 3, ["OMIT_WAL"]), "fail", "OMIT_WAL", "complete SQLite"),
        (limits(20_000, 20_000), "ok", "20,000 (ulimit -n); pool.sockets = 1,024", ""),
        (limits(256, 10_240), "ok", "a crawl raises it to 10,240", ""),
        (limits(-1, -1), "ok", "no limit", ""),
        (limits(100, 100, 60), "warn", "pool.sockets = 60", "ulimit -n 4096"),
        (limits(32, 32, 6), "fail", "32 (ulimit -n)", "ulimit -n 1024"),
        (trust(), "ok", "140 certificates from certifi", ""),
        (trust(140, 3, 30, "SSL_CERT_FILE"), "ok", "SSL_CERT_FILE not used, tls.ca_file", ""),
        (trust(0, 0), "fail", "no certificate", "pip install --upgrade certifi"),
        (trust(0, 0, None), "fail", "no certificate", "apt-get install"),
        (trust(5, 5), "fail", "all 5 certificates from certifi have expired", "clock"),
        (trust(140, 3, 900.0), "warn", "2 years old", "certifi"),
        (checks.names(["10.0.0.2"], ["127.0.0.1"]), "ok", "resolver 10.0.0.2; localhost is", ""),
        (checks.names([], ["::1"]), "ok", "no resolver named", ""),
        (checks.names(["10.0.0.2"], []), "warn", "has no address", "/etc/hosts"),
        (checks.names(["10.0.0.2"], None), "warn", "not found in time", "/etc/hosts"),
        (checks.disk("/a", 2**34, is_writable=True), "ok", "16.0 GiB free in /a", ""),
        (checks.disk("/a", 2**29, is_writable=True), "warn", "512.0 MiB free", "room"),
        (checks.disk("/a", 2**20, is_writable=True), "fail", "1.0 MiB free", "--db FILE"),
        (checks.disk("/a", 2**34, is_writable=False), "fail", "may not be written", "--db FILE"),
        (checks.file_system("ext4"), "ok", "ext4", ""),
        (checks.file_system(None), "ok", "not told", ""),
        (checks.file_system("nfs4"), "fail", "nfs4, of another machine", "write-ahead"),
        (checks.file_system("cifs"), "fail", "cifs", "--db FILE"),
        (checks.file_system("fuse.sshfs"), "fail", "fuse.sshfs", "--db FILE"),
        (checks.file_system("9p"), "warn", "9p", "--db FILE"),
        (checks.clock(1e9, 1e9 - 5), "ok", "plausible", ""),
        (checks.clock(1e9, 1e9 + 90_000), "fail", "1d 01h before", "set it"),
        (checks.proxies([]), "ok", "none in the environment", ""),
        (checks.proxies(["HTTP_PROXY"]), "warn", "HTTP_PROXY set, and not used", "domain.proxies"),
        (screen(), "ok", "120 columns, colour, utf-8", ""),
        (screen(79), "warn", "79 columns", "80 columns"),
        (screen(encoding="ANSI_X3.4-1968"), "warn", "ANSI", "PYTHONUTF8=1"),
        (screen(is_terminal=False), "ok", "lines instead of the live view", ""),
    ],
)
def test_facts_have_their_verdict(verdict: Verdict, state: str, found: str, advice: str) -> None:
    assert verdict.state == state
    assert found in verdict.found
    assert advice in verdict.advice
    assert (state == "ok") or verdict.advice


@pytest.mark.parametrize(
    ("bounds", "version", "is_fit"),
    [
        (">=0.9", "0.10", True),
        (">=1.2", "1.2.0rc1", True),
        ("~=1.0.9", "1.0.9.post1", True),
        ("~=1.2", "1.9", True),
        ("~=1.2", "2.0", False),
        ("==1.4.*", "1.4.7", True),
        ("==1.4.*", "1.5", False),
        ("!=1.4.*,>1", "1.4.7", False),
        ("<=2,<3", "2.0.0", True),
        ("===odd", "1", True),
        ("", "0", True),
    ],
)
def test_bounds_are_read_as_pip_reads_them(bounds: str, version: str, is_fit: bool) -> None:
    assert Requirement("x", bounds, None, True).fits(version) is is_fit


def test_what_another_platform_needs_is_not_missed() -> None:
    only = Requirement.parse("uvloop>=0.21; sys_platform != 'win32'", "win32")
    assert not only.is_here


# ── this machine ─────────────────────────────────────────────────────────────────────────


def verdicts(call: Call, *argv: str) -> dict[str, dict[str, Any]]:
    said = call("doctor", *argv, "--json")
    rows = json.loads(said.out)
    assert said.code == (1 if any(row["state"] == "fail" for row in rows) else 0)
    return {row["check"]: row for row in rows}


def test_this_machine_is_looked_at_without_httpx_and_within_a_second(here: Path) -> None:
    code = (
        "import sys, time; begun = time.process_time(); from crawler.cli import main;"
        "code = main(['doctor']); spent = time.process_time() - begun;"
        "print(code, 'httpx' in sys.modules, spent < 1 or spent, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "0 False True", done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert {line.split()[0] for line in lines} <= {"ok", "warn"}
    for name in ("python", "dependencies", "sqlite", "descriptors", "dns", "folder", "terminal"):
        assert any(line[6:].startswith(name) for line in lines), name
    assert all("→" in line for line in lines if line.startswith("warn"))


def test_the_names_of_the_pool_are_found_without_importing_all_of_it() -> None:
    tree = ast.parse(Path(crawler.pool.__file__ or "").read_text())
    typed = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("crawler.pool.")
        for alias in node.names
    }
    assert typed == set(crawler.pool.__all__)
    assert all(getattr(crawler.pool, name) is not None for name in typed)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = crawler.pool.Nothing


def test_the_descriptor_limit_is_only_asked_for(call: Call) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert verdicts(call)["descriptors"]["state"] == "ok"
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before
    few = subprocess.run(
        ["sh", "-c", f"ulimit -n 20; {sys.executable} -m crawler doctor"],
        capture_output=True,
        text=True,
    )
    assert few.returncode == 1
    assert "fail  descriptors   20 (ulimit -n)" in few.stdout
    assert few.stderr == "1 failure\n"


def test_what_the_environment_says_in_vain_is_said(
    call: Call, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://me:s3cret@proxy.test:3128")
    monkeypatch.setenv("SSL_CERT_FILE", str(here / "none.pem"))
    found = verdicts(call)
    assert found["proxies"]["state"] == "warn"
    assert "s3cret" not in json.dumps(found)
    assert "SSL_CERT_FILE" in found["authorities"]["found"]
    (here / "crawler.toml").write_text('tls.ca_file = "own.pem"\n')
    (here / "own.pem").write_bytes(trustme.CA().cert_pem.bytes())
    assert verdicts(call)["authorities"]["found"].startswith("1 certificate from tls.ca_file")


def test_mistakes_of_the_project_are_a_failure(call: Call, here: Path) -> None:
    (here / "crawler.toml").write_text("limt = 3\npool.cliens = 1\n")
    found = verdicts(call)["settings and spiders"]
    assert (found["state"], found["advice"]) == ("fail", "crawler config --check")
    assert "`limt` (from crawler.toml, line 1) (and 1 problem more)" in found["found"]
    (here / "crawler.toml").write_text("limit\n")
    assert "could not be read" in verdicts(call)["settings and spiders"]["found"]


def test_databases_with_files_beside_them_are_told(call: Call, here: Path) -> None:
    write_run(here / "books.db")
    assert "databases" not in verdicts(call)
    (here / "gone.db-wal").write_bytes(b"x")
    assert "gone.db-wal: left without" in verdicts(call)["databases"]["found"]
    (here / "gone.db-wal").unlink()
    (here / "books.db-lock").write_text("4711\n")
    found = verdicts(call)["databases"]
    assert (found["state"], found["advice"]) == (
        "warn",
        "the same `crawler run` goes on and clears it up",
    )
    (here / "books.db-lock").unlink()
    (here / "other.db").write_text("no database, but a text of some length")
    (here / "other.db-shm").write_text("")
    assert "other.db" in verdicts(call)["databases"]["found"]


HOLD = """
import asyncio, os, sys
from storage import open_store
async def main():
    store = await open_store("books.db")
    print(os.getpid(), flush=True)
    sys.stdin.readline()
    await store.aclose()
asyncio.run(main())
"""


def test_a_database_in_use_is_told_with_its_process(call: Call, here: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        pid = process.stdout.readline().strip()
        found = verdicts(call)["databases"]
        process.communicate("\n")
    assert (found["state"], found["found"]) == ("ok", f"books.db is in use by process {pid}")


# ── a host ───────────────────────────────────────────────────────────────────────────────


def test_a_host_is_asked_once_through_the_pool(call: Call) -> None:
    with Site({"/robots.txt": Reply.text("")}).threaded() as site:
        found = verdicts(call, site.addresses[0])
        assert [request.path for request in site.log] == ["/robots.txt"]
        assert (site.log[0].header("user-agent") or "").startswith("poolcrawl/")
        site.add("/robots.txt", Reply.code(503))
        assert verdicts(call, site.url("/deep"))["answer"]["state"] == "warn"
    assert found["addresses"]["found"] == "127.0.0.1 (all private)"
    assert found["connection"]["found"].endswith(" ms to 127.0.0.1, no TLS")
    assert found["answer"]["found"].startswith("HTTP/1.1, status 200 for http://127.0.0.1:")


@pytest.mark.parametrize(
    ("host", "found", "advice"),
    [
        (lambda: "http://{}:{}".format(*dead_address()), "connect-refused", "is the server up?"),
        (lambda: "https://{}:{}".format(*dead_address()), "connect-refused", "is the server up?"),
    ],
)
def test_a_host_that_cannot_be_reached_is_a_failure_with_advice(
    call: Call, host: Callable[[], str], found: str, advice: str
) -> None:
    row = verdicts(call, host())["connection"]
    assert row["state"] == "fail"
    assert found in row["found"]
    assert advice in row["advice"]


def test_a_host_that_does_not_speak_tls_is_waited_for_as_the_settings_say(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRAWLER_TIMEOUT_TLS", "0.1")
    with Site().threaded() as site:
        row = verdicts(call, f"https://{site.addresses[0]}/")["connection"]
    assert row["state"] == "fail"
    assert row["found"].startswith("tls-timeout: ")
    assert row["advice"] == "does it speak TLS there? else: crawler doctor http://HOST"


def test_what_is_no_host_is_refused_before_anything_is_looked_at(call: Call) -> None:
    said = call("doctor", "no host")
    assert said.code == 2
    assert said.error[0] == "`no host` is no host"


def test_a_settings_mistake_does_not_keep_a_host_from_being_asked(call: Call, here: Path) -> None:
    (here / "crawler.toml").write_text("limt = 3\n")
    with Site({"/robots.txt": Reply.text("")}).threaded() as site:
        found = verdicts(call, site.url())
    assert found["answer"]["state"] == "ok"
    assert found["settings and spiders"]["state"] == "fail"
