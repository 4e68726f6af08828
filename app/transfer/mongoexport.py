"""Reads mongoexport's output as a stream: one document a line or `--jsonArray`, also gzip."""

import codecs
import gzip
import io
import json
import re
import zlib
from collections.abc import Generator, Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, TypeAlias, cast

import orjson

from app.transfer import recognition

MAX_DOCUMENT = 16 * 1024 * 1024  # bytes; MongoDB has none larger
CHUNK = 1024 * 1024  # bytes read at a time from an array
MAX_AHEAD = timedelta(days=3653)  # of our clock
PART = 16 * 1024  # characters of an array that are parsed first; most documents have 300
LONGEST_LITERAL = 16  # characters before the end of a chunk where cut text may look invalid

if TYPE_CHECKING:
    Reader: TypeAlias = io.BufferedReader[io.RawIOBase] | gzip.GzipFile

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SPACE = re.compile(r"[\s,]*")
_decoder = json.JSONDecoder()


class UnreadableError(Exception):
    """The file could not be read to its end; the message says where and why."""


class Entry(NamedTuple):
    """A document, or None and the problem with it; with its line, from 1, and its text."""

    line: int
    document: dict[str, Any] | None
    text: bytes
    problem: str = ""


def entries(file: BinaryIO) -> Generator[Entry, None, None]:
    """Yield the documents of an export, in memory one at a time.

    Anything but a JSON object is yielded as an entry with a problem. Raises UnreadableError when
    the file is cut short, reading fails, or its first bytes are those of something else.
    """
    line = 0
    outer = io.BufferedReader(cast(io.RawIOBase, file), CHUNK)
    try:
        for entry in _entries(outer):
            line = entry.line
            yield entry
    except (OSError, EOFError, zlib.error) as error:
        raise UnreadableError(f"after line {line}: {error}") from error
    finally:
        outer.detach()  # the file is the caller's to close


def _entries(reader: "Reader") -> Iterator[Entry]:
    if reader.peek(2)[:2] == b"\x1f\x8b":
        # Without a second buffer, which would lose what was read before a cut.
        reader = gzip.GzipFile(fileobj=reader)
    if reader.peek(3)[:3] == codecs.BOM_UTF8:
        reader.read(3)
    if found := recognition.of_bytes(reader.peek(CHUNK)[:CHUNK]):
        raise UnreadableError(f"it is {found}")
    is_array = reader.peek(CHUNK).lstrip()[:1] == b"["
    return _array(reader) if is_array else _lines(reader)


def _lines(file: "Reader") -> Iterator[Entry]:
    number = 0
    while text := file.readline(MAX_DOCUMENT):
        number += 1
        if not text.strip():
            continue
        if len(text) == MAX_DOCUMENT and not text.endswith(b"\n"):
            yield Entry(number, None, text[:1000], "longer than any document")
            while (rest := file.readline(MAX_DOCUMENT)) and not rest.endswith(b"\n"):
                pass
            continue
        try:
            document = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            yield Entry(number, None, text, f"not JSON: {error}")
            if not text.endswith(b"\n"):
                raise UnreadableError(f"ends in the middle of line {number}") from error
            continue
        yield _entry(number, document, text)


def _entry(line: int, document: Any, text: bytes) -> Entry:
    if isinstance(document, dict):
        return Entry(line, document, text)
    return Entry(line, None, text, "not a JSON object")


def _array(file: "Reader") -> Iterator[Entry]:
    """Read an array; a document may be one line, many lines, or part of a line."""
    decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
    text, line, indent = "", 1, ""
    place = -1  # before the bracket
    while True:
        chunk = file.read1(CHUNK)
        text += decode(chunk, not chunk)
        if place < 0:
            place = text.index("[") + 1
            line += text.count("\n", 0, place)
        while True:
            gap = _SPACE.match(text, place).group()  # type: ignore[union-attr]  # it matches ""
            if chunk and place + len(gap) == len(text):
                break
            place += len(gap)
            line += gap.count("\n")
            if "\n" in gap:
                indent = gap.rpartition("\n")[2]
            if text[place : place + 1] == "]":
                _expect_end(file, text[place + 1 :], line)
                return
            end, document, problem = _scan(text, place, indent, not chunk)
            if end < 0:
                break
            raw = _bytes(text[place:end])
            yield Entry(line, None, raw, problem) if problem else _entry(line, document, raw)
            line += text.count("\n", place, end)
            place = end
        text, place = text[place:], 0
        if not chunk:
            raise UnreadableError(f"the array ends in the middle, in line {line}")
        if len(text) > MAX_DOCUMENT:
            raise UnreadableError(f"line {line}: not JSON, or longer than any document")


def _scan(text: str, place: int, indent: str, is_all: bool) -> tuple[int, Any, str]:
    """Return the end of the document at `place` (-1: more text is needed), it, and its problem.

    A malformed document ends where the next line begins a document. Lines with another indent are
    inside a document. At first only a part of the text is parsed: a parser that fails counts the
    lines before its error, and each malformed document would cost as much as all before it.
    """
    for size in (PART, len(text)):
        part = text[place : place + size]
        try:
            document, end = _decoder.raw_decode(part)
        except (ValueError, RecursionError) as error:
            problem = f"not JSON: {getattr(error, 'msg', error)}"
            is_cut = _is_cut(error, len(part))
        else:
            return place + end, document, ""
        if not is_cut or place + size >= len(text):
            break
    if is_cut and not is_all:
        return -1, None, ""
    line = text.find(f"\n{indent}{{", place + 1)
    end = line + 1 + len(indent) if line > 0 else -1
    return end, None, problem


def _is_cut(error: Exception, length: int) -> bool:
    """Tell whether a document that cannot be parsed may be valid once its rest is read."""
    return isinstance(error, json.JSONDecodeError) and (
        error.msg.startswith("Unterminated string") or error.pos > length - LONGEST_LITERAL
    )


def _expect_end(file: "Reader", rest: str, line: int) -> None:
    """Read what follows the array: a second array is an error, and gzip checks its checksum."""
    more = _bytes(rest)
    while not more.strip():
        if not (more := file.read1(CHUNK)):
            return
    raise UnreadableError(f"line {line}: something follows the end of the array")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def plain_id(value: Any) -> Any:
    """Return an id without Extended JSON's wrapping: the text of `{"$oid": text}`."""
    return value["$oid"] if isinstance(value, dict) and list(value) == ["$oid"] else value


def parse_date(value: Any) -> datetime:
    """Return the moment of a date in any of the four forms; else ValueError.

    `{"$date": …}` of an ISO text, whose offset may lack its colon, of `{"$numberLong": "ms"}`, or
    of a number of milliseconds; the outer object may be missing. Clocks may be wrong by years, so
    only dates further in the future than MAX_AHEAD are refused.
    """
    if isinstance(value, dict):
        value = value.get("$date")
        if isinstance(value, dict):
            number = value.get("$numberLong")
            value = int(number) if isinstance(number, str) else None
    try:
        if isinstance(value, str):
            moment = datetime.fromisoformat(value)
            if moment.tzinfo is None:
                raise ValueError("no offset")
            moment = moment.astimezone(UTC)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            moment = _EPOCH + timedelta(milliseconds=value)
        else:
            raise ValueError("not a date")
    except OverflowError as error:
        raise ValueError("out of range") from error
    if moment > datetime.now(UTC) + MAX_AHEAD:
        raise ValueError("far in the future")
    return moment
