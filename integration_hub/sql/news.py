"""Telling workers of what a service's own transaction stores, once the service has committed it.

May import: `database.notifications`, psycopg, SQLAlchemy. To tell within that transaction would
keep all others that have something to tell from committing meanwhile (see `notifications.tell`), so
a Session that was joined tells afterwards, on its connection, before it gives that back.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

import psycopg
from psycopg.pq import TransactionStatus
from sqlalchemy import event
from sqlalchemy.orm import Session, SessionTransaction

from integration_hub.database.notifications import tell, tell_within

_KEY = "integration_hub_news"
_News: TypeAlias = dict[psycopg.Connection[Any], set[str]]


def tell_when_committed(
    session: Session, driver: psycopg.Connection[Any], channels: Iterable[str]
) -> None:
    """Tell on these channels when the Session has committed what it does on that connection."""
    news: _News | None = session.info.get(_KEY)
    if news is None:
        news = session.info[_KEY] = {}
        event.listen(session, "after_commit", _tell)
        event.listen(session, "after_transaction_end", _forget)
    news.setdefault(driver, set()).update(channels)


def _tell(session: Session) -> None:
    if session.in_nested_transaction():
        return  # that was a savepoint's end
    for driver, channels in session.info.get(_KEY, {}).items():
        if driver.info.transaction_status == TransactionStatus.IDLE:
            tell(driver, channels)
        else:  # the Session itself has joined somebody's transaction
            tell_within(driver, channels)


def _forget(session: Session, transaction: SessionTransaction) -> None:
    """Whatever has become of the transaction, its connection is another's soon."""
    if transaction.parent is None:
        session.info.get(_KEY, {}).clear()
