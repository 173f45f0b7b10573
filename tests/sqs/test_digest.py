"""The sums by which SDKs check what they get, where Amazon's are known."""

from __future__ import annotations

from hashlib import md5

from zapq.sqs import digest
from zapq.sqs.model import Attribute


def test_the_sum_of_a_body_is_that_of_its_bytes() -> None:
    assert digest.of_body(b"hello") == "5d41402abc4b2a76b9719d911017c592"


def test_the_sum_of_attributes_is_amazons() -> None:
    number = {"timestamp": Attribute(data_type="Number", string_value="1493147359900")}
    assert digest.of_attributes(number) == "235c5c510d26fb653d073faed50ae77c"


def test_it_depends_on_names_types_with_their_suffixes_and_values_but_not_on_the_order() -> None:
    first = {
        "b": Attribute(data_type="Binary.png", binary_value=b"\0\1"),
        "a": Attribute(data_type="String", string_value="é"),
    }
    expected = md5(
        b"\0\0\0\1a\0\0\0\6String\1\0\0\0\2\xc3\xa9\0\0\0\1b\0\0\0\x0aBinary.png\2\0\0\0\2\0\1"
    ).hexdigest()
    assert digest.of_attributes(first) == digest.of_attributes(dict(reversed(first.items()))) == expected
    assert digest.of_attributes({}) is None
