"""Queues in Valkey (or Redis 7.0 and later): one library of functions there, and what speaks to it here."""
