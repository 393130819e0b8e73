"""An answer that is read as it comes: a download of any size, or events, one by one.

May import: `domain`, `messages`, `transport`.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from integration_hub.domain.errors import HttpError
from integration_hub.domain.values import checked_count
from integration_hub.http.messages import HttpResponse, charset_of
from integration_hub.http.transport import Reply

_CHUNK = 64 * 1024


class HttpStream:
    """An answer whose body is read as it comes. Reading raises `HttpError`."""

    def __init__(
        self,
        reply: Reply,
        response: HttpResponse[Any],
        changed: Callable[[HttpError], HttpError],
    ) -> None:
        self._reply = reply
        self._response = response
        self._changed = changed
        self.status = response.status
        self.headers = response.headers
        self.url = response.url

    def chunks(self, size: int = _CHUNK) -> Iterator[bytes]:
        """The body, decoded, in pieces of at most `size` bytes, each as soon as it is there."""
        return self._read(checked_count("size", size, least=1))

    def _read(self, size: int) -> Iterator[bytes]:
        try:
            yield from self._reply.chunks(size)
        except HttpError as error:
            raise self._changed(error) from error.__cause__

    def lines(self) -> Iterator[str]:
        """The body as text, line by line, without the line breaks, nor a byte order mark."""
        begun: list[str] = []  # a line may be long
        charset = charset_of(self.headers)
        try:
            for text in _texts(self.chunks(), charset):
                first, *others = text.split("\n")
                begun.append(first)
                for other in others:
                    yield "".join(begun).removesuffix("\r")
                    begun = [other]
        except UnicodeError as error:
            problem = f"is no {charset} ({error})"
            raise self._response.undecodable("", problem, part="text") from None
        if rest := "".join(begun):
            yield rest


def _texts(chunks: Iterable[bytes], charset: str) -> Iterator[str]:
    """The text of a body that comes in pieces; what can't be read is U+FFFD. Raises `UnicodeError`
    where the decoder gives up, as at UTF-16 without its byte order.
    """
    decoder = codecs.getincrementaldecoder(charset)(errors="replace")
    for chunk in chunks:
        yield decoder.decode(chunk)
    yield decoder.decode(b"", final=True)
