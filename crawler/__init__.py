"""Polite, resumable web crawls into SQLite, over managed connection pools.

    errors, urls → items, request, pool/, web/ → response, retry → settings, pace → spider,
    plugins, scheduler → downloader → run, visits, engine → crawling, report, testing →
    demo/ → cli/

Names are imported when they are first used, so that `crawler --help` stays quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crawler.about import VERSION as __version__
    from crawler.crawling import crawl, crawl_sync, stream
    from crawler.engine import Session
    from crawler.errors import (
        CrawlerError,
        FetchError,
        ItemError,
        NoMatch,
        SettingsError,
        SpiderError,
        SpiderLoadError,
        StopCrawl,
        UsageError,
    )
    from crawler.items import item
    from crawler.node import Node
    from crawler.plugins import Plugin
    from crawler.request import Request, Requests, Results
    from crawler.response import Response
    from crawler.result import CrawlResult
    from crawler.retry import Retry
    from crawler.settings import (
        BodySettings,
        DomainSettings,
        HeadSettings,
        PoolSettings,
        RobotsSettings,
        Settings,
        TimeoutSettings,
        TlsSettings,
        UnfinishedSettings,
    )
    from crawler.spider import Spider

_WHERE = {
    "BodySettings": "settings",
    "CrawlResult": "result",
    "CrawlerError": "errors",
    "DomainSettings": "settings",
    "HeadSettings": "settings",
    "FetchError": "errors",
    "ItemError": "errors",
    "NoMatch": "errors",
    "Node": "node",
    "Plugin": "plugins",
    "PoolSettings": "settings",
    "Request": "request",
    "Requests": "request",
    "Response": "response",
    "Results": "request",
    "Retry": "retry",
    "RobotsSettings": "settings",
    "Session": "engine",
    "Settings": "settings",
    "SettingsError": "errors",
    "Spider": "spider",
    "SpiderError": "errors",
    "SpiderLoadError": "errors",
    "StopCrawl": "errors",
    "TimeoutSettings": "settings",
    "TlsSettings": "settings",
    "UnfinishedSettings": "settings",
    "UsageError": "errors",
    "crawl": "crawling",
    "crawl_sync": "crawling",
    "item": "items",
    "stream": "crawling",
}

__all__ = [
    "BodySettings",
    "CrawlResult",
    "CrawlerError",
    "DomainSettings",
    "FetchError",
    "HeadSettings",
    "ItemError",
    "NoMatch",
    "Node",
    "Plugin",
    "PoolSettings",
    "Request",
    "Requests",
    "Response",
    "Results",
    "Retry",
    "RobotsSettings",
    "Session",
    "Settings",
    "SettingsError",
    "Spider",
    "SpiderError",
    "SpiderLoadError",
    "StopCrawl",
    "TimeoutSettings",
    "TlsSettings",
    "UnfinishedSettings",
    "UsageError",
    "__version__",
    "crawl",
    "crawl_sync",
    "item",
    "stream",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("crawler.about").VERSION
    if name not in _WHERE:
        raise AttributeError(f"module 'crawler' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"crawler.{_WHERE[name]}"), name)
    return value


def __dir__() -> list[str]:
    return __all__
