"""A hub that was used before its process forked, as gunicorn and Celery have it."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from sqlalchemy import URL

#: What each script starts with: children run `act(number)`, and `joined` says how they ended.
PRELUDE = """
import os, sys, warnings
from pathlib import Path
from integration_hub import Hub, HttpClient, HubSettings, Integration

def forked(act, number):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            act(number)
            code = 0
        finally:
            sys.stderr.flush()
            os._exit(code)
    return pid

def joined(pids):
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
"""

#: All look up other rows than their neighbours, at the same time.
DATABASE = """
hub = Hub.from_url(sys.argv[1], settings=HubSettings(pool_size=1, pool_max_overflow=0))
hub.schema.upgrade()
with hub.unit_of_work() as uow:
    uow.integrations.add_many(Integration(name=f"i{n}", type="crm") for n in range(50))
    uow.commit()

def look(number):
    for n in range(number, number + 200):
        with hub.unit_of_work() as uow:
            assert uow.integrations.get_by_name(f"i{n % 50}").name == f"i{n % 50}"
            if n % 20 == 0:
                uow.integrations.add(Integration(name=f"of {number}, {n}", type="crm"))
                uow.commit()
    if number:
        hub.close()

children = [forked(look, number) for number in (1, 2, 3)]
look(0)
assert joined(children) == [0, 0, 0]
with hub.unit_of_work() as uow:
    assert uow.integrations.count() == 50 + 4 * 10
hub.close()
"""

SESSION = """
from integration_hub import DatabaseConnectionManager
manager = DatabaseConnectionManager(sys.argv[1])
pid = "SELECT pg_backend_pid() AS pid"
(mine,) = manager.query(pid).rows

def other(number):
    (own,) = manager.query(pid).rows
    assert own != mine
    manager.close()

assert joined([forked(other, 1)]) == [0]
assert manager.query(pid).rows == [mine]
manager.close()
"""

PRIVATE_FILE = """
hub = Hub.from_url("sqlite://")
hub.schema.upgrade()
with hub.unit_of_work() as uow:
    uow.integrations.add(Integration(name="CRM", type="crm"))
    uow.commit()
if (child := os.fork()) == 0:
    warnings.simplefilter("ignore", ResourceWarning)  # of what is its parent's to close
    hub.close()
    sys.exit(0)  # with all that is done at the end of a process
assert joined([child]) == [0]
with hub.unit_of_work() as uow:
    assert uow.integrations.count() == 1
hub.close()
"""

HTTP = """
client = HttpClient(sys.argv[1])
port = lambda: client.get("port", into=int).unwrap().value
mine = port()

def other(number):
    own = port()
    assert own != mine
    assert port() == own
    client.close()

assert joined([forked(other, 1), forked(other, 2)]) == [0, 0]
assert port() == mine
client.close()
"""


IDS = """
from integration_hub.domain.values import new_id
new_id()

def write(number):
    Path(f"{number}.txt").write_text("\\n".join(str(new_id()) for _ in range(500)))

children = [forked(write, number) for number in range(8)]
assert joined(children) == [0] * 8
made = [id for number in range(8) for id in Path(f"{number}.txt").read_text().split()]
assert len(made) == 4_000
assert len({id[19:] for id in made}) == 4_000, "what is random in them is the same"
"""

#: A process that is told to end in its handler; then the worker itself is.
HANDLER = """
import multiprocessing, signal, warnings
from integration_hub import Schedule, SyncJob, SyncOutcome, SyncRunner

warnings.simplefilter("ignore", DeprecationWarning)  # forks beside threads, as many do
processes = multiprocessing.get_context("fork")
codes = []

def work(is_up):
    is_up.set()
    while True:  # without a call of the system that a signal would end
        pass

def handler(context):
    is_up = processes.Event()
    child = processes.Process(target=work, args=(is_up,))
    child.start()
    is_up.wait(30)  # Python forgets which signals came before
    child.terminate()
    child.join(30)
    child.kill()
    codes.append(child.exitcode)
    os.kill(os.getpid(), signal.SIGTERM)
    return SyncOutcome(records=0 if context.cancelled else 1)

with Hub.in_memory() as hub:
    with hub.unit_of_work() as uow:
        crm = uow.integrations.add(Integration(name="CRM", type="crm", status="active"))
        schedule = Schedule.once(hub.clock.now())
        uow.sync_jobs.add(SyncJob(integration_id=crm.id, name="pull", schedule=schedule))
        uow.commit()
    SyncRunner(hub, handlers={"crm": handler}).run_until_signalled()
    assert codes == [-signal.SIGTERM]
    with hub.unit_of_work() as uow:
        assert uow.sync_jobs.get_by_name("pull", crm.id).records_processed == 1
"""


def run(script: str, folder: Path, *arguments: str) -> None:
    command = [sys.executable, "-W", "error", "-c", PRELUDE + script, *arguments]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["postgres", "sqlite"])
def test_each_process_gets_its_own_answers(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if name == "postgres":
        found: URL = request.getfixturevalue("hub_postgres_url")
        url = found.render_as_string(hide_password=False)
    else:
        url = f"sqlite:///{tmp_path / 'hub.db'}"
    run(DATABASE, tmp_path, url)


def test_a_child_that_ends_leaves_its_parents_session_alone(
    hub_postgres_url: URL, tmp_path: Path
) -> None:
    run(SESSION, tmp_path, hub_postgres_url.render_as_string(hide_password=False))


def test_a_child_that_ends_leaves_its_parents_file_alone(tmp_path: Path) -> None:
    run(PRIVATE_FILE, tmp_path)


class _TellsPort(BaseHTTPRequestHandler):
    """Answers with the port that the client has at its end: another for each connection."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = str(self.client_address[1]).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Tests are quiet."""


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _TellsPort) as server:
        server.daemon_threads = True
        server.block_on_close = False
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_each_process_makes_ids_of_its_own(tmp_path: Path) -> None:
    run(IDS, tmp_path)


def test_a_process_that_a_handler_forks_ends_by_a_signal_and_its_worker_works_on(
    tmp_path: Path,
) -> None:
    run(HANDLER, tmp_path)


def test_each_process_has_connections_of_its_own(server: str, tmp_path: Path) -> None:
    run(HTTP, tmp_path, server)
