"""The service, whose long lookups fail half way: `gunicorn tests.support.cutting:app`."""

from app.registry import push_tokens
from wsgi import app

__all__ = ["app"]
look_up, asked = push_tokens.look_up, []


def fail_later(user_ids, **wanted):
    """Look up, but fail with the last part."""
    asked.append(user_ids)
    if len(asked) > 3:
        raise RuntimeError("planted-secret")
    return look_up(user_ids, **wanted)


push_tokens.look_up = fail_later
