"""The demo: what the hub does, in steps that check themselves.

May import everything below the command line.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from rich.console import Console
from rich.table import Table
from sqlalchemy import URL

from integration_hub.delivery import WebhookDispatcher, verify
from integration_hub.domain.errors import DuplicateName
from integration_hub.domain.integration import Integration
from integration_hub.domain.schedule import Schedule
from integration_hub.domain.sync_job import SyncJob
from integration_hub.domain.webhook import Webhook
from integration_hub.hub import Hub
from integration_hub.ports.query import IntegrationFilter, Sort
from integration_hub.sync import SyncContext, SyncOutcome, SyncRunner

TENANT = "demo"
Step = Callable[["Demo"], str]


class Demo:
    """The steps; each gives a line, or raises `AssertionError` with what it found."""

    def __init__(self, hub: Hub, console: Console) -> None:
        self.hub = hub
        self.console = console

    def upgrade(self) -> str:
        found = self.hub.schema.upgrade()
        expect("the schema's revision", found.current, found.head)
        return f"schema upgraded to {found.current}"

    def store(self) -> str:
        now = self.hub.clock.now()
        with self.hub.unit_of_work(tenant=TENANT, actor="demo") as uow:
            for old in uow.integrations.find():
                uow.integrations.remove(old.id)  # of an earlier demo on the same database
            crm = uow.integrations.add(
                Integration(name="Acme CRM", type="salesforce", tags=["crm", "emea"]).activate(now)
            )
            uow.integrations.add(Integration(name="Acme Payments", type="stripe", tags=["emea"]))
            for name, events in {"billing": ["invoice.*"], "audit": ["*"]}.items():
                url = f"https://hooks.example.com/{name}"
                uow.webhooks.add(Webhook(integration_id=crm.id, name=name, url=url, events=events))
            schedules = {
                "contacts": Schedule.every(timedelta(minutes=15)),
                "invoices": Schedule.cron("30 2 * * *", tz="Europe/Berlin"),
                "first import": Schedule.once(now),
            }
            for name, schedule in schedules.items():
                uow.sync_jobs.add(SyncJob(integration_id=crm.id, name=name, schedule=schedule))
            uow.commit()
        with self.hub.unit_of_work(tenant=TENANT) as uow:
            counts = (uow.integrations.count(), uow.webhooks.count(), uow.sync_jobs.count())
            told = [webhook.name for webhook in uow.webhooks.for_event("invoice.paid")]
            due = [job.name for job in uow.sync_jobs.due()]
        expect("rows", counts, (2, 2, 3))
        expect("webhooks for invoice.paid", sorted(told), ["audit", "billing"])
        expect("due jobs", due, ["first import"])
        return "stored 2 integrations, 2 webhooks, 3 sync jobs; invoice.paid goes to both webhooks"

    def filter(self) -> str:
        wanted = IntegrationFilter(tags_any=["emea"])
        with self.hub.unit_of_work(tenant=TENANT) as uow:
            page = uow.integrations.page(wanted, sort=Sort("name"), size=10)
        table = Table("name", "type", "status", "tags", title="integrations tagged emea, page 1")
        for item in page.items:
            table.add_row(item.name, item.type, item.status, ", ".join(item.tags))
        self.console.print(table)
        expect("names", [i.name for i in page.items], ["Acme CRM", "Acme Payments"])
        return f"filtered page shows {len(page.items)} of {page.total}"

    def rename(self) -> str:
        with self.hub.unit_of_work(tenant=TENANT) as uow:
            payments = uow.integrations.get_by_name("Acme Payments")
            try:
                uow.integrations.save(payments.rename("Acme CRM"))
            except DuplicateName as error:
                return f"rename refused: {error.message}"
        raise AssertionError("a rename to a name that is taken was not refused")

    def roll_back(self) -> str:
        with self.hub.unit_of_work(tenant=TENANT) as uow:
            uow.integrations.add(Integration(name="Never There", type="sap"))
        with self.hub.unit_of_work(tenant=TENANT) as uow:
            left = uow.integrations.exists(IntegrationFilter(name_contains="Never"))
        expect("rows left by the rollback", left, False)
        return "a unit of work without commit left nothing"

    def sync(self) -> str:
        """The other system is down at the first attempt; the second takes up where that one was."""

        def pull(context: SyncContext) -> SyncOutcome:
            if context.checkpoint is None:
                context.progress(records=40, checkpoint="page 2")
                raise ConnectionError("the other system hung up after page 1")
            return SyncOutcome(records=100, checkpoint="page 5")

        runner = SyncRunner(self.hub, {"salesforce": pull}, worker="demo", tenant=TENANT)
        first = runner.run_once()
        with self.hub.unit_of_work(tenant=TENANT) as uow:
            crm = uow.integrations.get_by_name("Acme CRM")
            job = uow.sync_jobs.get_by_name("first import", crm.id)
            waiting = (job.status, job.attempt, job.checkpoint)
            uow.sync_jobs.save(job.run_now(self.hub.clock.now()))  # rather than wait for its time
            uow.commit()
        expect("runs, and the job after a failure", (first, *waiting), (1, "pending", 1, "page 2"))
        expect("runs after that", runner.run_once(), 1)
        with self.hub.unit_of_work(tenant=TENANT) as uow:
            job = uow.sync_jobs.get(job.id)
            runs = uow.sync_runs.history(job.id)
        table = Table("attempt", "status", "records", "checkpoint", "error", title="first import")
        for run in reversed(runs):
            found = (run.attempt, run.status, run.records_processed, run.checkpoint)
            table.add_row(*map(str, found), run.error_message or "-")
        self.console.print(table)
        expect("the runs", [run.status for run in runs], ["succeeded", "failed"])
        expect("the job", (job.status, job.checkpoint), ("completed", "page 5"))
        return "a sync failed, was tried again, took up at page 2 and succeeded"

    def deliver(self) -> str:
        """To a receiver of the demo's own, which is down for the first two attempts."""
        with receiver(failures=2) as told:
            with self.hub.unit_of_work(tenant=TENANT) as uow:
                crm = uow.integrations.get_by_name("Acme CRM")
                billing = uow.webhooks.get_by_name("billing", crm.id)
                quick = {"delivery": {"retries": [0.1, 0.1]}}
                hook = replace(billing, url=told.url, config=quick, events=["invoice.paid"])
                uow.webhooks.save(hook)
                (secret,) = uow.secrets.of(billing.id)
                audit = uow.webhooks.get_by_name("audit", crm.id)
                uow.webhooks.save(audit.pause(self.hub.clock.now()))
                message = uow.messages.publish("invoice.paid", {"id": 7, "total": "99.50"})
                uow.commit()
            sender = WebhookDispatcher(
                self.hub, allow_networks=["127.0.0.1"], tenant=TENANT, poll=0.05, worker="demo"
            )
            sending = threading.Thread(target=sender.run_forever)
            sending.start()
            is_told = told.accepted.wait(20)
            sender.stop()
            sending.join()
        expect("the receiver was told", is_told, True)
        ids = {verify(secret.secret, headers, body) for headers, body in told.requests}
        expect("ids, by verified signatures", ids, {message.message_id})
        with self.hub.unit_of_work(tenant=TENANT) as uow:
            (delivery, *_) = uow.messages.of_webhook(billing.id)
            log = uow.messages.attempts(delivery.id)
        table = Table("attempt", "status", "answer", title=f"{message.message_id} to {hook.name}")
        for each in log:
            table.add_row(str(each.number), str(each.response_status), each.response_body)
        self.console.print(table)
        expect("the answers", [each.response_status for each in log], [503, 503, 200])
        expect("the delivery", delivery.status, "delivered")
        return "a webhook was told in the transaction's wake, at the third attempt, signed"

    def cascade(self) -> str:
        with self.hub.unit_of_work(tenant=TENANT) as uow:
            uow.integrations.remove(uow.integrations.get_by_name("Acme CRM").id)
            uow.commit()
        with self.hub.unit_of_work(tenant=TENANT) as uow:
            left = (uow.webhooks.count(), uow.sync_jobs.count())
        expect("webhooks and jobs left", left, (0, 0))
        return "removing the integration removed its webhooks and sync jobs"

    def health(self) -> str:
        found = self.hub.health()
        expect("health", (found.ok, found.error), (True, None))
        took = f"{found.latency.total_seconds() * 1000:.1f} ms"
        return f"healthy: {found.database_version}, {took}, schema {found.schema.current}"


