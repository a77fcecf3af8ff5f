"""`crawler demo --serve`: the shop stays open until it is told to close."""

from __future__ import annotations

import http.client
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

from crawler.cli import main
from crawler.testing import Site

if TYPE_CHECKING:
    import pytest

PROGRAM = [sys.executable, "-m", "crawler", "demo", "--serve", "--port"]


def test_the_shop_is_open_until_ctrl_c() -> None:
    with subprocess.Popen([*PROGRAM, "0"], stderr=subprocess.PIPE, text=True) as shop:
        assert shop.stderr is not None
        told = shop.stderr.readline()
        found = re.search(r"http://([\d.:]+)/$", told)
        assert found is not None, told
        connection = http.client.HTTPConnection(found[1], timeout=10)
        connection.request("GET", "/")
        page = connection.getresponse().read().decode()
        connection.close()
        shop.send_signal(signal.SIGINT)
        rest = shop.stderr.read()
    assert "The Bookshop" in page
    assert f"crawler shell http://{found[1]}/" in rest
    assert shop.returncode == 0


def test_a_port_that_is_taken_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with Site().threaded() as other:
        port = other.addresses[0].rpartition(":")[2]
        assert main(["demo", "--serve", "--port", port]) == 2
    told = capsys.readouterr().err
    assert f"port {port} is not free" in told
    assert "--port 0" in told


def test_a_port_that_cannot_be_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--serve", "--port", "99999"]) == 2
    error, hint = capsys.readouterr().err.splitlines()
    assert error == "error: --port 99999 is no port"
    assert "from 0 to 65535" in hint
