"""The running queue: Trio lives here, HTTP does not."""
