"""What the commands share: the console, the option of the database, durations, and tables.

May import everything.
"""

from __future__ import annotations

import importlib
import json
import logging
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, Generic, Protocol, TypeAlias, TypeVar
from uuid import UUID

import typer
from rich.console import Console
from rich.table import Column as Heading
from rich.table import Table
from rich.text import Text

from integration_hub.domain.aggregate import Aggregate
from integration_hub.domain.errors import ValidationError
from integration_hub.domain.integration import Integration
from integration_hub.domain.sync_job import SyncJob
from integration_hub.domain.values import checked_duration
from integration_hub.domain.webhook import Webhook
from integration_hub.hub import ClientOptions, Hub
from integration_hub.ports.query import Filter, IntegrationFilter, Page
from integration_hub.ports.repositories import Repository
from integration_hub.ports.unit_of_work import EVERY_TENANT, Tenant, UnitOfWork
from integration_hub.ports.waiting import stopped_by_signals
from integration_hub.settings import settings_of_the_environment

T = TypeVar("T")
A = TypeVar("A", bound=Aggregate)
C = TypeVar("C", SyncJob, Webhook)
F = TypeVar("F", bound=Filter)
Column: TypeAlias = str | Callable[[Any], object]
console = Console()
if not console.is_terminal:
    console.width = max(console.width, 160)  # it is nobody's window: lines are for grep
problems = Console(stderr=True)
Url = Annotated[
    str | None,
    typer.Option(
        "--url", help="The database; HUB_DATABASE_URL, or a SQLite file here, if left out."
    ),
]
TenantName = Annotated[
    str | None, typer.Option("--tenant", help="Of one tenant; of every one, if left out.")
]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Log what succeeds too, and not only what fails.")
]
OfStatus = Annotated[list[str] | None, typer.Option("--status", help="Of this state only.")]
OfIntegration = Annotated[
    str | None,
    typer.Option("--integration", help="Of one integration only: its id, or its name."),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="As JSON: moments in ISO 8601, durations in seconds.")
]
AtMost = Annotated[int, typer.Option("--limit", help="At most so many.", min=1, max=1_000)]
PRUNED_AT_ONCE = 1_000
SHOWN = 50
_ACTOR = "integration-hub"  # who has changed what is changed from here
_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def opened(url: str | None, *, client_options: ClientOptions | None = None) -> Hub:
    """The hub on a URL, or on what the environment says."""
    settings = settings_of_the_environment()
    place = url or settings.database_url.get_secret_value()
    return Hub.from_url(place, settings=settings, client_options=client_options)


def imported(option: str, place: str) -> Any:
    """What stands at ``package.module:name``, looked up from the current folder on; None if nothing
    does. Raises `ValidationError` where there is no such module.
    """
    module, _, name = place.partition(":")
    if not module or not name:
        raise ValidationError(option, place, "must be package.module:name")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # the module is there, and something that it imports is not
        problem = f"can't be imported from {here}: there is no module {error.name!r}"
        raise ValidationError(option, place, problem) from None
    return getattr(found, name, None)


def function_at(option: str, place: str | None, what: str) -> Callable[..., Any] | None:
    """The function at ``package.module:name``, if one is named. Raises `ValidationError` where
    there is none.
    """
    if place is None:
        return None
    found = imported(option, place)
    if not callable(found):
        raise ValidationError(option, place, f"must name a function {what}")
    return found  # type: ignore[no-any-return]


def chosen(tenant: str | None) -> Tenant:
    return EVERY_TENANT if tenant is None else tenant


def changed(url: str | None, tenant: str | None, change: Callable[[UnitOfWork, datetime], T]) -> T:
    """What a change gives, which is made at this moment, and again where another was quicker."""
    with opened(url) as hub:
        outcome = hub.run(
            lambda uow: change(uow, hub.clock.now()), tenant=chosen(tenant), actor=_ACTOR
        )
    return outcome.unwrap()


