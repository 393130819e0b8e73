"""How lists that come in pages go on.

May import: `domain`, `messages`, `urls`, requests (which reads ``Link`` headers).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias
from urllib.parse import urljoin

from requests.utils import parse_header_links

from integration_hub.domain.errors import ValidationError
from integration_hub.http.messages import HttpResponse
from integration_hub.http.urls import Params, query_pairs, said_by

Place: TypeAlias = tuple[str, Params | None]
"""Where a page is: its path or URL, and its parameters."""


class PageStrategy(Protocol):
    """Says where the first page is, and where the one after a page is (None after the last).

    A subclass of this class has its first page where the call says, unless it says otherwise.
    """

    def first(self, params: Params | None) -> Params | None:
        return params

    def following(self, response: HttpResponse[Any], place: Place) -> Place | None: ...


@dataclass(frozen=True, slots=True)
class LinkHeader(PageStrategy):
    """The next page is the URL of ``Link: <…>; rel="next"`` (RFC 8288), as GitHub does it."""

    rel: str = "next"

    def following(self, response: HttpResponse[Any], place: Place) -> Place | None:
        header = response.headers.get("link")
        for link in parse_header_links(header) if header else ():
            found = {name.lower(): value for name, value in link.items()}
            if self.rel.lower() in found.get("rel", "").lower().split():
                return _joined(response.url, found["url"]), None
        return None


@dataclass(frozen=True, slots=True)
class NextLink(PageStrategy):
    """Each page holds the URL, or the path, of the next one: at ``next`` (Django REST framework),
    ``links.next`` (JSON:API), ``@odata.nextLink`` (OData) or ``nextRecordsUrl`` (Salesforce).
    """

    at: str = "next"

    def following(self, response: HttpResponse[Any], place: Place) -> Place | None:
        link = value_at(response, self.at)
        if link is None or link == "":
            return None
        if not isinstance(link, str):
            raise response.undecodable(self.at, "must be the URL of the next page")
        return _joined(response.url, link), None


@dataclass(frozen=True, slots=True)
class Cursor(PageStrategy):
    """Each page holds the cursor of the next one, at a place such as ``meta.next_cursor``."""

    at: str = "next_cursor"
    param: str = "cursor"

    def following(self, response: HttpResponse[Any], place: Place) -> Place | None:
        cursor = value_at(response, self.at)
        if cursor is None or cursor == "":
            return None
        return place[0], _with(place[1], {self.param: str(cursor)})


@dataclass(frozen=True, slots=True)
class AfterLast(PageStrategy):
    """The next page begins after the last item of the list at `items`, which is named by its `key`,
    as Stripe does it. A page is the last if its list is empty, or `more` is there and is false.
    """

    items: str = "data"
    key: str = "id"
    param: str = "starting_after"
    more: str = "has_more"

    def following(self, response: HttpResponse[Any], place: Place) -> Place | None:
        page = response.json()
        found = _list_in(page, self.items, response)
        if not found or _value_in(page, self.more) is False:
            return None
        last = _value_in(found[-1], self.key)
        if not isinstance(last, str | int):
            where = f"{self.items}[{len(found) - 1}].{self.key}"
            raise response.undecodable(where, "must be there, to ask for what comes after it")
        return place[0], _with(place[1], {self.param: str(last)})


@dataclass(frozen=True, slots=True)
class PageNumber(PageStrategy):
    """Pages are numbered from `start`, or from what the call's `params` say. The last is the one
    that has the number at `last` (``meta.last_page``); where that is not said, the first whose
    list, at `items`, is empty.
    """

    param: str = "page"
    start: int = 1
    items: str = ""
    last: str = ""

    def first(self, params: Params | None) -> Params | None:
        return _begun(params, self.param, self.start)

    def following(self, response: HttpResponse[Any], place: Place) -> Place | None:
        number = _number_in(place, self.param)
        if self._is_last(number, response):
            return None
        return place[0], _with(place[1], {self.param: str(number + 1)})

    def _is_last(self, number: int, response: HttpResponse[Any]) -> bool:
        if not self.last:
            return not list_at(response, self.items)
        last = value_at(response, self.last)
        if type(last) is not int:
            raise response.undecodable(self.last, "must be the number of the last page")
        return number >= last


@dataclass(frozen=True, slots=True)
class Offset(PageStrategy):
    """Pages are `size` items from an offset on, which is 0 unless the call's `params` say another;
    a page with fewer, at `items`, is the last.
    """

    size: int
    param: str = "offset"
    size_param: str = "limit"
    items: str = ""

    def first(self, params: Params | None) -> Params | None:
        return _begun(_with(params, {self.size_param: str(self.size)}), self.param, 0)

    def following(self, response: HttpResponse[Any], place: Place) -> Place | None:
        if len(list_at(response, self.items)) < self.size:
            return None
        offset = _number_in(place, self.param)
        return place[0], _with(place[1], {self.param: str(offset + self.size)})


def _begun(params: Params | None, param: str, start: int) -> Params:
    """Where the call says no other number (it may go on from a checkpoint), at `start`."""
    given = dict(query_pairs(params)).get(param, str(start))
    if not re.fullmatch("[0-9]{1,18}", given):
        raise ValidationError(f"params.{param}", given, "must be the number to begin with")
    return _with(params, {param: given})


def _number_in(place: Place, param: str) -> int:
    return int(dict(query_pairs(place[1]))[param])


def _joined(base: str, url: str) -> str:
    try:
        return urljoin(base, said_by(url))
    except ValueError:  # it is no URL, as who follows it will find
        return url


def value_at(response: HttpResponse[Any], place: str) -> Any:
    """What stands in the body at a place such as ``meta.next``; None where nothing does."""
    return _value_in(response.json(), place)


def _value_in(found: Any, place: str) -> Any:
    """A key may hold a dot itself, as in ``@odata.nextLink``."""
    while place:
        if not isinstance(found, Mapping):
            return None
        if place in found:
            return found[place]
        key, _, place = place.partition(".")
        found = found.get(key)
    return found


def list_at(response: HttpResponse[Any], place: str) -> list[Any]:
    """The list at a place of the body. Raises `DecodeError` where there is none."""
    return _list_in(response.json(), place, response)


def _list_in(page: Any, place: str, response: HttpResponse[Any]) -> list[Any]:
    found = _value_in(page, place)
    if not isinstance(found, list):
        raise response.undecodable(place, "must be a list, to say whether there are more pages")
    return found


def _with(params: Params | None, others: Mapping[str, str]) -> Params:
    kept = [(name, value) for name, value in query_pairs(params) if name not in others]
    return [*kept, *others.items()]


def checked_strategy(strategy: object) -> None:
    """Refuse a class where an object is meant: ``LinkHeader`` for ``LinkHeader()``."""
    if isinstance(strategy, type) or not hasattr(strategy, "following"):
        raise ValidationError("strategy", strategy, "must be an object such as LinkHeader()")
