"""What a client is opened with, whether it traces or not: it does if the program has set a tracer provider."""

from __future__ import annotations

import sys

from zapq.client.calls import Calls
from zapq.client.network import Network, Place
from zapq.client.retry import Retry
from zapq.client.talk import Talk
from zapq.client.wire import Writer


def opened(network: Network, place: Place, token: str | None, timeout: float, retry: Retry) -> tuple[Calls, Talk]:
    """Return how to ask the server at `place`, and how to send what is asked."""
    writer = Writer(place.host, place.prefix, token)
    if _is_traced():
        from zapq.client.spans import Spans, TracedCalls, TracedTalk

        return TracedCalls(writer, Spans(place)), TracedTalk(network, place, timeout, retry)
    return Calls(writer), Talk(network, place, timeout, retry)


def _is_traced() -> bool:
    """Whether the program has set a tracer provider: a program that has not imported its API cannot have."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return False
    provider = trace.get_tracer_provider()
    return not isinstance(provider, (trace.ProxyTracerProvider, trace.NoOpTracerProvider))
