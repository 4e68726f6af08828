"""Whom Rocket.Chat says to be signed in, where it decides (`AUTH_BACKEND=rocketchat`).

Asked is only for credentials that no fresh session here answers for; what it says is kept as a
session, so that the next calls cost one statement and no question.
"""

from flask import Flask

from app import errors, metrics, sessions
from app.config import Settings
from app.database import committed
from app.flights import Flights


def init_app(app: Flask) -> None:
    """Give the app its judge, `app.extensions["identity"]`, where there is one."""
    settings: Settings = app.config["SETTINGS"]
    if settings.recheck is not None:
        app.extensions["identity"] = Identity(settings)


class Identity:
    """Asks Rocket.Chat, once for all who show the same credentials at the same moment."""

    def __init__(self, settings: Settings):
        from app.rocketchat import RocketChat  # noqa: PLC0415 (urllib3, only where it is used)

        self._settings = settings
        self._fresh = settings.rocketchat_recheck_seconds
        self._grace = self._fresh + settings.rocketchat_grace_seconds
        self._rocketchat = RocketChat(settings.rocketchat_url or "", settings.rocketchat_timeout)
        self._flights: Flights[int] = Flights()

    def close(self) -> None:
        """Close the connections to Rocket.Chat."""
        self._rocketchat.close()

    def confirm(self, token_hash: bytes, user_id: str, auth_token: bytes) -> int:
        """Ask about credentials; return how old a confirmation may be that lets them in now.

        That is seconds, for `models.lets_in`: more than usual while Rocket.Chat does not say and
        the session is in its grace. Raises 401 when it denies, and UnavailableError when nobody
        can tell.
        """
        key = (token_hash, user_id)
        patience = self._settings.request_deadline
        return self._flights.join(
            key, lambda: self._confirm(token_hash, user_id, auth_token), patience
        )

    def _confirm(self, token_hash: bytes, user_id: str, auth_token: bytes) -> int:
        from app.rocketchat import Verdict  # noqa: PLC0415 (see above)

        # Committed, so that no connection is held while Rocket.Chat thinks.
        known = committed(lambda: sessions.known(token_hash, user_id, self._fresh, self._grace))
        if known and known.is_fresh:
            return self._fresh  # somebody else has asked meanwhile
        verdict = self._rocketchat.ask(token_hash, auth_token, user_id)
        if verdict is Verdict.CONFIRMED:
            days, was_live = self._settings.session_days, bool(known and known.is_live)
            if committed(lambda: sessions.confirm(token_hash, user_id, days, was_live=was_live)):
                return self._fresh
        elif verdict is Verdict.DENIED:
            if known:
                _, removed = committed(lambda: sessions.deny(token_hash, user_id, known.asked_at))
                metrics.REMOVED.labels("revoked").inc(removed)
        elif known and known.is_in_grace:
            return self._grace
        else:
            raise errors.UnavailableError("Rocket.Chat does not say who is signed in")
        raise errors.unauthorized()
