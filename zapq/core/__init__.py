"""The queue as values: no I/O, no clock, no trio."""
