"""/openapi.json: complete, valid, and true: its examples are what the service answers."""

import json
import re
import subprocess
import sys
from base64 import b64encode

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from app.api import errors
from app.docs import openapi
from app.docs.calls import CALLS, HASH, USER
from tests.support.factories import Caller

MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


@pytest.fixture
def document(client):
    answer = client.get("/openapi.json")
    assert (answer.status_code, answer.content_type) == (200, "application/json")
    return answer.json


def operations(document):
    """Yield path, method and description of every call."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method.upper(), operation


def resolve(document, found):
    """Follow a reference within the document."""
    while "$ref" in found:
        _, _, kind, name = found["$ref"].split("/")
        found = document["components"][kind][name]
    return found


def contents(document, operation):
    """Yield the contents of a call's body and answers."""
    yield from operation.get("requestBody", {}).get("content", {}).values()
    for answer in operation["responses"].values():
        yield from resolve(document, answer)["content"].values()


def examples(content):
    """Return the examples of a content."""
    named = [example["value"] for example in content.get("examples", {}).values()]
    return named + ([content["example"]] if "example" in content else [])


def test_it_is_valid(document):
    validate(document)
    assert document["openapi"] == "3.1.0"


def test_it_has_every_route_and_no_other(app, document):
    routes = {
        (re.sub(r"<(\w+)>", r"{\1}", rule.rule), method)
        for rule in app.url_map.iter_rules()
        for method in rule.methods - {"HEAD"}
    }
    assert {(path, method) for path, method, _ in operations(document)} == routes
    assert {rule.endpoint for rule in app.url_map.iter_rules()} == set(CALLS)


def test_every_example_is_valid_by_its_own_schema(document):
    checked = 0
    components = {"components": document["components"]}
    for _, _, operation in operations(document):
        for content in contents(document, operation):
            for example in examples(content):
                Draft202012Validator(content["schema"] | components).validate(example)
                checked += 1
    for schema in document["components"]["schemas"].values():
        for field in schema.get("properties", {}).values():
            for example in field.get("examples", []):
                Draft202012Validator(field | components).validate(example)
                checked += 1
    assert checked > 150


def test_the_statuses_have_the_texts_that_are_answered(document):
    for status in (405, 413, 415, 500, 503):
        answer = document["components"]["responses"][str(status)]
        (content,) = answer["content"].values()
        assert content["example"]["error"] == errors.TEXTS[status]


def alike(answer):
    """Return an answer without what differs from call to call: moments, ids."""
    text = MOMENT.sub("moment", json.dumps(answer))
    return re.sub(r'"(_id|revision)": "[^"]+"', r'"\1": "some"', text)


@pytest.fixture
def caller(client, database, issue):
    """A function that calls as the example's user and service."""
    user = database.sign_in(USER)
    key = issue("lookup", "feedback", "sessions")

    def make(path, method, operation, body=None):
        headers = key if operation["tags"] == ["Services"] else user.headers
        return client.open(path, method=method, json=body, headers=headers)

    make.user = user
    return make


def test_the_examples_are_what_the_service_answers(document, caller, database):
    """In the order of the page, each from the state that its example tells of."""
    register = document["paths"]["/api/v1/push.token"]["post"]
    registration = register["requestBody"]["content"]["application/json"]["example"]
    called = 0
    for path, method, operation in operations(document):
        good, described = min(operation["responses"].items())
        content = described["content"].get("application/json", {})
        if not examples(content):
            continue
        database.forget_everyone()
        sign_in_again(database, caller.user)
        if not path.endswith(("sessions.put", "sessions.revoke")) and (path, method) != (
            "/api/v1/push.token",
            "POST",
        ):
            assert caller("/api/v1/push.token", "POST", register, registration).status_code == 200
            # Before the verdict of the example, or it would be kept.
            database.execute("UPDATE push_tokens SET updated_at = '2026-01-01'")
        body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
        answer = caller(path, method, operation, body.get("example"))
        assert answer.status_code == int(good), (path, answer.text)
        assert alike(answer.json) == alike(content["example"]), path
        called += 1
    assert called == 14


