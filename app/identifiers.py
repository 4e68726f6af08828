"""Ids and hashes: fresh device names, and SHA-256 of secrets as others write it down."""

import hashlib
import os
from binascii import Error as Base64Error
from binascii import a2b_base64
from typing import Any

ID_ALPHABET = "23456789ABCDEFGHJKLMNPQRSTWXYZabcdefghijkmnopqrstuvwxyz"
ID_LENGTH = 17
# What a random byte stands for. As many bytes for each character, or some would come more often.
_FAIR = 256 - 256 % len(ID_ALPHABET)
_TO_ALPHABET = bytes(ord(ID_ALPHABET[byte % len(ID_ALPHABET)]) for byte in range(256))
_TOO_HIGH = bytes(range(_FAIR, 256))


def fresh_id() -> str:
    """Make an id like Meteor's Random.id(): 17 of 55 characters, 98 bits from the system."""
    characters = b""
    while len(characters) < ID_LENGTH:
        characters += os.urandom(2 * ID_LENGTH).translate(_TO_ALPHABET, _TOO_HIGH)
    return characters[:ID_LENGTH].decode()


def hash_secret(secret: bytes) -> bytes:
    """Return the SHA-256 of a long random secret: it cannot be guessed, so it needs no salt."""
    return hashlib.sha256(secret).digest()


def parse_hash(text: Any) -> bytes:
    """Return the 32 bytes of a SHA-256 from its base64, as Meteor stores a login token.

    Raises ValueError for anything else. (Meteor, accounts-base, `_hashLoginToken`.)
    """
    try:
        digest = a2b_base64(text.encode(), strict_mode=True)
    except (AttributeError, UnicodeError, Base64Error):
        digest = b""
    if len(digest) != hashlib.sha256().digest_size:
        raise ValueError("Must be base64 of a SHA-256, 44 characters.")
    return digest
