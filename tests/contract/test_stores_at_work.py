"""Every contract on every store: what workers do with it, and who comes first of two."""

from __future__ import annotations

import pytest

from hubs import OnMemory, OnPostgres, OnSqlite
from integration_hub.testing import contracts


class TestSyncRunsInMemory(OnMemory, contracts.SyncRunContract): ...


class TestSyncRunsOnSqlite(OnSqlite, contracts.SyncRunContract): ...


class TestSyncRunsOnPostgres(OnPostgres, contracts.SyncRunContract): ...


class TestSyncRunsStoredAsMadeInMemory(OnMemory, contracts.SyncRunContract):
    atomic = False


class TestSyncRunsStoredAsMadeOnSqlite(OnSqlite, contracts.SyncRunContract):
    atomic = False


class TestSyncRunsStoredAsMadeOnPostgres(OnPostgres, contracts.SyncRunContract):
    atomic = False


class TestMessagesInMemory(OnMemory, contracts.MessageContract): ...


class TestMessagesOnSqlite(OnSqlite, contracts.MessageContract): ...


class TestMessagesOnPostgres(OnPostgres, contracts.MessageContract): ...


class TestConflictsInMemory(OnMemory, contracts.ConflictContract): ...


@pytest.mark.once  # the database decides who waits for whom
class TestConflictsOnSqlite(OnSqlite, contracts.ConflictContract): ...


@pytest.mark.once
class TestConflictsOnPostgres(OnPostgres, contracts.ConflictContract): ...
