"""The distribution's name and version: their one place."""

from typing import Final

__all__ = ["NAME", "VERSION"]

NAME: Final = "poolcrawl"
VERSION: Final = "0.1.0"
