"""What a registration meets in the table, and what is written for it; pure functions."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from app.identifiers import fresh_id, fresh_name
from app.limits import VOIP
from app.registry.distributed import statements as sql
from app.registry.registration import Registered, Registration

Device = tuple[str, str, str]  # user, app, name
Value = tuple[str, str]  # app, push token


class Row(NamedTuple):
    """A registration as it is stored."""

    id: str
    app_name: str
    token: str
    user_id: str
    device_id: str
    type: str
    enabled: bool
    created_at: datetime
    updated_at: datetime

    @property
    def value(self) -> Value:
        """Return what is unique of it."""
        return self.app_name, self.token

    @property
    def device(self) -> Device:
        """Return what its device is known by."""
        return self.user_id, self.app_name, self.device_id

    @property
    def is_voip(self) -> bool:
        """Tell whether it is for calls."""
        return self.type == VOIP


@dataclass
class Member:
    """A registration of a round whose session is valid; or its VoIP push token's own one."""

    place: int
    asked: Registration
    now: datetime
    valued: Row | None = None  # the row of its value
    former: Row | None = None  # the latest row of its device and kind
    goes: dict[str, Row] = field(default_factory=dict)  # what it ends, by id
    cedes_to: int | None = None  # the place of who takes the row of its value
    outcome: str = ""

    @property
    def value(self) -> Value:
        """Return what is unique of it."""
        return self.asked.app_name, self.asked.token

    @property
    def device(self) -> Device | None:
        """Return what its device is known by, where the app names it."""
        one = self.asked
        return None if one.device_id is None else (one.user_id, one.app_name, one.device_id)

    @property
    def is_voip(self) -> bool:
        """Tell whether it is for calls."""
        return self.asked.type == VOIP

    @property
    def left(self) -> Device | None:
        """Return the device that loses its APNs or FCM registration, its value, to this."""
        row = self.valued
        if row is None or row.is_voip:
            return None
        moves = row.user_id != self.asked.user_id
        return row.device if moves or self.device not in (None, row.device) else None

    @property
    def coming(self) -> Device | None:
        """Return the name that the row brings to another user or kind, if it is not taken."""
        row = self.valued
        if row is None or self.device is not None:
            return None
        stays = row.user_id == self.asked.user_id and row.is_voip == self.is_voip
        return None if stays else (self.asked.user_id, row.app_name, row.device_id)


def members_of(place: int, asked: Registration, now: datetime) -> Iterable[Member]:
    """Yield the member of a registration, and that of its VoIP push token."""
    yield Member(place, asked, now)
    if asked.voip_token is not None:
        call = asked._replace(token=asked.voip_token, type=VOIP, voip_token=None)
        yield Member(place, call, now)


def join(members: Sequence[Member], valued: Iterable[Row], of_devices: Iterable[Row]) -> None:
    """Tell each member the row of its value and those of its device.

    A row of another member's device belongs to that one, so that two devices may swap values; so
    does what one push token of a device was and the other one becomes.
    """
    by_value = {row.value: row for row in valued}
    by_device: dict[Device, list[Row]] = {}
    for row in {row.id: row for row in of_devices}.values():
        by_device.setdefault(row.device, []).append(row)
    owners: dict[str, Member] = {}  # by the row's id: whose device has it
    for member in members:
        for row in by_device.get(member.device, ()) if member.device else ():
            if row.is_voip == member.is_voip:
                owners[row.id] = member
                if member.former is None or member.former.updated_at < row.updated_at:
                    member.former = row
                if row.value != member.value:
                    member.goes[row.id] = row
            elif row.is_voip and member.asked.voip_token is None:
                member.goes[row.id] = row
    for member in members:
        found = by_value.get(member.value)
        owner = owners.get(found.id, member) if found else member
        if owner is not member:
            member.cedes_to = owner.place
        else:
            member.valued = found


def row_of(member: Member, taken: set[tuple[Device, bool]]) -> Mapping[str, Any]:
    """Return the row of a member, and note what becomes of it and the name that it takes."""
    asked, valued, former = member.asked, member.valued, member.former
    kept = former or valued
    name = asked.device_id
    if name is None:
        coming = member.coming
        is_free = coming is None or (coming, member.is_voip) not in taken
        name = valued.device_id if valued and is_free else fresh_name()
        taken.add(((asked.user_id, asked.app_name, name), member.is_voip))
    member.outcome = "refreshed"
    if valued and valued.user_id != asked.user_id:
        member.outcome = "moved"
    elif former and former.token != asked.token:
        member.outcome = "rotated"
    elif not valued:
        member.outcome = "created"
    return {
        "id": kept.id if kept else fresh_id(),
        "app_name": asked.app_name,
        "token": asked.token,
        "type": asked.type,
        "user_id": asked.user_id,
        "session_hash": sql.bytes_(asked.token_hash),
        "enabled": valued.enabled if valued else True,
        "created_at": kept.created_at if kept else member.now,
        "updated_at": member.now,
        "environment": asked.environment,
        "device_id": name,
    }


def registered(member: Member, stored: Mapping[Value, Sequence[Any]]) -> Registered:
    """Return what became of a member, by what the database says it has stored."""
    asked = member.asked
    device_id, enabled, created_at, updated_at = stored[member.value]
    row = {
        "device_id": device_id,
        "app_name": asked.app_name,
        "token": asked.token,
        "type": asked.type,
        "user_id": asked.user_id,
        "enabled": enabled,
        "created_at": created_at,
        "updated_at": updated_at,
    }
    return Registered(row, member.outcome)
