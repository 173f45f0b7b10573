"""Programs around a server, over the client: what delivers, what sends at times, what measures."""
