"""`environment`: which of APNs' two gateways knows a push token."""

import json

import pytest

from tests.support.answers import missing_or_invalid
from tests.support.exports import ndjson, row
from tests.support.factories import body

URL = "/api/v1/push.token"
ERROR = {
    "success": False,
    "error": 'The "environment" body param is invalid. [error-environment-param-not-valid]',
    "errorType": "error-environment-param-not-valid",
}


@pytest.fixture
def sender(client, issue):
    """A function that asks for registrations; returns them."""
    key = issue("lookup")

    def ask(call: str = "lookup", **fields: object) -> list[dict[str, object]]:
        asked = {"userIds": ["alice"], **fields} if call == "lookup" else fields
        answer = client.post(f"/api/v1/push.tokens.{call}", json=asked, headers=key)
        assert answer.status_code == 200, answer.text
        return answer.json["tokens"]

    return ask


@pytest.mark.parametrize("device", [{}, {"id": "device"}], ids=["plain", "with an id"])
class TestRegister:
    @pytest.mark.parametrize("absent", [None, ""])
    def test_is_production_where_it_is_not_said(self, client, alice, database, device, absent):
        for fields in (body(**device), body(**device, environment=absent)):
            assert client.post(URL, json=fields, headers=alice.headers).status_code == 200
            assert [one["environment"] for one in database.push_tokens()] == ["production"]

    def test_is_what_the_last_registration_said(self, client, alice, database, device):
        for said in ("sandbox", "production", "sandbox"):
            fields = body(**device, environment=said)
            assert client.post(URL, json=fields, headers=alice.headers).status_code == 200
            assert [one["environment"] for one in database.push_tokens()] == [said]

    @pytest.mark.parametrize(
        "wrong", ["Sandbox", "dev", "\0", 0, 1, False, True, [], {}, ["sandbox"]]
    )
    def test_is_one_of_two(self, client, alice, database, device, wrong):
        answer = client.post(URL, json=body(**device, environment=wrong), headers=alice.headers)
        assert (answer.status_code, answer.json) == (400, ERROR)
        assert database.push_tokens() == []

    def test_is_checked_last(self, client, alice, device):
        fields = body(**device, environment="x", appName="")
        answer = client.post(URL, json=fields, headers=alice.headers)
        assert answer.json == missing_or_invalid("appName", "error-appName-param-not-valid")

    def test_changes_no_answer_to_an_app(self, client, alice, device):
        fields = body(**device, environment="sandbox")
        answer = client.post(URL, json=fields, headers=alice.headers).json["result"]
        documented = ["token", "appName", "userId", "enabled", "createdAt", "updatedAt", "_id"]
        assert list(answer) == documented
        (listed,) = client.get(URL, headers=alice.headers).json["tokens"]
        assert list(listed) == documented


@pytest.mark.parametrize("call", ["lookup", "list"])
class TestSenders:
    @pytest.fixture(autouse=True)
    def registered(self, client, alice):
        for said in ("sandbox", "production"):
            fields = body(value=said, environment=said)
            client.post(URL, json=fields, headers=alice.headers)

    def test_see_it_when_they_ask(self, sender, call):
        seen = sender(call, withEnvironment=True)
        assert {(one["token"]["gcm"], one["environment"]) for one in seen} == {
            ("sandbox", "sandbox"),
            ("production", "production"),
        }
        assert list(seen[0])[-2:] == ["_id", "environment"]

    def test_and_else_not(self, sender, call):
        seen = sender(call)
        assert len(seen) == 2
        assert not any("environment" in one for one in seen)

    @pytest.mark.parametrize("wanted", ["sandbox", "production"])
    def test_may_ask_for_one(self, sender, call, wanted, database):
        assert [one["token"]["gcm"] for one in sender(call, environment=wanted)] == [wanted]

    def test_may_not_make_one_up(self, client, issue, call):
        asked = {"userIds": ["alice"], "environment": "dev"}
        answer = client.post(f"/api/v1/push.tokens.{call}", json=asked, headers=issue("lookup"))
        assert answer.status_code == 400
        assert answer.json["error"].startswith("environment: ")


class TestImport:
    def test_takes_back_what_was_exported(self, runner, database):
        exported = [row("s", environment="sandbox"), row("p")]
        runner.invoke(args=["push-tokens", "import", "-"], input=ndjson(*exported))
        found = {one["token"]: one["environment"] for one in database.push_tokens()}
        assert found == {"s": "sandbox", "p": "production"}
        lines = runner.invoke(args=["push-tokens", "export"]).stdout.splitlines()
        documents = [json.loads(line) for line in lines]
        assert {one["token"]["gcm"]: one["environment"] for one in documents} == found

    @pytest.mark.parametrize("wrong", ["", "dev", [], 1])
    def test_rejects_what_it_does_not_know(self, runner, wrong):
        result = runner.invoke(
            args=["push-tokens", "import", "-"], input=ndjson(row("x", environment=wrong))
        )
        assert json.loads(result.stdout)["rejected"] == 1
        assert "environment: not one of production and sandbox" in result.stderr
