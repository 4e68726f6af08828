"""The result of a check of `push-tokens doctor`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """The result of a check: `state` is right, warning, wrong or skipped."""

    check: str
    state: str
    says: str
    do: str | None = None
