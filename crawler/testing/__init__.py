"""Public test support: a web server on loopback that misbehaves as told.

with Site({"/": Reply.html("<h1>hi</h1>")}).threaded() as site:
    ...  # crawl site.url("/"), then look at site.log and site.stats()
"""

from crawler.testing.replies import Handler, Received, Reply, Route, fail_first, files
from crawler.testing.site import Site, SiteStats, dead_address

__all__ = [
    "Handler",
    "Received",
    "Reply",
    "Route",
    "Site",
    "SiteStats",
    "dead_address",
    "fail_first",
    "files",
]
