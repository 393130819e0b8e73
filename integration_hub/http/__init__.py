"""The HTTP client for systems that nobody here controls: errors are values, every wait has a bound.

May import: `domain`, requests, urllib3, pydantic.
"""

from integration_hub.http.client import HttpClient
from integration_hub.http.factory import HttpClientFactory
from integration_hub.http.guards import CircuitBreaker, RateLimit
from integration_hub.http.interceptors import (
    ApiKeyAuth,
    Auth,
    BasicAuth,
    BearerAuth,
    Interceptor,
    LoggingInterceptor,
    MetricsInterceptor,
    RequestIdInterceptor,
)
from integration_hub.http.messages import HttpRequest, HttpResponse
from integration_hub.http.oauth import OAuth2Auth, OAuth2ClientCredentials, OAuth2RefreshToken
from integration_hub.http.options import HttpOptions, Limits, Proxies, Timeout, Tls
from integration_hub.http.pagination import (
    AfterLast,
    Cursor,
    LinkHeader,
    NextLink,
    Offset,
    PageNumber,
    PageStrategy,
)
from integration_hub.http.retry import Backoff, RetryBudget, RetryPolicy
from integration_hub.http.stream import HttpStream
from integration_hub.http.transport import Transport, UrllibTransport

__all__ = [
    "AfterLast",
    "ApiKeyAuth",
    "Auth",
    "Backoff",
    "BasicAuth",
    "BearerAuth",
    "CircuitBreaker",
    "Cursor",
    "HttpClient",
    "HttpClientFactory",
    "HttpOptions",
    "HttpRequest",
    "HttpResponse",
    "HttpStream",
    "Interceptor",
    "Limits",
    "LinkHeader",
    "LoggingInterceptor",
    "MetricsInterceptor",
    "NextLink",
    "OAuth2Auth",
    "OAuth2ClientCredentials",
    "OAuth2RefreshToken",
    "Offset",
    "PageNumber",
    "PageStrategy",
    "Proxies",
    "RateLimit",
    "RequestIdInterceptor",
    "RetryBudget",
    "RetryPolicy",
    "Timeout",
    "Tls",
    "Transport",
    "UrllibTransport",
]
