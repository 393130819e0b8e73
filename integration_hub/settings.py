"""The settings of a hub, and the only place that reads the environment.

May import: pydantic-settings.
"""

from __future__ import annotations

from datetime import timedelta

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class HubSettings(BaseSettings):
    """Read from the environment: ``HUB_DATABASE_URL``, ``HUB_POOL_SIZE``, and so on.

    Durations are seconds or ISO 8601 (``PT30S``). The URL is a secret: it may hold a password.
    """

    model_config = SettingsConfigDict(env_prefix="HUB_", frozen=True)

    database_url: SecretStr = SecretStr("sqlite:///integration_hub.db")
    pool_size: int = Field(default=5, ge=1)
    pool_max_overflow: int = Field(default=10, ge=0)
    pool_timeout: timedelta = timedelta(seconds=30)
    pool_recycle: timedelta = timedelta(minutes=30)
    pool_pre_ping: bool = True
    connect_timeout: timedelta = timedelta(seconds=5)
    statement_timeout: timedelta = timedelta(seconds=30)
    lock_timeout: timedelta = timedelta(seconds=10)
    #: Refuse to work on a schema that does not fit the code. Off for a service that keeps our
    #: tables in its own migration history, where our version table does not exist.
    check_schema: bool = True
