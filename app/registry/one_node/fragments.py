"""What the statements that register are made of: who asks, claims, and look-ups of rows.

Each row is looked up by an index of its own accord, by a subquery that PostgreSQL cannot turn
into a join (scalar, FOR UPDATE, in an order, or OFFSET 0), or by where it is stored. And it has
hardly a choice of indexes, though app_name is in two: the range of a value, or of a device, has
an order that only one has. So the plan is the same for a new table and for a full one. For ranges
of whole rows there is only one, too, but up to PostgreSQL 17 a look-up that finds nothing would
read on to the end of the app or the user.
"""

from sqlalchemy.dialects.postgresql.psycopg import dialect

from app.identifiers import NAME_LENGTH
from app.models import is_live
from app.registry.one_node import ONE_NODE

FRESH_NAME = f"right(fresh_id, {NAME_LENGTH})"


def claim(*names: str) -> str:
    """Ask, in SQL, to be the only one who writes a row of this name until the commit."""
    return f"pg_try_advisory_xact_lock(hashtextextended(concat_ws(E'\\n', {', '.join(names)}), 0))"


def of_value(column: str, asked: str) -> str:
    """Look up, in SQL, a column of the row of a value; null where there is none.

    In an array the push token has partitions other than its own left out, where there are any.
    """
    token = f"{asked}.token"
    return f"""(
        SELECT p.{column}
        FROM push_tokens p
        WHERE p.app_name = {asked}.app_name AND p.token BETWEEN {token} AND {token}
            AND p.token = ANY (ARRAY[{token}])
        ORDER BY p.token
        LIMIT 1
    )"""  # noqa: S608


def is_of_device(asked: str, name: str = "") -> str:
    """Compare, in SQL, push_tokens p with the device of what is asked, or of another name.

    For a subquery in the order of p.device_id.
    """
    name = name or f"{asked}.device_id"
    same = f"p.user_id = {asked}.user_id AND p.app_name = {asked}.app_name"
    return f"{same} AND p.device_id BETWEEN {name} AND {name}"


def is_of_kind(asked: str) -> str:
    """Compare, in SQL, whether push_tokens p is for calls with whether what is asked is."""
    return f"(p.type = 'voip') = ({asked}.type = 'voip')"


def is_ended(asked: str) -> str:
    """Compare, in SQL, push_tokens p, of the device, with what a registration takes the place of.

    That is the row of its kind; and the VoIP one, if it brings none.
    """
    return f"({is_of_kind(asked)} OR ({asked}.type <> 'voip' AND {asked}.has_voip IS NULL))"


IS_LIVE = str(is_live().compile(dialect=dialect()))  # type: ignore[no-untyped-call]

# What was asked, as far as there is a session for it. A logout waits for us, or we find its
# session gone: never an orphan, never an error. Sessions are looked up by the hash alone, so
# that there is only one index for it; whose a session is, is compared afterwards.
SIGNED_IN = f"""{ONE_NODE}
WITH signed_in AS MATERIALIZED (
    SELECT a.*
    FROM (
        SELECT decode(hash, 'hex') AS session_hash, j.*
        FROM json_to_recordset(%(asked)s::json) AS j (
            hash text, user_id text COLLATE "C", app_name text COLLATE "C", token text COLLATE "C",
            type text COLLATE "C", environment text COLLATE "C", device_id text COLLATE "C",
            max_age integer, fresh_id text COLLATE "C", has_voip boolean
        )
        ORDER BY 1
    ) a
    CROSS JOIN LATERAL (
        SELECT user_id, verified_at
        FROM user_sessions
        WHERE token_hash = a.session_hash AND {IS_LIVE}
        FOR KEY SHARE
    ) s
    WHERE s.user_id = a.user_id AND (
        a.max_age IS NULL OR s.verified_at IS NULL
        OR s.verified_at > now() - make_interval(secs => a.max_age)
    )
),"""  # noqa: S608 (no value of a caller)

# What comes back of each member that is signed in, after the rows of what was written.
ASKED = "SELECT fresh_id, '', NULL, NULL, NULL, NULL FROM signed_in"