def duration(option: str, text: str) -> timedelta:
    """``90``, ``90s``, ``15m``, ``12h`` or ``30d``."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip())
    if found is None:
        raise ValidationError(option, text, "must be a duration such as 90s, 15m, 12h or 30d")
    return checked_duration(option, float(found[1]) * _UNITS[found[2] or "s"])


def ago(hub: Hub, option: str, text: str) -> datetime:
    """The moment that lies so long back."""
    age = duration(option, text)
    return hub.clock.now() - age


def pointed_at(repository: Repository[A, F], like: F, option: str, text: str) -> A:
    """The object of an id, or of a name that only one has; `like` finds those with such a name."""
    with suppress(ValueError):
        return repository.get(UUID(text))
    found = [each for each in repository.find(like) if each.name == text]
    if len(found) != 1:
        problem = "is the name of several; give the id" if found else "is no id, and nobody's name"
        raise ValidationError(option, text, problem)
    return found[0]


def id_of_integration(uow: UnitOfWork, given: str | None) -> UUID | None:
    """The id of ``--integration``, if that is given."""
    return None if given is None else of_integration(uow, given).id


def of_integration(uow: UnitOfWork, given: str, *, option: str = "--integration") -> Integration:
    """The integration that is meant, by its id or its name."""
    like = IntegrationFilter(name_contains=given)
    return pointed_at(uow.integrations, like, option, given)


def state_of(item: Integration | Webhook | SyncJob) -> str:
    """Its status, and whether it was switched off."""
    return item.status if item.is_active else f"{item.status}, inactive"


@dataclass(frozen=True)
class Child(Generic[C]):
    """A webhook or a job, with its integration."""

    item: C
    integration: Integration


def with_integrations(uow: UnitOfWork, items: list[C]) -> list[Child[C]]:
    """Each with its integration; one that is gone a moment later is left out."""
    parents = uow.integrations.get_many({each.integration_id for each in items})
    return [
        Child(each, parents[each.integration_id])
        for each in items
        if each.integration_id in parents
    ]


def shown(what: str, page: Page[Any]) -> str:
    """A title that says how many of how many are shown."""
    return f"{what}: the first {page.size:,} of {page.total:,}" if page.has_next else what


def identity(option: str, text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        problem = "must be an id, such as 0195b2f4-6a3e-7c1d-9f00-2b6c4d8e1f2a"
        raise ValidationError(option, text, problem) from None


def listed(
    title: str, items: Iterable[object], columns: Mapping[str, Column], *, as_json: bool = False
) -> None:
    """A table of objects; `columns` are headings, each with the attribute that it shows, or with
    what makes of an object what is shown. `as_json`, a list of objects instead, for programs.
    """
    values = [attrgetter(each) if isinstance(each, str) else each for each in columns.values()]
    rows = [[value(item) for value in values] for item in items]
    if not as_json:
        show(title, columns, rows)
        return
    keys = [heading.strip(".").replace(" ", "_") for heading in columns]
    found = [dict(zip(keys, row, strict=True)) for row in rows]
    typer.echo(json.dumps(found, default=_json, indent=2))


def show(title: str, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """A table: None as a dash, moments in UTC, ids whole, so that they can be copied."""
    cells = [[plain(_words(each)) for each in row] for row in rows]
    if not cells:
        console.print(plain(f"{title}: none"))
        return
    headings = [Heading(name, overflow="fold", no_wrap=name == "id") for name in columns]
    table = Table(*headings, title=plain(title), title_justify="left")
    for row in cells:
        table.add_row(*row)
    console.print(table)


def plain(words: str) -> Text:
    """Words that may be a stranger's, as a terminal may show them: without markup, and with control
    characters written out, which could tell it to do more than to show.
    """
    return Text("".join(each if each.isprintable() else _escaped(each) for each in words))


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def _words(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    return f"{value.total_seconds():.3g} s" if isinstance(value, timedelta) else str(value)


def _json(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    return value.total_seconds() if isinstance(value, timedelta) else str(value)


class Works(Protocol):
    """A runner or a dispatcher."""

    @property
    def worker(self) -> str: ...
    def run_due(self) -> int: ...
    def run_until_signalled(self) -> None: ...
    def stop(self) -> None: ...


def work(works: Works, kind: str, does: str, *, once: bool, counted: str, is_verbose: bool) -> None:
    """Let it work until SIGTERM, or, `once`, through what is due now at the most."""
    if is_verbose:
        logging.getLogger("integration_hub").setLevel(logging.INFO)
    if once:
        with stopped_by_signals(works.stop):
            count = works.run_due()
        console.print(f"{count} {counted}", highlight=False)
        return
    console.print(f"{kind} {works.worker} {does}", highlight=False)
    works.run_until_signalled()
    console.print(f"{kind} {works.worker} has stopped", highlight=False)


def in_batches(hub: Hub, tenant: Tenant, prune: Callable[[UnitOfWork], int]) -> int:
    """Prune, each batch in a unit of work of its own; gives how much it was in all."""
    total = 0
    while True:
        with hub.unit_of_work(tenant=tenant) as uow:
            count = prune(uow)
            uow.commit()
        total += count
        if count < PRUNED_AT_ONCE:
            return total
