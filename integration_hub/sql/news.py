"""Telling workers of what a service's own transaction stores, once the service has committed it.

May import: `database.notifications`, `joining`, psycopg, SQLAlchemy. To tell within that
transaction would keep all others that have something to tell from committing meanwhile (see
`notifications.tell`), so a Session that was joined tells afterwards, on its connection, before it
gives that back.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import psycopg
from psycopg.pq import TransactionStatus
from sqlalchemy import Connection, event
from sqlalchemy.orm import Session, SessionTransaction, scoped_session

from integration_hub.database.notifications import tell
from integration_hub.sql.joining import Joined

_KEY = "integration_hub_news"
_News: TypeAlias = dict[Connection, set[str]]


def tell_with(
    joined: Joined,
    connection: Connection,
    channels: Iterable[str],
) -> None:
    """Tell on these channels when the owner of what was joined commits what it does there."""
    session = joined() if isinstance(joined, scoped_session) else joined
    driver = connection.connection.driver_connection
    if not isinstance(session, Session) or not isinstance(driver, psycopg.Connection):
        _tell_within(connection, channels)
        return
    news: _News | None = session.info.get(_KEY)
    if news is None:
        news = session.info[_KEY] = {}
        event.listen(session, "after_commit", _tell)
        event.listen(session, "after_transaction_end", _forget)
    news.setdefault(connection, set()).update(channels)


def _tell_within(connection: Connection, channels: Iterable[str]) -> None:
    for channel in sorted(channels):
        connection.exec_driver_sql(f"NOTIFY {channel}")


def _tell(session: Session) -> None:
    if session.in_nested_transaction():
        return  # that was a savepoint's end
    for connection, channels in session.info.get(_KEY, {}).items():
        driver = connection.connection.driver_connection
        if driver.info.transaction_status == TransactionStatus.IDLE:
            tell(driver, channels)
        else:  # the Session itself has joined somebody's transaction
            _tell_within(connection, channels)


def _forget(session: Session, transaction: SessionTransaction) -> None:
    """Whatever has become of the transaction, its connection is another's soon."""
    if transaction.parent is None:
        session.info.get(_KEY, {}).clear()
