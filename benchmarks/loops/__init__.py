"""What the crawl is measured beside: one file per peer, each runnable alone.

    python -m benchmarks.loops.aiohttp_loop URL [PAGES]

Owns: nothing but the peers. Invariants: every one follows the links of a start URL's host
at 16 requests at once, obeys no robots.txt, stores or keeps URL and title of each HTML
page, and ends with one line of JSON: pages, cpu_s, wall_s, rss_mb.
"""
