"""One call: some tries, each of some redirects, past guards, interceptors and credentials.

May import: `domain`, and its neighbours below `client`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from integration_hub.domain.errors import (
    Attempt,
    CircuitOpen,
    ConnectionFailed,
    HttpError,
    RateLimited,
    RetriesExhausted,
    StatusError,
    TimedOut,
    TooManyRedirects,
)
from integration_hub.domain.values import without_query
from integration_hub.http.bodies import Content
from integration_hub.http.guards import CircuitBreaker, RateLimit
from integration_hub.http.interceptors import Auth, Interceptor
from integration_hub.http.messages import Headers, HttpRequest, charset_of
from integration_hub.http.oauth import OAuth2Auth
from integration_hub.http.options import Limits
from integration_hub.http.retry import RetryBudget, RetryPolicy, retry_after
from integration_hub.http.sockets import Deadline, within
from integration_hub.http.transport import Reply, Transport
from integration_hub.http.urls import redirect

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CREDENTIALS = ("Authorization", "Cookie", "Proxy-Authorization", "X-Api-Key")
_OF_A_BODY = ("Content-Type", "Content-Length", "Content-Encoding", "Transfer-Encoding")
_SHOWN = 1024  # characters of a refusing answer's body that an error keeps


@dataclass(slots=True)
class Call:
    """One call of a user: what stays the same over its tries."""

    method: str
    url: str
    headers: Headers
    content: Content
    deadline: Deadline
    has_key: bool
    is_streamed: bool
    tries: int = 0
    spent: int = 0


@dataclass(slots=True)
class Answer:
    """A success: the request that it answers, after redirects, and the body unless streamed."""

    request: HttpRequest
    reply: Reply
    content: bytes


class Exchange:
    """What a client does with a call; shared by its threads."""

    def __init__(
        self,
        transport: Transport,
        *,
        retry: RetryPolicy,
        limits: Limits,
        interceptors: Sequence[Interceptor],
        auth: Auth | None,
        breaker: CircuitBreaker | None,
        rate_limit: RateLimit | None,
    ) -> None:
        self._transport = transport
        self._retry = retry
        self._budget = retry.budget or RetryBudget()
        self._limits = limits
        self._interceptors = interceptors
        self._auth = auth
        if isinstance(auth, OAuth2Auth):
            auth.go_through(transport)
        self._breaker = breaker
        self._rate_limit = rate_limit

    def answer(self, call: Call) -> Answer:
        """Try until there is an answer that is a success; raises what the last try ended with."""
        attempts: list[Attempt] = []
        while True:
            call.tries += 1
            call.deadline.was_sent = False
            try:
                answer = self._once(call)
            except HttpError as error:
                failure = error
            else:
                self._budget.give_back(call.spent)
                return answer
            wait, reason = self._wait(call, failure)
            attempts.append(Attempt(call.tries, failure, timedelta(seconds=wait or 0.0)))
            if wait is None:
                if reason is None:
                    raise failure
                where = {"method": call.method, "url": without_query(call.url)}
                raise RetriesExhausted(attempts, reason, **where) from failure
            self._transport.sleep(wait)

    def _wait(self, call: Call, error: HttpError) -> tuple[float | None, str | None]:
        """How long to wait before the next try; or None, and the reason why there is none.

        Without a reason the error itself is what there is to say: it is not of a kind that is
        tried again, or the first try was all that the policy gives.
        """
        policy = self._retry
        if not policy.may_repeat(call.method, error, has_key=call.has_key):
            return None, None
        if call.tries >= policy.attempts:
            return None, "that was the last try" if call.tries > 1 else None
        if not call.content.can_be_sent():
            return None, None if call.tries == 1 else "the body can't be sent again"
        wait = policy.wait(call.tries, error)
        if wait >= call.deadline.left():
            return None, f"the next try would come in {wait:.3g} s, after the time limit"
        call.spent = self._budget.spend(error)
        if not call.spent:
            return None, "the client's budget for retries is used up"
        return wait, None

    def _once(self, call: Call) -> Answer:
        """One try, past the guards and the interceptors."""
        request = HttpRequest(call.method, call.url, call.headers, call.content.body, call.tries)
        if self._breaker is not None:
            wait = self._breaker.wait(self._transport.now())
            if wait > 0:
                error = CircuitOpen(
                    timedelta(seconds=wait), method=request.method, url=request.safe_url
                )
                raise self.changed(error)
        failed: bool | None = None
        try:
            self._take_turn(request, call.deadline)
            answer = self._authorized(call, request)
            failed = False
            return answer
        except HttpError as error:
            if isinstance(error, ConnectionFailed | TimedOut):
                failed = True
            elif isinstance(error, StatusError):
                failed = error.status >= 500
            raise self.changed(error) from error.__cause__
        finally:
            if self._breaker is not None:
                self._breaker.tell(self._transport.now(), failed=failed)

    def _take_turn(self, request: HttpRequest, deadline: Deadline) -> None:
        if self._rate_limit is None:
            return
        is_given, wait = self._rate_limit.take(self._transport.now(), patience=deadline.left())
        if not is_given:
            seconds = timedelta(seconds=wait)
            raise RateLimited(seconds, method=request.method, url=request.safe_url)
        if wait > 0:
            self._transport.sleep(wait)

    def changed(self, error: HttpError) -> HttpError:
        """What the interceptors make of an error."""
        for interceptor in reversed(self._interceptors):
            error = interceptor.on_error(error)
        return error

    def _authorized(self, call: Call, request: HttpRequest) -> Answer:
        """Send it with credentials; after a 401 once more, if there are new ones."""
        for interceptor in self._interceptors:
            request = interceptor.on_request(request)
        if self._auth is None:
            return self._followed(call, request)
        with within(call.deadline):
            sent = self._auth.on_request(request)
        try:
            return self._followed(call, sent)
        except StatusError as error:
            if error.status != 401 or not call.content.can_be_sent():
                raise
            with within(call.deadline):
                if not self._auth.on_unauthorized(sent):
                    raise
                sent = self._auth.on_request(request)
        return self._followed(call, sent)

    def _followed(self, call: Call, request: HttpRequest) -> Answer:
        """Send it, and follow where it is redirected to, as far as that is safe."""
        content = call.content
        for _ in range(self._limits.max_redirects + 1):
            if request.body is not None and request.body is content.body:
                content.sent()
            reply = self._transport.send(request, call.deadline)
            if reply.status in _REDIRECTS:
                location = reply.headers.get("location")
                step = (
                    redirect(request.method, request.url, reply.status, location)
                    if location
                    else None
                )
                if not self._limits.max_redirects:
                    raise self._refused(request, reply, "a redirect, and none are followed")
                if step is None or (step.keeps_body and not content.can_be_sent()):
                    raise self._refused(request, reply, "a redirect that is not followed")
                reply.read(self._limits.max_response_bytes)  # so that its connection can go on
                headers, body = request.headers, request.body
                if not step.keeps_credentials:
                    headers = headers.without(*_CREDENTIALS, *self._secret_headers())
                if not step.keeps_body:
                    headers, body = headers.without(*_OF_A_BODY), None
                request = HttpRequest(step.method, step.url, headers, body, request.attempt)
                continue
            if 200 <= reply.status < 300 or reply.status == 304:
                most = self._limits.max_response_bytes
                return Answer(request, reply, b"" if call.is_streamed else reply.read(most))
            raise self._refused(request, reply, "")
        most = self._limits.max_redirects
        raise TooManyRedirects(most, method=call.method, url=without_query(call.url))

    def _secret_headers(self) -> tuple[str, ...]:
        header = getattr(self._auth, "header", None)
        return (header,) if isinstance(header, str) else ()

    def _refused(self, request: HttpRequest, reply: Reply, note: str) -> StatusError:
        """The error of an answer that is no success; its connection is given back."""
        content = b""
        try:
            content = reply.read(self._limits.max_response_bytes)
        except HttpError as error:
            note = note or f"and its body could not be read: {error.code}"
        return StatusError(
            reply.status,
            method=request.method,
            url=request.safe_url,
            is_retryable=reply.status in self._retry.statuses,
            body=content[: 4 * _SHOWN].decode(charset_of(reply.headers), errors="replace")[:_SHOWN],
            retry_after=retry_after(reply.headers, datetime.now(UTC)),
            request_id=request_id(reply, request),
            note=note,
        )


def request_id(reply: Reply, request: HttpRequest) -> str | None:
    return reply.headers.get("x-request-id") or request.headers.get("X-Request-Id")
