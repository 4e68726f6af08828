"""Sees every statement of the service, and refuses what a distributed PostgreSQL does not run.

The forms are those that Citus' planner refuses. It loads nothing of the tests, as the processes
that tests start load it too (watched/sitecustomize.py).
"""

import functools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TABLES = {"push_tokens": "token", "user_sessions": "token_hash"}  # and what they are spread by
TEMPORARY = ("staged", "winners")  # of an import
ONE_NODE = "/* one node */"
BEFORE = "/* before tables spread */"  # of migrations

LOCK = "a lock of rows"
SKIP = "SKIP LOCKED"
PLAN = "one plan for all values"
CLAIM = "an advisory lock within a statement on a table"
BOTH = "a join of both tables"
LOCAL = "a join with a temporary table"
RETURNING = "a subselect in RETURNING"
FUNCTION = "a function in DO UPDATE SET"
NO_COLUMN = "SELECT without a column"
MOVED = "an update of what a table is spread by"
NUMBERED = "a join with what WITH ORDINALITY numbers"
VOLATILE = "a volatile function in an update or delete"
MOMENT = "a function of the moment in RETURNING, or in WHERE of ON CONFLICT"
TRIGGER = "a trigger"
VALUE = "a subselect in VALUES"
SETTINGS = "what depends on settings, of a column, in an update or delete"
SHOWN = "a moment as text, which each node writes in its own way"
CHAIN = "a write in a CTE"

# A lock of one row by what its table is spread by, which does not wait.
LOCKS_ONE = re.compile(
    r"select (?:1|\w+\.\w+) from (\w+) where (?:[\w.]+ = \S+(?: collate c)?(?: and )?)+"
    r" for update nowait"
)

EACH_ROW = r"\b(random|clock_timestamp|gen_random_uuid|nextval|set_config) ?\0"
# Functions that are stable: Citus evaluates them itself, before it knows any column.
BY_SETTINGS = (
    r"\b(to_char|date_trunc|date_part|extract|concat|concat_ws|format) ?\0"
    r"|\b\w+_at ?(?:::(?! ?timestamp)|[+-])"
)
EACH_TIME = rf"{EACH_ROW}|\bnow ?\0|\b(current|session)_(timestamp|date|time|user)\b"

# What a statement that bears ONE_NODE may have: there is another one in its place. No other way.
# (A write in a CTE runs on Citus too, but there what follows it sees what it did.)
ON_ONE_NODE = {LOCK, SKIP, PLAN, CLAIM, BOTH, LOCAL, CHAIN, SETTINGS}


@dataclass
class Block:
    """A statement or what is in parentheses; its text has a mark for each one within."""

    text: str = ""
    inner: list["Block"] = field(default_factory=list)
    is_cte: bool = False

    def all(self) -> Iterator["Block"]:
        """Yield this block and all within."""
        yield self
        for one in self.inner:
            yield from one.all()

    def tables(self, names: tuple[str, ...]) -> set[str]:
        """Return which of the tables are read here or in a subquery that is no CTE."""
        read = re.sub(r"^\s*insert into \w+", "", self.text)  # what is written only
        found = {name for name in names if re.search(rf"\b{name}\b(?!\s*\.)", read)}
        for one in self.inner:
            if not one.is_cte:
                found |= one.tables(names)
        return found


def plain(statement: str) -> str:
    """Return a statement in lower case, without comments, texts and line breaks."""
    without = re.sub(r"/\*.*?\*/|--[^\n]*", " ", statement, flags=re.S)
    without = re.sub(r"'(?:[^']|'')*'", "''", without)
    return re.sub(r"\s+", " ", without).strip().lower().replace('"', "")


def blocks(text: str) -> Block:
    """Take a statement apart at its parentheses."""
    top = Block()
    path = [top]
    for part in re.split(r"([()])", text):
        if part == "(":
            before = path[-1].text
            is_cte = bool(re.search(r"\bas (not )?(materialized )?$", before))
            one = Block(is_cte=is_cte and bool(re.search(r"\bwith\b", top.text + before)))
            path[-1].text += f"\0{len(path[-1].inner)} "
            path[-1].inner.append(one)
            path.append(one)
        elif part == ")":
            if len(path) > 1:
                path.pop()
        else:
            path[-1].text += part
    return top


def _clauses(block: Block, begin: str, end: str) -> list[str]:
    return re.findall(rf"\b{begin}\b(.*?)(?=\b(?:{end})\b|$)", block.text)


def _selects(block: Block, text: str) -> bool:
    marks = (int(number) for number in re.findall("\0(\\d+)", text))
    return any(
        one.text.lstrip().startswith("select") for n in marks for one in block.inner[n].all()
    )


def _moves(block: Block) -> bool:
    update = re.match(r"\s*update (?:only )?(\w+)", block.text)
    into = re.match(r"\s*insert into (\w+)", block.text)
    sets = [(update, "set", "from|where|returning"), (into, "do update set", "where|returning")]
    for table, begin, end in sets:
        spread_by = TABLES.get(table[1]) if table else None
        for clause in _clauses(block, begin, end) if spread_by else ():
            if re.search(rf"(?:^|,)\s*{spread_by}\s*=", clause):
                return True
    return False


