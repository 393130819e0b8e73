"""Tokens of an authorization server (OAuth 2.0): got when they are needed, and in time anew.

May import: `domain`, `interceptors`, `messages`, `sockets`.
"""

from __future__ import annotations

import math
import re
import threading
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from integration_hub.domain.errors import HttpError, StatusError, ValidationError
from integration_hub.domain.result import Err, Result
from integration_hub.domain.values import checked_duration, new_id
from integration_hub.http.interceptors import Auth, basic, credential
from integration_hub.http.messages import HttpRequest, HttpResponse
from integration_hub.http.sockets import DEADLINE

if TYPE_CHECKING:
    from integration_hub.http.client import HttpClient
    from integration_hub.http.transport import Transport

ClientAuthMethod: TypeAlias = Literal["client_secret_basic", "client_secret_post"]
"""Where the client's own credentials are: in ``Authorization``, or in the form (RFC 7591, 2)."""

_HOUR = 3600.0
_TOKEN = re.compile(r"[\x21-\x7e]+")  # more than RFC 6750 has, and nothing that a header can't hold


class OAuth2Auth(Auth):
    """A token of an authorization server (RFC 6749), got when it is first needed.

    A subclass says in `grant` what it is asked for, and has all else from here. The token is got
    anew before it expires (`early` seconds before, or after half of its lifetime), and once after a
    401. Of many threads that need it at the same time, one asks the authorization server, and the
    others wait for it, each within the total time limit of its call. Unless a `client` is given for
    that, it asks as the client does that it is given to: by the same proxies, trusting the same
    certificates. A client without a secret (a public one) is told by its id alone.
    """

    def __init__(
        self,
        token_url: str,
        client_id: str | None = None,
        client_secret: str | None = None,
        *,
        auth_method: ClientAuthMethod = "client_secret_basic",
        early: timedelta | float = 30.0,
        client: HttpClient | None = None,
    ) -> None:
        self._url = token_url
        self._headers, self._own = _own(client_id, client_secret, auth_method)
        self._early = checked_duration("early", early).total_seconds()
        self._client = client
        self._lock = threading.Lock()
        self._token: str | None = None
        self._expires = 0.0

    @abstractmethod
    def grant(self) -> Mapping[str, str]:
        """What is sent, beside the client's credentials: ``grant_type``, and what belongs to it."""

    def granted(self, answer: Mapping[str, Any]) -> None:
        """Called with each answer that has a token: it may have more that is to be kept."""

    def is_outdated(self) -> bool:
        """After a refusal: whether `grant` would say something else by now."""
        return False

    def go_through(self, transport: Transport | None) -> HttpClient:
        """Fetch tokens by this transport, unless there is a client for that already; gives it."""
        from integration_hub.http.client import HttpClient

        self._client = self._client or HttpClient(transport=transport)
        return self._client

    def on_request(self, request: HttpRequest) -> HttpRequest:
        return request.merged({"Authorization": f"Bearer {self._current(request)}"})

    def on_unauthorized(self, request: HttpRequest) -> bool:
        refused = request.headers.get("Authorization")
        with self._turn(request):
            if self._token is not None and refused == f"Bearer {self._token}":
                self._token = None  # else another thread has got a new one since
        return True

    def _current(self, request: HttpRequest) -> str:
        with self._turn(request):
            client = self._client or self.go_through(None)  # none, where another `Auth` uses this
            now = client.now()
            if self._token is None or now >= self._expires:
                self._fetch(client, now)
            assert self._token is not None
            return self._token

    @contextmanager
    def _turn(self, request: HttpRequest) -> Iterator[None]:
        """A block for one thread at a time. Raises `TimedOut` where the call is over before."""
        deadline = DEADLINE.get()
        patience = -1 if deadline is None else max(0.0, deadline.left())
        if not self._lock.acquire(timeout=patience):
            assert deadline is not None
            raise deadline.passed("total", request)
        try:
            yield
        finally:
            self._lock.release()

    def _fetch(self, client: HttpClient, now: float) -> None:
        outcome = self._asked(client)
        is_refused = isinstance(outcome, Err) and isinstance(outcome.error, StatusError)
        if is_refused and self.is_outdated():
            outcome = self._asked(client)
        response = outcome.unwrap()
        answer = response.json()
        token = answer.get("access_token") if isinstance(answer, dict) else None
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            raise response.undecodable("access_token", "must be a token (RFC 6750, 2.1)")
        seconds = _lifetime(answer.get("expires_in"))
        self._token = token
        self._expires = now + max(seconds - self._early, seconds / 2)
        self.granted(answer)

    def _asked(self, client: HttpClient) -> Result[HttpResponse[Any], HttpError]:
        # The same each time it is repeated, so that a retry does no harm; but it is a POST.
        return client.post(
            self._url,
            data={**self.grant(), **self._own},
            headers=self._headers,
            idempotency_key=str(new_id()),
        )


