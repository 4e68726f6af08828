"""The rules of registration, one after the other."""

import pytest

from app.database.connections import connector
from tests.support.factories import APNS_TOKEN

URL = "/api/v1/push.token"


@pytest.fixture(params=[None, "other-device"])
def other_id(request) -> dict[str, str]:
    """Without an id, and with one that nothing has: the two ways to the same rules."""
    return {"id": request.param} if request.param else {}


class TestOneRow:
    def test_registering_again_keeps_id_and_creation(self, register, alice, database, other_id):
        first = register(alice)
        database.execute("UPDATE push_tokens SET updated_at = updated_at - interval '1 hour'")
        second = register(alice, **other_id)
        assert second["_id"] == first["_id"]
        assert second["createdAt"] == first["createdAt"]
        assert second["updatedAt"] >= first["updatedAt"]
        assert len(database.push_tokens()) == 1

    def test_the_last_sign_in_owns_the_device(self, register, alice, bob, database, other_id):
        first = register(alice)
        second = register(bob, type="apn", **other_id)
        assert (second["_id"], second["userId"]) == (first["_id"], "bob")
        (row,) = database.push_tokens()
        assert (row["user_id"], row["session_hash"]) == ("bob", bob.token_hash)
        assert row["type"] == "apn"

    def test_another_app_is_another_row(self, register, alice, database):
        register(alice, appName="one")
        register(alice, appName="two")
        assert len(database.push_tokens()) == 2


class TestApnsCase:
    def test_hex_is_stored_in_lower_case(self, register, alice, database):
        first = register(alice, type="apn", value=APNS_TOKEN.upper())
        second = register(alice, type="apn", value=APNS_TOKEN)
        assert first["token"] == second["token"] == {"apn": APNS_TOKEN}
        assert first["_id"] == second["_id"]

    @pytest.mark.parametrize(("type_", "value"), [("gcm", "ABCDEF"), ("apn", "ABCDEFG")])
    def test_nothing_else_is_changed(self, register, alice, type_, value):
        assert register(alice, type=type_, value=value)["token"] == {type_: value}


class TestDeviceId:
    def test_an_unknown_id_becomes_the_rows(self, register, alice):
        assert register(alice, id="device")["_id"] == "device"

    def test_the_value_wins_over_an_unknown_id(self, register, alice):
        first = register(alice)
        assert register(alice, id="device")["_id"] == first["_id"]

    def test_the_callers_own_id_takes_the_new_value(self, register, alice, database):
        first = register(alice, id="device", value="old")
        database.execute(
            "UPDATE push_tokens SET created_at = created_at - interval '1 day',"
            " updated_at = updated_at - interval '1 hour'"
        )
        second = register(alice, id="device", value="new")
        assert second["_id"] == "device"
        assert second["createdAt"] < first["createdAt"]
        assert second["updatedAt"] >= first["updatedAt"]
        assert [row["token"] for row in database.push_tokens()] == ["new"]

    def test_and_the_row_that_held_the_value_goes(self, register, alice, bob, database):
        register(alice, id="device", value="old")
        register(bob, id="bobs", value="new")
        assert register(alice, id="device", value="new")["_id"] == "device"
        (row,) = database.push_tokens()
        assert (row["id"], row["user_id"]) == ("device", "alice")

    def test_the_same_id_and_value_again_is_a_refresh(self, register, alice, database):
        first = register(alice, id="device")
        second = register(alice, id="device")
        assert (second["_id"], second["createdAt"]) == ("device", first["createdAt"])
        assert len(database.push_tokens()) == 1

    def test_anothers_id_is_ignored_and_nothing_of_theirs_changes(
        self, register, alice, bob, database
    ):
        register(bob, id="device", value="bobs")
        mine = register(alice, id="device", value="mine")
        assert mine["_id"] != "device"
        assert len(mine["_id"]) == 17
        rows = {row["token"]: (row["id"], row["user_id"]) for row in database.push_tokens()}
        assert rows == {"bobs": ("device", "bob"), "mine": (mine["_id"], "alice")}

    def test_and_the_value_still_wins(self, register, alice, bob):
        register(bob, id="device", value="bobs")
        first = register(alice, value="mine")
        assert register(alice, id="device", value="mine")["_id"] == first["_id"]

    def test_an_id_in_another_app_is_ignored_too(self, register, alice, database):
        register(alice, id="device", appName="one")
        assert register(alice, id="device", appName="two")["_id"] != "device"
        assert len(database.push_tokens()) == 2

    def test_the_next_user_of_the_device_keeps_its_id(self, register, alice, bob, database):
        register(alice, id="device")
        assert register(bob, id="device")["_id"] == "device"
        (row,) = database.push_tokens()
        assert row["user_id"] == "bob"

    def test_the_longest_id_fits(self, register, alice):
        assert register(alice, id="ü" * 32)["_id"] == "ü" * 32


class TestSessionEnd:
    @pytest.mark.parametrize("fields", [{}, {"id": "device"}])
    def test_a_registration_belongs_to_the_session_that_renewed_it(
        self, register, client, database, alice, fields
    ):
        elsewhere = database.sign_in("alice")
        register(alice, **fields)
        register(elsewhere, **fields)
        client.post("/api/v1/logout", headers=alice.headers)
        assert len(database.push_tokens()) == 1
        client.post("/api/v1/logout", headers=elsewhere.headers)
        assert database.push_tokens() == []

    def test_the_database_enforces_it(self, register, alice, database):
        register(alice)
        database.execute("DELETE FROM user_sessions")
        assert database.push_tokens() == []


def test_what_is_acknowledged_is_durable(app):
    """No role or database may have turned synchronous_commit off for our connections."""
    with connector(app.extensions["push_registry"].settings)() as connection:
        assert connection.execute("SHOW synchronous_commit").fetchone() == ("on",)
