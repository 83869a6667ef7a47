"""Who was forgotten: what a reader of history must leave out.

    events         a  b  a  forget(a)  a  b
    marker               up to here ^
    what is read      b                a  b

Kafka cannot delete single records of a topic that is not compacted, so their bytes stay until retention takes them. The
markers on `forgotten` keep everybody from using them: nothing of such a user is rebuilt, or compared, or learnt from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from stream.errors import PolytempoError
from stream.kafka.topics import TopicNames
from stream.replay.topics import TopicReader
from stream.replay.views import ForwardReading
from stream.wire.messages import Receipt, Source
from stream.wire.reasons import Record
from stream.wire.userkeys import KEYS_VARIABLE, UserKeys

__all__ = ["Forgotten", "Redacted", "read_forgotten"]

_read: Final = msgspec.json.Decoder(Receipt).decode


class Forgotten:
    """The markers of a deployment.

    Args:
        receipts: what `forgotten` holds, in its order.
        keys: the secrets of the pseudonyms.

    Raises:
        PolytempoError: a marker was made with a secret that is not among `keys`, so that nobody can tell whom it means.
    """

    def __init__(self, receipts: Iterable[Receipt] = (), keys: UserKeys | None = None) -> None:
        self._keys: Final = UserKeys() if keys is None else keys
        self._marks: dict[str, dict[bytes, dict[tuple[str, int], int]]] = {}
        self._asked_ms: dict[tuple[str, bytes], int] = {}
        self._known: dict[bytes, dict[tuple[str, int], int]] = {}
        for receipt in receipts:
            if receipt.key_id not in self._keys.names:
                raise PolytempoError(
                    f"users were forgotten under the key {receipt.key_id!r}, which is not known here.",
                    f"Set {KEYS_VARIABLE} or {KEYS_VARIABLE}_FILE as the workers have it.",
                )
            whom = (receipt.key_id, bytes.fromhex(receipt.user))
            self._asked_ms[whom] = max(self._asked_ms.get(whom, -1), receipt.ts_ms)
            ends = self._marks.setdefault(receipt.key_id, {}).setdefault(bytes.fromhex(receipt.user), {})
            place = (receipt.source.topic, receipt.source.partition)
            ends[place] = max(ends.get(place, -1), receipt.source.offset)

    def __len__(self) -> int:
        return sum(map(len, self._marks.values()))

    @property
    def digest(self) -> str:
        """Changes with every marker, so that what was read before it can be told from what is read now."""
        marks = sorted(
            (name, user, place, end)
            for name, users in self._marks.items()
            for user, ends in users.items()
            for place, end in ends.items()
        )
        return hashlib.sha256(repr(marks).encode()).hexdigest()

    def covers(self, user: bytes | None, topic: str, partition: int, offset: int) -> bool:
        """Whether what the record of this user (the id as UTF-8) caused, and itself, may not be used."""
        if not self._marks or user is None:
            return False
        ends = self._known.get(user)
        if ends is None:
            ends = self._known[user] = self._ends(user)
        return offset <= ends.get((topic, partition), -1)

    def covers_source(self, user_id: str, source: Source) -> bool:
        """The same for something that names the record that caused it."""
        return self.covers(user_id.encode(), source.topic, source.partition, source.offset)

    def covers_time(self, user_id: str, ts_ms: int) -> bool:
        """Whether something that began at this time, and names no record, was of a user who was forgotten later."""
        return self._marks != {} and any(
            ts_ms <= self._asked_ms.get((name, self._keys.pseudonym(user_id.encode(), name)), -1)
            for name in self._marks
        )

    def kept(self, topic: str, partition: int, records: Sequence[Record]) -> list[Record]:
        """Those records of the events topic that may be used."""
        if not self._marks:
            return list(records)
        return [each for each in records if not self.covers(each.key, topic, partition, each.offset)]

    def _ends(self, user: bytes) -> dict[tuple[str, int], int]:
        ends: dict[tuple[str, int], int] = {}
        for name, marks in self._marks.items():
            for place, offset in marks.get(self._keys.pseudonym(user, name), {}).items():
                ends[place] = max(ends.get(place, -1), offset)
        return ends


class Redacted:
    """A partition of the events topic that is read forwards, without what may not be used."""

    def __init__(self, events: ForwardReading, topic: str, partition: int, forgotten: Forgotten) -> None:
        self._events = events
        self._place = (topic, partition)
        self._forgotten = forgotten

    @property
    def begin(self) -> int:
        """The first offset that is still there."""
        return self._events.begin

    def up_to(self, offset: int) -> list[Record]:
        """The records not given yet, up to `offset`, itself included."""
        return self._forgotten.kept(*self._place, self._events.up_to(offset))

    def close(self) -> None:
        """Leave."""
        self._events.close()


def read_forgotten(reader: TopicReader, names: TopicNames, keys: UserKeys | None = None) -> Forgotten:
    """The markers of a deployment as of now; none where it has no such topic yet.

    Args:
        keys: the secrets of the pseudonyms; those of the environment unless given.

    Raises:
        PolytempoError: Kafka does not answer, or a secret is missing.
    """
    if not reader.has(names.forgotten):
        return Forgotten()
    receipts = [
        _read(record.value)
        for _, records in reader.read(names.forgotten, reader.bounds(names.forgotten))
        for record in records
        if record.value is not None
    ]
    return Forgotten(receipts, UserKeys.read() if keys is None else keys)
