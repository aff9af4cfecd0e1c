"""One batch on its way: posted whole, and split where the transfer finds fault with it.

transfer never says which records are bad: it counts them (`Invalid`), or refuses the whole POST (400). So the
halves are pushed, and their halves, until the bad ones are known, within a fixed number of pushes. Records
that were accepted before are sent again by that; graph drops them as duplicates.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from falcon_agent.transfer.batches import body_of, items_of
from falcon_agent.transfer.failure import Failure, Rejected, Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable

    from falcon_agent.transfer.batches import Batch
    from falcon_agent.transfer.reply import Reply

MAX_EXTRA_POSTS = 256
"""Pushes to search one batch: some twenty bad records among a thousand are found with it."""

EMPTY = b"[]"


class Post(Protocol):
    """Pushes a body; `client.Client.post` is one. Raises `Rejected` or `Unreachable`."""

    def __call__(self, body: bytes, /) -> Reply:
        """Push and return the reply."""


@dataclass(slots=True)
class _Part:
    """Records that are bad, hold bad ones, or were not pushed yet.

    Attributes:
        items: the records.
        taken: they were accepted, except for the invalid ones, which are counted already.
        invalid: how many are bad, or None if only a push can tell.
        rest: the other half, and how many are bad in both together; then this half tells about that one.
    """

    items: list[Any]
    taken: bool = False
    invalid: int | None = None
    rest: tuple[_Part, int] | None = None


@dataclass(slots=True)
class Delivery:
    """What became of a batch so far.

    Attributes:
        batch: the batch.
        left: records whose fate is open.
        sent: records that were accepted.
        invalid: records that the transfer refused, or that a search which ended too early left undelivered.
        bad: the refused ones, as far as the search found them, each with what was said against it.
        abandoned: those that the search left undelivered; good ones may be among them.
        replies: what was answered to pushes that count (not those of the search).
    """

    batch: Batch
    left: int = 0
    sent: int = 0
    invalid: int = 0
    bad: list[tuple[Any, str]] = field(default_factory=list)
    abandoned: list[Any] = field(default_factory=list)
    replies: list[Reply] = field(default_factory=list)
    _begun: bool = False
    _parts: list[_Part] = field(default_factory=list)
    _extra: int = MAX_EXTRA_POSTS

    def __post_init__(self) -> None:
        self.left = self.batch.count

    def is_of(self, batch: Batch) -> bool:
        """Whether this is the delivery of `batch`: a store on disk lends the same one as another object each time."""
        own = self.batch
        return own is batch or (
            own.timestamp == batch.timestamp and own.count == batch.count and own.body == batch.body
        )

    @property
    def done(self) -> bool:
        """Whether nothing more is to be done."""
        return self._begun and not self._parts

    def advance(self, post: Post) -> None:
        """Make the next push; call until `done`.

        Raises:
            Unreachable: nothing was learnt; what was delivered stays so, and a later call goes on from here.
            Rejected: the address or the credentials are wrong, so no record is to blame: the same.
        """
        if not self._begun:
            self._begin(post)
            return
        part = self._parts[-1]
        if part.invalid is None and self._extra <= 0:
            self._give_up()
        elif part.taken:
            self._parts.pop()
            self._search(part, post)
        else:
            self._deliver(part, post)

    def _begin(self, post: Post) -> None:
        try:
            reply = post(self.batch.body)
        except Rejected as error:
            if not error.body_at_fault:
                raise
            self._accuse(error, post)
            self._begun = True
            self._halve(_Part(items_of(self.batch.body)), error.said)
            return
        self._begun = True
        self._taken(reply, self.batch.count, lambda: items_of(self.batch.body))

    @staticmethod
    def _accuse(error: Rejected, post: Post) -> None:
        """Make sure that it is the records: an address that refuses an empty push as well is a wrong one.

        All three kinds of receiver take `[]`. Without this, a gateway that answers 400 to everything would
        have the agent throw away all that it measures.
        """
        try:
            post(EMPTY)
        except Rejected as empty:
            fact = f"it answered {error.said}, and to an empty push {empty.said} too"
            advice = empty.hint or "is this the address of a transfer?"
            raise Failure(error.reason, fact, advice).of(error.address) from None

    def _deliver(self, part: _Part, post: Post) -> None:
        """Push a half of a POST that was refused as a whole."""
        reply, said = None, ""
        try:
            reply = post(body_of(part.items))
        except Rejected as error:
            if not error.body_at_fault:
                raise
            said = error.said
        self._extra -= 1
        self._parts.pop()
        if reply is None:
            self._halve(part, said)
        else:
            self._taken(reply, len(part.items), lambda: part.items)

    def _taken(self, reply: Reply, count: int, items: Callable[[], list[Any]]) -> None:
        """`count` records are delivered, except for those that the reply says are invalid."""
        invalid = min(reply.invalid, count)
        self.replies.append(reply)
        self.sent += count - invalid
        self.invalid += invalid
        self.left -= count
        if invalid:
            self._narrow(_Part(items(), taken=True, invalid=invalid))

    def _search(self, part: _Part, post: Post) -> None:
        """Learn how many of a half are bad; its good ones were accepted before."""
        if part.invalid is None:
            self._extra -= 1
            try:
                part.invalid = post(body_of(part.items)).invalid
            except (Rejected, Unreachable):
                # All is delivered already: knowing the culprit is not worth holding up the queue.
                self._parts = [other for other in self._parts if not other.taken]
                return
        if part.rest is not None:
            rest, together = part.rest
            if 0 <= together - part.invalid <= len(rest.items):
                rest.invalid = together - part.invalid
        self._narrow(part)

    def _narrow(self, part: _Part) -> None:
        """Go on with a part whose number of bad records is known."""
        if not part.invalid:
            return
        if part.invalid >= len(part.items):
            self.bad += [(item, "it counted it as invalid") for item in part.items]
            return
        left, right = _halves(part.items)
        second = _Part(right, taken=True)
        first = _Part(left, taken=True, rest=(second, part.invalid))
        self._parts += (second, first)

    def _halve(self, part: _Part, said: str) -> None:
        """Go on with a part that was refused as a whole, with this answer."""
        if len(part.items) == 1:
            self.bad += [(item, f"it answered {said}") for item in part.items]
            self.invalid += 1
            self.left -= 1
            return
        left, right = _halves(part.items)
        self._parts += (_Part(right), _Part(left))

    def _give_up(self) -> None:
        """Too many are bad: what was not accepted by now is refused with them."""
        self.abandoned += [item for part in self._parts if not part.taken for item in part.items]
        self.invalid += self.left
        self.left = 0
        self._parts = []


def _halves(items: list[Any]) -> tuple[list[Any], list[Any]]:
    middle = len(items) // 2
    return items[:middle], items[middle:]
