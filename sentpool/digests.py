"""SHA-256. It comes with OpenSSL, megabytes that only a provenance needs: loaded once something asks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import hashlib


def sha256(data: bytes = b"") -> hashlib._Hash:
    """`hashlib.sha256`."""
    import hashlib

    return hashlib.sha256(data)
