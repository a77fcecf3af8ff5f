"""`crawler doctor`: what facts mean, what is found here, and one host asked."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from crawler.cli import findings
from crawler.layers import flag_layer, resolve
from crawler.testing import Reply, Site, dead_address
from tests.commands import call, here

if TYPE_CHECKING:
    from collections.abc import Callable

    from crawler.cli.findings import Verdict
    from tests.commands import Call

__all__ = ["call", "here"]

NEEDED = (
    "httpx<0.29,>=0.28.1",
    "httpcore~=1.0.9",
    'h2>=4.4.1; extra == "http2"',
    'hpack>=4.1; extra == "http2"',
    'socksio>=1.0; extra == "socks"',
    'crawlee[parsel,sql-sqlite]>=1.11; extra == "bench"',
)
FIT: dict[str, str | None] = {"httpx": "0.28.1", "httpcore": "1.0.10"}
PLENTY = 2**34


def packages(**installed: str | None) -> list[Verdict]:
    return list(findings.packages(NEEDED, (FIT | installed).get))


def disk(free: int = PLENTY, kind: str = "ext4", *, is_ours: bool = True) -> Verdict:
    return findings.disk(Path("/a"), free, kind, is_ours=is_ours)


def environment(*given: str, **variables: str) -> Verdict:
    return findings.environment(resolve([flag_layer(given)]), variables)


# ── verdicts ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("verdict", "state", "found", "advice"),
    [
        (packages()[0], "ok", "all are there", ""),
        (packages(httpx="0.27.2")[0], "fail", "0.27.2 does not fit httpx<0.29,", "httpx<0.29"),
        (packages(httpcore=None)[0], "fail", "is not installed", 'pip install "httpcore~=1.0.9"'),
        (packages()[1], "ok", "none installed", '"poolcrawl[http2,socks]"'),
        (packages(h2="4.4.1")[1], "ok", "none installed", "http2"),
        (packages(h2="4.3.0", hpack="4.1")[1], "ok", "none installed", "http2"),
        (packages(h2="4.4.1", hpack="4.1", socksio="1.0.0")[1], "ok", "http2, socks inst", ""),
        (findings.sqlite("3.39.4"), "fail", "3.39.4", "3.40 or newer"),
        (findings.sqlite("3.40.1"), "ok", "(before 3.51.3) is avoided here", ""),
        (findings.sqlite("3.51.3"), "ok", "3.51.3", ""),
        (findings.descriptors(60), "ok", "of which sockets: 60", ""),
        (findings.names(["10.0.0.2"], ["::1"]), "ok", "resolver 10.0.0.2; localhost is ::1", ""),
        (findings.names([], ["::1"]), "ok", "not named", ""),
        (findings.names(["10.0.0.2"], []), "warn", "was not found", "/etc/hosts"),
        (disk(), "ok", "16.0 GiB free in /a (ext4)", ""),
        (disk(2**29), "warn", "512.0 MiB free", "room"),
        (disk(2**20), "fail", "1.0 MiB free", "--db FILE"),
        (disk(is_ours=False), "fail", "may not be written", "--db FILE"),
        (disk(kind=""), "ok", "free in /a", ""),
        (disk(kind="nfs4"), "fail", "(nfs4): another machine's", "--db FILE"),
        (disk(kind="fuse.sshfs"), "fail", "sshfs", "--db FILE"),
        (environment(), "ok", "no proxy", ""),
        (environment(https_proxy="http://me:s3cret@x"), "warn", "HTTPS_PROXY set, and", "proxies"),
        (environment("domain.proxies=http://x:1", HTTP_PROXY="y"), "ok", "no proxy", ""),
    ],
)
def test_facts_have_their_verdict(verdict: Verdict, state: str, found: str, advice: str) -> None:
    assert verdict.state == state
    assert found in verdict.found
    assert advice in verdict.advice
    assert (state == "ok") or verdict.advice


@pytest.mark.parametrize(
    ("asked", "version", "is_fit"),
    [
        ("x>=0.9", "0.10", True),
        ("x>=1.2", "1.2.0rc1", True),
        ("x<0.29,>=0.28.1", "0.29", False),
        ("x<0.29,>=0.28.1", "0.28.1+ours", True),
        ("x~=1.0.9", "1.0.9.post1", True),
        ("x~=1.0.9", "1.1.0", False),
        ("x~=1.2", "1.9", True),
        ("x~=1.2", "2.0", False),
        ("x", "0", True),
    ],
)
def test_bounds_are_read_as_pip_reads_them(asked: str, version: str, is_fit: bool) -> None:
    assert findings.fits(version, asked) is is_fit


def test_bounds_of_ours_have_no_other_signs() -> None:
    lines = [line.partition(";")[0] for line in requires("poolcrawl") or []]
    assert lines
    assert set(re.findall("[<>=~!]+", " ".join(lines))) <= {">=", "<", "~="}


# ── this machine ─────────────────────────────────────────────────────────────────────────


def verdicts(call: Call, *argv: str) -> dict[str, dict[str, Any]]:
    said = call("doctor", *argv, "--json")
    rows = json.loads(said.out)
    assert said.code == (1 if any(row["state"] == "fail" for row in rows) else 0)
    return {row["check"]: row for row in rows}


def doctor(program: str) -> list[str]:
    """What `crawler doctor` prints after some lines of Python, in a process of its own."""
    code = f"import sys; {program}; from crawler.cli import main; sys.exit(main(['doctor']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert done.returncode == any(line.startswith("fail") for line in lines), done.stderr
    return lines


def test_each_line_says_how_it_is_and_what_to_do(here: Path) -> None:
    lines = doctor("pass")
    assert {line.split()[0] for line in lines} <= {"ok", "warn"}
    for name in ("python", "dependencies", "extras", "sqlite", "descriptors", "dns", "disk"):
        assert any(line[6:].startswith(name) for line in lines), name
    assert all("→" in line for line in lines if line.startswith("warn"))


def test_a_package_that_cannot_be_imported_does_not_keep_it_from_looking(here: Path) -> None:
    lines = doctor("sys.modules['httpx'] = None")
    assert [line.split()[1] for line in lines if line.startswith("fail")] == ["installation"]


def test_the_descriptor_limit_is_only_asked_for(call: Call) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert verdicts(call)["descriptors"]["state"] == "ok"
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before
    lines = doctor("import resource as r; r.setrlimit(r.RLIMIT_NOFILE, (20, 20))")
    (told,) = (line for line in lines if line.startswith("fail"))
    assert "may have 20 files and sockets open" in told
    assert told.endswith("→ ulimit -n 1024")


def test_the_authorities_are_those_of_the_settings(call: Call, here: Path) -> None:
    assert "from certifi " in verdicts(call)["authorities"]["found"]
    (here / "crawler.toml").write_text('tls.ca_file = "own.pem"\n')
    (here / "own.pem").write_bytes(trustme.CA().cert_pem.bytes())
    assert verdicts(call)["authorities"]["found"] == "1 certificate from tls.ca_file"


def test_mistakes_of_the_project_are_a_failure(call: Call, here: Path) -> None:
    (here / "crawler.toml").write_text("limt = 3\npool.cliens = 1\n")
    found = verdicts(call)["project"]
    assert (found["state"], found["advice"]) == ("fail", "crawler config --check")
    assert "`limt` (from crawler.toml) (and 1 more)" in found["found"]
    (here / "crawler.toml").write_text("limit\n")
    assert "could not be read" in verdicts(call)["project"]["found"]


# ── a host ───────────────────────────────────────────────────────────────────────────────


def test_a_host_is_asked_once_through_the_pool(call: Call) -> None:
    with Site({"/robots.txt": Reply.text("")}).threaded() as site:
        found = verdicts(call, site.addresses[0])
        assert [request.path for request in site.log] == ["/robots.txt"]
        assert (site.log[0].header("user-agent") or "").startswith("poolcrawl/")
        site.add("/robots.txt", Reply.code(503))
        assert verdicts(call, site.url("/deep"))["answer"]["state"] == "warn"
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
    assert found["project"]["state"] == "fail"
