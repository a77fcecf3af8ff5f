"""A hand-written crawl over httpx."""

from __future__ import annotations

import httpx

from benchmarks.loops.figures import arguments, run_loop, tell
from benchmarks.loops.walk import WORKERS, Walk


async def main(start: str, pages: int) -> int:
    """Crawl; the number of pages."""
    limits = httpx.Limits(max_connections=WORKERS, max_keepalive_connections=WORKERS)
    async with httpx.AsyncClient(limits=limits, follow_redirects=True) as client:

        async def fetch(url: str) -> bytes | None:
            response = await client.get(url)
            response.raise_for_status()
            is_html = response.headers.get("content-type", "").startswith("text/html")
            return response.content if is_html else None

        return await Walk(start, pages).run(fetch)


if __name__ == "__main__":
    given = arguments()
    tell(run_loop(main(given.url, given.pages)))
