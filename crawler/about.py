"""The distribution's name and version: their one place; what it calls itself on the wire."""

from typing import Final

__all__ = ["NAME", "VERSION", "user_agent"]

NAME: Final = "poolcrawl"
VERSION: Final = "0.1.0"


def user_agent(wanted: str | None, contact: str | None) -> str:
    """The User-Agent field: what is wanted, or name and version with the contact, if any."""
    if wanted:
        return wanted
    return f"{NAME}/{VERSION} (+{contact})" if contact else f"{NAME}/{VERSION}"
