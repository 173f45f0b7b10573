"""What the benchmark of SQS sends is what boto3 writes."""

from __future__ import annotations

from bench.sqs import Recorder, another, is_whole
from zapq.server.sqs_hot import cut


def test_a_request_of_boto3_is_repeated_as_boto3_would_write_it() -> None:
    recorder = Recorder()
    try:
        members = {"QueueUrl": "http://x/000000000000/jobs", "ReceiptHandle": "abc"}
        recorded = recorder.record("delete_message", members)
    finally:
        recorder.close()
    longer = {**members, "ReceiptHandle": "abcdef"}
    made = [another(recorded, longer, "127.0.0.1:1") for _ in range(2)]
    assert made[0] != made[1]
    heads = [each.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" for each in (recorded, *made)]
    for each in (recorded, *made):
        assert is_whole(each)
        assert not is_whole(each[:-1])
    # Cut free of what boto3 writes anew, all requests are the same except for the host.
    (first, length, _), *others = map(cut, heads)
    host = b"127.0.0.1:%d" % recorder.port
    assert {rest for rest, _, _ in others} == {first.replace(host, b"127.0.0.1:1")}
    assert {length + 3} == {each for _, each, _ in others}
    assert b"AmazonSQS.DeleteMessage" in first
    assert b"Signature" not in first
