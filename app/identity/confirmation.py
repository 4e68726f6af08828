"""Whom Rocket.Chat says to be signed in, where it decides (`AUTH_BACKEND=rocketchat`).

Asked is only for credentials that no fresh session here answers for; what it says is kept as a
session, so that the next calls cost one statement and no question.
"""

from app import metrics
from app.config import Settings
from app.database.failures import UnavailableError
from app.database.retries import committed
from app.identity.single_flight import SingleFlight
from app.registry import sessions


class Confirmation:
    """Asks Rocket.Chat, once for all who show the same credentials at the same moment."""

    def __init__(self, settings: Settings):
        from app.identity.rocketchat import RocketChat  # noqa: PLC0415 (urllib3, only where it is used)

        self._settings = settings
        self._fresh = settings.rocketchat_recheck_seconds
        self._grace = self._fresh + settings.rocketchat_grace_seconds
        self._rocketchat = RocketChat(settings.rocketchat_url or "", settings.rocketchat_timeout)
        self._deadline = settings.request_deadline
        self._single_flight: SingleFlight[int | None] = SingleFlight()

    def close(self) -> None:
        """Close the connections to Rocket.Chat."""
        self._rocketchat.close()

    def confirm(self, token_hash: bytes, user_id: str, auth_token: bytes) -> int | None:
        """Ask about credentials; return how old a confirmation may be that signs them in now.

        That is seconds, for `models.is_valid_session`: more than usual while Rocket.Chat does not
        say and the session is in its grace. None: Rocket.Chat denies them. Raises
        UnavailableError when Rocket.Chat does not say and there is no grace.
        """
        key = (token_hash, user_id)
        return self._single_flight.join(
            key, lambda: self._confirm(token_hash, user_id, auth_token), self._deadline
        )

    def _confirm(self, token_hash: bytes, user_id: str, auth_token: bytes) -> int | None:
        from app.identity.rocketchat import Verdict  # noqa: PLC0415 (see above)

        # Committed, so that no connection is held while Rocket.Chat thinks.
        known = committed(
            lambda: sessions.known(token_hash, user_id, self._fresh, self._grace), self._deadline
        )
        if known and known.is_fresh:
            return self._fresh  # somebody else has asked meanwhile
        verdict = self._rocketchat.ask(token_hash, auth_token, user_id)
        if verdict is Verdict.CONFIRMED:
            days, was_live = self._settings.session_days, bool(known and known.is_live)
            confirmed = committed(
                lambda: sessions.confirm(token_hash, user_id, days, was_live=was_live),
                self._deadline,
            )
            if confirmed:
                return self._fresh
        elif verdict is Verdict.DENIED:
            if known:
                _, removed = committed(
                    lambda: sessions.deny(token_hash, user_id, known.asked_at), self._deadline
                )
                metrics.REMOVED.labels("revoked").inc(removed)
        elif known and known.is_in_grace:
            return self._grace
        else:
            raise UnavailableError("Rocket.Chat does not say who is signed in")
        return None
