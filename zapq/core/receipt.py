"""What a receipt says: which queue of which run gave it, and the number of the delivery."""

from __future__ import annotations

import re

from zapq.errors import InvalidParameter, ReceiptExpired

_RECEIPT = re.compile(r"[0-9a-f]+-[0-9a-f]+-[0-9a-f]{1,16}")


def serial_of(receipt: str, tag: str) -> int:
    """Return the serial of the delivery that `receipt` is of, if the queue with `tag` gave it.

    Raises `InvalidParameter` for what is no receipt, and `ReceiptExpired` for one of another queue or run.
    """
    mine, _, number = receipt.rpartition("-")
    if mine == tag and len(number) <= 16:
        try:
            serial = int(number, 16)
        except ValueError:
            serial = -1
        # `int` takes other spellings as well.
        if f"{serial:x}" == number:
            return serial
    raise not_given(receipt)


def not_given(receipt: str) -> InvalidParameter | ReceiptExpired:
    """Return what refuses `receipt`, which the queue has not given: it is none, or one of another queue or run."""
    if not _RECEIPT.fullmatch(receipt):
        return InvalidParameter("The receipt is not valid. Send it as zapq gave it.", parameter="receipt")
    return ReceiptExpired(
        "The receipt is from another queue, or from before the server restarted. Nothing was changed; receive"
        " the message again.",
        parameter="receipt",
    )
