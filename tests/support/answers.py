"""The errors that calls answer, as the contract says them."""

from werkzeug.test import TestResponse


def missing_or_invalid(field: str, code: str) -> dict[str, object]:
    """Return the body by which Rocket.Chat refuses a field of a registration."""
    text = f'The required "{field}" body param is missing or invalid. [{code}]'
    return {"success": False, "error": text, "errorType": code}


def refused(answer: TestResponse, problem: str) -> None:
    """Check that a sender's call was refused, with an error that begins so."""
    assert answer.status_code == 400, answer.text
    assert answer.json["errorType"] == "error-invalid-params"
    assert answer.json["error"].startswith(problem), answer.json["error"]
    assert answer.json["error"].endswith(" [error-invalid-params]")
