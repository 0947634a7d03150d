"""Keys and passwords in addresses: they open a place, and are written nowhere."""

from __future__ import annotations

import re

_SECRET = re.compile(r"(\w+://)[^/@\s\"']+@")


def without_credentials(text: str) -> str:
    """Return a text whose addresses have no `KEY:SECRET@`."""
    return _SECRET.sub(r"\1", text)
