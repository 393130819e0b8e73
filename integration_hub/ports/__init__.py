"""What the rest of the package may ask of a store: questions, repositories, units of work, time.

May import: `domain`.
"""
