"""The running queues, asked by values: Trio lives here, HTTP does not."""
