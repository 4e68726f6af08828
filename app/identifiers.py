"""Ids and hashes: fresh ids and names, and SHA-256 of secrets as others write it down."""

import hashlib
import os
import time
from binascii import Error as Base64Error
from binascii import a2b_base64
from functools import lru_cache
from typing import Any

ID_ALPHABET = "23456789ABCDEFGHJKLMNPQRSTWXYZabcdefghijkmnopqrstuvwxyz"  # sorted as bytes are
NAME_LENGTH = 17
MOMENT_LENGTH = 6  # seconds since 1970, until the year 2847
# What a random byte stands for. As many bytes for each character, or some would come more often.
_FAIR = 256 - 256 % len(ID_ALPHABET)
_TO_ALPHABET = bytes(ord(ID_ALPHABET[byte % len(ID_ALPHABET)]) for byte in range(256))
_TOO_HIGH = bytes(range(_FAIR, 256))


def fresh_name() -> str:
    """Make a device's name like Meteor's Random.id(): 17 of 55 characters, 98 random bits."""
    characters = b""
    while len(characters) < NAME_LENGTH:
        characters += os.urandom(2 * NAME_LENGTH).translate(_TO_ALPHABET, _TOO_HIGH)
    return characters[:NAME_LENGTH].decode()


def fresh_id() -> str:
    """Make a row's id: the second, in 6 characters that sort by it, and a fresh name.

    What is new has neighbours in the index of ids. Were it anywhere, as push tokens are, each new
    row of a large table would have PostgreSQL write one page more to its log whole.
    """
    return _moment(int(time.time())) + fresh_name()


@lru_cache(1)
def _moment(seconds: int) -> str:
    """Write a time in the alphabet of ids."""
    characters = ""
    for _ in range(MOMENT_LENGTH):
        seconds, place = divmod(seconds, len(ID_ALPHABET))
        characters = ID_ALPHABET[place] + characters
    return characters


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
