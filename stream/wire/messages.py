"""The messages of every topic as types; their JSON Schema is generated from here, so descriptions are for producers."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

__all__ = [
    "CONTROL_TYPES",
    "IMPRESSION",
    "DeadLetter",
    "Event",
    "FeedbackTotals",
    "Item",
    "Outcome",
    "Receipt",
    "Recommendation",
    "RecommendedItem",
    "Scalar",
    "Source",
    "UserSpan",
]

CONTROL_TYPES: Final = ("request", "forget")
IMPRESSION: Final = "impression"
"""A recommendation was shown: for those who count, nothing to the worker unless its bundle declares the type."""
LARGEST_SAFE_INTEGER: Final = 2**53 - 1  # beyond it JSON's numbers are no longer exact in most languages

_Positive = Annotated[int, Meta(ge=1)]
_Count = Annotated[int, Meta(ge=0, le=LARGEST_SAFE_INTEGER)]
Scalar = str | int | float | bool | None


# gc=False: messages hold no cycles, and thousands of them at once would only keep the collector busy.
class Event(Struct, kw_only=True, omit_defaults=True, gc=False):
    """Something a user did, or a control message about a user. JSON on `events`, the record's key is `user_id`.

    Fields that are not listed are ignored. Of a field that occurs twice the last one counts. null means absent.
    """

    user_id: Annotated[str, Meta(description="Who did it. Also the record's key, as UTF-8. No NUL.", min_length=1)]
    event_type: Annotated[
        str,
        Meta(
            description="What was done: one of the configured types; or `request`, recommend now although nothing "
            "happened; or `forget`, erase everything that is known of this user; or `impression`, the recommendation "
            "that `context.rec_id` names was shown."
        ),
    ]
    ts_ms: Annotated[
        int,
        Meta(
            description="When it was done, UTC epoch milliseconds. A number with a fraction of zero is accepted. "
            "Events may come late; they may be ahead of the record's own timestamp by a few minutes at most.",
            ge=0,
            le=LARGEST_SAFE_INTEGER,
        ),
    ]
    item_id: Annotated[
        str | None,
        Meta(
            description="What it was done to. Needed, unless the type is `request`, `forget` or `impression`. No NUL."
        ),
    ] = None
    event_id: Annotated[
        str | None,
        Meta(description="The producer's own id of this event. An event whose id its user sent lately is not counted."),
    ] = None
    value: Annotated[float | None, Meta(description="Price, rating or amount; a 32-bit float must hold it.")] = None
    session_id: Annotated[
        str | None, Meta(description="The producer's id of the session. Sessions are told apart by pauses without it.")
    ] = None
    context: Annotated[
        dict[str, Scalar] | None,
        Meta(description="Circumstances: device, referrer, country and the like. Flat; 3, 3.0 and '3' are the same."),
    ] = None
    n: Annotated[_Positive | None, Meta(description="How many items to recommend. Only on `request`.")] = None
    exclude: Annotated[list[str] | None, Meta(description="Items not to recommend. Only on `request`.")] = None
    only: Annotated[
        list[str] | None, Meta(description="Recommend among these items alone, none if empty. Only on `request`.")
    ] = None


class Item(Struct, kw_only=True, omit_defaults=True, gc=False):
    """What is known of an item. JSON on `items`, which is compacted; the record's key is the item's id.

    A record without a value removes the item. Fields that are not listed are ignored.
    """

    item_id: Annotated[str | None, Meta(description="If given, it must be the same as the record's key.")] = None
    category: Annotated[str | None, Meta(description="The one category that the item belongs to.")] = None
    title: Annotated[str | None, Meta(description="What people call it.")] = None
    available: Annotated[bool, Meta(description="Whether it may be recommended.")] = True
    published_ms: Annotated[_Count | None, Meta(description="When it was published, UTC epoch milliseconds.")] = None
    attributes: Annotated[dict[str, Scalar] | None, Meta(description="Anything else; flat.")] = None


class RecommendedItem(Struct, frozen=True, gc=False):
    """One recommended item."""

    item_id: Annotated[str, Meta(description="The item, as events name it.")]
    score: Annotated[
        float, Meta(description="The model's score; higher is better, comparable within one recommendation only.")
    ]
    reasons: Annotated[
        list[str], Meta(description="Short codes of why it is here, the strongest first; possibly none.")
    ] = []
    propensity: Annotated[
        float | UnsetType,
        Meta(
            description="How likely the item was at its place, given those above it. Only where lists are drawn to "
            "explore; the product over the list is the likelihood of the whole list.",
        ),
    ] = UNSET


class Source(Struct, frozen=True, gc=False):
    """The record that caused a message."""

    topic: Annotated[str, Meta(description="Input topic.")]
    partition: Annotated[int, Meta(description="Input partition.", ge=0)]
    offset: Annotated[int, Meta(description="Offset in that partition.", ge=0)]


class Recommendation(Struct, frozen=True, kw_only=True, gc=False):
    """What to show a user now. JSON on `recommendations`, the record's key is `user_id`; one for every valid event.

    It may come more than once, after a crash for instance, always with the same `rec_id`: consumers that drop
    repeated ids see each recommendation once.
    """

    rec_id: Annotated[str, Meta(description="Derived from the source alone: the same event gives the same id.")]
    user_id: Annotated[str, Meta(description="For whom. Also the record's key, as UTF-8.")]
    ts_ms: Annotated[int, Meta(description="The time of the event that caused it, UTC epoch milliseconds.")]
    event_id: Annotated[str | None, Meta(description="The producer's id of that event, null if it had none.")]
    items: Annotated[list[RecommendedItem], Meta(description="Best first, each item once.")]
    model: Annotated[str, Meta(description="The bundle that scored it, name@version.")]
    variant: Annotated[str, Meta(description="The branch of the experiment that this user is in.")]
    activity_offset: Annotated[
        int,
        Meta(description="Item statistics as of this offset of `item-activity` were used; -1 for none at all.", ge=-1),
    ]
    items_offset: Annotated[
        int, Meta(description="The catalogue as of this offset of `items` was used; -1 for none at all.", ge=-1)
    ]
    source: Annotated[Source, Meta(description="The event's record.")]


class Outcome(Struct, frozen=True, kw_only=True, gc=False, tag="outcome", tag_field="kind"):
    """An event and the recommendation that it is attributed to. JSON on `feedback`, the record's key is `user_id`.

    It may come more than once, after a crash for instance, always with the same `feedback_id`.
    """

    feedback_id: Annotated[str, Meta(description="Derived from the source alone: drop repeated ones.")]
    rec_id: Annotated[str, Meta(description="The recommendation.")]
    user_id: Annotated[str, Meta(description="Whose event.")]
    item_id: Annotated[str, Meta(description="The event's item; may be empty for an impression.")]
    event_type: Annotated[str, Meta(description="The event's type; that of impressions among them.")]
    ts_ms: Annotated[int, Meta(description="The event's time, UTC epoch milliseconds.")]
    value: Annotated[float | None, Meta(description="The event's value, null if it had none.")]
    recommended_ms: Annotated[int, Meta(description="The recommendation's time, UTC epoch milliseconds.")]
    position: Annotated[
        _Positive | None, Meta(description="Where the item stood in the list, from 1; null where it did not.")
    ]
    model: Annotated[str, Meta(description="The bundle that recommended, name@version.")]
    variant: Annotated[str, Meta(description="The branch of the experiment.")]
    by: Annotated[
        Literal["rec_id", "item"],
        Meta(description="rec_id: the event names the recommendation. item: the latest of the user that has its item."),
    ]
    source: Annotated[Source, Meta(description="The event's record.")]


class _Counts(Struct, frozen=True, kw_only=True, gc=False):
    """Counts of the recommendations of a span of time, by the time of the recommendation."""

    from_ms: Annotated[int, Meta(description="Begin of the span, UTC epoch milliseconds.")]
    to_ms: Annotated[int, Meta(description="End of the span, which is not part of it.")]
    model: Annotated[str, Meta(description="The bundle that recommended, name@version.")]
    variant: Annotated[str, Meta(description="The branch of the experiment.")]
    n_recommendations: Annotated[_Count, Meta(description="Recommendations.")]
    n_hits: Annotated[_Count, Meta(description="Recommendations that at least one outcome is attributed to.")]
    n_outcomes: Annotated[_Count, Meta(description="Outcomes that are attributed to them.")]
    n_shown: Annotated[_Count, Meta(description="Recommendations of which an impression was reported.")]
    n_shown_hits: Annotated[_Count, Meta(description="Those of them that an outcome is attributed to.")]


class UserSpan(_Counts, frozen=True, kw_only=True, gc=False, tag="user", tag_field="kind"):
    """One user's counts of a span that is over. JSON on `feedback`, the record's key is `user_id`.

    It may come more than once, always with the same `feedback_id`.
    """

    feedback_id: Annotated[str, Meta(description="Derived from user, span, model and variant: drop repeated ones.")]
    user_id: Annotated[str, Meta(description="Whose.")]


class FeedbackTotals(_Counts, frozen=True, kw_only=True, gc=False, tag="totals", tag_field="kind"):
    """Counts of one partition so far. JSON on `feedback`; of those with the same key the last one counts."""

    partition: Annotated[int, Meta(description="The partition of `events` that is counted.", ge=0)]
    is_over: Annotated[bool, Meta(description="Whether nothing is added any more.")]


class Receipt(Struct, frozen=True, kw_only=True, gc=False):
    """A user was forgotten. JSON on `forgotten`, which is compacted; the record's key is key id and pseudonym.

    It is a marker as well: of this user nothing that `source` or a record before it in the same partition caused may be
    used again, wherever a copy of it still lies. Readers of history leave it out.
    """

    receipt_id: Annotated[str, Meta(description="Derived from the source alone: the same request gives the same id.")]
    user: Annotated[str, Meta(description="Pseudonym of the user's id: BLAKE2b, 16 bytes, hexadecimal.")]
    key_id: Annotated[str, Meta(description="The secret that the pseudonym was made with; empty if there was none.")]
    ts_ms: Annotated[int, Meta(description="The time of the event that asked for it, UTC epoch milliseconds.")]
    erased: Annotated[
        list[str],
        Meta(description="What was erased at once. `state`: the user's record, in the workers and in the changelog."),
    ]
    source: Annotated[Source, Meta(description="The record that asked for it.")]


class DeadLetter(Struct, frozen=True, kw_only=True, gc=False):
    """A record that could not be used, and why. JSON on `dead-letters`."""

    reason: Annotated[str, Meta(description="A short code, made for machines.")]
    detail: Annotated[str, Meta(description="What exactly was found, made for people.")]
    topic: Annotated[str, Meta(description="Where the record was.")]
    partition: Annotated[int, Meta(description="Its partition.", ge=0)]
    offset: Annotated[int, Meta(description="Its offset.", ge=0)]
    ts_ms: Annotated[int | None, Meta(description="The record's own timestamp, null if it has none.")]
    key: Annotated[bytes | None, Meta(description="The record's key, cut at the same limit as the value.")]
    key_bytes: Annotated[_Count | None, Meta(description="Length of the whole key.")]
    value: Annotated[bytes | None, Meta(description="The record's value, cut at a limit.")]
    value_bytes: Annotated[_Count | None, Meta(description="Length of the whole value.")]
    value_sha256: Annotated[str | None, Meta(description="Of the whole value, hexadecimal.")]
