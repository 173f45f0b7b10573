"""The verbs of a client for threads. Made from `verbs.py` by `scripts/sync-verbs`: change it there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias, overload

from zapq.client.calls import Calls, Durability
from zapq.client.lease import Lease, Page, Redriven, Seen, Stored, StoredMany
from zapq.client.retry import Retry
from zapq.client.talk import Talk
from zapq.client.threads import run
from zapq.core.message import OCTETS, Draft, Message
from zapq.core.placed import Placed
from zapq.core.settlement import Settlement
from zapq.core.stats import State
from zapq.errors import ZapqError
from zapq.limits import MAX_BATCH, PEEK

# Under names of their own, for one of the verbs is called `list`.
Info: TypeAlias = "dict[str, Any]"
Infos: TypeAlias = "list[dict[str, Any]]"
Leases: TypeAlias = "list[Lease]"
Messages: TypeAlias = "list[Message]"
Results: TypeAlias = "list[ZapqError | None]"
Sight: TypeAlias = "list[Seen]"


class Verbs:
    """What a client can ask a server for."""

    def __init__(self, calls: Calls, talk: Talk) -> None:
        self._calls = calls
        self._talk = talk

    @property
    def retry(self) -> Retry:
        """How often and when a request is sent again."""
        return self._talk.retry

    def put(
        self,
        queue: str,
        body: bytes,
        *,
        priority: int = 0,
        delay: float = 0.0,
        ttl: float | None = None,
        content_type: str = OCTETS,
        headers: Mapping[str, str] | None = None,
        group: str | None = None,
        unique: str | None = None,
        on: Literal["keep", "replace"] = "keep",
        durability: Durability | None = None,
        wait: float = 0.0,
        key: str | None = None,
    ) -> Stored:
        """Store a message once and return its id, and what was done; the first message makes the queue.

        `priority` is 0 to 9, 9 first; it is ready after `delay` seconds, and gone after `ttl` seconds unless
        a consumer has it then. Consumers get its `headers` with each delivery: at most 16 and 8 KiB together,
        names without regard to case, values of visible ASCII. In a `group`, a key of 1 to 128 visible ASCII
        characters, it has no priority and waits until the group's earlier messages are done with. With a key
        `unique`, nothing is stored while a message with it is held: then `how` is `kept`, or with `on="replace"`
        `replaced`, and that has this one's body, headers, type and ttl. `durability="committed"` asks for an
        answer only when it is on the disk. It waits up to `wait` seconds (0 to 60) for room. `key` (by default a
        random one) makes it safe to send again: within 300 s the same message under the same key is stored once.
        Raises `MessageTooLarge`, `QueueFull`, `Draining`, `KeyReused`, `TooManyQueues`, `InvalidParameter`.
        """
        call = self._calls.put(
            queue,
            body,
            priority=priority,
            delay=delay,
            ttl=ttl,
            content_type=content_type,
            headers=headers,
            group=group,
            unique=unique,
            on=on,
            durability=durability,
            wait=wait,
            key=key,
        )
        return run(self._talk.do(call))

    def put_many(
        self,
        queue: str,
        messages: Sequence[bytes | Draft],
        *,
        headers: Mapping[str, str] | None = None,
        durability: Durability | None = None,
        wait: float = 0.0,
        key: str | None = None,
    ) -> StoredMany:
        """Store 1 to 1000 messages once, all or nothing, in order, and return their ids.

        A `zapq.Draft` brings its own priority, group, unique key, delay, ttl, type and headers; `headers` are of
        every message that brings none. Where messages have unique keys, ids need not follow each other, and `how`
        says what became of each. The rest is as for `put`, also what it raises.
        """
        call = self._calls.put_many(queue, messages, headers=headers, durability=durability, wait=wait, key=key)
        return run(self._talk.do(call))

    def enqueue(
        self,
        queue: str,
        body: bytes,
        *,
        priority: int = 0,
        delay: float = 0.0,
        ttl: float | None = None,
        content_type: str = OCTETS,
        headers: Mapping[str, str] | None = None,
        group: str | None = None,
        key: str | None = None,
    ) -> int:
        """Store a message once and return its id; `put` with fewer terms, and what it raises."""
        stored = self.put(
            queue,
            body,
            priority=priority,
            delay=delay,
            ttl=ttl,
            content_type=content_type,
            headers=headers,
            group=group,
            key=key,
        )
        return stored.id

    def enqueue_unique(
        self,
        queue: str,
        body: bytes,
        unique: str,
        *,
        on: Literal["keep", "replace"] = "keep",
        priority: int = 0,
        delay: float = 0.0,
        ttl: float | None = None,
        content_type: str = OCTETS,
        headers: Mapping[str, str] | None = None,
        group: str | None = None,
        key: str | None = None,
    ) -> Placed:
        """Store a message under the key `unique`, unless one with that is held; return its id, and what was done.

        `how` of the result says what was done. It is empty if the message was stored, and `kept` if one was held
        and nothing was stored. With `on="replace"` it is `replaced` if the one that was held has this one's
        body, headers, type and ttl now. The key is 1 to 128 visible ASCII characters, and free again when its
        message is gone. The rest is as for `put`, also what it raises.
        """
        stored = self.put(
            queue,
            body,
            priority=priority,
            delay=delay,
            ttl=ttl,
            content_type=content_type,
            headers=headers,
            group=group,
            unique=unique,
            on=on,
            key=key,
        )
        return Placed(stored.id, stored.how)

    def enqueue_many(
        self,
        queue: str,
        bodies: Sequence[bytes | Draft],
        *,
        headers: Mapping[str, str] | None = None,
        key: str | None = None,
    ) -> int:
        """Store 1 to 1000 messages once and return the first id; as `put_many`, with fewer terms."""
        stored = self.put_many(queue, bodies, headers=headers, key=key)
        return stored.ids[0]

    def dequeue(self, queue: str, *, wait: float = 0.0) -> Message | None:
        """Remove and return the first message, waiting up to `wait` seconds (0 to 60) for one; None if none came.

        At most once: it is lost if its answer does not arrive, so this is not tried again once the server may have
        acted: then it raises `NoAnswer`. Raises `QueueNotFound`, `TooManyWaiters`, `Draining`.
        """
        return run(self._talk.do(self._calls.dequeue(queue, wait=wait)))

    def dequeue_many(self, queue: str, limit: int = MAX_BATCH, *, wait: float = 0.0) -> Messages:
        """Remove and return the first messages, at most `limit` (1 to 1000) and 8 MiB, as `dequeue` does."""
        return run(self._talk.do(self._calls.dequeue_many(queue, limit, wait=wait)))

    def receive(self, queue: str, *, wait: float = 0.0, visibility: float | None = None) -> Lease | None:
        """Lease the first message, waiting up to `wait` seconds (0 to 60) for one; None if none came.

        At least once: it comes back after `visibility` seconds (0 to 43200; by default as the queue is set) unless
        it is acknowledged by then. So does a message whose answer did not arrive, with a higher count. Raises
        `QueueNotFound`, `TooManyWaiters`, `Draining`.
        """
        return run(self._talk.do(self._calls.receive(queue, wait=wait, visibility=visibility)))

    def receive_many(
        self, queue: str, limit: int = MAX_BATCH, *, wait: float = 0.0, visibility: float | None = None
    ) -> Leases:
        """Lease the first messages, at most `limit` (1 to 1000) and 8 MiB, as `receive` does."""
        return run(self._talk.do(self._calls.receive_many(queue, limit, wait=wait, visibility=visibility)))

    def ack(self, lease: Lease) -> None:
        """Acknowledge a leased message: it is removed for good. Repeating it is harmless.

        So is doing it late: after the lease has expired, as long as the message was not given out again. Raises
        `ReceiptExpired` if it was, or if it was released.
        """
        run(self._talk.do(self._calls.ack(lease)))

    def release(self, lease: Lease, *, delay: float = 0.0) -> None:
        """Give a leased message back, at its original place, at once or after `delay` seconds (up to a year).

        Raises `ReceiptExpired` if the lease is over, also because an earlier attempt worked without an answer.
        """
        run(self._talk.do(self._calls.release(lease, delay=delay)))

    def extend(self, lease: Lease, *, visibility: float | None = None) -> None:
        """Let a lease last until `visibility` seconds from now (by default for as long as it was given).

        Raises `ReceiptExpired` if it is over.
        """
        run(self._talk.do(self._calls.extend(lease, visibility=visibility)))

    def settle(self, queue: str, settlements: Sequence[Settlement]) -> Results:
        """Acknowledge, release and extend in one step, 1 to 1000 at once; for each, None or why it was refused.

        Raises `QueueNotFound`, `InvalidParameter`.
        """
        return run(self._talk.do(self._calls.settle(queue, settlements)))

    def peek(self, queue: str, state: State = "ready", limit: int = PEEK) -> Sight:
        """Return the first messages in a state, at most `limit` (1 to 1000) and 8 MiB, without touching them.

        Raises `QueueNotFound`.
        """
        return run(self._talk.do(self._calls.peek(queue, state, limit)))

    def find(self, queue: str, id: int) -> Seen:
        """Return a message that the queue holds. Raises `QueueNotFound`, `MessageNotFound`."""
        return run(self._talk.do(self._calls.find(queue, id)))

    def describe(self, queue: str) -> dict[str, Any]:
        """Return the settings and statistics of a queue, as `GET /queues/NAME` tells them.

        Raises `QueueNotFound`.
        """
        return run(self._talk.do(self._calls.describe(queue)))

    def list(
        self, *, prefix: str = "", queue: str = "*", sort: str = "", limit: int | None = None, after: str = ""
    ) -> Page:
        """Return the settings and statistics of queues, as `GET /queues` tells them: of all, or a page of them.

        Of those whose names begin with `prefix` and fit the pattern `queue`. `sort` is `name`, `messages`,
        `bytes`, `ready`, `delayed`, `leased`, `waiting`, `age`, or `-ready` for the other way round. With `sort`
        or a `limit` (1 to 1000) the result has the `total`, and in `next` the value to give as `after` for the
        next page. Raises `InvalidParameter`.
        """
        return run(self._talk.do(self._calls.list_(prefix, queue, sort, limit, after)))

    def list_all(self, *, prefix: str = "", queue: str = "*", sort: str = "name") -> Iterator[Info]:
        """Go through the queues that `list` returns, page by page: none that keeps its place is left out."""
        page = self.list(prefix=prefix, queue=queue, sort=sort, limit=MAX_BATCH)
        while True:
            yield from page
            if not page.next:
                return
            page = self.list(prefix=prefix, queue=queue, sort=sort, limit=MAX_BATCH, after=page.next)

    @overload
    def stats(self) -> Infos: ...

    @overload
    def stats(self, queue: str) -> dict[str, Any]: ...

    def stats(self, queue: str | None = None) -> Infos | dict[str, Any]:
        """Return what `describe` does, or without a name what `list` does."""
        return self.list() if queue is None else self.describe(queue)

    def configure(self, queue: str, settings: Mapping[str, object]) -> dict[str, Any]:
        """Set a queue, which is made if it is not there, and return what `describe` does.

        Settings that are not named get their defaults. Raises `InvalidParameter`, `TooManyQueues`.
        """
        return run(self._talk.do(self._calls.configure(queue, settings)))

    def change_settings(self, queue: str, changes: Mapping[str, object]) -> dict[str, Any]:
        """Change those settings of a queue that are named, None to the default, and return what `describe` does.

        Raises `QueueNotFound`, `InvalidParameter`.
        """
        return run(self._talk.do(self._calls.change_settings(queue, changes)))

    def delete(self, queue: str) -> None:
        """Remove a queue and its messages.

        Raises `QueueInUse`, and `QueueNotFound`, also because an earlier attempt worked without an answer.
        """
        run(self._talk.do(self._calls.delete(queue)))

    def purge(self, queue: str) -> int:
        """Drop all messages of a queue, and return how many. Raises `QueueNotFound`."""
        return run(self._talk.do(self._calls.purge(queue)))

    def pause(self, queue: str) -> None:
        """Give consumers of a queue nothing until `resume`. Raises `QueueNotFound`."""
        run(self._talk.do(self._calls.pause(queue)))

    def resume(self, queue: str) -> None:
        """Give messages of a queue again. Raises `QueueNotFound`."""
        run(self._talk.do(self._calls.resume(queue)))

    def redrive(self, queue: str, limit: int = MAX_BATCH) -> Redriven:
        """Send dead letters back to the queues they failed in, at most `limit` (1 to 1000).

        Not tried again once the server may have acted: then it raises `NoAnswer`. Raises `QueueNotFound`.
        """
        return run(self._talk.do(self._calls.redrive(queue, limit)))

    def redrive_message(self, queue: str, id: int) -> Redriven:
        """Send one dead letter back to the queue it failed in.

        Raises `QueueNotFound`, and `MessageNotFound`, also because an earlier attempt worked without an answer.
        """
        return run(self._talk.do(self._calls.redrive_message(queue, id)))

    def delete_message(self, queue: str, id: int) -> None:
        """Remove one message that the queue holds.

        Raises `QueueNotFound`, and `MessageNotFound`, also because an earlier attempt worked without an answer.
        """
        run(self._talk.do(self._calls.delete_message(queue, id)))

    def history(self, queue: str = "*") -> dict[str, Any]:
        """Return what queues held and did in the last minutes, as `GET /stats/history` tells it.

        `queue` is a name or a pattern, or several with commas between them.
        """
        return run(self._talk.do(self._calls.history(queue)))

    def refusals(self, limit: int | None = None) -> Infos:
        """Return what the server refused last, `limit` (1 to 100) requests at most, as `GET /refusals` does."""
        return run(self._talk.do(self._calls.refusals(limit)))

    def whoami(self) -> dict[str, Any]:
        """Return what the client's credential allows, as `GET /whoami` tells it."""
        return run(self._talk.do(self._calls.whoami()))

    def drain(self) -> None:
        """Have the server take nothing new, and give what it holds, until it is started again."""
        run(self._talk.do(self._calls.drain()))

    def ready(self) -> None:
        """Return if the server takes messages; raises `Draining`, `Unreachable` and others if it does not."""
        run(self._talk.do(self._calls.ready()))

    def metrics(self, queue: str | None = None) -> dict[str, int | float | str]:
        """Return the server's metrics by name, or those of one queue, as `GET /metrics` tells them."""
        return run(self._talk.do(self._calls.metrics(queue)))

    def snapshots(self) -> Infos:
        """Return the snapshots in the server's data directory, as `GET /snapshots` tells them."""
        return run(self._talk.do(self._calls.snapshots()))

    def save_snapshot(self, name: str) -> None:
        """Save the queues to a file of that name, `NAME.msgpack` or `NAME.json`. Raises `SnapshotFailed`."""
        run(self._talk.do(self._calls.save_snapshot(name)))

    def load_snapshot(self, name: str) -> None:
        """Have the queues as a snapshot has them; what they hold is lost.

        Not tried again once the server may have acted: then it raises `NoAnswer`. Raises `SnapshotNotFound`,
        `SnapshotFailed`.
        """
        run(self._talk.do(self._calls.load_snapshot(name)))
