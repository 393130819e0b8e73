"""The Session that a unit of work hands out, for a service's own models.

May import: `domain`, SQLAlchemy.
"""

from __future__ import annotations

from typing import Literal, NoReturn

from sqlalchemy import Connection
from sqlalchemy.orm import Session, SessionTransaction

from integration_hub.domain.errors import StorageError


class HandedOut(Session):
    """A Session in the transaction of a unit of work, which alone commits it, or rolls it back."""

    def __init__(
        self, connection: Connection, mode: Literal["control_fully", "create_savepoint"]
    ) -> None:
        super().__init__(connection, join_transaction_mode=mode)
        self.connection()  # it joins at once, so that its commit is that of the whole
        self._part = connection.get_nested_transaction() or connection.get_transaction()

    def commit(self) -> NoReturn:
        message = "a unit of work stores what its Session has done, together with the rest"
        raise StorageError(f"{message}; call the unit of work's commit()")

    def rollback(self) -> NoReturn:
        message = "to roll back a unit of work's Session would undo the unit of work"
        raise StorageError(f"{message}; call its rollback(), or try things in `uow.savepoint()`")

    def begin_nested(self) -> SessionTransaction:
        """A savepoint, from this moment on; Session itself waits until it is used."""
        nested = super().begin_nested()
        self.connection()
        return nested

    @property
    def is_over(self) -> bool:
        """Whether its transaction is: a flush failed, somebody closed it, or a service ended it."""
        return self._part is None or not self._part.is_active

    def commit_all(self) -> None:
        """Flush it, and commit."""
        super().commit()
