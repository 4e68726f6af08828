"""Confirmation of sessions by Rocket.Chat, where it decides (`AUTH_BACKEND=rocketchat`).

Rocket.Chat is asked only about credentials without a recently confirmed session here. Its
confirmation is stored as a session, so that the next calls need one statement and no request.
"""

from typing import TYPE_CHECKING

from app import metrics
from app.config import Settings
from app.database.failures import UnavailableError
from app.database.retries import committed
from app.identity.budget import Budget, source_of
from app.identity.single_flight import SingleFlight
from app.registry import sessions

if TYPE_CHECKING:
    from app.identity.rocketchat import CheckResult


class Confirmation:
    """Asks Rocket.Chat; simultaneous requests with the same credentials share one check."""

    def __init__(self, settings: Settings):
        from app.identity.rocketchat import RocketChat  # noqa: PLC0415 (urllib3, only where it is used)

        self._settings = settings
        self._fresh = settings.rocketchat_recheck_seconds
        self._grace = self._fresh + settings.rocketchat_grace_seconds
        self._rocketchat = RocketChat(settings.rocketchat_url or "", settings.rocketchat_timeout)
        self._deadline = settings.request_deadline
        per_minute = settings.rocketchat_checks_per_minute
        self._budget = Budget(per_minute, settings.prometheus_multiproc_dir)
        self._single_flight: SingleFlight[int | None] = SingleFlight()

    def close(self) -> None:
        """Close what is shared with other processes."""
        self._budget.close()

    def confirm(
        self, token_hash: bytes, user_id: str, auth_token: bytes, address: str = ""
    ) -> int | None:
        """Ask about credentials; return the greatest age of a confirmation that is valid now.

        `address` is where the caller says that it is, or a proxy.

        The age is in seconds, for `models.is_valid_session`: longer than usual while Rocket.Chat
        is unsure and the session is in its grace period. None: Rocket.Chat denies them. Raises
        UnavailableError when Rocket.Chat is unsure and the session is not in its grace period.
        """
        key = (token_hash, user_id)
        return self._single_flight.join(
            key,
            lambda: self._confirm(token_hash, user_id, auth_token, source_of(address, user_id)),
            self._deadline,
        )

    def _confirm(
        self, token_hash: bytes, user_id: str, auth_token: bytes, source: str
    ) -> int | None:
        from app.identity.rocketchat import CheckResult  # noqa: PLC0415 (see above)

        # Committed, so that no connection of the pool is held while Rocket.Chat answers.
        known = committed(
            lambda: sessions.known(token_hash, user_id, self._fresh, self._grace), self._deadline
        )
        if known and known.is_fresh:
            return self._fresh  # another request has confirmed it meanwhile
        if known:
            result = self._rocketchat.ask(token_hash, auth_token, user_id)
        else:
            result = self._ask_within_budget(token_hash, auth_token, user_id, source)
        if result is CheckResult.CONFIRMED:
            days, was_live = self._settings.session_days, bool(known and known.is_live)
            confirmed = committed(
                lambda: sessions.confirm(token_hash, user_id, days, was_live=was_live),
                self._deadline,
            )
            if confirmed:
                return self._fresh
        elif result is CheckResult.DENIED:
            if known:
                _, removed = committed(
                    lambda: sessions.deny(token_hash, user_id, known.asked_at), self._deadline
                )
                metrics.REMOVED.labels("revoked").inc(removed)
        elif known and known.is_in_grace:
            return self._grace
        else:
            why = self._rocketchat.problem
            raise UnavailableError(f"Rocket.Chat does not say who is signed in: it {why}")
        return None

    def _ask_within_budget(
        self, token_hash: bytes, auth_token: bytes, user_id: str, source: str
    ) -> "CheckResult":
        """Ask about credentials that may be made up: unsure when too many were lately."""
        from app.identity.rocketchat import CheckResult  # noqa: PLC0415 (see above)

        taken = False

        def may_ask() -> bool:
            nonlocal taken
            taken = self._budget.take(source, self._deadline)
            return taken

        result = self._rocketchat.ask(token_hash, auth_token, user_id, may_ask)
        if taken and result is CheckResult.DENIED:
            self._budget.denied(source)
        elif taken:
            self._budget.give_back()
        return result
