"""VoIP push tokens in exports of Rocket.Chat of each form, and in our own."""

import base64
import json

import pytest

APN_VALUE, VOIP_VALUE = "ab" * 32, "cd" * 32
SESSION = base64.b64encode(b"s" * 32).decode()


@pytest.fixture
def bring(runner, tmp_path):
    """A function that imports documents, and returns the summary."""

    def bring(*documents: dict[str, object], flags: tuple[str, ...] = ()) -> dict[str, int]:
        path = tmp_path / "rows.json"
        path.write_text("".join(json.dumps(document) + "\n" for document in documents))
        done = runner.invoke(args=["push-tokens", "import", str(path), *flags])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    return bring


def row(day: int = 1, **fields: object) -> dict[str, object]:
    """Return a row without its push token."""
    date = {"$date": f"2026-01-{day:02}T00:00:00.000Z"}
    shared = {"appName": "chat.example", "userId": "alice", "authToken": SESSION}
    return {**shared, "createdAt": date, "_updatedAt": date, **fields}


def with_both(**fields: object) -> dict[str, object]:
    """Return a row of 8.2, which has the two push tokens of a device."""
    return row(_id="iphone", token={"apn": APN_VALUE}, voipToken=VOIP_VALUE, **fields)


OF_APN = row(_id="iphone", tokenType="apn", tokenValue=APN_VALUE)
OF_VOIP = row(_id="k3xRqgqrbTpkQ8C9d", tokenType="voip", tokenValue=VOIP_VALUE.upper())


def stored(database) -> list[tuple[object, ...]]:
    names = ("type", "token", "device_id", "user_id")
    return sorted(tuple(one[name] for name in names) for one in database.push_tokens())


BOTH = [("apn", APN_VALUE, "iphone", "alice"), ("voip", VOIP_VALUE, "iphone", "alice")]


@pytest.mark.parametrize(
    "documents",
    [[with_both()], [OF_APN, OF_VOIP], [OF_VOIP, OF_APN]],
    ids=["8.2", "later", "turned"],
)
def test_both_forms_of_rocketchat_name_one_device(bring, database, documents):
    assert bring(*documents)["inserted"] == 2
    assert stored(database) == BOTH
    assert bring(*documents)["unchanged"] == 2


@pytest.mark.parametrize("first", [OF_APN, OF_VOIP], ids=["the other first", "it first"])
def test_the_two_may_come_in_different_files(bring, database, first):
    bring(first)
    bring(OF_APN, OF_VOIP)
    bring(OF_VOIP if first is OF_APN else OF_APN)
    assert stored(database) == BOTH


def test_the_table_knows_the_device_of_one_that_comes_later(bring, database):
    bring(OF_APN)
    bring(OF_VOIP)
    assert stored(database) == BOTH


def test_the_device_of_one_that_came_first_is_found_out(bring, database, monkeypatch):
    monkeypatch.setattr("app.transfer.push_token_import.BATCH", 10)  # one row at a time
    monkeypatch.setattr("app.transfer.push_token_import.SMALLEST_BATCH", 1)
    bring(OF_VOIP, OF_APN)
    assert stored(database) == BOTH


def test_what_cannot_be_stored_is_rejected_and_the_other_taken(bring, database):
    summary = bring(with_both() | {"voipToken": 5})
    assert (summary["inserted"], summary["rejected"]) == (1, 1)
    assert stored(database) == BOTH[:1]


def test_a_phone_that_changed_hands_in_an_export_rings_for_nobody(bring, database):
    bring(with_both())
    session = base64.b64encode(b"b" * 32).decode()
    bring(row(2, _id="x", token={"apn": APN_VALUE}, userId="bob", authToken=session))
    assert stored(database) == [("apn", APN_VALUE, "x", "bob")]


def test_our_own_export_brings_both_back(bring, database, runner, tmp_path):
    bring(with_both())
    exported = runner.invoke(args=["push-tokens", "export"]).stdout
    documents = [json.loads(line) for line in exported.splitlines() if line.startswith("{")]
    assert {next(iter(one["token"])) for one in documents} == {"apn", "voip"}
    database.forget_everyone()
    assert bring(*documents)["inserted"] == 2
    assert stored(database) == BOTH


def test_stats_count_them_apart(bring, runner):
    bring(with_both())
    counted = json.loads(runner.invoke(args=["push-tokens", "stats", "--json"]).stdout)
    rows = counted if isinstance(counted, list) else counted["apps"]
    assert {one["type"]: one["registrations"] for one in rows} == {"apn": 1, "voip": 1}
