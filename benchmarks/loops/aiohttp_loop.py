"""A hand-written crawl over aiohttp."""

from __future__ import annotations

import aiohttp

from benchmarks.loops.figures import arguments, run_loop, tell
from benchmarks.loops.walk import WORKERS, Walk


async def main(start: str, pages: int) -> int:
    """Crawl; the number of pages."""
    connector = aiohttp.TCPConnector(limit=WORKERS)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def fetch(url: str) -> bytes | None:
            async with session.get(url) as response:
                response.raise_for_status()
                if response.content_type != "text/html":
                    return None
                html: bytes = await response.read()
                return html

        return await Walk(start, pages).run(fetch)


if __name__ == "__main__":
    given = arguments()
    tell(run_loop(main(given.url, given.pages)))
