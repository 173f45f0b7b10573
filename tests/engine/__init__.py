"""The engines: queues in this process, and in another."""
