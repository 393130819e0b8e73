"""The dict-backed store, for tests and for trying things out; the twin of `sql/`.

May import: `ports`, `domain`.
"""
