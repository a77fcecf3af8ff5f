"""CPU of reading pages that are in memory: `python -m benchmarks.parsing FILE`.

Owns: tree, title and resolved links, as the spider `pages` asks for them.
Does not own: fetching, which is over before the clock starts.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from urllib.request import urlopen

from crawler import Request, Response

__all__: list[str] = []


def _fetched(url: str) -> Response:
    with urlopen(url) as answer:
        kind = answer.headers["content-type"].encode()
        return Response(Request(url), url, answer.status, [(b"content-type", kind)], answer.read())


def _main() -> None:
    pages = [_fetched(url) for url in Path(sys.argv[1]).read_text(encoding="utf-8").split()]
    count = len(pages)
    begun = time.process_time()
    while pages:
        # Taken from the list, so that each tree is freed within the time, as in a crawl.
        page = pages.pop()
        page.links()
        if page.is_html:
            page.get("title", default=None)
    spent = time.process_time() - begun
    print(json.dumps({"cpu_us": spent / count * 1e6}))


if __name__ == "__main__":
    _main()
