"""The HTTP client: one call is some tries, each of some redirects, all within one time limit.

May import: `domain`, and its neighbours. What another system does comes back as `Ok` or `Err`; a
call that is wrong in itself (a header with a line break, a path that leaves the base) raises
`ValidationError`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from importlib.metadata import version
from types import TracebackType
from typing import IO, Any, NoReturn, Self, TypeAlias

import pydantic
from typing_extensions import TypedDict, TypeVar, Unpack

from integration_hub.domain.errors import (
    DecodeError,
    HttpError,
    TooManyPages,
    ValidationError,
    unpicklable,
)
from integration_hub.domain.result import Err, Ok, Result
from integration_hub.domain.values import (
    checked_count,
    checked_kind,
    checked_period,
    without_query,
)
from integration_hub.http.bodies import NOT_GIVEN, File, content_of
from integration_hub.http.exchange import Answer, Call, Exchange, request_id
from integration_hub.http.guards import CircuitBreaker, RateLimit
from integration_hub.http.interceptors import Auth, Interceptor
from integration_hub.http.messages import (
    Headers,
    HttpResponse,
    adapter_for,
    decoded,
)
from integration_hub.http.options import (
    Limits,
    Proxies,
    Timeout,
    Tls,
    checked_proxies,
    checked_tls,
)
from integration_hub.http.pagination import PageStrategy, Place, checked_strategy
from integration_hub.http.retry import RetryPolicy
from integration_hub.http.sockets import DEADLINE, Deadline
from integration_hub.http.stream import HttpStream
from integration_hub.http.transport import Guard, Transport, UrllibTransport
from integration_hub.http.urls import BaseUrl, Params, query_pairs, with_params

T = TypeVar("T", default=None)
Into: TypeAlias = type[T] | pydantic.TypeAdapter[T] | None


class CallOptions(TypedDict, total=False):
    """What a single call can say.

    `params` are added to the query (a list gives its name once per item, None nothing; a moment is
    written by ISO 8601); `headers` come in the place of the client's. The body is one of `json`
    (whatever pydantic can serialize), `data` (a form), `files` (multipart, with `data`, held in
    memory) and `content` (bytes, text, a file or an iterable of bytes). `idempotency_key` is sent
    as ``Idempotency-Key``, the same over all tries, and lets a POST or PATCH be tried again.
    `timeout`, or a total in seconds, replaces that of the client.
    """

    params: Params | None
    headers: Mapping[str, str] | None
    json: Any
    data: Params | None
    files: Mapping[str, File] | None
    content: bytes | str | IO[bytes] | Iterable[bytes] | None
    idempotency_key: str | None
    timeout: Timeout | timedelta | float | None


USER_AGENT = f"integration-hub/{version('integration-hub')}"
_METHOD = re.compile(r"[A-Z]+")


class HttpClient:
    """A client for one system (or, without `base_url`, for absolute URLs).

    Safe to share between threads; it keeps no cookies. `interceptors` see each try; `auth` comes
    after them. With `breaker` and `rate_limit` it spares a system that fails, or that wants few
    requests. With a `guard` (an `AddressGuard`) it connects to those addresses only that this lets
    it. `transport` replaces the network, in tests, and what `limits`, `tls`, `proxies` and `guard`
    say of it.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        timeout: Timeout | timedelta | float = Timeout(),  # noqa: B008 - it is immutable
        retry: RetryPolicy = RetryPolicy(),  # noqa: B008 - it is immutable
        interceptors: Sequence[Interceptor] = (),
        headers: Mapping[str, str] | None = None,
        auth: Auth | None = None,
        limits: Limits = Limits(),  # noqa: B008 - it is immutable
        breaker: CircuitBreaker | None = None,
        rate_limit: RateLimit | None = None,
        tls: Tls | None = None,
        proxies: Proxies | None = None,
        guard: Guard | None = None,
        transport: Transport | None = None,
    ) -> None:
        checked_kind("retry", retry, RetryPolicy, "must be such as RetryPolicy(attempts=3)")
        checked_kind("limits", limits, Limits, "must be such as Limits(pool=10)")
        checked_tls(tls)
        checked_proxies(proxies)
        for name, given, kind, like in (
            ("breaker", breaker, CircuitBreaker, "CircuitBreaker()"),
            ("rate_limit", rate_limit, RateLimit, "RateLimit(10)"),
            ("auth", auth, Auth, "BasicAuth(user, password) or BearerAuth(token)"),
        ):
            if given is not None:
                checked_kind(name, given, kind, f"must be such as {like}")
        self._base = BaseUrl(base_url)
        self._timeout = _timeout(timeout)
        self._interceptors = _checked_interceptors(interceptors)
        self._headers = Headers(
            {"User-Agent": USER_AGENT, "Accept": "*/*", "Accept-Encoding": "gzip, deflate"}
        ).merged(headers)
        self._transport = transport or UrllibTransport(
            limits=limits, tls=tls, proxies=proxies, guard=guard
        )
        self._exchange = Exchange(
            self._transport,
            retry=retry,
            limits=limits,
            interceptors=self._interceptors,
            auth=auth,
            breaker=breaker,
            rate_limit=rate_limit,
        )

    def __repr__(self) -> str:
        return f"HttpClient({self._base.url!r})"

    def now(self) -> float:
        """Seconds on the clock that this client goes by, from an arbitrary start."""
        return self._transport.now()

    # --- asking -------------------------------------------------------------------------------

    def request(
        self, method: str, path: str, *, into: Into[T] = None, **options: Unpack[CallOptions]
    ) -> Result[HttpResponse[T], HttpError]:
        """Send a request; `Ok` of a response for 2xx and 304, `Err` of an `HttpError` otherwise.

        `into` is a type that pydantic's TypeAdapter takes, or such an adapter; the response's
        `value` is the body as that type. For the other options see `CallOptions`. Raises
        `ValidationError` for a call that is wrong in itself.
        """
        adapter = adapter_for(into)
        call = self._call(method, path, options)
        try:
            response = self._response(call, self._exchange.answer(call))
            return Ok(_typed(response, adapter))
        except HttpError as error:
            return Err(error)

    def get(
        self, path: str, *, into: Into[T] = None, **options: Unpack[CallOptions]
    ) -> Result[HttpResponse[T], HttpError]:
        """See `request`."""
        return self.request("GET", path, into=into, **options)

    def head(
        self, path: str, *, into: Into[T] = None, **options: Unpack[CallOptions]
    ) -> Result[HttpResponse[T], HttpError]:
        """See `request`; the response has no content."""
        return self.request("HEAD", path, into=into, **options)

    def options(
        self, path: str, *, into: Into[T] = None, **options: Unpack[CallOptions]
    ) -> Result[HttpResponse[T], HttpError]:
        """See `request`."""
        return self.request("OPTIONS", path, into=into, **options)

    def post(
        self, path: str, *, into: Into[T] = None, **options: Unpack[CallOptions]
    ) -> Result[HttpResponse[T], HttpError]:
        """See `request`; tried again only with an `idempotency_key`, or where it was not sent."""
        return self.request("POST", path, into=into, **options)

    def put(
        self, path: str, *, into: Into[T] = None, **options: Unpack[CallOptions]
    ) -> Result[HttpResponse[T], HttpError]:
        """See `request`."""
        return self.request("PUT", path, into=into, **options)

    def patch(
        self, path: str, *, into: Into[T] = None, **options: Unpack[CallOptions]
    ) -> Result[HttpResponse[T], HttpError]:
        """See `request`; tried again only with an `idempotency_key`, or where it was not sent."""
        return self.request("PATCH", path, into=into, **options)

    def delete(
        self, path: str, *, into: Into[T] = None, **options: Unpack[CallOptions]
    ) -> Result[HttpResponse[T], HttpError]:
        """See `request`."""
        return self.request("DELETE", path, into=into, **options)

    @contextmanager
    def stream(
        self,
        method: str,
        path: str,
        **options: Unpack[CallOptions],
    ) -> Iterator[Result[HttpStream, HttpError]]:
        """As `request`, but the body is read within the block, as it comes, and may be of any size.

        Tries end with the headers; the total time limit goes on, and reading raises `HttpError`.
        Interceptors see a response whose content is empty, and what goes wrong with its body.
        """
        call = self._call(method, path, options, is_streamed=True)
        try:
            answer = self._exchange.answer(call)
        except HttpError as error:
            yield Err(error)
            return
        try:
            yield self._opened(call, answer)
        finally:
            answer.reply.close()

    def _opened(self, call: Call, answer: Answer) -> Result[HttpStream, HttpError]:
        try:
            response = self._response(call, answer)
        except HttpError as error:
            return Err(error)
        return Ok(HttpStream(answer.reply, response, self._exchange.changed))

    def pages(
        self,
        path: str,
        *,
        strategy: PageStrategy,
        into: Into[T] = None,
        max_pages: int = 1_000,
        **options: Unpack[CallOptions],
    ) -> Iterator[Result[HttpResponse[T], HttpError]]:
        """The pages of a list, one by one, each got when it is asked for.

        Ends after the last page, or after an `Err`: of a page, of `DecodeError` where the next one
        is said to be on another system, or of `TooManyPages` where there are more than `max_pages`.
        """
        checked_count("max_pages", max_pages, least=1)
        checked_strategy(strategy)
        adapter = adapter_for(into)
        params: Params = query_pairs(options.get("params"))  # an iterator gives them once
        place: Place = (path, strategy.first(params))
        for _ in range(max_pages):
            options["params"] = place[1]
            outcome = self.get(place[0], **options)
            if isinstance(outcome, Err):
                yield outcome
                return
            response: HttpResponse[Any] = outcome.value
            try:
                following = strategy.following(response, place)
                page = _typed(response, adapter)
            except HttpError as error:
                yield Err(error)
                return
            yield Ok(page)
            if following is None:
                return
            if (refusal := self._refusal(following[0], response)) is not None:
                yield Err(refusal)
                return
            place = following
        url = without_query(self._base.join(path))
        yield Err(TooManyPages(max_pages, method="GET", url=url))

    def _refusal(self, path: str, response: HttpResponse[Any]) -> DecodeError | None:
        """Why this client may not go where an answer says that the next page is, if so."""
        try:
            self._base.join(path)
        except ValidationError as error:
            problem = f"can't be followed: {error.message}"
            return response.undecodable("", problem, part="next page")
        return None

    def close(self) -> None:
        """Close the connections that rest; those in use close when they come back."""
        self._transport.close()

    def __reduce__(self) -> NoReturn:
        """Raises `TypeError`: it belongs to its process."""
        raise unpicklable("an HttpClient", "hand over its options, and make one there")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # --- a call, its tries, their hops --------------------------------------------------------

    def _call(
        self, method: str, path: str, options: CallOptions, *, is_streamed: bool = False
    ) -> Call:
        if not isinstance(method, str) or not _METHOD.fullmatch(method):
            raise ValidationError("method", method, "must be a method such as GET")
        content = content_of(
            json=options.get("json", NOT_GIVEN),
            data=options.get("data"),
            files=options.get("files"),
            content=options.get("content"),
        )
        url = with_params(self._base.join(path), options.get("params"))
        headers = self._headers
        if content.kind is not None:
            headers = headers.merged({"Content-Type": content.kind})
        if content.length is not None:
            headers = headers.merged({"Content-Length": str(content.length)})
        headers = headers.merged(options.get("headers"))
        if (key := options.get("idempotency_key")) is not None:
            headers = headers.merged({"Idempotency-Key": key})
        given = options.get("timeout")
        limits = self._timeout if given is None else _timeout(given, self._timeout)
        deadline = Deadline.of(limits, self._transport.now)
        deadline.no_later_than(DEADLINE.get())
        has_key = "Idempotency-Key" in headers
        return Call(method, url, headers, content, deadline, has_key, is_streamed)

    def _response(self, call: Call, answer: Answer) -> HttpResponse[Any]:
        response: HttpResponse[Any] = HttpResponse(
            status=answer.reply.status,
            headers=answer.reply.headers,
            content=answer.content,
            url=answer.request.url,
            method=answer.request.method,
            elapsed=timedelta(seconds=call.deadline.total - call.deadline.left()),
            attempts=call.tries,
            request_id=request_id(answer.reply, answer.request),
        )
        for interceptor in reversed(self._interceptors):
            response = interceptor.on_response(response)
        return response


def _checked_interceptors(given: Sequence[Interceptor]) -> tuple[Interceptor, ...]:
    if not isinstance(given, Iterable) or not all(isinstance(each, Interceptor) for each in given):
        problem = "must be a sequence of what has on_request, on_response and on_error"
        raise ValidationError("interceptors", type(given).__name__, problem)
    return tuple(given)


def _timeout(given: Timeout | timedelta | float, others: Timeout | None = None) -> Timeout:
    """Time limits; a single duration is the total, within which the others stay."""
    if isinstance(given, Timeout):
        return given
    total = checked_period("timeout", given).total_seconds()
    connect, read, _ = (others or Timeout()).seconds
    return Timeout(min(connect, total), min(read, total), total)


def _typed(
    response: HttpResponse[Any], adapter: pydantic.TypeAdapter[Any] | None
) -> HttpResponse[Any]:
    """The response with its value, if one is wanted."""
    if adapter is not None:
        value = decoded(response, adapter)
        object.__setattr__(response, "value", value)  # it is ours alone, and just made
    return response