class OAuth2ClientCredentials(OAuth2Auth):
    """A token for the client itself (RFC 6749, 4.4); see `OAuth2Auth`.

    `parameters` are what the server wants besides, as ``audience`` or ``resource``.
    """

    def __init__(
        self,
        token_url: str,
        client_id: str,
        client_secret: str,
        *,
        scope: str | None = None,
        parameters: Mapping[str, str] | None = None,
        auth_method: ClientAuthMethod = "client_secret_basic",
        early: timedelta | float = 30.0,
        client: HttpClient | None = None,
    ) -> None:
        super().__init__(
            token_url,
            credential("client_id", client_id),
            credential("client_secret", client_secret),
            auth_method=auth_method,
            early=early,
            client=client,
        )
        scoped = {} if scope is None else {"scope": scope}
        self._grant = {"grant_type": "client_credentials", **scoped, **(parameters or {})}

    def grant(self) -> Mapping[str, str]:
        return self._grant


class OAuth2RefreshToken(OAuth2Auth):
    """A token for somebody who has agreed to it once (RFC 6749, 6); see `OAuth2Auth`.

    `refresh_token` is a text, or a function that looks it up. A server that gives another one with
    each token wants that one the next time: `rotated` is called with it, to store it, before the
    token is used. Where several processes share it, give a function: what another has stored
    meanwhile is used where the server refuses the one before.
    """

    def __init__(
        self,
        token_url: str,
        client_id: str,
        client_secret: str | None,
        refresh_token: str | Callable[[], str],
        *,
        rotated: Callable[[str], object] | None = None,
        auth_method: ClientAuthMethod = "client_secret_basic",
        early: timedelta | float = 30.0,
        client: HttpClient | None = None,
    ) -> None:
        super().__init__(
            token_url,
            client_id,
            client_secret,
            auth_method=auth_method,
            early=early,
            client=client,
        )
        given = refresh_token if callable(refresh_token) else credential(_REFRESH, refresh_token)
        self._given = given
        self._rotated = rotated
        self._said: str | None = None  # when it was last looked up
        self._refresh = ""  # that, or what the server has given for it since

    def grant(self) -> Mapping[str, str]:
        if (said := self._looked_up()) != self._said:
            self._said = self._refresh = said
        return {"grant_type": _REFRESH, _REFRESH: self._refresh}

    def granted(self, answer: Mapping[str, Any]) -> None:
        following = answer.get(_REFRESH)
        if not isinstance(following, str) or following == self._refresh:
            return
        self._refresh = following
        if self._rotated is not None:
            self._rotated(following)

    def is_outdated(self) -> bool:
        return self._looked_up() != self._said

    def _looked_up(self) -> str:
        return credential(_REFRESH, self._given()) if callable(self._given) else self._given


_REFRESH = "refresh_token"


def _own(
    client_id: str | None, client_secret: str | None, method: ClientAuthMethod
) -> tuple[dict[str, str], dict[str, str]]:
    """A client's own credentials, as headers and as fields of the form."""
    if method not in ("client_secret_basic", "client_secret_post"):
        problem = "must be client_secret_basic or client_secret_post"
        raise ValidationError("auth_method", method, problem)
    if client_id is None:
        return {}, {}
    own = {"client_id": credential("client_id", client_id)}
    if client_secret is None:
        return {}, own
    if method == "client_secret_basic":
        return {"Authorization": basic(client_id, client_secret)}, {}
    return {}, {**own, "client_secret": credential("client_secret", client_secret)}


def _lifetime(said: object) -> float:
    """Seconds; an hour where nothing is said that makes sense. Some say it in a string."""
    try:
        seconds = float(said) if isinstance(said, int | float | str) else math.nan
    except (ValueError, OverflowError):
        seconds = math.nan
    return seconds if 0 <= seconds < math.inf else _HOUR
