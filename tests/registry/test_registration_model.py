"""Registrations, removals and logouts in any order, against rules 3 and 8 in plain Python."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import permutations

from flask import Flask
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from psycopg.rows import dict_row

from app.identifiers import NAME_LENGTH
from app.models import UserSession, db
from app.registry import push_tokens, sessions
from app.registry.registration import Registration, first_round
from tests.support.registering import connect, run, run_all

SESSIONS = {
    hashlib.sha256(name.encode()).digest(): name[0] for name in ("a1", "a2", "b1", "b2", "c1")
}
APPS, IDS, VALUES = ("one", "one", "two"), ("X", "Y"), ("T1", "T2", "T3", "V1")
VOIP_VALUES = ("V1", "V2", "T3")


@st.composite
def asking(draw: st.DrawFn) -> Registration:
    """What an app may ask for, mostly with its own session; a VoIP push token where it may."""
    session = draw(st.sampled_from(list(SESSIONS)))
    user_id = SESSIONS[session] if draw(st.integers(0, 7)) else "c"
    token, device_id = draw(st.sampled_from(VALUES)), draw(st.none() | st.sampled_from(IDS))
    type_ = draw(st.sampled_from(("apn", "apn", "gcm")))
    calls = [value for value in VOIP_VALUES if value != token]
    may_call = type_ == "apn" and device_id is not None
    return Registration(
        token_hash=session,
        user_id=user_id,
        app_name=draw(st.sampled_from(APPS)),
        token=token,
        type=type_,
        environment=draw(st.sampled_from(("production", "sandbox"))),
        device_id=device_id,
        voip_token=draw(st.none() | st.sampled_from(calls)) if may_call else None,
    )


@dataclass
class Row:
    """A registration; `born` counts registrations, and stands for creation and internal id."""

    app_name: str
    token: str
    type: str
    environment: str
    user_id: str
    session: bytes
    device_id: str | None  # None: a fresh name, whatever it is
    born: int


@dataclass
class Model:
    """What the rules say that is stored."""

    sessions: dict[bytes, str] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    count: int = 0

    def copy(self) -> "Model":
        rows = [Row(**vars(row)) for row in self.rows]
        return Model(dict(self.sessions), rows, self.count)

    def register(self, asked: Registration) -> str | None:
        """Apply the rules; return the outcome, None without a session of this user."""
        if self.sessions.get(asked.token_hash) != asked.user_id:
            return None
        here = (asked.user_id, asked.app_name)
        value = self.of_value(asked.app_name, asked.token)
        calls = self.of_value(asked.app_name, asked.voip_token)
        device = self.of_device(*here, asked.device_id)
        calls_device = self.of_device(*here, asked.device_id, is_voip=True)
        # What one push token of the device was and the other becomes stays the former's.
        if asked.voip_token and value and value is calls_device:
            value = None
        if calls and calls is device:
            calls = None
        name = self.name(asked, value)
        if value is not None and value.user_id != asked.user_id:
            outcome = "moved"
        elif device is not None and device is not value:
            outcome = "rotated"
        else:
            outcome = "created" if value is None else "refreshed"
        silenced = [self.of_former_device(row, *here, name) for row in (value, calls)]
        gone = [value, calls, device, calls_device, *silenced]
        self.rows = [row for row in self.rows if not any(row is one for one in gone)]
        self.add(asked, asked.token, asked.type, name, (device, value))
        if asked.voip_token:
            self.add(asked, asked.voip_token, "voip", name, (calls_device, calls))
        return outcome

    def of_value(self, app_name: str, token: str | None) -> Row | None:
        return next((r for r in self.rows if (r.app_name, r.token) == (app_name, token)), None)

    def of_device(
        self, user_id: str, app_name: str, device_id: str | None, *, is_voip: bool = False
    ) -> Row | None:
        key = (user_id, app_name, device_id, is_voip)
        if device_id is None:
            return None
        of = ((r.user_id, r.app_name, r.device_id, r.type == "voip") for r in self.rows)
        return next(
            (row for row, of_row in zip(self.rows, of, strict=True) if of_row == key), None
        )

    def of_former_device(
        self, row: Row | None, user_id: str, app_name: str, name: str | None
    ) -> Row | None:
        """Return the VoIP registration of the device that loses this row, if one does."""
        if row is None or row.type == "voip" or (row.user_id, row.device_id) == (user_id, name):
            return None
        return self.of_device(row.user_id, app_name, row.device_id, is_voip=True)

    def name(self, asked: Registration, value: Row | None) -> str | None:
        """Return what the device is called from here on, None for a fresh name."""
        if asked.device_id is not None or value is None:
            return asked.device_id
        same = self.of_device(asked.user_id, asked.app_name, value.device_id)
        return value.device_id if same is None or same is value else None

    def add(
        self,
        asked: Registration,
        token: str,
        type_: str,
        name: str | None,
        before: tuple[Row | None, Row | None],
    ) -> None:
        self.count += 1
        born = next((row.born for row in before if row is not None), self.count)
        fields = (type_, asked.environment, asked.user_id, asked.token_hash)
        self.rows.append(Row(asked.app_name, token, *fields, name, born))

    def remove(self, gone: list[Row]) -> None:
        """Remove rows; the VoIP one of a device goes with its APNs one."""
        devices = [(r.user_id, r.app_name, r.device_id) for r in gone if r.type == "apn"]
        calls = [self.of_device(*device, is_voip=True) for device in devices]
        self.rows = [row for row in self.rows if not any(row is one for one in (*gone, *calls))]

    def stored(self) -> set[tuple[object, ...]]:
        """Return the rows, without what a fresh name is."""
        return {
            (r.app_name, r.token, r.type, r.environment, r.user_id, r.session, r.device_id)
            for r in self.rows
        }

    def fits(self, stored: set[tuple[object, ...]], moved: set[tuple[str, str]]) -> bool:
        """Tell whether that is what is stored.

        Two that swap their users in one round may each find the other's name taken, and both get
        a fresh one; one after the other, the second one would keep its name.
        """
        unnamed = {(app_name, token) for app_name, token, *_, name in stored if name is None}
        for row in self.rows:
            if (row.app_name, row.token) in moved & unnamed:
                row.device_id = None
        return self.stored() == stored


class Machine(RuleBasedStateMachine):
    """Does to the database what it does to the model."""

    url = ""
    app: Flask

    @initialize()
    def begin(self) -> None:
        self.model = Model()
        self.connection = connect(self.url)
        self.connection.execute("DELETE FROM push_tokens")
        self.connection.execute("DELETE FROM user_sessions")
        self.identity: dict[int, tuple[object, ...]] = {}
        for session in SESSIONS:
            self.sign_in(session)

    def teardown(self) -> None:
        if hasattr(self, "connection"):
            self.connection.close()

    @rule(session=st.sampled_from(list(SESSIONS)))
    def sign_in(self, session: bytes) -> None:
        self.model.sessions[session] = SESSIONS[session]
        self.connection.execute(
            "INSERT INTO user_sessions (token_hash, user_id) VALUES (%s, %s)"
            " ON CONFLICT DO NOTHING",
            [session, SESSIONS[session]],
        )

    @rule(session=st.sampled_from(list(SESSIONS)))
    def log_out(self, session: bytes) -> None:
        self.model.sessions.pop(session, None)
        self.model.remove([row for row in self.model.rows if row.session == session])
        self.commit(lambda: sessions.end(UserSession.token_hash == session))
        self.check()

    @rule(user_id=st.sampled_from("abc"), token=st.sampled_from((*VALUES, *VOIP_VALUES)))
    def remove(self, user_id: str, token: str) -> None:
        mine = (user_id, token)
        self.model.remove([row for row in self.model.rows if (row.user_id, row.token) == mine])
        self.commit(lambda: push_tokens.remove(user_id, token))
        self.check()

    def commit(self, verb: Callable[[], object]) -> None:
        with self.app.app_context():
            verb()
            db.session.commit()

    @rule(asked=asking())
    def register(self, asked: Registration) -> None:
        outcome = self.model.register(asked)
        (result,) = run(self.connection, [asked])
        assert (result and result.outcome) == outcome
        rows = self.check()
        if result:
            (row,) = (
                r for r in rows if (r["app_name"], r["token"]) == (asked.app_name, asked.token)
            )
            assert result.row == {name: row[name] for name in result.row}

    @rule(group=st.lists(asking(), min_size=2, max_size=4))
    def register_together(self, group: list[Registration]) -> None:
        """A round is as if its members had come one after the other, in some order."""
        together = [group[place] for place in first_round(group)[0]]
        could_be = []
        for order in permutations(together):
            model = self.model.copy()
            for asked in order:
                model.register(asked)
            could_be.append(model)
        results, _ = run_all(self.connection, together)
        for asked, result in zip(together, results, strict=True):
            live = self.model.sessions.get(asked.token_hash) == asked.user_id
            assert (result is not None) == live
        stored = self.stored(self.rows())
        moved = self.moved_unnamed(together)
        fitting = (model for model in could_be if model.fits(stored, moved))
        self.model = next(fitting, None)
        assert self.model, f"{stored} is none of {[model.stored() for model in could_be]}"
        self.adopt()

    def moved_unnamed(self, together: list[Registration]) -> set[tuple[str, str]]:
        """Return the values that go to another user by a registration that names no device."""
        owners = {(row.app_name, row.token): row.user_id for row in self.model.rows}
        values = [((one.app_name, one.token), one) for one in together if one.device_id is None]
        return {value for value, one in values if owners.get(value, one.user_id) != one.user_id}

    def rows(self) -> list[dict[str, object]]:
        with self.connection.cursor(row_factory=dict_row) as cursor:
            rows = cursor.execute("SELECT * FROM push_tokens").fetchall()
        assert len({row["id"] for row in rows}) == len(rows)  # spread tables take a second one
        return rows

    def stored(self, rows: list[dict[str, object]]) -> set[tuple[object, ...]]:
        names = ("app_name", "token", "type", "environment", "user_id", "session_hash")
        return {
            (*(row[name] for name in names), row["device_id"] if row["device_id"] in IDS else None)
            for row in rows
        }

    def adopt(self) -> None:
        """Take who is whose successor from the table, where a round may say it either way."""
        self.model.count += 1000
        self.identity = {}
        found = {(row["app_name"], row["token"]): row for row in self.rows()}
        for row in self.model.rows:
            self.model.count += 1
            row.born = self.model.count
            self.identity[row.born] = self.kept(found[row.app_name, row.token])

    def kept(self, row: dict[str, object]) -> tuple[object, ...]:
        return row["id"], row["created_at"]

    def check(self) -> list[dict[str, object]]:
        rows = self.rows()
        assert self.stored(rows) == self.model.stored()
        devices = {
            (r["user_id"], r["app_name"], r["device_id"], r["type"] == "voip") for r in rows
        }
        assert len(devices) == len(rows)
        found = {(row["app_name"], row["token"]): row for row in rows}
        for row in self.model.rows:
            there = found[row.app_name, row.token]
            assert self.identity.setdefault(row.born, self.kept(there)) == self.kept(there)
            assert row.device_id is not None or len(there["device_id"]) == NAME_LENGTH
        return rows


def test_any_sequence_leaves_what_the_rules_say(migrated, app):
    Machine.url, Machine.app = migrated[0], app
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=40,
            stateful_step_count=30,
            deadline=None,
            phases=[Phase.generate],  # a failure is shown at once, not made small for minutes
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
