"""A table of many devices, and registrations of them: what bench/costs.py measures.

Each device has a session of its own, half of the devices a push token of 64 bytes (APNs) and half
one of 163 (FCM); a tenth has a VoIP one beside it. Ids and hashes come in random order.
"""

import secrets
from collections.abc import Callable

import psycopg

from app.registry.registration import Registration
from bench.meter import Meter

STEP = 100_000  # devices that are filled in by one statement
APP = "chat.example"

TEXT = "translate(encode(sha512(convert_to('{} ' || {}, 'UTF8')), 'base64'), E'+/=\\n', '-_')"
USER = f"left({TEXT.format('user', 'i / 2')}, 17)"
SESSION = "sha256(convert_to('session ' || i, 'UTF8'))"
FILL = (
    f"""INSERT INTO user_sessions (token_hash, user_id, expires_at)
    SELECT {SESSION}, {USER}, now() + interval '90 days'
    FROM generate_series(%s::int, %s::int) i""",
    f"""INSERT INTO push_tokens (id, device_id, app_name, token, type, user_id, session_hash)
    SELECT left({TEXT.format("id", "k || i")}, 17),
        CASE WHEN i %% 2 = 0 THEN left(md5('device ' || i), 16)
            ELSE upper(md5('device ' || i)::uuid::text) END,
        '{APP}',
        CASE WHEN i %% 2 = 0 THEN left({TEXT.format("a", "i")}, 22) || ':APA91b'
            || left({TEXT.format("b", "i")} || {TEXT.format("c", "i")}, 134)
            ELSE md5(k || 'd ' || i) || md5(k || 'e ' || i) END,
        CASE WHEN i %% 2 = 0 THEN 'gcm' WHEN k = 1 THEN 'apn' ELSE 'voip' END, {USER}, {SESSION}
    FROM generate_series(%s::int, %s::int) i
    CROSS JOIN LATERAL generate_series(1, CASE WHEN i %% 10 = 1 THEN 2 ELSE 1 END) k""",
)
SAMPLE = """
SELECT p.session_hash, p.user_id, p.app_name, p.token, p.type, p.environment, p.device_id,
    NULL, v.token
FROM push_tokens p TABLESAMPLE BERNOULLI (%s)
LEFT JOIN push_tokens v
    ON v.user_id = p.user_id AND v.app_name = p.app_name AND v.device_id = p.device_id
    AND v.type = 'voip'
WHERE p.type <> 'voip'
ORDER BY random()
"""


def fill(connection: psycopg.Connection, devices: int) -> None:
    """Fill the tables, row after row into their indexes, as registrations would."""
    for first in range(0, devices, STEP):
        for statement in FILL:
            connection.execute(statement, (first, min(first + STEP, devices) - 1))
    connection.execute("VACUUM (ANALYZE) push_tokens, user_sessions")


def new_value(one: Registration) -> str:
    """Return a new push token of the registration's length."""
    length = len(one.token)
    return secrets.token_hex(32) if length == 64 else secrets.token_urlsafe(130)[:length]


def new_session(meter: Meter, one: Registration) -> Registration:
    """Sign the registration's user in anew."""
    digest = secrets.token_bytes(32)
    insert = "INSERT INTO user_sessions (token_hash, user_id) VALUES (%s, %s)"
    meter.watch.execute(insert, (digest, one.user_id))
    return one._replace(token_hash=digest)


def new_device(meter: Meter, one: Registration) -> Registration:
    """Make a device that was never seen, of the registration's user."""
    signed_in = new_session(meter, one)
    return signed_in._replace(
        token=new_value(one), device_id=secrets.token_hex(8), voip_token=None
    )


# What is registered of a row that is there already; whose VoIP push token stands in the row.
KINDS: dict[str, Callable[[Meter, Registration], Registration]] = {
    "refresh": lambda meter, one: one,
    "refresh without id": lambda meter, one: one._replace(device_id=None),
    "refresh with voip": lambda meter, one: one,
    "new device": new_device,
    "new device with voip": lambda meter, one: new_device(meter, one)._replace(
        type="apn", voip_token=secrets.token_hex(32)
    ),
    "rotation": lambda meter, one: one._replace(token=new_value(one)),
    "new session": new_session,
}
WITH_VOIP = "refresh with voip"


class Sample:
    """Registrations that are there, drawn at random, none twice."""

    def __init__(self, meter: Meter, devices: int):
        percent = min(100, 60_000 / devices * 100)
        rows = [Registration(*row) for row in meter.watch.execute(SAMPLE, (percent,)).fetchall()]
        self._plain = [row for row in rows if not row.voip_token]
        self._voip = [row for row in rows if row.voip_token]

    def groups(self, meter: Meter, kind: str, size: int, number: int) -> list[list[Registration]]:
        """Return so many groups of a kind of registration."""
        rows = self._voip if kind == WITH_VOIP else self._plain
        assert len(rows) >= size * number, "the sample is too small"
        return [[KINDS[kind](meter, rows.pop()) for _ in range(size)] for _ in range(number)]
