"""`crawler demo`: the bookshop on this machine, crawled from end to end without a network."""

from __future__ import annotations

import shutil
import signal
import sys
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from crawler.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from crawler.demo.site import Bookshop

__all__ = ["command"]

SHOP_PORT = 8080
PORTS = 65_535


@click.command()
@click.option("--db", default="demo.db", show_default=True, metavar="FILE", help="Database.")
@click.option("--seed", default=1, show_default=True, help="Of the shop's books and authors.")
@click.option("--fresh", is_flag=True, help="Replace the database when it is there.")
@click.option("--serve", is_flag=True, help="Only open the shop, until Ctrl-C, to try spiders on.")
@click.option("--port", type=int, metavar="N", help="Of the shop; default: 8080 with --serve.")
def command(db: str, seed: int, fresh: bool, serve: bool, port: int | None) -> int:
    """Crawl a built-in bookshop: several hosts, slow, failing and dead ones among them."""
    if port is not None and not 0 <= port <= PORTS:
        hint = f"a number from 0 to {PORTS}; 0 takes one that is free"
        raise UsageError(f"--port {port} is no port", hint=hint)
    if serve:
        return _serve(seed, SHOP_PORT if port is None else port)
    path = Path(db)
    if path.exists() and not fresh:
        raise UsageError(f"{db} is there already", hint="--fresh replaces it, --db names another")
    path.unlink(missing_ok=True)
    from crawler.cli.plans import Plan
    from crawler.cli.running import run_plans
    from crawler.demo.shop import Shop
    from crawler.layers import Layer, resolve

    with _open(seed, port or 0) as site:
        spider = Shop(site=site.start_url)
        settings = resolve([Layer("spider", spider.settings.given())])
        plan = Plan(spider, settings, spider.canonical_arguments(), "")
        (result,) = run_plans([plan], path, how="fresh")
    program = "crawler" if shutil.which("crawler") else sys.argv[0]
    click.echo(
        f"Three things to try:\n"
        f"  {program} sql --db {db} 'select title, price from book order by price desc limit 5'\n"
        f"  {program} sql --db {db} 'select domain, requests, reuse from v_pools'\n"
        f"  {program} export --db {db} --table book -o books.csv",
        err=True,
    )
    return result.exit_code


def _serve(seed: int, port: int) -> int:
    with _open(seed, port) as site, suppress(KeyboardInterrupt):
        click.echo(
            f"The bookshop is open until Ctrl-C: {site.start_url}\n"
            f"In another terminal: crawler shell {site.start_url}",
            err=True,
        )
        while True:
            signal.pause()
    return 0


@contextmanager
def _open(seed: int, port: int) -> Iterator[Bookshop]:
    """The bookshop, served by a thread. Raises UsageError where the port cannot be had."""
    from crawler.demo.site import Bookshop

    try:
        threaded = Bookshop(seed=seed, port=port).threaded()
        site = threaded.__enter__()
    except OSError as error:
        raise UsageError(
            f"the shop cannot open: {error.strerror or error}",
            hint="--port 0 takes one that is free",
        ) from None
    with ExitStack() as stack:
        stack.push(threaded)
        yield site
