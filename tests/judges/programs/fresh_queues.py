"""A plugin for moto's tests by URL: each begins without queues, as on moto's server, and knows its account."""

from __future__ import annotations

import os
from typing import Any

import boto3
import pytest

# moto's tests replace what makes clients.
SQS = boto3.client("sqs", endpoint_url=os.environ["TEST_SERVER_MODE_ENDPOINT"])


@pytest.fixture(autouse=True)
def no_queues() -> None:
    """Delete all queues."""
    for page in SQS.get_paginator("list_queues").paginate(PaginationConfig={"PageSize": 1000}):
        for url in page.get("QueueUrls", []):
            SQS.delete_queue(QueueUrl=url)


def pytest_fixture_setup(fixturedef: Any, request: pytest.FixtureRequest) -> str | None:
    """Say what the account is: moto's fixture asks STS, which zapq is not."""
    if fixturedef.argname != "account_id":
        return None
    account = os.environ["ACCOUNT"]
    fixturedef.cached_result = (account, fixturedef.cache_key(request), None)
    return account
