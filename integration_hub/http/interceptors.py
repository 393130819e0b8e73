"""What looks at every request, response and error on its way, and may change it.

May import: `domain`, `messages`. Requests pass the interceptors in order,
responses and errors in reverse; each try of a request passes anew. Authentication comes last on the
way out, so that no other interceptor sees it.
"""

from __future__ import annotations

import base64
import json
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol, runtime_checkable
from urllib.parse import parse_qsl, urlencode, urlsplit

from integration_hub.domain.errors import HttpError, StatusError, ValidationError
from integration_hub.domain.values import UNSTORABLE, new_id, without_query
from integration_hub.http.messages import Headers, HttpRequest, HttpResponse

HIDDEN = "***"
_SECRET_HEADERS = frozenset(
    {"authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key", "api-key"}
)
#: A word of these in a header's, a parameter's or a JSON key's name, and the value is not shown.
_SECRET = re.compile(
    r"auth|token|secret|passw|credential|signature|session|cookie|api[-_]?key|(^|[-_])key$",
    re.IGNORECASE,
)


@runtime_checkable
class Interceptor(Protocol):
    """Sees every try of every request; gives back what goes on, changed or as it was.

    A subclass of this class needs only those of the three that it cares for.
    """

    def on_request(self, request: HttpRequest) -> HttpRequest:
        """Before a try is sent."""
        return request

    def on_response(self, response: HttpResponse[Any]) -> HttpResponse[Any]:
        """After a success; of a stream, before its body is read: the content is empty then."""
        return response

    def on_error(self, error: HttpError) -> HttpError:
        """After a try that failed, before it is decided whether there is another; or a stream that
        broke off.
        """
        return error


@runtime_checkable
class Auth(Interceptor, Protocol):
    """An interceptor that authenticates; only to the host that the client was made for."""

    def on_unauthorized(self, request: HttpRequest) -> bool:
        """After a 401: whether a new credential was got, so that one more try makes sense."""
        return False


class BearerAuth(Auth):
    """``Authorization: Bearer …`` (RFC 6750), from a token or from a function that gives one."""

    def __init__(self, token: str | Callable[[], str]) -> None:
        self._token = token if callable(token) else credential("token", token)

    def on_request(self, request: HttpRequest) -> HttpRequest:
        token = credential("token", self._token()) if callable(self._token) else self._token
        return request.merged({"Authorization": f"Bearer {token}"})


class BasicAuth(Auth):
    """``Authorization: Basic …`` (RFC 7617), in UTF-8."""

    def __init__(self, username: str, password: str) -> None:
        self._headers = Headers({"Authorization": basic(username, password)})

    def on_request(self, request: HttpRequest) -> HttpRequest:
        return request.merged(self._headers)


def basic(username: str, password: str) -> str:
    """The value of an ``Authorization`` header."""
    user, secret = credential("username", username), credential("password", password)
    return f"Basic {base64.b64encode(f'{user}:{secret}'.encode()).decode()}"


def credential(field: str, value: object) -> str:
    """A text, which None is not, as a vault gives it that has nothing; it is not repeated."""
    if not isinstance(value, str) or UNSTORABLE.search(value):
        raise ValidationError(field, "<not shown>", f"must be text, and is {type(value).__name__}")
    return value


class ApiKeyAuth(Auth):
    """A key in a header (``X-Api-Key``, unless another is named)."""

    def __init__(self, key: str, *, header: str = "X-Api-Key") -> None:
        self.header = header
        self._headers = Headers({header: key})

    def on_request(self, request: HttpRequest) -> HttpRequest:
        return request.merged(self._headers)


class RequestIdInterceptor(Interceptor):
    """``X-Request-Id``: one per try, unless the request brings its own."""

    def __init__(self, header: str = "X-Request-Id") -> None:
        self._header = header

    def on_request(self, request: HttpRequest) -> HttpRequest:
        if self._header in request.headers:
            return request
        return request.merged({self._header: str(new_id())})


class LoggingInterceptor(Interceptor):
    """A line per request, response and error, with what is secret left out.

    At INFO the method, the URL with its query redacted and the status; at DEBUG the headers, and
    with `bodies` the JSON bodies, redacted by the names of their keys.
    """

    def __init__(self, logger: logging.Logger | None = None, *, bodies: bool = False) -> None:
        self._logger = logger or logging.getLogger("integration_hub.http")
        self._bodies = bodies

    def on_request(self, request: HttpRequest) -> HttpRequest:
        if self._logger.isEnabledFor(logging.INFO):
            url = redacted_url(request.url)
            self._logger.info("%s %s (try %d)", request.method, url, request.attempt)
            self._detail("request", request.headers, request.body)
        return request

    def on_response(self, response: HttpResponse[Any]) -> HttpResponse[Any]:
        if self._logger.isEnabledFor(logging.INFO):
            milliseconds = response.elapsed.total_seconds() * 1000
            url = redacted_url(response.url)
            self._logger.info(
                "%s %s: %d in %.0f ms", response.method, url, response.status, milliseconds
            )
            self._detail("response", response.headers, response.content)
        return response

    def on_error(self, error: HttpError) -> HttpError:
        self._logger.warning("%s", error.message)
        return error

    def _detail(self, what: str, headers: Mapping[str, str], body: object) -> None:
        if self._logger.isEnabledFor(logging.DEBUG):
            self._logger.debug("%s headers: %s", what, redacted_headers(headers))
            if self._bodies and isinstance(body, bytes) and body:
                self._logger.debug("%s body: %s", what, redacted_body(body))


@dataclass(frozen=True, slots=True)
class Measurement:
    """A try of a request: how it ended, and (of a success) how long the call has taken so far."""

    method: str
    url: str
    outcome: str
    elapsed: timedelta | None = None


class MetricsInterceptor(Interceptor):
    """Calls back with a `Measurement` after each try; `outcome` is a status or an error's code."""

    def __init__(self, measured: Callable[[Measurement], object]) -> None:
        self._measured = measured

    def on_response(self, response: HttpResponse[Any]) -> HttpResponse[Any]:
        url, status = without_query(response.url), str(response.status)
        self._measured(Measurement(response.method, url, status, response.elapsed))
        return response

    def on_error(self, error: HttpError) -> HttpError:
        outcome = str(error.status) if isinstance(error, StatusError) else error.code
        self._measured(Measurement(error.method, error.url, outcome))
        return error


# --- what is not for logs ---------------------------------------------------------------------


def redacted_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers, without the values of those that may be secret."""
    return {name: HIDDEN if _is_secret_header(name) else headers[name] for name in headers}


def _is_secret_header(name: str) -> bool:
    return name.lower() in _SECRET_HEADERS or bool(_SECRET.search(name))


def redacted_url(url: str) -> str:
    """A URL, without its credentials and the values of parameters that may be secret."""
    parts = urlsplit(url)
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    query = urlencode([(k, HIDDEN if _SECRET.search(k) else v) for k, v in pairs], safe="*")
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=host, query=query).geturl()


def redacted_body(body: bytes) -> str:
    """A JSON body, redacted; of any other, its size alone."""
    try:
        return json.dumps(redacted_json(json.loads(body)))
    except (ValueError, RecursionError):  # the latter, where it is nested too deep
        return f"{len(body):,} bytes that are no JSON"


def redacted_json(document: Any) -> Any:
    """JSON, without the values of keys that may be secret, at any depth."""
    if isinstance(document, Mapping):
        return {
            key: HIDDEN if _SECRET.search(str(key)) else redacted_json(value)
            for key, value in document.items()
        }
    if isinstance(document, list | tuple):
        return [redacted_json(item) for item in document]
    return document
