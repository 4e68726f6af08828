"""/docs: its files and their headers, and the page in a real Chromium."""

import base64
import json
import os
from pathlib import Path

import pytest

from app.docs.calls import CALLS
from tests.support.chromium import browse
from tests.support.factories import body
from tests.support.parts import part

REGISTER = "#operations-Apps-client_register_push_token"
FEEDBACK = "#operations-Services-service_take_feedback"


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/docs", "text/html; charset=utf-8"),
        ("/docs/page.js", "text/javascript; charset=utf-8"),
        ("/docs/page.css", "text/css; charset=utf-8"),
        ("/docs/swagger-ui-bundle.js", "text/javascript; charset=utf-8"),
        ("/docs/swagger-ui.css", "text/css; charset=utf-8"),
        ("/docs/favicon-32x32.png", "image/png"),
    ],
)
def test_the_page_and_its_files_are_strict_and_cached(client, path, content_type):
    answer = client.get(path)
    assert answer.data
    answer.close()  # the file
    assert (answer.status_code, answer.content_type) == (200, content_type)
    policy = dict(
        rule.split(" ", 1) for rule in answer.headers["Content-Security-Policy"].split("; ")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert "unsafe" not in str(policy)
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    again = client.get(path, headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")
    again.close()


@pytest.mark.parametrize(
    "path", ["/docs/", "/docs/x", "/docs/page.html", "/docs/../app/config.py", "/docs/%2e%2e/x"]
)
def test_what_is_not_of_the_page_is_our_404(client, path):
    answer = client.get(path)
    assert answer.status_code == 404
    assert answer.json == {"success": False, "error": "API endpoint does not exist"}


@pytest.fixture
def page(tmp_path):
    with browse(part("chromium"), tmp_path / "profile") as page:
        yield page


def authorize(page, caller) -> None:
    """Paste a caller's credentials into the dialog."""
    page.click(".auth-wrapper .btn.authorize")
    for place, secret in enumerate((caller.user_id, caller.auth_token)):
        # A field that is filled in goes from the page, and its button too.
        page.type(".auth-container #api_key_value", secret)
        page.click(".auth-container button[type=submit]")
        left = "document.querySelectorAll('.auth-container #api_key_value').length"
        page.wait(f"{left} == {1 - place}")
    page.click(".auth-container .btn-done")


def show(page, live, picture: str | None) -> None:
    """Open the page with the first call unfolded; keep a picture where one is asked for."""
    page.send("Page.navigate", url=f"{live.url}/docs")
    page.click(f"{REGISTER} .opblock-summary-control")
    page.wait(f"!!document.querySelector('{REGISTER} .try-out__btn')")
    if picture:
        shot = page.send("Page.captureScreenshot", format="png")
        Path(picture).write_bytes(base64.b64decode(shot["data"]))


def test_a_registration_made_on_the_page_lands_in_the_database(page, live, alice, database):
    show(page, live, os.environ.get("DOCS_PICTURE"))
    blocks = page.run("document.querySelectorAll('.opblock').length")
    assert blocks == len(CALLS) + 1  # a logout is two: GET and POST
    assert page.run("document.querySelector('.info .title').innerText").startswith("Push token")
    authorize(page, alice)
    page.click(f"{REGISTER} .try-out__btn")
    page.type(f"{REGISTER} textarea.body-param__text", json.dumps(body(value="from the page")))
    page.click(f"{REGISTER} .btn.execute")
    page.wait(f"!!document.querySelector('{REGISTER} .live-responses-table .response-col_status')")
    (row,) = database.push_tokens()
    assert (row["user_id"], row["token"]) == ("alice", "from the page")
    assert page.complaints() == []
    outside = [url for url in page.requested() if not url.startswith((live.url, "data:"))]
    assert outside == []


def test_it_fits_a_phone_and_says_where_an_auth_token_comes_from(page, live, tmp_path):
    """With calls unfolded, and the dialog for the credentials open."""
    size = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    page.send("Emulation.setDeviceMetricsOverride", **size)
    page.send("Page.navigate", url=f"{live.url}/")
    page.wait("document.querySelectorAll('.opblock').length > 0")
    assert page.run("location.pathname") == "/docs"
    said = page.run("document.querySelector('.info').innerText")
    assert "sessions issue" in said
    assert "api/v1/login" in said
    if picture := os.environ.get("DOCS_PHONE_PICTURE"):
        shot = page.send("Page.captureScreenshot", format="png")
        Path(picture).write_bytes(base64.b64decode(shot["data"]))
    for call in (REGISTER, FEEDBACK):
        page.click(f"{call} .opblock-summary-control")
        page.wait(f"!!document.querySelector('{call} .responses-table')")
    page.click(f"{REGISTER} .try-out__btn")
    page.click(".auth-wrapper .btn.authorize")
    page.wait("!!document.querySelector('.auth-container input')")
    # innerWidth would grow with a page that is wider than the screen.
    assert page.run("document.documentElement.scrollWidth") == 390


def test_the_browser_would_have_complained(page, live):
    """The policy is in force, and the test above sees what it forbids."""
    page.send("Page.navigate", url=f"{live.url}/docs")
    page.wait(f"!!document.querySelector('{REGISTER}')")
    page.run("var s = document.createElement('script'); s.text = '1'; document.head.append(s)")
    page.run("fetch('https://example.invalid/').catch(() => 1); 1")
    page.wait("1")
    said = json.dumps(page.complaints())
    assert "script-src" in said
    assert "connect-src" in said
