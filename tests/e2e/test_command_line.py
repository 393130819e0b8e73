"""`integration-hub`, called as from a shell."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from sqlalchemy import URL

from integration_hub import (
    Hub,
    HubSettings,
    Integration,
    Schedule,
    SyncJob,
    SyncJobFilter,
    Webhook,
    cli,
)
from integration_hub.testing import WebhookFactory

HEAD = "hub_0004"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code of a call."""
    monkeypatch.setattr(sys, "argv", ["integration-hub", *arguments])
    with pytest.raises(SystemExit) as left:
        cli.main()
    return int(left.value.code or 0)


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A process of its own, which has ended by the end of the block, unless the test has failed."""
    command = str(Path(sys.executable).with_name("integration-hub"))
    pipe = subprocess.PIPE
    process = subprocess.Popen([command, *arguments], stdout=pipe, stderr=pipe, text=True)
    try:
        yield process
    finally:
        process.kill()


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """What ``--verbose`` sets is for one process, and tests share theirs."""
    yield
    logging.getLogger("integration_hub").setLevel(logging.NOTSET)


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
        f"schema is at none, the code needs {HEAD}",
        f"schema is at {HEAD}",
        f"schema is at {HEAD}, the code needs {HEAD}",
        f"schema is at {HEAD} and fits the code",
        "schema is at none",
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
    said = capsys.readouterr().out
    assert f"none (the code needs {HEAD})" in said
    assert re.search(r"ok\W+no", said)
    assert "integration-hub db upgrade" in said
    run(monkeypatch, "db", "upgrade", "--url", url)
    assert run(monkeypatch, "db", "health", "--url", url) == 0
    shown = capsys.readouterr().out
    assert "SQLite" in shown
    assert re.search(r"ok\W+yes", shown)
    assert re.search(r"latency\W+\d{1,3}\.\d ms", shown)
    assert "0 in use" in shown
    assert f"{HEAD} (the code needs {HEAD})" in shown


def test_the_health_of_postgres_has_its_clock_too(
    hub_postgres_url: URL, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = hub_postgres_url.render_as_string(hide_password=False)
    assert run(monkeypatch, "db", "health", "--url", url) == 0
    shown = capsys.readouterr().out
    assert "PostgreSQL" in shown
    assert re.search(r"clock\W+[+-]\d+\.\d{3} s to the database's", shown)


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


@pytest.fixture
def jobs(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with handlers, and a database with three due jobs of two tenants."""
    monkeypatch.setenv("HUB_DATABASE_URL", url)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    name = f"handlers_{tmp_path.name.replace('-', '_')}"  # a module is imported once
    (tmp_path / f"{name}.py").write_text(HANDLERS)
    with Hub.from_url(url) as hub:
        hub.schema.upgrade()
        for tenant, names in {"acme": ["good", "[bad]"], "beta": ["slow"]}.items():
            with hub.unit_of_work(tenant=tenant) as uow:
                config = {"sync": {"max_concurrency": 9}}
                item = Integration(name="CRM", type="crm", config=config, status="active")
                parent = uow.integrations.add(item)
                now = Schedule.once(datetime.now(UTC))
                for each in names:
                    job = SyncJob(integration_id=parent.id, name=each, schedule=now, max_attempts=1)
                    uow.sync_jobs.add(job)
                uow.commit()
    return Path(name)


HANDLERS = """
import os
from integration_hub import SyncOutcome
from integration_hub.http import BearerAuth

def pull(context):
    if context.job.name == "[bad]":
        raise ConnectionError("the other [side] hung up\\x1b[2J\\u202e")
    if context.job.name == "slow":
        print("at work", flush=True)
        context.wait(60)
        raise InterruptedError
    return SyncOutcome(records=5)

registry = {"crm": pull}
others = {"erp": pull}

def call(context):
    return SyncOutcome(records=len(context.http.get("contacts").unwrap().json()))

def client_options(integration):
    return {"base_url": os.environ["CRM_URL"], "auth": BearerAuth("t1")}

def ended(run):
    print("ended:", run.job.name, run.status)

def attempted(delivery, outcome):
    print("attempted:", delivery.webhook.name, outcome.status)

calling = {"crm": call}
empty = {}
wrong = {"crm": "pull"}
"""


