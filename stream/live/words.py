"""Events and reasons as people say them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from stream.live.observer import ItemName

__all__ = ["deed", "name_of", "sparkline", "why"]

_DEEDS: Final = {
    "view": "viewed",
    "click": "clicked",
    "cart": "put in the cart",
    "purchase": "bought",
    "rating": "rated",
    "like": "liked",
    "dislike": "disliked",
    "return": "sent back",
    "request": "asked for recommendations",
}
_REASONS: Final = {
    "own": "had it before",
    "co-visited:last": "follows the last item",
    "co-visited:session": "fits this session",
    "co-visited:earlier": "fits earlier sessions",
    "new": "is new",
    "model": "fits the taste",
}
_BARS: Final = " ▁▂▃▄▅▆▇█"


def deed(event_type: str) -> str:
    """An event's type in the past tense, as far as it is known."""
    return _DEEDS.get(event_type, event_type)


def why(reasons: Sequence[str]) -> str:
    """A recommended item's reason codes in plain words: the strongest, and a second where it says something else."""
    words: list[str] = []
    for reason in reasons:
        said = _in_words(reason)
        if said not in words:
            words.append(said)
    return ", ".join(words[:2])


def name_of(item_id: str, names: Mapping[str, ItemName], *, with_category: bool = False) -> str:
    """What people call an item; its id where nobody said."""
    name = names.get(item_id, ItemName())
    title = name.title or item_id
    return f"{title} ({name.category})" if with_category and name.category else title


def sparkline(counts: Sequence[int]) -> str:
    """Bars of one character each, the highest count at full height."""
    most = max(counts, default=0)
    if most == 0:
        return " " * len(counts)
    return "".join(_BARS[-(-count * (len(_BARS) - 1) // most)] for count in counts)


def _in_words(reason: str) -> str:
    if reason in _REASONS:
        return _REASONS[reason]
    kind, _, channel = reason.partition(":")
    if kind == "fill":
        return "popular, to fill up"
    if kind == "popular":
        _, _, where = channel.partition(":")
        scale, _, field = where.partition(":")
        here = f" by {field}" if field else ""
        return f"popular{here} at the {scale} scale" if scale else "popular"
    return reason
