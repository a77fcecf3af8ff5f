"""`crawler demo`: the bookshop on this machine, crawled from end to end without a network."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import click

from crawler.cli.plans import Plan
from crawler.cli.running import run_plans
from crawler.demo.shop import Shop
from crawler.demo.site import Bookshop
from crawler.errors import UsageError
from crawler.layers import Layer, resolve

__all__ = ["command"]


@click.command()
@click.option("--db", default="demo.db", show_default=True, metavar="FILE", help="Database.")
@click.option("--seed", default=1, show_default=True, help="Of the shop's books and authors.")
@click.option("--fresh", is_flag=True, help="Replace the database when it is there.")
def command(db: str, seed: int, fresh: bool) -> int:
    """Crawl a built-in bookshop: several hosts, slow, failing and dead ones among them."""
    path = Path(db)
    if path.exists() and not fresh:
        raise UsageError(f"{db} is there already", hint="--fresh replaces it, --db names another")
    path.unlink(missing_ok=True)
    with Bookshop(seed=seed).threaded() as site:
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
