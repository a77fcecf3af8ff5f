"""What the tests of names share: a machine whose names are counted and can be held up."""

from __future__ import annotations

import asyncio
import queue
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crawler.pool.resolver import Address, Resolver

ROOT = Path(__file__).parent.parent
GIVE_UP_S = 20.0
"""Within which a held thread or a child process must have come to its end."""

V4 = socket.AF_INET
V6 = socket.AF_INET6


def answer(*literals: str) -> list[tuple[Any, ...]]:
    """What getaddrinfo says of these addresses."""
    return [
        (V6, socket.SOCK_STREAM, 6, "", (literal, 80, 0, 0))
        if ":" in literal
        else (V4, socket.SOCK_STREAM, 6, "", (literal, 80))
        for literal in literals
    ]


class System:
    """Names as the machine knows them: blocking, counted, and to be held."""

    def __init__(self, **hosts: list[str] | BaseException) -> None:
        self.hosts = hosts
        self.asked: list[str] = []
        self.threads: set[str] = set()
        self.begun: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, host: str, port: int) -> list[tuple[Any, ...]]:
        self.asked.append(host)
        self.threads.add(threading.current_thread().name)
        self.begun.put(host)
        assert self.gate.wait(GIVE_UP_S)
        found = self.hosts[host]
        if isinstance(found, BaseException):
            raise found
        return answer(*found)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def unknown() -> socket.gaierror:
    return socket.gaierror(socket.EAI_NONAME, "Name or service not known")


async def literals(resolver: Resolver, host: str) -> list[str]:
    return [address.literal for address in await resolver.resolve(host, 80)]


def ask(resolver: Resolver, host: str, port: int = 80) -> tuple[Address, ...]:
    """One question, in a loop of its own; the resolver is closed."""

    async def scene() -> tuple[Address, ...]:
        try:
            return await resolver.resolve(host, port)
        finally:
            resolver.close()

    return asyncio.run(scene())
