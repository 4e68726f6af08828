"""The rules of registration, one after the other."""

import time

import pytest

from app.database.connections import connector
from app.identifiers import ID_ALPHABET, NAME_LENGTH
from tests.support.factories import APNS_TOKEN


def age(database):
    """Have all that is there been registered yesterday; return the rows."""
    for name in ("created_at", "updated_at"):
        database.execute(f"UPDATE push_tokens SET {name} = {name} - interval '1 day'")
    return database.push_tokens()


class TestOneRow:
    def test_registering_again_keeps_name_and_creation(self, register, alice, database):
        first = register(alice)
        database.execute("UPDATE push_tokens SET updated_at = updated_at - interval '1 hour'")
        second = register(alice)
        assert second["_id"] == first["_id"]
        assert second["createdAt"] == first["createdAt"]
        assert second["updatedAt"] >= first["updatedAt"]
        assert len(database.push_tokens()) == 1

    def test_the_last_sign_in_owns_the_device(self, register, alice, bob, database):
        first = register(alice)
        second = register(bob, type="apn")
        assert (second["_id"], second["userId"]) == (first["_id"], "bob")
        assert second["createdAt"] == first["createdAt"]
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
    """A device is (user, appName, id)."""

    def test_the_id_is_the_name(self, register, alice):
        assert register(alice, id="device")["_id"] == "device"

    def test_the_longest_fits(self, register, alice):
        assert register(alice, id="ü" * 32)["_id"] == "ü" * 32

    def test_the_same_id_and_value_again_is_a_refresh(self, register, alice, database):
        first = register(alice, id="device")
        second = register(alice, id="device")
        assert (second["_id"], second["createdAt"]) == ("device", first["createdAt"])
        assert len(database.push_tokens()) == 1

    def test_a_new_value_takes_the_place_of_the_former(self, register, alice, database):
        register(alice, id="device", value="old")
        (former,) = age(database)
        second = register(alice, id="device", value="new")
        (row,) = database.push_tokens()
        assert (second["_id"], row["token"], row["device_id"]) == ("device", "new", "device")
        assert (row["id"], row["created_at"]) == (former["id"], former["created_at"])
        assert row["updated_at"] > former["updated_at"]

    def test_a_value_without_a_name_is_adopted_and_replaced_next(self, register, alice, database):
        """So once for every device that is imported, or whose app is updated."""
        register(alice, value="T1")
        (former,) = age(database)
        assert register(alice, value="T1", id="X")["_id"] == "X"
        (row,) = database.push_tokens()
        assert (row["id"], row["created_at"]) == (former["id"], former["created_at"])
        register(alice, value="T2", id="X")
        (row,) = database.push_tokens()
        assert (row["token"], row["id"]) == ("T2", former["id"])

    def test_another_id_takes_the_value_along(self, register, alice, database):
        register(alice, id="X")
        assert register(alice, id="Y")["_id"] == "Y"
        assert [row["device_id"] for row in database.push_tokens()] == ["Y"]

    def test_the_devices_own_row_counts_not_the_values(self, register, alice, bob, database):
        register(alice, id="X", value="old")
        register(bob, id="Y", value="new")
        age(database)
        former = next(row for row in database.push_tokens() if row["token"] == "old")
        register(alice, id="X", value="new")
        (row,) = database.push_tokens()
        assert (row["user_id"], row["device_id"], row["token"]) == ("alice", "X", "new")
        assert (row["id"], row["created_at"]) == (former["id"], former["created_at"])

    @pytest.mark.parametrize("mine", ["X", "Y"])
    def test_the_same_value_is_the_same_device_whoever_comes(
        self, register, alice, bob, database, mine
    ):
        register(bob, id="X")
        (former,) = age(database)
        assert register(alice, id=mine)["_id"] == mine
        (row,) = database.push_tokens()
        assert (row["user_id"], row["id"], row["created_at"]) == (
            *("alice", former["id"]),
            former["created_at"],
        )

    def test_anothers_device_of_that_id_is_another(self, register, alice, bob, database):
        register(bob, id="X", value="bobs")
        (before,) = database.push_tokens()
        for value in ("T2", "T3", "T4"):
            assert register(alice, id="X", value=value)["_id"] == "X"
        rows = {row["user_id"]: row for row in database.push_tokens()}
        assert rows["bob"] == before
        assert (rows["alice"]["token"], len(rows)) == ("T4", 2)

    def test_so_is_one_in_another_app(self, register, alice, database):
        register(alice, id="X", appName="one", value="T1")
        register(alice, id="X", appName="two", value="T2")
        register(alice, id="X", appName="two", value="T3")
        rows = {
            (row["app_name"], row["device_id"], row["token"]) for row in database.push_tokens()
        }
        assert rows == {("one", "X", "T1"), ("two", "X", "T3")}


class TestWithoutAnId:
    def test_a_new_row_has_a_fresh_name(self, register, alice, database):
        names = {register(alice, value=value)["_id"] for value in ("T1", "T2")}
        assert len(names) == 2
        assert all(len(name) == NAME_LENGTH and set(name) <= set(ID_ALPHABET) for name in names)

    def test_a_later_row_comes_after_it_in_the_index_of_ids(self, register, alice, database):
        for second, value in enumerate(("T1", "T2", "T3")):
            if second:
                time.sleep(1.01)
            register(alice, value=value, **({"id": "X"} if second == 1 else {}))
        rows = sorted(database.push_tokens(), key=lambda row: row["id"].encode())
        assert [row["token"] for row in rows] == ["T1", "T2", "T3"]

    def test_a_name_that_was_answered_names_the_same_device(self, register, alice, database):
        first = register(alice, value="T1")
        assert register(alice, value="T2", id=first["_id"])["_id"] == first["_id"]
        assert [row["token"] for row in database.push_tokens()] == ["T2"]

    def test_the_row_keeps_its_name(self, register, alice, bob):
        register(alice, id="X")
        assert register(alice)["_id"] == "X"
        assert register(bob)["_id"] == "X"

    def test_unless_the_next_user_has_another_of_that_name(self, register, alice, bob, database):
        register(alice, id="X", value="T1")
        register(bob, id="X", value="T2")
        (former, _) = age(database)
        name = register(bob, value="T1")["_id"]
        assert (name != "X", len(name)) == (True, NAME_LENGTH)
        rows = {row["token"]: row for row in database.push_tokens()}
        assert {row["user_id"] for row in rows.values()} == {"bob"}
        assert (rows["T1"]["device_id"], rows["T2"]["device_id"]) == (name, "X")
        assert rows["T1"]["created_at"] == former["created_at"]

    def test_one_of_that_name_in_another_app_is_not_in_the_way(self, register, alice, bob):
        register(alice, id="X", appName="one")
        register(bob, id="X", appName="two")
        assert register(bob, appName="one")["_id"] == "X"


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

    def test_the_database_enforces_it(self, register, alice, database, sweep):
        register(alice)
        database.execute("DELETE FROM user_sessions")
        sweep()
        assert database.push_tokens() == []


def test_what_is_acknowledged_is_durable(app):
    """No role or database may have turned synchronous_commit off for our connections."""
    with connector(app.extensions["push_registry"].settings)() as connection:
        assert connection.execute("SHOW synchronous_commit").fetchone() == ("on",)
