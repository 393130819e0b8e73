"""The ground: what integrations, webhooks and sync jobs are, whatever keeps them.

May import: the standard library, cronsim (schedules) and uuid-utils (UUIDv7). Nothing of ours.
"""
