"""What requests and answers consist of, against Amazon's own model: so new members are noticed."""

from __future__ import annotations

import types
from typing import Any, Union, get_args, get_origin, get_type_hints

import botocore.loaders
import msgspec
import pytest

from zapq.sqs import errors, model
from zapq.sqs.actions import ACTIONS
from zapq.sqs.errors import Kind

MODEL: dict[str, Any] = botocore.loaders.Loader().load_service_model("sqs", "service-2")
SHAPES: dict[str, Any] = MODEL["shapes"]
RESULTS = {
    "CreateQueue": model.QueueUrlResult,
    "GetQueueUrl": model.QueueUrlResult,
    "ListQueues": model.ListQueuesResult,
    "ListDeadLetterSourceQueues": model.ListDeadLetterSourceQueuesResult,
    "GetQueueAttributes": model.GetQueueAttributesResult,
    "ListQueueTags": model.ListQueueTagsResult,
    "SendMessage": model.SendMessageResult,
    "SendMessageBatch": model.SendMessageBatchResult,
    "ReceiveMessage": model.ReceiveMessageResult,
    "DeleteMessageBatch": model.BatchResult,
    "ChangeMessageVisibilityBatch": model.BatchResult,
    "StartMessageMoveTask": model.StartMessageMoveTaskResult,
    "CancelMessageMoveTask": model.CancelMessageMoveTaskResult,
    "ListMessageMoveTasks": model.ListMessageMoveTasksResult,
}
OLDER = {"QueueDoesNotExist": "NonExistentQueue", "QueueNameExists": "QueueAlreadyExists"}
KINDS = {"string": str, "integer": int, "long": int, "boolean": bool, "blob": bytes}


def bare(kind: Any) -> Any:
    if get_origin(kind) in {Union, types.UnionType}:
        return next(each for each in get_args(kind) if each is not type(None))
    return kind


def compare(name: str, kind: Any, at: str) -> None:
    """Compare what we have for a shape of Amazon's with it, and with all it consists of."""
    shape, kind = SHAPES[name], bare(kind)
    if shape["type"] == "structure":
        hints = get_type_hints(kind)
        fields = dict(zip(kind.__struct_encode_fields__, kind.__struct_fields__, strict=True))
        assert fields.keys() == shape["members"].keys(), at
        for member, about in shape["members"].items():
            compare(about["shape"], hints[fields[member]], f"{at}.{member}")
    elif shape["type"] == "list":
        assert get_origin(kind) is list, at
        compare(shape["member"]["shape"], get_args(kind)[0], f"{at}[]")
    elif shape["type"] == "map":
        assert get_origin(kind) is dict, at
        assert get_args(kind)[0] is str, at
        compare(shape["value"]["shape"], get_args(kind)[1], f"{at}{{}}")
    else:
        assert kind is KINDS[shape["type"]], at


def test_every_action_is_there_and_no_other() -> None:
    assert ACTIONS.keys() == MODEL["operations"].keys()


@pytest.mark.parametrize("name", MODEL["operations"])
def test_requests_and_answers_have_the_members_amazon_gives_them(name: str) -> None:
    operation, action = MODEL["operations"][name], ACTIONS[name]
    request: type[model.Request] = action.request
    compare(operation["input"]["shape"], request, name)
    names = dict(zip(request.__struct_fields__, request.__struct_encode_fields__, strict=True))
    assert [names[each] for each in request.required] == SHAPES[operation["input"]["shape"]].get("required", [])
    if "output" in operation:
        compare(operation["output"]["shape"], RESULTS[name], name)
    else:
        assert name not in RESULTS


def test_errors_have_the_names_amazon_gives_them() -> None:
    known = {each for each in vars(errors).values() if isinstance(each, Kind)}
    for kind in known:
        space, _, shape = kind.shape.partition("#")
        if space == "com.amazonaws.sqs":
            assert SHAPES[shape].get("exception"), shape
            # Amazon's model has the older names no longer; tests/sqs/test_errors.py says what recordings have.
            assert kind.code.rpartition(".")[2] == OLDER.get(shape, shape)
    assert msgspec.json.encode(model.NOTHING) == b"{}"