class Receiver:
    """What a receiver has been told, and where it is."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.accepted = threading.Event()


@contextmanager
def receiver(*, failures: int) -> Iterator[Receiver]:
    """A server on the loopback that answers 503 a few times, and then accepts."""
    found = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            found.requests.append((dict(self.headers.items()), body))
            is_down = len(found.requests) <= failures
            self.send_response(503 if is_down else 200)
            self.end_headers()
            self.wfile.write(b"down for maintenance" if is_down else b"thank you")
            if not is_down:
                found.accepted.set()

        def log_message(self, format: str, *args: object) -> None:
            """The demo tells by itself what it does."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{server.server_address[1]}/hooks"
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        serving.join()


STEPS: tuple[Step, ...] = (
    Demo.upgrade,
    Demo.store,
    Demo.filter,
    Demo.rename,
    Demo.roll_back,
    Demo.sync,
    Demo.deliver,
    Demo.cascade,
    Demo.health,
)


def expect(what: str, found: object, wanted: object) -> None:
    if found != wanted:
        raise AssertionError(f"{what}: expected {wanted!r}, found {found!r}")


def run_demo(url: str | URL, console: Console) -> bool:
    """Run every step; True if each came out as expected. Keeps to the tenant ``demo``."""
    with (
        quiet("alembic", logging.WARNING),
        quiet("integration_hub", logging.ERROR),
        Hub.from_url(url) as hub,
    ):
        demo = Demo(hub, console)
        return all(come_out(demo, step) for step in STEPS)


def come_out(demo: Demo, step: Step) -> bool:
    """Run a step, and show what came of it."""
    try:
        with demo.console.status(step.__name__.replace("_", " ")):
            line = step(demo)
    except AssertionError as error:
        demo.console.print(f"[red]✗[/red] {step.__name__}: {error}", highlight=False)
        return False
    demo.console.print(f"[green]✓[/green] {line}", highlight=False)
    return True


@contextmanager
def quiet(name: str, level: int) -> Iterator[None]:
    """A block in which a logger says only what is of this level: what fails here is shown."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)
