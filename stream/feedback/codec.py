"""Records of the two topics -> what the joiner reads, and what it tells -> records of `feedback`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Any, Final

import msgspec

from stream.core.identity import rec_id
from stream.feedback.joiner import Checkpoint, Happened, Joined, JoinRules, Recommended, Resume, Tally, Told, TotalKey
from stream.wire.careful import check_event, usable_value
from stream.wire.limits import Limits
from stream.wire.messages import Event, FeedbackTotals, Outcome, Recommendation, Source, UserSpan
from stream.wire.reasons import Malformed, Record

__all__ = ["FeedbackCodec", "FeedbackMessage", "decode_feedback", "decode_resume", "encode_resume"]

FeedbackMessage = Outcome | UserSpan | FeedbackTotals

_encode: Final = msgspec.json.Encoder().encode
_read_event: Final = msgspec.json.Decoder(Event).decode
_read_recommendation: Final = msgspec.json.Decoder(Recommendation).decode
_read_feedback: Final = msgspec.json.Decoder(FeedbackMessage).decode

KeyAndValue = tuple[bytes, bytes]


class FeedbackCodec:
    """Reads and writes for one partition.

    Args:
        topic: full name of the events topic.
        partition: its partition.
        rules: what counts; an event of another type is none to the joiner.
        limits: what the worker refuses.
    """

    def __init__(self, topic: str, partition: int, rules: JoinRules, limits: Limits | None = None) -> None:
        self._topic: Final = topic
        self._partition: Final = partition
        self._rules: Final = rules
        self._types: Final = rules.outcomes | {rules.impression}
        self._limits: Final = Limits() if limits is None else limits

    def events(self, records: Iterable[Record]) -> list[tuple[int, Happened | None]]:
        """Offset and event of each record; None for what is refused, and for types that do not matter."""
        return [(record.offset, self._event(record)) for record in records]

    def recommendations(self, records: Iterable[Record]) -> list[tuple[int, Recommended | None]]:
        """Offset and content of each record; None for what is no answer to this partition of the events topic."""
        return [(record.offset, self._recommendation(record)) for record in records]

    def told(self, told: Sequence[Joined | Told]) -> list[KeyAndValue]:
        """Key and value of the records that say so."""
        return [self._outcome(each) if isinstance(each, Joined) else self._user(each) for each in told]

    def totals(self, totals: dict[TotalKey, tuple[Tally, bool]]) -> list[KeyAndValue]:
        """Key and value of the records that say so."""
        return [
            (
                f"{self._partition} {key.start_ms} {key.model} {key.variant}".encode(),
                _encode(
                    FeedbackTotals(
                        partition=self._partition,
                        is_over=is_over,
                        **self._counts(key.start_ms, key.model, key.variant, tally),
                    )
                ),
            )
            for key, (tally, is_over) in totals.items()
        ]

    def _event(self, record: Record) -> Happened | None:
        try:
            event = _read_event(usable_value(record.value, self._limits))
            if event.event_type not in self._types:
                return None
            check_event(event, record, self._types, self._limits)
        except (Malformed, msgspec.MsgspecError, RecursionError):
            return None
        named = event.context.get("rec_id") if event.context else None
        return Happened(
            record.offset,
            event.user_id,
            event.item_id or "",
            event.event_type,
            event.ts_ms,
            event.event_id or None,
            named if isinstance(named, str) else None,
            event.value,
        )

    def _recommendation(self, record: Record) -> Recommended | None:
        try:
            found = _read_recommendation(record.value or b"")
        except (msgspec.MsgspecError, RecursionError):
            return None
        if found.source.topic != self._topic or found.source.partition != self._partition:
            return None
        return Recommended(
            record.offset,
            found.source.offset,
            found.rec_id,
            found.user_id,
            found.ts_ms,
            tuple(item.item_id for item in found.items),
            found.model,
            found.variant,
        )

    def _outcome(self, joined: Joined) -> KeyAndValue:
        event = joined.event
        message = Outcome(
            feedback_id=rec_id(self._topic, self._partition, event.offset),
            rec_id=joined.rec_id,
            user_id=event.user_id,
            item_id=event.item_id,
            event_type=event.event_type,
            ts_ms=event.ts_ms,
            value=event.value,
            recommended_ms=joined.recommended_ms,
            position=joined.position,
            model=joined.model,
            variant=joined.variant,
            by=joined.by,
            source=Source(self._topic, self._partition, event.offset),
        )
        return event.user_id.encode(), _encode(message)

    def _user(self, told: Told) -> KeyAndValue:
        key = told.key
        text = f"{self._topic}\n{key.user_id}\n{key.start_ms}\n{key.model}\n{key.variant}"
        message = UserSpan(
            feedback_id=blake2b(text.encode(), digest_size=16).hexdigest(),
            user_id=key.user_id,
            **self._counts(key.start_ms, key.model, key.variant, told.tally),
        )
        return key.user_id.encode(), _encode(message)

    def _counts(self, start_ms: int, model: str, variant: str, tally: Tally) -> dict[str, Any]:
        return {
            "from_ms": start_ms,
            "to_ms": start_ms + self._rules.span_ms,
            "model": model,
            "variant": variant,
            "n_recommendations": tally.n_recommendations,
            "n_hits": tally.n_hits,
            "n_outcomes": tally.n_outcomes,
            "n_shown": tally.n_shown,
            "n_shown_hits": tally.n_shown_hits,
        }


def decode_feedback(value: bytes | None) -> FeedbackMessage | None:
    """A message of `feedback`; None for somebody else's."""
    try:
        found: FeedbackMessage = _read_feedback(value or b"")
    except (msgspec.MsgspecError, RecursionError):
        return None
    return found


def encode_resume(resume: Resume) -> str:
    """What a restart needs as the metadata of a committed offset."""
    start = resume.start
    numbers = [start.events, start.recommendations, start.reached, start.watermark_ms]
    return msgspec.json.encode([*numbers, resume.done, resume.told_before_ms]).decode()


def decode_resume(metadata: str | None) -> Resume | None:
    """The inverse; None where somebody else has committed."""
    try:
        events, recommendations, reached, watermark_ms, done, told = msgspec.json.decode(
            metadata or "", type=tuple[int, int, int, int, int, int]
        )
    except msgspec.MsgspecError:
        return None
    return Resume(Checkpoint(events, recommendations, reached, watermark_ms), done, told)
