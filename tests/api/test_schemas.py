"""The fast way to shape a registration gives what its schema does."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from app.api import schemas

ROW = {
    "id": "ZSwWL9TfXCACGZRap",
    "device_id": "pixel-8",
    "app_name": "chat.exämple",
    "token": "0f744707",
    "type": "apn",
    "user_id": "alice",
    "enabled": True,
    "created_at": datetime(2018, 9, 11, 18, 22, 55, 6999, tzinfo=UTC),
    "updated_at": datetime(2026, 11, 24, 0, 14, 20, tzinfo=ZoneInfo("Asia/Kathmandu")),
    "environment": "sandbox",
}


@pytest.mark.parametrize(
    ("view", "with_environment"),
    [(schemas.PushTokenView, False), (schemas.PushTokenViewWithEnvironment, True)],
)
def test_a_registration_is_dumped_as_its_schema_dumps_it(view, with_environment):
    for changes in ({}, {"type": "gcm"}, {"enabled": False}):
        dumped = schemas.dump_push_token(ROW | changes, with_environment=with_environment)
        assert list(dumped.items()) == list(view().dump(ROW | changes).items())
