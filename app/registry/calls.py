"""The VoIP registrations that go with what is removed.

Nobody's calls are to ring on a phone that has lost its APNs registration. How they are locked and
deleted is of one_node/ and of distributed/.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Select, Text, collate, select

from app.database.arrays import as_table
from app.limits import APN, VOIP
from app.models import PushToken

DEVICE = (PushToken.user_id, PushToken.app_name, PushToken.device_id)


def calls_of(removed: Sequence[Any]) -> Select[str] | None:
    """Select the ids of the VoIP registrations of devices that lost their APNs one.

    `removed` are rows that have the columns of DEVICE and a `type`. Returns None where no device
    lost one.
    """
    devices = [(row.user_id, row.app_name, row.device_id) for row in removed if row.type == APN]
    if not devices:
        return None
    values = zip(*devices, strict=True)
    names = {column.key: (Text, list(each)) for column, each in zip(DEVICE, values, strict=True)}
    asked = as_table("asked", **names)
    same = (column == collate(asked[column.key], "C") for column in DEVICE)
    return select(PushToken.id).where(*same, PushToken.type == VOIP)
