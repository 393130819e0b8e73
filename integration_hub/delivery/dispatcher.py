"""The dispatcher: claims deliveries that are due, signs and sends them, and tells what came of it.

May import: `ports`, `domain`, `http`, `workforce`, and its neighbours. No unit of work is open
while a request is on its way. At least once: a dispatcher that is killed between the answer and its
record leaves a delivery that another one makes again, under the same id.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from heapq import heappop, heappush
from typing import Protocol, TypeAlias
from uuid import UUID

from integration_hub.delivery.guard import AddressGuard
from integration_hub.delivery.pace import Pace
from integration_hub.delivery.signing import signed_headers
from integration_hub.domain.errors import (
    BlockedAddress,
    DeliveryNotFound,
    HttpError,
    LeaseLost,
    ResponseTooLarge,
    StatusError,
    ValidationError,
)
from integration_hub.domain.result import Ok
from integration_hub.domain.values import (
    checked_count,
    checked_duration,
    checked_lease,
    checked_name,
    checked_period,
)
from integration_hub.domain.webhook import Webhook, check_headers
from integration_hub.domain.webhook_message import (
    KEPT_OF_RESPONSE,
    AttemptOutcome,
    DeliveryOptions,
    WebhookDelivery,
    WebhookMessage,
)
from integration_hub.http.client import HttpClient
from integration_hub.http.options import Limits, Proxies, Timeout, Tls
from integration_hub.http.retry import RetryPolicy
from integration_hub.http.transport import Transport
from integration_hub.ports.clock import Clock
from integration_hub.ports.messages import DELIVERY_LEASE, MOST_CLAIMED, PER_HOST
from integration_hub.ports.unit_of_work import EVERY_TENANT, Tenant, UnitOfWork
from integration_hub.ports.waiting import DELIVERY_WORK, Waiter, stopped_by_signals
from integration_hub.workforce import (
    OpensUnitsOfWork,
    Together,
    Workforce,
    checked_listener,
    repeated,
    tell,
    told,
    traced,
)

_LOG = logging.getLogger("integration_hub.delivery")
_READ = 64 * 1024  # bytes of an answer that are read; what is longer costs it its connection
_OF_LEASE = 0.75  # the most of a lease that one request may take
_Made: TypeAlias = tuple[WebhookDelivery, AttemptOutcome]


class OffersMessages(OpensUnitsOfWork, Protocol):
    """What a dispatcher needs of a hub."""

    @property
    def clock(self) -> Clock: ...
    @property
    def proxies(self) -> Proxies | None: ...
    def waiter(self, channel: str) -> Waiter: ...


@dataclass(frozen=True, slots=True, eq=False)
class _Sending:
    """A delivery that was claimed, and what it takes to make it."""

    delivery: WebhookDelivery
    webhook: Webhook
    secrets: list[str] = field(repr=False)
    claimed_at: float

    @property
    def message(self) -> WebhookMessage:
        assert self.delivery.message is not None
        return self.delivery.message

    @property
    def began(self) -> datetime:
        """When the attempt began, as the log will have it."""
        assert self.delivery.last_attempt_at is not None
        return self.delivery.last_attempt_at


class WebhookDispatcher:
    """Delivers messages, of all tenants unless one is named; any number of them work together.

    `concurrency` requests are made at once, `per_host` of them to one host at the most. Webhooks
    that are failing are sent to one at a time; those that have failed since their last success have
    half of the threads at the most, and those that take longer than a second three quarters, so
    that many that never answer, or slowly, leave the others be. Only the public internet is sent
    to, unless `allow_private_addresses`, or `allow_networks` (such as ``["10.20.0.0/16"]``), say
    more. It goes by the proxies of the hub, unless `proxies` says other ones.

    Durations in seconds or `timedelta`: `lease` is how long a dispatcher that is not heard of keeps
    what it claimed; `poll` is how often it looks for work that it was not told of (what it sends
    again itself, it sends in time); `grace` is how long it waits for requests when it is told to
    stop. `transport` replaces the network, in tests. `on_attempt`, for metrics say, is called with
    each delivery, as it was stored, and what came of the attempt. It should take no time.
    """

    def __init__(
        self,
        hub: OffersMessages,
        *,
        concurrency: int = 16,
        allow_private_addresses: bool = False,
        allow_networks: Iterable[str] = (),
        worker: str | None = None,
        tenant: Tenant = EVERY_TENANT,
        per_host: int = PER_HOST,
        lease: timedelta | float = DELIVERY_LEASE,
        poll: timedelta | float = 5.0,
        grace: timedelta | float = 20.0,
        tls: Tls | None = None,
        proxies: Proxies | None = None,
        transport: Transport | None = None,
        on_attempt: Callable[[WebhookDelivery, AttemptOutcome], object] | None = None,
    ) -> None:
        self._hub = hub
        self.worker = checked_name("worker", worker or f"{socket.gethostname()}:{os.getpid()}")
        checked_listener("on_attempt", on_attempt)
        self._on_attempt = on_attempt
        self._tenant = tenant
        self._per_host = checked_count("per_host", per_host, least=1)
        self._lease = checked_lease("lease", lease)
        threads = checked_count("concurrency", concurrency, least=1, most=MOST_CLAIMED)
        # Claims see to it that no host has more than its part; a proxy may have them all.
        limits = Limits(pool=threads, max_response_bytes=_READ, max_redirects=0)
        self._client = HttpClient(
            retry=RetryPolicy(attempts=1),
            limits=limits,
            tls=tls,
            proxies=proxies or hub.proxies,
            guard=None if allow_private_addresses else AddressGuard(allow_networks),
            transport=transport,
        )
        self._lock = threading.Lock()
        self._at: set[_Sending] = set()
        self._to_come: list[datetime] = []  # a heap: when its own attempts are to be made again
        self._of_troubled = max(1, threads // 2)
        self._of_slow = max(1, threads - max(1, threads // 4))
        self._pace = Pace()
        self._poll = checked_period("poll", poll)
        self._workforce = Workforce(
            claim=self._claimed,
            work=self._deliver,
            outcomes=Together(self._record, self._cannot_record),
            concurrency=threads,
            reserve=min(threads, MOST_CLAIMED - threads),
            poll=self._poll.total_seconds(),
            grace=checked_duration("grace", grace).total_seconds(),
            log=_LOG,
            due_in=self._due_in,
        )

    def run_once(self) -> int:
        """Claim what is due, up to `concurrency`, and deliver it; gives how many it were.

        Raises `StorageError` where the database can't be asked, or does not take within the grace
        time what came of it; that is stored by the next call.
        """
        return len(self._workforce.run_once())

    def run_due(self) -> int:
        """As `run_once`, until nothing is left of what is due by now; gives how many attempts it
        were.

        What is published, or to be tried again, meanwhile is left, but for what the last claim has
        of it: so it ends, however much is published.
        """
        began: datetime | None = None
        tried: set[UUID] = set()

        def has_old(claimed: list[_Sending]) -> bool:
            nonlocal began
            began = began or claimed[0].began
            old = {
                each.delivery.id
                for each in claimed
                if each.message.occurred_at <= began and each.delivery.id not in tried
            }
            tried.update(old)
            return bool(old)

        return self._workforce.run_due(has_old)

    def run_forever(self) -> None:
        """Deliver until `stop` is called. A database that can't be reached is waited for.

        Raises `SchemaOutOfDate`, and `StoreClosed` where the hub is closed meanwhile.
        """
        with self._hub.waiter(DELIVERY_WORK) as waiter, self._client:
            self._workforce.run_forever(waiter)

    def run_until_signalled(self) -> None:
        """As `run_forever`, in the main thread of a process, until SIGTERM or SIGINT."""
        with stopped_by_signals(self.stop):
            self.run_forever()

    def stop(self) -> None:
        """Claim nothing more, and finish; a signal handler may call it.

        It ends `run_once` and `run_due` too; a dispatcher that was stopped claims nothing any more.
        """
        self._workforce.stop()

    # --- inside -------------------------------------------------------------------------------

    def _claimed(self, room: int) -> list[_Sending]:
        def claim(uow: UnitOfWork) -> list[_Sending]:
            uow.messages.fan_out()
            found = uow.messages.claim(
                limit=room,
                lease=self._lease,
                per_host=self._per_host,
                of_troubled=self._of_troubled,
                of_slow=self._of_slow,
                busy=self._busy(),
                slow=self._pace.slow(),
            )
            hooks = {each.webhook_id: each.webhook for each in found if each.webhook is not None}
            secrets = uow.secrets.of_many(hooks.values())
            now = time.monotonic()
            return [
                _Sending(
                    each,
                    hooks[each.webhook_id],
                    [secret.secret for secret in secrets[each.webhook_id]],
                    now,
                )
                for each in found
            ]

        moment = self._hub.clock.now()
        with self._lock:
            while self._to_come and self._to_come[0] <= moment:  # this claim sees to it
                heappop(self._to_come)
        claimed = repeated(self._hub, claim, tenant=self._tenant, actor=self.worker)
        with self._lock:
            self._at.update(claimed)
        return claimed

    def _due_in(self) -> float:
        """Seconds until it is to send something again; 0 or less, if it is since the last claim."""
        with self._lock:
            then = self._to_come[0] if self._to_come else None
        return math.inf if then is None else (then - self._hub.clock.now()).total_seconds()

    def _busy(self) -> list[WebhookDelivery]:
        with self._lock:
            return [each.delivery for each in self._at]

    def _deliver(self, sending: _Sending) -> _Made | None:
        """Send it, or give it back; gives what came of it, if it was sent."""
        try:
            return self._made(sending)
        except (LeaseLost, DeliveryNotFound) as error:  # of what it gives back
            _LOG.warning("%s", error.message)
            return None
        finally:
            with self._lock:
                self._at.discard(sending)

    def _made(self, sending: _Sending) -> _Made | None:
        options = DeliveryOptions.of(sending.webhook)
        limit = min(options.timeout, self._lease * _OF_LEASE).total_seconds()
        waited = time.monotonic() - sending.claimed_at
        if self._workforce.is_stopping or waited + limit > self._lease.total_seconds():
            self._does(lambda uow: uow.messages.release(sending.delivery))
            return None
        with self._pace.measured(sending.webhook.id):
            return sending.delivery, self._sent(sending, options, limit)

    def _record(self, made: list[_Made]) -> None:
        def record(uow: UnitOfWork) -> list[WebhookDelivery]:
            return uow.messages.record_many(made)

        recorded = repeated(self._hub, record, tenant=self._tenant, actor=self.worker)
        ours = {(each.id, each.attempt_count): each for each in recorded}
        soon = self._hub.clock.now() + self._poll
        with self._lock:
            for each in recorded:
                if each.next_attempt_at is not None and each.next_attempt_at < soon:
                    heappush(self._to_come, each.next_attempt_at)
        for delivery, outcome in made:
            stored = ours.get((delivery.id, delivery.attempt_count))
            if stored is None:
                _LOG.warning("%s", LeaseLost(delivery.id, delivery.KIND).message)
                continue
            if _LOG.isEnabledFor(logging.INFO):
                said = outcome.status or outcome.error_code
                _LOG.info("delivery %s, attempt %d: %s", delivery.id, delivery.attempt_count, said)
            if self._on_attempt is not None:
                known = replace(stored, message=delivery.message, webhook=delivery.webhook)
                tell(self._on_attempt, known, outcome, to=_LOG)

    def _cannot_record(self, made: _Made, error: Exception) -> None:
        # Its lease will run out, and the attempt be logged as lost.
        _LOG.error("delivery %s: %s", made[0].id, told(error))

    def _does(self, act: Callable[[UnitOfWork], object]) -> None:
        repeated(self._hub, act, tenant=self._tenant, actor=self.worker)

    def _sent(self, sending: _Sending, options: DeliveryOptions, limit: float) -> AttemptOutcome:
        """Send it, and see what comes back. Whatever goes wrong goes into the log."""
        began = sending.began
        start = time.monotonic()
        try:
            found = self._answer(sending, options, limit)
        except ValidationError as error:  # a URL, or a header, that can't be sent to
            found = AttemptOutcome(
                started_at=began,
                error_code=error.code,
                error_message=error.message,
                is_final=True,
            )
        except Exception as error:  # noqa: BLE001 - so that a fault of ours can't loop unseen
            name = type(error).__name__
            _LOG.error("delivery %s could not be made: %s", sending.delivery.id, traced(error))
            found = AttemptOutcome(started_at=began, error_code=name, error_message=name)
        return replace(found, duration=timedelta(seconds=time.monotonic() - start))

    def _answer(self, sending: _Sending, options: DeliveryOptions, limit: float) -> AttemptOutcome:
        check_headers("config.delivery.headers", options.headers)  # they may be written by hand
        message = sending.message
        signed = signed_headers(
            sending.secrets, message.message_id, datetime.now(UTC), message.payload
        )
        headers = {**options.headers, "Content-Type": "application/json", **signed}
        outcome = self._client.post(
            sending.webhook.url,
            content=message.payload,
            headers=headers,
            timeout=Timeout(connect=min(5.0, limit), read=limit, total=limit),
        )
        if isinstance(outcome, Ok):
            answer = outcome.value
            body = answer.content[:KEPT_OF_RESPONSE].decode(errors="replace")
            return AttemptOutcome(started_at=sending.began, status=answer.status, body=body)
        return _failed(sending.began, outcome.error)


def _failed(began: datetime, error: HttpError) -> AttemptOutcome:
    if isinstance(error, StatusError):
        return AttemptOutcome(
            started_at=began,
            status=error.status,
            body=error.body,
            retry_after=error.retry_after,
        )
    if isinstance(error, ResponseTooLarge) and error.status is not None:
        return AttemptOutcome(started_at=began, status=error.status)
    return AttemptOutcome(
        started_at=began,
        error_code=error.code,
        error_message=error.message,
        is_final=isinstance(error, BlockedAddress),
    )
