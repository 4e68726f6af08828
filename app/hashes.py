"""SHA-256 of secrets, and how others write it down."""

import hashlib
from binascii import Error as Base64Error
from binascii import a2b_base64
from typing import Any


def hash_secret(secret: bytes) -> bytes:
    """Hash a long random secret; it needs no salt and no slowness, as nobody can guess it."""
    return hashlib.sha256(secret).digest()


def parse_hash(text: Any) -> bytes:
    """Return a SHA-256 from its base64, as Meteor stores it (domain.md 1.4); else ValueError."""
    try:
        digest = a2b_base64(text.encode(), strict_mode=True)
    except (AttributeError, UnicodeError, Base64Error):
        digest = b""
    if len(digest) != hashlib.sha256().digest_size:
        raise ValueError("Must be base64 of a SHA-256, 44 characters.")
    return digest