def sign_in_again(database, user: Caller) -> None:
    database.execute(
        "INSERT INTO user_sessions (token_hash, user_id) VALUES (%s, %s)",
        *(user.token_hash, user.user_id),
    )


def test_the_examples_of_wrong_fields_are_what_the_service_answers(document, app, caller):
    called = 0
    for rule in app.url_map.iter_rules():
        for place, (body, words, code) in enumerate(CALLS[rule.endpoint].wrong):
            (method,) = rule.methods - {"HEAD"}
            operation = document["paths"][rule.rule][method.lower()]
            answer = caller(rule.rule, method, operation, body)
            said = {"success": False, "error": f"{words} [{code}]", "errorType": code}
            assert (answer.status_code, answer.json) == (400, said)
            content = operation["responses"]["400"]["content"]["application/json"]
            assert examples(content)[place] == said
            called += 1
    assert called == 11


def test_scope_guard_and_summary_are_read_from_the_views(app, monkeypatch):
    """As they are enforced: what is changed at a view or a blueprint changes the document."""

    def described(path: str) -> dict[str, object]:
        return json.loads(openapi.build(app, []))["paths"][path]["post"]

    lookup, logout = "/api/v1/push.tokens.lookup", "/api/v1/logout"
    view = app.view_functions["service.look_up_push_tokens"]
    before = described(lookup)
    assert before["description"].endswith(" Scope: `lookup`.")
    assert before["security"] == [{"serviceKey": []}]
    assert before["summary"] == view.__doc__.splitlines()[0].removesuffix(".")
    monkeypatch.setattr(view, "scope", "feedback")
    monkeypatch.setattr(view, "__doc__", "Say something else.\n\nAnd more.")
    assert described(lookup)["description"].endswith(" Scope: `feedback`.")
    assert described(lookup)["summary"] == "Say something else"
    assert described(logout)["security"] == [{"userId": [], "authToken": []}]
    monkeypatch.setitem(app.before_request_funcs, "client", [])
    assert "security" not in described(logout)
    assert "401" not in described(logout)["responses"]


def test_the_shared_errors_are_what_the_service_answers(document, client, caller, issue):
    def example(status):
        return document["components"]["responses"][str(status)]["content"]["application/json"][
            "example"
        ]

    token, lookup = "/api/v1/push.token", "/api/v1/push.tokens.lookup"
    headers = caller.user.headers
    key = issue("lookup")
    answers = {
        401: client.get(token),
        403: client.post("/api/v1/sessions.put", json={}, headers=key),
        404: client.delete(token, json={"token": "none"}, headers=headers),
        405: client.put(token),
        413: client.post(token, data=b"x" * 65537, headers=headers),
        415: client.post(lookup, data=b"x", headers=key),
    }
    for status, answer in answers.items():
        assert (answer.status_code, answer.json) == (status, example(status))


def test_limits_are_those_that_are_checked(document):
    shapes = document["components"]["schemas"]
    fields = shapes["RegisterPushToken"]["properties"]
    assert (fields["value"]["maxLength"], fields["appName"]["maxLength"]) == (2048, 255)
    assert fields["id"]["anyOf"][0]["maxLength"] == 64
    assert shapes["Lookup"]["properties"]["userIds"]["maxItems"] == 1000
    assert (
        len(b64encode(b"x" * 32))
        == shapes["RevokeSessions"]["properties"]["hashedToken"]["maxLength"]
    )
    assert len(HASH) == 44


def test_the_service_starts_without_apispec():
    code = "import sys; from app import create_app; create_app(); print('apispec' in sys.modules)"
    environ = {"DATABASE_URL": "postgresql:///x", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