def test_jobs_are_run_and_looked_at_from_the_shell(
    jobs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    def told(*arguments: str) -> str:
        assert run(monkeypatch, "sync", *arguments) == 0
        return capsys.readouterr().out

    listed = told("due")
    assert "good" in listed
    assert "slow" in listed
    assert "slow" not in told("due", "--tenant", "acme")
    ids = re.findall(r"[0-9a-f-]{36}", listed)
    assert len(ids) == 3
    handlers = ("--handlers", f"{jobs}:registry", "--tenant", "acme", "--worker", "w7")
    others = ("--handlers", f"{jobs}:others", "--leave-others")
    assert "0 runs" in told("run", "--once", *others)
    assert "2 runs" in told("run", "--once", "--verbose", *handlers)
    assert re.search(r"sync run [0-9a-f-]{36} of 'good' succeeded: 5 records", caplog.text)
    status = told("status")
    assert re.search(r"completed\W+1\b", status)
    assert re.search(r"due now\W+1\b", status)
    assert "running: none" in status
    assert "[bad]" in status
    history = told("history", "good")
    assert "good: completed, next run: none" in history
    assert "succeeded" in history
    assert "w7" in history
    assert "succeeded" in told("history", next(i for i in ids if "good" in told("history", i)))
    failed = told("history", "[bad]", "--status", "failed", "--since", "1h")
    assert r"the other [side] hung up\x1b[2J\u202e" in failed  # and no terminal heeds it
    assert "none" in told("history", "good", "--status", "failed")
    old = ("--older-than", "1h", "--jobs")
    assert told("prune", *old).splitlines() == ["0 jobs forgotten", "0 runs forgotten"]
    assert told("prune", "--older-than", "0s").strip() == "2 runs forgotten"
    all_that_is = ("--older-than", "0s", "--jobs")
    assert told("prune", *all_that_is).splitlines() == ["1 jobs forgotten", "0 runs forgotten"]
    assert set(re.findall(r"(\[bad]|good|slow) +│", told("list"))) == {"[bad]", "slow"}


def test_integrations_are_listed_paused_and_activated(
    jobs: Path, url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(*arguments: str) -> str:
        assert run(monkeypatch, "integrations", *arguments) == 0
        return capsys.readouterr().out

    with Hub.from_url(url) as hub, hub.unit_of_work(tenant="acme") as uow:
        broken = Integration(name="ERP", type="erp", tags=["emea"], is_active=False)
        uow.integrations.add(broken.fail("401 [from] the system", hub.clock.now()))
        uow.commit()
    everything = told("list")
    assert everything.count("CRM") == 2
    assert re.search(r"│ ERP +│ erp +│ error, inactive │ 2.* │ 401 \[from] the system", everything)
    assert "CRM" not in told("list", "--status", "error", "--type", "erp", "--tag", "emea")
    assert told("list", "--tag", "apac").strip() == "integrations: none"
    assert "the first 1 of 2" in told("list", "--limit", "1", "--tenant", "acme")
    assert told("pause", "CRM", "--tenant", "acme").strip() == "CRM: paused"
    assert run(monkeypatch, "sync", "due", "--tenant", "acme") == 0
    assert capsys.readouterr().out.count("its integration, which is paused") == 2
    assert told("activate", "ERP").strip() == "ERP: active"
    assert run(monkeypatch, "integrations", "pause", "CRM") == 1
    assert "integration is the name of several; give the id" in capsys.readouterr().err


def test_jobs_are_listed_with_when_they_run(
    jobs: Path, url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(*arguments: str) -> str:
        assert run(monkeypatch, "sync", "list", *arguments) == 0
        return capsys.readouterr().out

    with Hub.from_url(url) as hub, hub.unit_of_work(tenant="beta") as uow:
        (slow,) = uow.sync_jobs.find()
        changed = replace(slow, schedule=Schedule.cron("30 2 * * *"), is_active=False)
        uow.sync_jobs.save(changed.pause(hub.clock.now()))
        erp = uow.integrations.add(Integration(name="ERP", type="erp"))
        hourly = Schedule.every(3_600)
        uow.sync_jobs.add(SyncJob(integration_id=erp.id, name="orders", schedule=hourly))
        uow.commit()
    everything = told()
    names = re.findall(r"(\[bad]|good|orders|slow) +│", everything)
    assert names == ["[bad]", "good", "orders", "slow"]
    assert "30 2 * * * (UTC)" in everything
    assert "paused, inactive" in everything
    assert re.search(r"orders │ ERP +│ pending +│ every 3600 s", everything)
    assert "the first 2 of 4" in told("--limit", "2")
    assert "orders" not in told("--integration", "CRM", "--tenant", "beta")
    assert "slow" not in told("--status", "pending")
    assert told("--status", "cancelled").strip() == "jobs: none"
    assert run(monkeypatch, "sync", "list", "--integration", "SAP") == 1
    assert "--integration is no id, and nobody's name, got 'SAP'" in capsys.readouterr().err


def test_lists_are_json_for_other_programs(
    jobs: Path, url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(*arguments: str) -> Any:
        assert run(monkeypatch, *arguments, "--json", "--tenant", "acme") == 0
        return json.loads(capsys.readouterr().out)

    with Hub.from_url(url) as hub, hub.unit_of_work(tenant="acme") as uow:
        crm = uow.integrations.get_by_name("CRM")
        good = uow.sync_jobs.get_by_name("good", crm.id)
        (run_of_good,) = uow.sync_jobs.claim("w1", limit=1)
        assert run_of_good.sync_job_id == good.id
        ended = uow.sync_runs.succeed(run_of_good, records=7)
        hook = WebhookFactory(integration_id=crm.id, name="Ü", store=uow)
        uow.messages.publish("invoice.paid", {}, to=hook.id)
        uow.commit()
    (shown,) = [each for each in told("sync", "list") if each["job"] == "good"]
    assert (shown["id"], shown["integration"]) == (str(good.id), "CRM")
    assert ended.started_at is not None
    assert shown["last_run"] == ended.started_at.isoformat()
    assert shown["next_run"] is None
    (told_run,) = told("sync", "history", "good")
    assert told_run["took"] == (ended.duration or timedelta()).total_seconds()
    assert (told_run["status"], told_run["records"], told_run["error"]) == ("succeeded", 7, None)
    assert [each["job"] for each in told("sync", "due")] == ["[bad]"]
    assert [each["integration"] for each in told("integrations", "list")] == ["CRM"]
    assert [each["webhook"] for each in told("webhooks", "list")] == ["Ü"]
    (delivery,) = told("webhooks", "deliveries", str(hook.id))
    assert (delivery["event"], delivery["attempts"]) == ("invoice.paid", 0)
    assert told("webhooks", "attempts", delivery["id"]) == []


def test_what_a_due_job_waits_for_is_told(
    jobs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def waits() -> list[str]:
        assert run(monkeypatch, "sync", "due", "--tenant", "acme") == 0
        lines = [line for line in capsys.readouterr().out.splitlines() if "│" in line]
        return [line.split("│")[-2].strip() for line in lines]

    assert waits() == ["a worker", "a worker"]
    with Hub.from_settings(HubSettings()) as hub:
        with hub.unit_of_work(tenant="acme") as uow:
            (claimed,) = uow.sync_jobs.claim("w1", limit=1)
            crm = uow.integrations.get_by_name("CRM")
            crm = uow.integrations.save(replace(crm, config={}))
            paused = uow.sync_jobs.get(claimed.sync_job_id).pause(hub.clock.now())
            uow.sync_jobs.save(uow.sync_jobs.save(paused).run_now(hub.clock.now()))
            uow.commit()
        assert waits() == ["a place: 1 of 1 are taken", "its own run, which goes on"]
        with hub.unit_of_work(tenant="acme") as uow:
            uow.integrations.save(crm.pause(hub.clock.now()))
            uow.commit()
        assert waits() == ["its integration, which is paused"] * 2
        assert run(monkeypatch, "sync", "status") == 0
        assert re.search(r"│ w1 +│", capsys.readouterr().out)


def test_a_name_that_several_have_is_told_so(
    jobs: Path, url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Hub.from_url(url) as hub, hub.unit_of_work(tenant="beta") as uow:
        (slow,) = uow.sync_jobs.find()
        uow.sync_jobs.save(replace(slow, name="good"))
        uow.commit()
    assert run(monkeypatch, "sync", "history", "good") == 1
    assert "job is the name of several; give the id, got 'good'" in capsys.readouterr().err
    assert run(monkeypatch, "sync", "history", "good", "--tenant", "beta") == 0


def test_a_job_is_paused_and_resumed_and_cancelled_from_the_shell(
    jobs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(*arguments: str) -> str:
        assert run(monkeypatch, "sync", *arguments) == 0
        return capsys.readouterr().out.strip()

    assert told("pause", "good").startswith("good: paused, next run: 2")
    assert "good" not in told("due")
    assert told("resume", "good", "--tenant", "acme").startswith("good: pending, next run: 2")
    handlers = ("--handlers", f"{jobs}:registry", "--tenant", "acme")
    assert told("run", "--once", *handlers) == "2 runs"
    assert told("now", "[bad]").startswith("[bad]: pending, next run: 2")
    assert told("run", "--once", *handlers) == "1 runs"
    with Hub.from_settings(HubSettings()) as hub, hub.unit_of_work(tenant="acme") as uow:
        (bad,) = uow.sync_jobs.find(SyncJobFilter(name_contains="bad"))
        uow.sync_jobs.save(replace(bad, checkpoint={"page": 7}))
        uow.commit()
    assert told("now", "[bad]", "--from-start").startswith("[bad]: pending")
    with Hub.from_settings(HubSettings()) as hub, hub.unit_of_work(tenant="acme") as uow:
        assert uow.sync_jobs.get(bad.id).checkpoint is None
    assert told("cancel", "[bad]") == "[bad]: cancelled, next run: none"
    with Hub.from_settings(HubSettings()) as hub, hub.unit_of_work(tenant="acme") as uow:
        changed = {job.name: job.updated_by for job in uow.sync_jobs.find()}
    assert changed["[bad]"] == "integration-hub"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--handlers", "nowhere_at_all:registry"], "there is no module 'nowhere_at_all'"),
        (["run", "--handlers", "registry"], "package.module:name"),
        (["run", "--handlers", "{}:nothing"], "a mapping of integration type to handler"),
        (["run", "--handlers", "{}:empty"], "a mapping of integration type to handler"),
        (["run", "--handlers", "{}:wrong"], "must have a function for 'crm'"),
        (["run", "--handlers", "{}:registry", "--client-options", "{}:empty"], "a function of"),
        (["run", "--handlers", "{}:registry", "--client-options", "{}:no"], "a function of"),
        (["run", "--handlers", "{}:registry", "--on-end", "{}:empty"], "a function of a run"),
        (["run", "--handlers", "{}:registry", "--lease", "long"], "90s, 15m, 12h or 30d"),
        (["history", "nobody"], "is no id, and nobody's name"),
        (["prune", "--older-than", "-3d"], "--older-than"),
        (["prune", "--older-than", "99999999999999999d"], "--older-than must be at most 100 years"),
        (["pause", "nobody"], "is no id, and nobody's name"),
        (["cancel", "good", "--tenant", "beta"], "is no id, and nobody's name"),
    ],
)
def test_what_is_wrong_with_a_sync_command_is_one_line(
    jobs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    assert run(monkeypatch, "sync", *(each.format(jobs) for each in arguments)) == 1
    said = capsys.readouterr().err
    assert words in said
    assert len(said.strip().splitlines()) == 1


def test_a_fault_within_the_module_of_handlers_is_shown_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_handlers.py").write_text("import what_it_needs\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(
        sys, "argv", ["integration-hub", "sync", "run", "--handlers", "broken_handlers:registry"]
    )
    with pytest.raises(ModuleNotFoundError, match="what_it_needs"):
        cli.main()


def test_handlers_have_the_clients_that_the_command_is_told_of(
    jobs: Path,
    httpserver: HTTPServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    headers = {"Authorization": "Bearer t1"}
    httpserver.expect_request("/contacts", headers=headers).respond_with_json([1, 2])
    monkeypatch.setenv("CRM_URL", httpserver.url_for("/"))
    arguments = ("--handlers", f"{jobs}:calling", "--client-options", f"{jobs}:client_options")
    listener = ("--on-end", f"{jobs}:ended")
    assert run(monkeypatch, "sync", "run", "--once", "--tenant", "beta", *arguments, *listener) == 0
    assert "ended: slow succeeded" in capsys.readouterr().out
    assert run(monkeypatch, "sync", "history", "slow") == 0
    assert re.search(r"succeeded\W+2\b", capsys.readouterr().out)


@pytest.mark.parametrize(("options", "last"), [([], "has stopped"), (["--once"], "1 runs")])
def test_a_worker_process_gives_back_its_job_at_sigterm(
    jobs: Path, url: str, options: list[str], last: str
) -> None:
    given = ("--tenant", "beta", "--handlers", f"{jobs}:registry", "--grace", "0.1", "--verbose")
    with started("sync", "run", *given, *options) as worker:
        assert worker.stdout is not None
        while worker.stdout.readline() != "at work\n":
            assert worker.poll() is None
        worker.send_signal(signal.SIGTERM)
        said, logged = worker.communicate(timeout=30)
    assert worker.returncode == 0
    assert last in said
    assert "of 'slow' was asked to stop, and gives its job back" in logged
    with Hub.from_url(url) as hub, hub.unit_of_work(tenant="beta") as uow:
        (job,) = uow.sync_jobs.find()
        (ended,) = uow.sync_runs.history(job.id)
    assert (job.status, job.attempt) == ("pending", 0)
    assert (ended.status, ended.error_code) == ("cancelled", "released")


def test_messages_are_delivered_and_looked_after_from_the_shell(
    url: str,
    httpserver: HTTPServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    def told(*arguments: str) -> str:
        assert run(monkeypatch, "webhooks", *arguments) == 0
        return capsys.readouterr().out

    monkeypatch.setenv("HUB_DATABASE_URL", url)
    httpserver.expect_ordered_request("/").respond_with_data("gone [away]", 410)
    httpserver.expect_ordered_request("/").respond_with_data("thank you", 200)
    with Hub.from_url(url) as hub:
        hub.schema.upgrade()
        with hub.unit_of_work() as uow:
            parent = uow.integrations.add(Integration(name="CRM", type="crm", status="active"))
            hook = uow.webhooks.add(
                Webhook(
                    integration_id=parent.id,
                    name="w",
                    url=httpserver.url_for("/").replace("localhost", "127.0.0.1"),
                    events=["*"],
                )
            )
            message = uow.messages.publish("invoice.paid", {})
            (delivery,) = uow.messages.deliveries(message.id)
            uow.commit()
        own = ("--allow-network", "127.0.0.0/8")
        assert "1 attempts" in told("dispatch", "--once", "--verbose", *own)
        assert f"delivery {delivery.id}, attempt 1: 410" in caplog.text
        status = told("status")
        assert re.search(r"failed\W+1\b", status)
        assert str(hook.id) in status
        assert "disabled" in status
        failed = told("deliveries", str(hook.id), "--status", "failed")
        assert re.search(rf"{delivery.id} │ invoice.paid │", failed)
        assert "[away]" in told("attempts", str(delivery.id))
        assert told("resume", str(hook.id)).strip() == "w: active"
        assert "1 to be sent again" in told("replay", "--failed-of", str(hook.id), "--since", "1h")
        assert "1 attempts" in told("dispatch", "--once", "--allow-private", "--tenant", "default")
        assert "thank you" in told("attempts", str(delivery.id))
        assert "w: active" in told("deliveries", "w", "--tenant", "default")
        assert told("pause", "w", "--tenant", "default").strip() == "w: paused"
        assert "1 to be sent again" in told("replay", str(delivery.id))
        # What is forgotten is the word of the webhook's disablement, for which nobody listens.
        assert "1 messages and 0 of the inbox" in told("prune", "--older-than", "0s")
        with hub.unit_of_work() as uow:
            uow.messages.cancel(delivery.id)
            uow.inbox.accept("m1")
            uow.commit()
        assert "1 messages and 1 of the inbox" in told("prune", "--older-than", "0s")


def test_a_dispatcher_tells_the_listener_that_it_is_told_of(
    jobs: Path,
    url: str,
    httpserver: HTTPServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    httpserver.expect_request("/").respond_with_data("thank you")
    with Hub.from_url(url) as hub, hub.unit_of_work(tenant="acme") as uow:
        crm = uow.integrations.get_by_name("CRM")
        url_there = httpserver.url_for("/")
        WebhookFactory(store=uow, integration_id=crm.id, name="w", url=url_there, events=["*"])
        uow.messages.publish("invoice.paid", {})
        uow.commit()
    given = ("--once", "--allow-private", "--on-attempt")
    assert run(monkeypatch, "webhooks", "dispatch", *given, f"{jobs}:attempted") == 0
    assert "attempted: w 200" in capsys.readouterr().out
    assert run(monkeypatch, "webhooks", "ping", "w") == 0
    found = re.search(r"delivery ([0-9a-f-]{36}) is to be sent", capsys.readouterr().out)
    assert found is not None
    assert run(monkeypatch, "webhooks", "deliveries", "w") == 0
    assert re.search(rf"{found[1]} │ webhook.ping +│", capsys.readouterr().out)
    assert run(monkeypatch, "webhooks", "pause", "w") == 0
    assert run(monkeypatch, "webhooks", "ping", "w") == 1
    assert "resume it first, got 'paused'" in capsys.readouterr().err
    assert run(monkeypatch, "webhooks", "dispatch", *given, f"{jobs}:nothing") == 1
    assert "--on-attempt must name a function" in capsys.readouterr().err


def test_webhooks_are_listed_with_what_they_are_told_of(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(*arguments: str) -> str:
        assert run(monkeypatch, "webhooks", "list", *arguments) == 0
        return capsys.readouterr().out

    monkeypatch.setenv("HUB_DATABASE_URL", url)
    with Hub.from_url(url) as hub:
        hub.schema.upgrade()
        with hub.unit_of_work(tenant="acme") as uow:
            crm = uow.integrations.add(Integration(name="CRM", type="crm"))
            a = WebhookFactory(integration_id=crm.id, name="a", url="https://a.test/?k=s3")
            uow.webhooks.add(replace(a, events=["*"]))
            b = WebhookFactory(integration_id=crm.id, name="b", url="https://b.test/")
            uow.webhooks.add(replace(b, events=["invoice.*", "order.paid"], is_active=False))
            uow.commit()
    both = told()
    assert "https://a.test/" in both
    assert "s3" not in both
    assert re.search(r"b +│ CRM +│ active, inactive │ invoice\.\*, order\.paid │", both)
    assert "a.test" not in told("--event", "order.paid", "--status", "paused")
    assert "b.test" not in told("--event", "contact.made", "--integration", "CRM")
    assert told("--tenant", "beta").strip() == "webhooks: none"


def test_a_dispatcher_process_ends_at_sigterm(url: str, httpserver: HTTPServer) -> None:
    httpserver.expect_request("/").respond_with_data("thank you")
    with Hub.from_url(url) as hub:
        hub.schema.upgrade()
        with hub.unit_of_work() as uow:
            crm = uow.integrations.add(Integration(name="CRM", type="crm", status="active"))
            address = httpserver.url_for("/").replace("localhost", "127.0.0.1")
            hook = Webhook(integration_id=crm.id, name="w", url=address, events=["*"])
            uow.webhooks.add(hook)
            message = uow.messages.publish("invoice.paid", {})
            uow.commit()
        options = ("--allow-network", "127.0.0.0/8", "--verbose", "--url", url)
        with started("webhooks", "dispatch", *options) as worker:
            assert worker.stderr is not None
            assert worker.stderr.readline().rstrip().endswith("attempt 1: 200")
            worker.send_signal(signal.SIGTERM)
            said, _ = worker.communicate(timeout=30)
        assert worker.returncode == 0
        assert "has stopped" in said
        with hub.unit_of_work() as uow:
            (delivery,) = uow.messages.deliveries(message.id)
    assert delivery.status == "delivered"


@pytest.mark.parametrize("command", ["sql", "upgrade", "downgrade"])
@pytest.mark.parametrize("given", ["nowhere", "", "postgresql://u:s3cr3t@db/hub"])
def test_a_revision_that_is_none_is_one_line(
    url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    given: str,
) -> None:
    assert run(monkeypatch, "db", command, given, "--url", url) == 1
    said = capsys.readouterr().err
    assert "validation_error revision" in said
    assert "s3cr3t" not in said
    assert len(said.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["replay"], "--failed-of"),
        (["replay", "x", "--failed-of", "y"], "--failed-of"),
        (["attempts", "7"], "must be an id"),
        (["attempts", "00000000-0000-7000-8000-000000000007"], "no delivery with id"),
        (["dispatch", "--allow-network", "inside"], "must be a network"),
        (["dispatch", "--grace", "long"], "90s, 15m, 12h or 30d"),
        (["resume", "w"], "is no id, and nobody's name"),
        (["deliveries", "00000000-0000-7000-8000-000000000007"], "no webhook with id"),
        (["replay", "--failed-of", "w"], "--failed-of is no id"),
    ],
)
def test_what_is_wrong_with_a_webhooks_command_is_one_line(
    url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.setenv("HUB_DATABASE_URL", url)
    run(monkeypatch, "db", "upgrade")
    capsys.readouterr()
    assert run(monkeypatch, "webhooks", *arguments) == 1
    said = capsys.readouterr().err
    assert words in said
    assert len(said.strip().splitlines()) == 1


def test_the_command_is_installed_and_explains_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = Path(sys.executable).with_name("integration-hub")
    done = subprocess.run([command, "--help"], capture_output=True, text=True, check=True)
    for word in ("demo", "db", "integrations", "sync", "webhooks"):
        assert word in done.stdout
    assert run(monkeypatch, "--version") == 0
    assert capsys.readouterr().out.strip() == version("integration-hub")


@pytest.mark.parametrize(("encoding", "shown"), [("utf-8", "Übertrag"), ("ascii", r"\xdcbertrag")])
def test_a_name_is_shown_as_well_as_a_console_can(url: str, encoding: str, shown: str) -> None:
    with Hub.from_url(url) as hub:
        hub.schema.upgrade()
        with hub.unit_of_work() as uow:
            crm = uow.integrations.add(Integration(name="CRM", type="salesforce"))
            due = Schedule.once(hub.clock.now())
            uow.sync_jobs.add(SyncJob(integration_id=crm.id, name="Übertrag", schedule=due))
            uow.commit()
    command = [str(Path(sys.executable).with_name("integration-hub")), "sync", "due", "--url", url]
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run(command, capture_output=True, env=environment, check=True)
    assert shown.encode(encoding) in done.stdout
