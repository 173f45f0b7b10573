"""moto's own tests of SQS, by URL; those that contradict Amazon or reach into moto are left out by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.judges.judges import ACCOUNT, PROGRAMS, Judges, judged

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
PASSED = 132
BLANK = "makes queues with the attribute `VisibilityTimeout `, with a blank: Amazon knows none"
HANDLE = 'wants "The input receipt handle is invalid.": Amazon names the handle'
PER_ENTRY = "wants the whole batch to be refused: Amazon refuses the entry"
LEFT_OUT = {
    "test_change_message_visibility": BLANK,
    "test_change_message_visibility_on_unknown_receipt_handle": HANDLE,
    "test_create_fifo_queue_with_dlq": "makes a standard queue with FifoQueue `false`: Amazon refuses that",
    "test_create_queue_with_different_attributes_fail": "makes a queue with FifoQueue `tru`: Amazon refuses that",
    "test_create_queues_in_multiple_region": "wants queues for each region: zapq has the same in all",
    "test_delete_batch_operation": BLANK,
    "test_delete_message_after_visibility_timeout": BLANK,
    "test_delete_message_errors": HANDLE,
    "test_fifo_dedupe_error_no_message_dedupe_id_batch": PER_ENTRY,
    "test_get_queue_attributes": "compares the text of a RedrivePolicy, with blanks: Amazon writes none",
    "test_message_becomes_inflight_when_received": BLANK,
    "test_message_retention_period": "keeps messages for 1 second: Amazon wants 60 at least",
    "test_permissions": "wants a policy of the version 2012-10-17: those Amazon makes are of 2008-10-17",
    "test_purge_queue_twice_raises_purge_in_progress": "wants 60 s between two purges: zapq purges at once",
    "test_queue_length": BLANK,
    "test_receive_message_with_explicit_visibility_timeout": BLANK,
    "test_remove_permission_errors": "ends a message with `on existing policy`: Amazon does not",
    "test_send_messages_to_fifo_without_message_group_id": PER_ENTRY,
}


async def test_moto_passes_its_own_tests(judges: Judges, tmp_path: Path) -> None:
    # On moto's server, what URLs begin with is always this.
    async with judged(tmp_path, "--sqs-url", "http://localhost:5000") as zapq:
        verdict = await judges.tests(
            zapq,
            judges.source("moto"),
            tmp_path / "report.xml",
            "-p",
            "fresh_queues",
            # Some sleep for as long as a lease: on a busy machine they are late.
            "--reruns=2",
            "tests/test_sqs/test_sqs.py",
            "tests/test_sqs/test_sqs_message_attributes.py",
            environ={
                "PYTHONPATH": str(PROGRAMS),
                "TEST_SERVER_MODE": "true",
                "TEST_SERVER_MODE_ENDPOINT": zapq.url,
                "ACCOUNT": ACCOUNT,
            },
        )
    assert not verdict.differs(LEFT_OUT), verdict.differs(LEFT_OUT)
    assert len(verdict.passed) == PASSED, sorted(verdict.skipped)
