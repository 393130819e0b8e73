"""`integration-hub`, called as from a shell."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from integration_hub import cli

HEAD = "hub_0003"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code of a call."""
    monkeypatch.setattr(sys, "argv", ["integration-hub", *arguments])
    with pytest.raises(SystemExit) as left:
        cli.main()
    return int(left.value.code or 0)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'hub.db'}"


def test_the_schema_is_looked_after_from_the_shell(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HUB_DATABASE_URL", url)
    told = []
    for arguments in (["current"], ["upgrade"], ["current"], ["check"], ["downgrade", "base"]):
        assert run(monkeypatch, "db", *arguments) == 0
        told.append(capsys.readouterr().out.strip())
    assert told == [
        f"schema is at None, the code needs {HEAD}",
        f"schema is at {HEAD}",
        f"schema is at {HEAD}, the code needs {HEAD}",
        f"schema is at {HEAD} and fits the code",
        "schema is at None",
    ]


def test_a_check_that_fails_says_what_helps(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "db", "check", "--url", url) == 1
    assert "integration-hub db upgrade" in capsys.readouterr().err


def test_health_is_shown_and_is_the_exit_code(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "db", "health", "--url", url) == 1
    assert "the schema is None" in capsys.readouterr().out
    run(monkeypatch, "db", "upgrade", "--url", url)
    assert run(monkeypatch, "db", "health", "--url", url) == 0
    shown = capsys.readouterr().out
    assert "SQLite" in shown
    assert f"{HEAD} (the code needs {HEAD})" in shown


def test_a_database_that_is_not_there_is_one_line_without_its_password(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = "postgresql://user:s3cr3t-pass@127.0.0.1:1/nowhere"
    assert run(monkeypatch, "db", "current", "--url", url) == 1
    assert run(monkeypatch, "db", "health", "--url", url) == 1
    said = capsys.readouterr()
    assert "database_unavailable" in said.err
    assert "s3cr3t-pass" not in said.out + said.err
    assert "Traceback" not in said.err


def test_another_dialect_is_refused_with_those_that_are_supported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "db", "upgrade", "--url", "mysql://u:s3cr3t-pass@h/d") == 1
    said = capsys.readouterr().err
    assert "postgresql+psycopg://" in said
    assert "s3cr3t-pass" not in said


def test_the_sql_of_an_upgrade_is_printed_whole(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "db", "sql", "--url", "postgresql://nowhere/db") == 0
    sql = capsys.readouterr().out
    assert "CREATE INDEX ix_webhooks_events ON webhooks USING gin (events)" in sql
    assert sql.rstrip().endswith("COMMIT;")


def test_the_demo_s_exit_code_tells_whether_each_step_came_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "demo") == 0
    assert "✗" not in capsys.readouterr().out
    monkeypatch.setattr("integration_hub.demo.STEPS", (lambda _: 1 / 0 and "",))
    with pytest.raises(ZeroDivisionError):
        run(monkeypatch, "demo")

    def failing(_: object) -> str:
        raise AssertionError("names: expected 1, found 2")

    monkeypatch.setattr("integration_hub.demo.STEPS", (failing,))
    assert run(monkeypatch, "demo") == 1
    assert "expected 1, found 2" in capsys.readouterr().out


def test_a_setting_that_is_wrong_is_one_line(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HUB_POOL_SIZE", "many")
    assert run(monkeypatch, "db", "current", "--url", url) == 1
    said = capsys.readouterr().err
    assert "HUB_POOL_SIZE" in said
    assert "Traceback" not in said


def test_the_command_is_installed_and_explains_itself() -> None:
    command = Path(sys.executable).with_name("integration-hub")
    done = subprocess.run([command, "--help"], capture_output=True, text=True, check=True)
    for word in ("demo", "db"):
        assert word in done.stdout
