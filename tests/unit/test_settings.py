"""Settings, from the environment and otherwise."""

from __future__ import annotations

from datetime import timedelta

import pytest

from integration_hub import Hub, HubSettings, ValidationError
from integration_hub.settings import settings_of_the_environment


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUB_DATABASE_URL", "memory://")
    monkeypatch.setenv("HUB_POOL_SIZE", "7")
    monkeypatch.setenv("HUB_STATEMENT_TIMEOUT", "90")
    monkeypatch.setenv("HUB_LOCK_TIMEOUT", "PT2S")
    settings = HubSettings()
    assert settings.database_url.get_secret_value() == "memory://"
    assert settings.pool_size == 7
    assert settings.statement_timeout == timedelta(seconds=90)
    assert settings.lock_timeout == timedelta(seconds=2)
    with Hub.from_settings(settings) as hub:
        assert hub.health().database_version == "memory"


def test_a_url_in_the_settings_is_a_secret() -> None:
    settings = HubSettings.model_validate({"database_url": "postgresql://u:s3cr3t-pass@h/d"})
    assert "s3cr3t-pass" not in repr(settings)
    assert "s3cr3t-pass" not in settings.model_dump_json()


@pytest.mark.parametrize(
    ("variable", "value"),
    [("HUB_POOL_SIZE", "0"), ("HUB_POOL_SIZE", "many"), ("HUB_LOCK_TIMEOUT", "soon")],
)
def test_a_wrong_variable_is_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValidationError) as refused:
        settings_of_the_environment()
    assert (refused.value.field, refused.value.value) == (variable, value)
