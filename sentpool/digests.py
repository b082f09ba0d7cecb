"""SHA-256. It comes with OpenSSL, megabytes that only a provenance needs: loaded once something asks for it."""

from __future__ import annotations


def sha256(data: bytes = b""):
    """`hashlib.sha256`."""
    import hashlib

    return hashlib.sha256(data)
