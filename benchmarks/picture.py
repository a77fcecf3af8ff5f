"""The picture of the live view in the documents: `python -m benchmarks.picture`.

Owns: the hosts of the scene, good and bad ones, the terminal it is recorded on, the SVG.
Does not own: what is seen: it is the real view of a real crawl on loopback.

Invariants: the SVG names no font, page or file of elsewhere; nothing of this machine is in
it but its figures. Port 80 of 127.0.0.x is used where that is allowed, so that the domains
have no port in their names.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import tempfile
import threading
import time
from itertools import count
from math import sin
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.live import open_terminal, terminal_environ
from benchmarks.measure import ROOT, python
from crawler.testing import Reply, Site

if TYPE_CHECKING:
    from collections.abc import Callable

    from crawler.testing.replies import Received

__all__: list[str] = []

PICTURE = ROOT / "docs" / "live.svg"
NAMES = ("shop", "news", "img.shop", "flaky", "api", "slow", "forum", "old")
DEAD = NAMES.index("old")
PAGES = {"shop": 3_000, "news": 1_300, "img.shop": 9_000, "slow": 1_000, "api": 60}
"""Of a host; others have 2,000."""
SEEN = ("throttled", "unreachable", "waiting", " ok ", "http-503", " left")
"""What has to be on the picture."""
SPIDER = """
from crawler import DomainSettings, Request, Response, Results, Settings, Spider, item

NAMES = {names!r}

@item(key="url")
class Product:
    url: str
    title: str

class Shop(Spider):
    settings = Settings(
        domain=DomainSettings(delay=0.1, give_up=600),
        domains={{
            "news.example": DomainSettings(delay=0.25),
            "img.shop.example": DomainSettings(delay=0.02),
        }},
        resolve={{f"{{name}}.example": f"127.0.0.{{n}}" for n, name in enumerate(NAMES, 11)}},
    )

    def start(self):
        for name in NAMES:
            yield Request(f"http://{{name}}.example{port}/")

    def parse(self, page: Response) -> Results:
        yield Product(url=page.url, title=page.get("title"))
        yield from page.follow_all("a", self.parse)
"""
FRAME = re.compile(r"\x1b\[\?7l(.*?)\x1b\[\?7h", re.DOTALL)
FONT = "'DejaVu Sans Mono', Menlo, Consolas, 'Liberation Mono', monospace"
FONT_PX = 20.26
"""At this size a letter of the first two is as wide as the cells are drawn."""


# -- the hosts -------------------------------------------------------------------------------


def _answerer() -> Callable[[Received], Reply]:
    number = count(1)

    def answer(request: Received) -> Reply:
        name = request.host.partition(".example")[0]
        if request.path == "/robots.txt":
            return Reply.text("User-agent: *\nAllow: /\n")
        if name == "api" and next(number) % 9 == 0:
            return Reply.code(429, {"Retry-After": "25"})
        if name == "flaky" and next(number) % 4 == 0:
            return Reply.code(503)
        waits = {"slow": 1.3, "forum": 0.35, "news": 0.11, "api": 0.06, "flaky": 0.09}
        wave = 0.02 + 0.3 * (1 + sin(request.at / 16)) * (name == "img.shop")
        return _page(name, request.path).slow(waits.get(name, wave))

    return answer


def _page(name: str, path: str) -> Reply:
    links = ""
    if path == "/":
        links = "".join(f'<a href="/{n}">{n}</a>' for n in range(PAGES.get(name, 2_000)))
    return Reply.html(f"<title>{name}{path}</title>{links}<p>{'text ' * 400}</p>")


def _site() -> Site:
    """On port 80, or where that is not allowed on any other."""
    addresses = [f"127.0.0.{n}" for n, _ in enumerate(NAMES, 11)]
    for port in (80, 0):
        site = Site(addresses=addresses, port=port, deaf=(DEAD,), fallback=_answerer())
        try:
            with site.threaded():
                pass
        except OSError:
            continue
        return Site(addresses=addresses, port=port, deaf=(DEAD,), fallback=_answerer())
    raise SystemExit("error: no port is free on 127.0.0.11 and those that follow")


# -- recording -------------------------------------------------------------------------------


def record(columns: int, rows: int, seconds: float) -> tuple[str, str]:
    """The first line of a crawl, and a view of it with its colours, after so long."""
    with tempfile.TemporaryDirectory() as name, _site().threaded() as site:
        port = site.addresses[0].partition(":")[2]
        source = SPIDER.format(names=NAMES, port="" if port == "80" else f":{port}")
        folder = Path(name)
        folder.joinpath("spiders").mkdir()
        folder.joinpath("spiders", "shop.py").write_text(source, encoding="utf-8")
        ours, theirs = open_terminal(columns, rows)
        process = subprocess.Popen(
            python("-m", "crawler", "run", "shop"),
            cwd=folder,
            env=terminal_environ(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=theirs,
        )
        os.close(theirs)
        watchdog = threading.Timer(seconds * 4 + 60, process.kill)
        watchdog.start()
        try:
            return _seen(ours, time.monotonic() + seconds)
        finally:
            process.kill()
            process.wait()
            watchdog.cancel()
            os.close(ours)


def _seen(descriptor: int, after: float) -> tuple[str, str]:
    read = ""
    while True:
        try:
            read += os.read(descriptor, 65_536).decode(errors="ignore")
        except OSError as error:  # the crawl has ended
            raise SystemExit(f"error: the crawl ended too soon\n{read[-2000:]}") from error
        frames = FRAME.findall(read)
        plain = re.sub(r"\x1b\[\d*m", "", frames[-1]) if frames else ""
        if time.monotonic() > after and all(word in plain for word in SEEN):
            return read.partition("\r")[0], frames[-1]


# -- drawing ---------------------------------------------------------------------------------


def svg(first: str, frame: str, columns: int) -> str:
    """Both below the command, as a terminal shows them."""
    import io

    from rich.console import Console
    from rich.text import Text

    console = Console(
        file=io.StringIO(),
        record=True,
        width=columns,
        force_terminal=True,
        color_system="truecolor",
        legacy_windows=False,
    )
    text = re.sub(r"\x1b\[[KJ]|\r", "", frame)
    for line in ("$ crawler run shop", first, text):
        console.print(Text.from_ansi(line), soft_wrap=True)
    drawn = console.export_svg(title="crawler run shop", unique_id="live")
    drawn = re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r"font-family: ?[^;]+;", f"font-family: {FONT};", drawn)
    drawn = drawn.replace("font-size: 20px", f"font-size: {FONT_PX}px")
    return re.sub(r"<!--.*?-->\s*", "", drawn, flags=re.DOTALL)


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.picture", description=__doc__)
    parser.add_argument("--columns", type=int, default=120)
    parser.add_argument("--rows", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=150.0, help="before the picture")
    parser.add_argument("-o", "--output", type=Path, default=PICTURE)
    given = parser.parse_args()
    first, frame = record(given.columns, given.rows, given.seconds)
    given.output.write_text(svg(first, frame, given.columns), encoding="utf-8")
    print(f"{given.output.name}: {given.output.stat().st_size:,} bytes")


if __name__ == "__main__":
    _main()
