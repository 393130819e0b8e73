"""The settings of a hub, and the only place that reads the environment.

May import: `domain`, `http`, pydantic-settings.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated
from urllib.request import getproxies_environment

import pydantic
from pydantic import BeforeValidator, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from integration_hub.domain.errors import ValidationError
from integration_hub.http.options import Proxies

_PREFIX = "HUB_"


def _seconds(value: object) -> object:
    """The environment has only text: ``"90"`` is a number of seconds, as 90 is."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


Duration = Annotated[timedelta, BeforeValidator(_seconds)]


class HubSettings(BaseSettings):
    """Read from the environment: ``HUB_DATABASE_URL``, ``HUB_POOL_SIZE``, and so on.

    Durations are seconds or ISO 8601 (``PT30S``). The URL is a secret: it may hold a password.
    """

    model_config = SettingsConfigDict(env_prefix=_PREFIX, frozen=True)

    database_url: SecretStr = SecretStr("sqlite:///integration_hub.db")
    pool_size: int = Field(default=5, ge=1)
    pool_max_overflow: int = Field(default=10, ge=0)
    pool_timeout: Duration = timedelta(seconds=30)
    pool_recycle: Duration = timedelta(minutes=30)
    pool_pre_ping: bool = True
    connect_timeout: Duration = timedelta(seconds=5)
    statement_timeout: Duration = timedelta(seconds=30)
    lock_timeout: Duration = timedelta(seconds=10)
    #: Off behind PgBouncer in transaction mode before its version 1.21, which knows none.
    prepared_statements: bool = True
    #: Refuse to work on a schema that does not fit the code. Off for a service that keeps our
    #: tables in its own migration history, where our version table does not exist.
    check_schema: bool = True
    #: Proxies of the HTTP clients: of our own, or what other programs go by (``HTTPS_PROXY`` …).
    http_proxy: SecretStr | None = None
    https_proxy: SecretStr | None = None
    no_proxy: str = ""
    use_proxies_of_the_environment: bool = False

    def proxies(self) -> Proxies:
        """The proxies that were chosen; the environment is read here and now, once."""
        if self.use_proxies_of_the_environment:
            found = getproxies_environment()
            hosts = _hosts(found.get("no", ""))
            return Proxies(found.get("http"), found.get("https"), hosts)
        http, https = (
            None if each is None else each.get_secret_value() or None
            for each in (self.http_proxy, self.https_proxy)
        )
        return Proxies(http, https, _hosts(self.no_proxy))


def _hosts(listed: str) -> tuple[str, ...]:
    return tuple(host.strip() for host in listed.split(",") if host.strip())


def settings_of_the_environment() -> HubSettings:
    """The settings that the environment gives; `ValidationError` names the variable at fault."""
    try:
        return HubSettings()
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        variable = f"{_PREFIX}{first['loc'][0]}".upper()
        problem = f"is no valid setting ({first['msg']})"
        raise ValidationError(variable, first["input"], problem) from None
