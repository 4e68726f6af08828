"""The settings: the only place that reads the environment."""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parent.parent


class ConfigError(SystemExit):
    """A setting that cannot be used: ends the process with one line and exit status 1."""

    def __init__(self, variable: str, problem: str):
        self.problem = f"{variable} {problem}"
        super().__init__(f"push-token-registry: {variable} {problem}")


def _database_url(text: str) -> str:
    """Check the scheme only; libpq alone judges the rest (`connections.check_url`)."""
    if not text.startswith(("postgresql://", "postgres://")):
        # The value is not repeated: it may hold a password.
        raise ValueError("must be a postgresql:// URI")
    return text


def _number(low: float, high: float, kind: type[int] | type[float] = int) -> Callable[[str], Any]:
    def parse(text: str) -> int | float:
        try:
            number = kind(text)
        except ValueError:
            number = low - 1
        if not low <= number <= high:
            what = "a whole number" if kind is int else "a number"
            raise ValueError(f"must be {what} from {low} to {high}, not {text!r}")
        return number

    return parse


def _log_level(text: str) -> str:
    if text.lower() not in ("debug", "info", "warning", "error"):
        raise ValueError(f"must be debug, info, warning or error, not {text!r}")
    return text.lower()


def _pooler(text: str) -> str:
    if text.lower() != "transaction":
        raise ValueError(f"must be transaction, or unset, not {text!r}")
    return text.lower()


def _distributed(text: str) -> str:
    if text.lower() != "citus":
        raise ValueError(f"must be citus, or unset, not {text!r}")
    return text.lower()


def _auth_backend(text: str) -> str:
    if text not in ("local", "rocketchat"):
        raise ValueError(f"must be local or rocketchat, not {text!r}")
    return text


def _http_url(text: str) -> str:
    """Check a URL that credentials are sent to; errors do not repeat it, as it may hold some."""
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("must be an http:// or https:// URL")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("must be a URL without user, query and fragment")
    return text


_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:\d{1,5})?")


def _origins(text: str) -> tuple[str, ...]:
    """Check origins as a browser writes them into `Origin`."""
    origins = tuple(text.replace(",", " ").split())
    for origin in origins:
        if origin not in ("*", "null") and not _ORIGIN.fullmatch(origin):
            raise ValueError(
                "must be *, or origins such as https://app.example.org, in lower case, without a"
                f" path and separated by commas, not {origin!r}"
            )
    return origins


def _folder(text: str) -> str:
    if not Path(text).is_dir():
        raise ValueError(f"must be a folder that exists, not {text!r}")
    return text


def _setting(default: Any, parse: Callable[[str], Any]) -> Any:
    return field(default=default, metadata={"parse": parse})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings, typed; the field `database_url` is the variable `DATABASE_URL`, and so on."""

    database_url: str | None = _setting(None, _database_url)
    database_read_url: str | None = _setting(None, _database_url)
    read_max_lag_seconds: float = _setting(10.0, _number(0.1, 86400, float))
    database_pooler: str | None = _setting(None, _pooler)
    database_distributed: str | None = _setting(None, _distributed)
    database_pool_size: int = _setting(5, _number(1, 1000))
    database_connect_timeout: int = _setting(3, _number(2, 60))
    database_lock_timeout: float = _setting(1.0, _number(0.1, 3600, float))
    database_statement_timeout: float = _setting(5.0, _number(0.1, 3600, float))
    database_max_age_seconds: int = _setting(300, _number(1, 86400))
    request_deadline: float = _setting(10.0, _number(0.1, 300, float))
    drain_seconds: int = _setting(0, _number(0, 3600))
    session_days: int = _setting(90, _number(1, 36500))
    auth_backend: str = _setting("local", _auth_backend)
    rocketchat_url: str | None = _setting(None, _http_url)
    rocketchat_timeout: float = _setting(3.0, _number(0.1, 60, float))
    rocketchat_recheck_seconds: int = _setting(600, _number(1, 86400 * 90))
    rocketchat_grace_seconds: int = _setting(3600, _number(0, 86400 * 90))
    rocketchat_checks_per_minute: int = _setting(10, _number(1, 1_000_000))
    port: int = _setting(8000, _number(1, 65535))
    web_concurrency: int = _setting(2, _number(1, 1000))
    cors_origins: tuple[str, ...] | None = _setting(None, _origins)
    log_level: str = _setting("info", _log_level)
    metrics_textfile_dir: str | None = _setting(None, _folder)
    prometheus_multiproc_dir: str | None = _setting(None, _folder)

    def __post_init__(self) -> None:
        """Raise ConfigError for settings that do not go together."""
        if self.auth_backend == "rocketchat" and not self.rocketchat_url:
            raise ConfigError("ROCKETCHAT_URL", "is not set, and AUTH_BACKEND=rocketchat needs it")

        if self.database_distributed and self.database_pooler:
            problem = "must be unset where DATABASE_DISTRIBUTED is set: name the entry node itself"
            raise ConfigError("DATABASE_POOLER", problem)

    @property
    def recheck(self) -> int | None:
        """Seconds for which a confirmation is valid; None where sessions need no confirmation."""
        return self.rocketchat_recheck_seconds if self.auth_backend == "rocketchat" else None

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """Read and check every setting; an empty variable counts as unset.

        Raises ConfigError naming the first variable that cannot be used.
        """
        values, unusable = cls._read(environ)
        for error in unusable:
            raise error
        return cls(**values)

    @classmethod
    def problems(cls, environ: Mapping[str, str] = os.environ) -> list[str]:
        """Return the problem of each setting that cannot be used."""
        values, unusable = cls._read(environ)
        if not unusable:
            try:
                cls(**values)
            except ConfigError as error:
                unusable.append(error)
        return [error.problem for error in unusable]

    @classmethod
    def _read(cls, environ: Mapping[str, str]) -> tuple[dict[str, Any], list[ConfigError]]:
        values: dict[str, Any] = {}
        unusable: list[ConfigError] = []
        for setting in fields(cls):
            variable = setting.name.upper()
            if text := environ.get(variable, "").strip():
                try:
                    values[setting.name] = setting.metadata["parse"](text)
                except ValueError as error:
                    unusable.append(ConfigError(variable, str(error)))
        return values, unusable


def export_setting(setting: str, value: str) -> None:
    """Set a setting in the environment of the processes that this one starts."""
    os.environ[setting.upper()] = value


def forget_other_servers() -> None:
    """Forget libpq's defaults, such as PGSERVICE and PGOPTIONS: the shell has them for others."""
    for name in list(os.environ):
        if name.startswith("PG"):
            del os.environ[name]


@contextmanager
def without_setting(setting: str) -> Iterator[None]:
    """Remove a setting from the environment within the `with`."""
    value = os.environ.pop(setting.upper(), None)
    try:
        yield
    finally:
        if value is not None:
            export_setting(setting, value)
