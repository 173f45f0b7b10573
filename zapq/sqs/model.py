"""What SQS requests and answers consist of: a struct for each, with the names they have on the wire.

A test compares them with Amazon's own model. Whether a member is there is for the actions to say, in the words of
SQS; so here every member may be missing. What is empty in an answer is left out: some SDKs stumble over `[]`.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec


class Shape(msgspec.Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """Anything that travels."""


class Attribute(Shape, frozen=True, kw_only=True):
    """The value of one attribute of a message."""

    data_type: str = ""
    string_value: str | None = None
    binary_value: bytes | None = None
    string_list_values: list[str] = []
    """Reserved by Amazon, as the next."""
    binary_list_values: list[bytes] = []


Attributes = dict[str, Attribute]


class Request(Shape, frozen=True, kw_only=True):
    """Any request; unknown members are ignored, as newer SDKs may send some."""

    required: ClassVar[tuple[str, ...]] = ()
    """Members that must be there, in the order in which they are missed."""


class OfQueue(Request, frozen=True, kw_only=True):
    """A request about one queue."""

    required: ClassVar[tuple[str, ...]] = ("queue_url",)
    queue_url: str | None = None


class AddPermission(OfQueue, frozen=True, kw_only=True):
    """Let other accounts use a queue."""

    required: ClassVar[tuple[str, ...]] = ("queue_url", "label", "aws_account_ids", "actions")
    label: str | None = None
    aws_account_ids: list[str] | None = msgspec.field(default=None, name="AWSAccountIds")
    actions: list[str] | None = None


class RemovePermission(OfQueue, frozen=True, kw_only=True):
    """Let them use it no longer."""

    required: ClassVar[tuple[str, ...]] = ("queue_url", "label")
    label: str | None = None


class CreateQueue(Request, frozen=True, kw_only=True):
    """Make a queue, or find that there is one like it."""

    required: ClassVar[tuple[str, ...]] = ("queue_name",)
    queue_name: str | None = None
    attributes: dict[str, str] | None = None
    tags: dict[str, str] | None = msgspec.field(default=None, name="tags")


class GetQueueUrl(Request, frozen=True, kw_only=True):
    """Find a queue by its name."""

    required: ClassVar[tuple[str, ...]] = ("queue_name",)
    queue_name: str | None = None
    queue_owner_aws_account_id: str | None = msgspec.field(default=None, name="QueueOwnerAWSAccountId")


class ListQueues(Request, frozen=True, kw_only=True):
    """List queues, page by page."""

    queue_name_prefix: str | None = None
    next_token: str | None = None
    max_results: int | None = None


class ListDeadLetterSourceQueues(OfQueue, frozen=True, kw_only=True):
    """List the queues whose dead letters go to this one."""

    next_token: str | None = None
    max_results: int | None = None


class DeleteQueue(OfQueue, frozen=True, kw_only=True):
    """Remove a queue with all it holds."""


class PurgeQueue(OfQueue, frozen=True, kw_only=True):
    """Drop every message."""


class GetQueueAttributes(OfQueue, frozen=True, kw_only=True):
    """Show what is set, and what is held."""

    attribute_names: list[str] | None = None


class SetQueueAttributes(OfQueue, frozen=True, kw_only=True):
    """Change what is set."""

    required: ClassVar[tuple[str, ...]] = ("queue_url", "attributes")
    attributes: dict[str, str] | None = None


class ListQueueTags(OfQueue, frozen=True, kw_only=True):
    """Show the tags."""


class TagQueue(OfQueue, frozen=True, kw_only=True):
    """Add tags."""

    required: ClassVar[tuple[str, ...]] = ("queue_url", "tags")
    tags: dict[str, str] | None = None


class UntagQueue(OfQueue, frozen=True, kw_only=True):
    """Remove tags."""

    required: ClassVar[tuple[str, ...]] = ("queue_url", "tag_keys")
    tag_keys: list[str] | None = None


class Sending(Request, frozen=True, kw_only=True):
    """A message to be sent."""

    message_body: str | None = None
    delay_seconds: int | None = None
    message_attributes: Attributes | None = None
    message_system_attributes: Attributes | None = None
    message_deduplication_id: str | None = None
    message_group_id: str | None = None


class SendMessage(Sending, frozen=True, kw_only=True):
    """Send one message."""

    required: ClassVar[tuple[str, ...]] = ("queue_url", "message_body")
    queue_url: str | None = None


class SendMessageBatchEntry(Sending, frozen=True, kw_only=True):
    """One of several messages."""

    id: str | None = None


class SendMessageBatch(OfQueue, frozen=True, kw_only=True):
    """Send up to ten."""

    required: ClassVar[tuple[str, ...]] = ("queue_url", "entries")
    entries: list[SendMessageBatchEntry] | None = None


class ReceiveMessage(OfQueue, frozen=True, kw_only=True):
    """Lease up to ten messages."""

    attribute_names: list[str] | None = None
    message_system_attribute_names: list[str] | None = None
    message_attribute_names: list[str] | None = None
    max_number_of_messages: int | None = None
    visibility_timeout: int | None = None
    wait_time_seconds: int | None = None
    receive_request_attempt_id: str | None = None


class DeleteMessage(OfQueue, frozen=True, kw_only=True):
    """Acknowledge one message."""

    required: ClassVar[tuple[str, ...]] = ("queue_url", "receipt_handle")
    receipt_handle: str | None = None


class DeleteMessageBatchEntry(Shape, frozen=True, kw_only=True):
    """One of several receipts."""

    id: str | None = None
    receipt_handle: str | None = None


class DeleteMessageBatch(OfQueue, frozen=True, kw_only=True):
    """Acknowledge up to ten."""

    required: ClassVar[tuple[str, ...]] = ("queue_url", "entries")
    entries: list[DeleteMessageBatchEntry] | None = None


class ChangeMessageVisibility(OfQueue, frozen=True, kw_only=True):
    """Let a lease end earlier or later."""

    required: ClassVar[tuple[str, ...]] = ("queue_url", "receipt_handle", "visibility_timeout")
    receipt_handle: str | None = None
    visibility_timeout: int | None = None


class ChangeMessageVisibilityBatchEntry(Shape, frozen=True, kw_only=True):
    """One of several leases."""

    id: str | None = None
    receipt_handle: str | None = None
    visibility_timeout: int | None = None


class ChangeMessageVisibilityBatch(OfQueue, frozen=True, kw_only=True):
    """Do that to up to ten."""

    required: ClassVar[tuple[str, ...]] = ("queue_url", "entries")
    entries: list[ChangeMessageVisibilityBatchEntry] | None = None


class StartMessageMoveTask(Request, frozen=True, kw_only=True):
    """Move dead letters away from their queue."""

    required: ClassVar[tuple[str, ...]] = ("source_arn",)
    source_arn: str | None = None
    destination_arn: str | None = None
    max_number_of_messages_per_second: int | None = None


class ListMessageMoveTasks(Request, frozen=True, kw_only=True):
    """Show the last of those tasks."""

    required: ClassVar[tuple[str, ...]] = ("source_arn",)
    source_arn: str | None = None
    max_results: int | None = None


class CancelMessageMoveTask(Request, frozen=True, kw_only=True):
    """Stop one of them."""

    required: ClassVar[tuple[str, ...]] = ("task_handle",)
    task_handle: str | None = None


class Result(Shape, frozen=True, kw_only=True):
    """Any answer; this one says nothing."""


NOTHING = Result()


class QueueUrlResult(Result, frozen=True, kw_only=True):
    """One queue."""

    queue_url: str


class ListQueuesResult(Result, frozen=True, kw_only=True):
    """Some queues, and where to go on."""

    queue_urls: list[str] = []
    next_token: str | None = None


class ListDeadLetterSourceQueuesResult(Result, frozen=True, kw_only=True):
    """Some queues, and where to go on; the first letter is small in Amazon's model as well."""

    queue_urls: list[str] = msgspec.field(default_factory=list, name="queueUrls")
    next_token: str | None = None


