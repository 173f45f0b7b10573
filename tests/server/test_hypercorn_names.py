"""The parts of Hypercorn, h11, h2 and Quart-Trio we build on are where they were, and look as they did.

Some are not public. When this fails after an upgrade, it names what moved; read that part of the new version
before changing the pin in pyproject.toml.
"""

from __future__ import annotations

import inspect
from importlib import import_module

import pytest

ENDS = "ssl client server send"
LEANED_ON = {
    "hypercorn.protocol.h11:H11Protocol.__init__": f"self app config context task_group connection_state {ENDS}",
    "hypercorn.protocol.h11:H11Protocol.handle": "self event",
    "hypercorn.protocol.h11:H11Protocol._check_protocol": "self event",
    "hypercorn.protocol.h11:H11Protocol._create_stream": "self request",
    "hypercorn.protocol.h11:H11Protocol._send_error_response": "self status_code",
    "hypercorn.protocol.h11:H11Protocol._send_h11_event": "self event",
    "hypercorn.protocol.h11:H11Protocol._maybe_recycle": "self",
    "hypercorn.protocol.h2:H2Protocol.__init__": f"self app config context task_group connection_state {ENDS}",
    "hypercorn.protocol.h2:H2Protocol._handle_events": "self events",
    "hypercorn.protocol.h2:H2Protocol._flush": "self",
    "hypercorn.protocol.h2:StreamBuffer.close": "self",
    "hypercorn.protocol.http_stream:HTTPStream.__init__": f"self app config context task_group {ENDS} stream_id",
    "hypercorn.protocol.events:Request.__init__": "self stream_id headers http_version method raw_path state",
    "hypercorn.trio.task_group:TaskGroup.spawn_app": "self app config scope send",
    "hypercorn.trio.worker_context:WorkerContext.__init__": "self max_requests",
    "hypercorn.app_wrappers:ASGIWrapper.__init__": "self app",
    "hypercorn.utils:parse_socket_addr": "family address",
    "hypercorn.config:Config.response_headers": "self protocol",
    "h11:Connection.next_event": "self",
    "quart_trio.asgi:TrioASGIHTTPConnection.__init__": "self app scope",
    "quart_trio.asgi:TrioASGIHTTPConnection._create_request_from_scope": "self send",
    "quart_trio.asgi:TrioASGIHTTPConnection._send_response": "self send response",
}


@pytest.mark.parametrize("name", LEANED_ON)
def test_what_we_lean_on_is_where_it_was(name: str) -> None:
    module, _, path = name.partition(":")
    found = import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    assert callable(found)
    assert " ".join(inspect.signature(found).parameters) == LEANED_ON[name], f"{name} takes other parameters now"


def test_numbers_we_set_in_hypercorns_configuration_have_not_been_renamed() -> None:
    config = import_module("hypercorn.config").Config
    names = (
        "accesslog",
        "errorlog",
        "include_server_header",
        "keep_alive_max_requests",
        "h2_max_header_list_size",
        "h11_max_incomplete_size",
        "max_app_queue_size",
    )
    assert [name for name in names if not hasattr(config, name)] == []
