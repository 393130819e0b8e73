"""Our aggregates in tables, on Postgres and SQLite; the twin of `memory/`.

May import: `ports`, `domain`, `database`.
"""