def _varies(block: Block) -> Iterator[str]:
    """Yield the forms in which a write has what is not the same on all nodes."""
    written = re.match(r"\s*(update|delete from|insert into) (?:only )?(\w+)", block.text)
    if written is None or written[2] not in TABLES:
        return
    if block.is_cte:
        yield CHAIN
    if written[1] != "insert into":
        if re.search(EACH_ROW, block.text):
            yield VOLATILE
        if any(re.search(BY_SETTINGS, one.text) for one in block.all()):
            yield SETTINGS
    after = [*_clauses(block, "do update set.*?where", "returning")]
    if any(re.search(EACH_TIME, clause) for clause in after + _clauses(block, "returning", "\1")):
        yield MOMENT


def _locks_one(text: str) -> bool:
    one = LOCKS_ONE.fullmatch(text)
    return bool(one) and bool(re.search(rf"\b{TABLES.get(one[1])} = (?!any)", text))


def _within(block: Block) -> Iterator[str]:
    """Yield the forms in a statement, or in what is in parentheses, but not further within."""
    both = block.tables(tuple(TABLES))
    if len(both) == len(TABLES):
        yield BOTH
    if both and block.tables(TEMPORARY):
        yield LOCAL
    if both and "with ordinality" in block.text:
        yield NUMBERED
    if both and re.search(r"_at ?:: ?text\b", block.text):
        yield SHOWN
    if any(_selects(block, clause) for clause in _clauses(block, "returning", "\1")):
        yield RETURNING
    if any(_selects(block, clause) for clause in _clauses(block, "values", "on|returning")):
        yield VALUE
    for clause in _clauses(block, "do update set", "where|returning"):
        if re.search(r"\w ?\0|\0\d+ |\bcurrent_|\blocaltime", clause):
            yield FUNCTION
    yield from _varies(block)
    if _moves(block):
        yield MOVED


@functools.lru_cache(4096)
def forms(statement: str) -> frozenset[str]:
    """Return the forms in a statement that Citus refuses."""
    text = re.sub(r"^explain (\([^)]*\) |analyze )*", "", plain(statement))
    top = blocks(text)
    found = set()
    is_query = re.match(r"\(*(select|insert|update|delete|with|copy)\b", text)
    if re.search(r"\bfor (no key update|update|share|key share)\b", text) and not _locks_one(text):
        found.add(LOCK)
    if "skip locked" in text:
        found.add(SKIP)
    if "plan_cache_mode" in statement:
        found.add(PLAN)
    if re.search(r"\bpg_(try_)?advisory", text) and any(name in text for name in TABLES):
        found.add(CLAIM)
    if re.search(r"\bselect from\b", text):
        found.add(NO_COLUMN)
    if re.match(rf"create (constraint )?trigger .* on ({'|'.join(TABLES)})\b", text):
        found.add(TRIGGER)
    for block in top.all() if is_query else ():
        found.update(_within(block))
    return frozenset(found)


def refused(statement: str, parameters: Any = None) -> set[str]:
    """Return the forms that a statement must not have."""
    found = set(forms(statement))
    if "plan_cache_mode" in str(parameters if "set_config" in statement else ""):
        found.add(PLAN)
    if BEFORE in statement:
        return found - ON_ONE_NODE - {TRIGGER}
    return found - ON_ONE_NODE if ONE_NODE in statement and not is_spread() else found


def is_spread() -> bool:
    """Tell whether the service goes the way of a distributed PostgreSQL, as with --spread."""
    return bool(os.environ.get("DATABASE_DISTRIBUTED"))


class Watch:
    """Writes what was refused into a folder: a file for each process."""

    def __init__(self, folder: Path):
        self.seen = 0
        self._folder = folder

    def see(self, statement: object, parameters: Any = None) -> None:
        """Judge a statement."""
        self.seen += 1
        text = statement if isinstance(statement, str) else str(statement)
        if problems := refused(text, parameters):
            with (self._folder / str(os.getpid())).open("a") as lines:
                lines.write(f"{', '.join(sorted(problems))}: {plain(text)}\n")

    def take(self) -> list[str]:
        """Return what was refused since, in this process and in those it started."""
        found = []
        for path in self._folder.iterdir():
            found += path.read_text().splitlines()
            path.unlink()
        return found


def watch_cursors(watch: Watch) -> None:
    """See what the service's connections execute, for pools, commands and migrations."""
    from psycopg import Cursor  # noqa: PLC0415 (as the next two: in a child, once it loads them)

    from app.database.connections import Connection  # noqa: PLC0415

    def wrap(name: str) -> None:
        original = getattr(Cursor, name)

        @functools.wraps(original)
        def seen(cursor: Any, query: Any, *arguments: Any, **named: Any) -> Any:
            if isinstance(cursor.connection, Connection):
                watch.see(query, arguments[0] if arguments else named.get("params"))
            return original(cursor, query, *arguments, **named)

        setattr(Cursor, name, seen)

    for name in ("execute", "executemany", "copy", "stream"):
        wrap(name)


def watch_exchanges(watch: Watch) -> None:
    """See what the event loop's connections execute."""
    from app.database.exchange import Exchange  # noqa: PLC0415

    original = Exchange.fetch

    @functools.wraps(original)
    async def fetch(exchange: Any, statement: str, parameters: Any) -> Any:
        watch.see(statement, parameters)
        return await original(exchange, statement, parameters)

    Exchange.fetch = fetch  # type: ignore[method-assign]