class GetQueueAttributesResult(Result, frozen=True, kw_only=True):
    """Attributes of a queue."""

    attributes: dict[str, str] = {}


class ListQueueTagsResult(Result, frozen=True, kw_only=True):
    """Tags of a queue."""

    tags: dict[str, str] = {}


class SendMessageResult(Result, frozen=True, kw_only=True):
    """A message that was sent."""

    md5_of_message_body: str = msgspec.field(name="MD5OfMessageBody")
    md5_of_message_attributes: str | None = msgspec.field(default=None, name="MD5OfMessageAttributes")
    md5_of_message_system_attributes: str | None = msgspec.field(default=None, name="MD5OfMessageSystemAttributes")
    message_id: str
    sequence_number: str | None = None


class SendMessageBatchResultEntry(SendMessageResult, frozen=True, kw_only=True):
    """One of several."""

    id: str


class Done(Result, frozen=True, kw_only=True):
    """An entry of a batch of which nothing more is to be said."""

    id: str


class Failure(Result, frozen=True, kw_only=True):
    """An entry of a batch that was refused."""

    id: str
    sender_fault: bool
    code: str
    message: str


class SendMessageBatchResult(Result, frozen=True, kw_only=True):
    """What became of each entry."""

    successful: list[SendMessageBatchResultEntry] = []
    failed: list[Failure] = []


class BatchResult(Result, frozen=True, kw_only=True):
    """What became of each entry of another batch."""

    successful: list[Done] = []
    failed: list[Failure] = []


class Message(Shape, frozen=True, kw_only=True):
    """One delivery."""

    message_id: str
    receipt_handle: str
    md5_of_body: str = msgspec.field(name="MD5OfBody")
    body: str
    attributes: dict[str, str] = {}
    md5_of_message_attributes: str | None = msgspec.field(default=None, name="MD5OfMessageAttributes")
    message_attributes: Attributes = {}


class ReceiveMessageResult(Result, frozen=True, kw_only=True):
    """Messages."""

    messages: list[Message] = []


class StartMessageMoveTaskResult(Result, frozen=True, kw_only=True):
    """A task that has begun."""

    task_handle: str


class CancelMessageMoveTaskResult(Result, frozen=True, kw_only=True):
    """A task that was stopped; a number that is 0 is said as well."""

    approximate_number_of_messages_moved: int


class MoveTask(Result, frozen=True, kw_only=True):
    """One task."""

    task_handle: str | None = None
    status: str
    source_arn: str
    destination_arn: str | None = None
    max_number_of_messages_per_second: int | None = None
    approximate_number_of_messages_moved: int
    approximate_number_of_messages_to_move: int | None = None
    failure_reason: str | None = None
    started_timestamp: int


class ListMessageMoveTasksResult(Result, frozen=True, kw_only=True):
    """Tasks, the newest first."""

    results: list[MoveTask] = []
