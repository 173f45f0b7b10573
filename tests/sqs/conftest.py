"""What the tests of SQS share."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.sqs.clients import Boto
from zapq.settings import Settings
from zapq.testing import ZapqServer


@pytest.fixture
def zapq_settings(zapq_settings: Settings) -> Settings:
    return replace(zapq_settings, max_message_bytes=1_048_576)


@pytest.fixture
async def boto(zapq_server: ZapqServer) -> Boto:
    return Boto(zapq_server.url)
