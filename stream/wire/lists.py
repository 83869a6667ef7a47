"""The `items` of many recommendations as JSON, in one pass of compiled code.

An item and its reasons are written out once, when they are first recommended; after that a list is copied together from
such pieces and its scores. Most of what a message costs otherwise is objects that live for a microsecond.

    {"item_id":"i7","score":   2.25   ,"reasons":["popular:all:1h"]}   ,   {"item_id":...
    piece of the item          score  piece of the source bits
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Final

import msgspec
import numpy as np
from numba import njit
from numpy.typing import NDArray

from stream.wire.messages import RecommendedItem

__all__ = ["DECIMALS", "ListWriter", "encode_lists"]

DECIMALS: Final = 6
"""Of a score in a message: float32 holds no more, and shorter messages are cheaper to everybody."""
_SCALE: Final = 10**DECIMALS
_LARGEST: Final = 9e9
"""Scores from here on have too many digits for 53 bits, and are left to the slow way."""
_ROOM_BYTES: Final = 20
"""The longest score, with sign and point, and the comma behind its item."""

_encode: Final = msgspec.json.Encoder().encode


def encode_lists(
    item_ids: Sequence[Sequence[str]],
    scores: Sequence[Sequence[float]],
    reasons: Sequence[Sequence[Sequence[str]]],
    propensities: Sequence[Sequence[float]] | None = None,
) -> list[bytes]:
    """The `items` of each recommendation, by objects: for what `ListWriter` does not write.

    Args:
        item_ids: for each event the items, best first; as many as there are, not necessarily the same number.
        scores: their scores, finite; rounding them first keeps messages short.
        reasons: their reasons.
        propensities: how likely each item was at its place; None where nothing was left to chance.

    Raises ValueError where the arguments have different lengths.
    """
    drawn = [()] * len(item_ids) if propensities is None else list(zip(propensities, strict=True))
    return [
        _encode(list(map(RecommendedItem, ids, of_scores, map(list, of_reasons), *likely)))
        for ids, of_scores, of_reasons, likely in zip(item_ids, scores, reasons, drawn, strict=True)
    ]


class _Pieces:
    """Texts by number, one behind the other, each written when its number first comes up."""

    __slots__ = ("data", "length", "place", "used")

    def __init__(self) -> None:
        self.data = np.zeros(1 << 12, np.uint8)
        self.used = 0
        self.place = np.full(16, -1, np.int64)
        self.length = np.zeros(16, np.int32)

    def know(self, numbers: NDArray[np.int64], text_of: Callable[[int], bytes]) -> None:
        """Have the texts of these numbers, none of them negative."""
        largest = int(numbers.max(initial=0))
        if largest >= len(self.place):
            more = 2 * largest + 1 - len(self.place)
            self.place = np.concatenate([self.place, np.full(more, -1, np.int64)])
            self.length = np.concatenate([self.length, np.zeros(more, np.int32)])
        new = numbers[self.place[numbers] < 0]
        if len(new) == 0:
            return
        for number in np.unique(new).tolist():
            text = text_of(number)
            if self.used + len(text) > len(self.data):
                self.data = np.concatenate([self.data, np.zeros(len(self.data) + len(text), np.uint8)])
            self.data[self.used : self.used + len(text)] = np.frombuffer(text, np.uint8)
            self.place[number], self.length[number] = self.used, len(text)
            self.used += len(text)


class ListWriter:
    """Writes lists of one arm.

    Args:
        reasons_of: what source bits say, see `stream.core.ranking.reasons_of`; always the same for the same bits.
    """

    def __init__(self, reasons_of: Callable[[int], Sequence[str]]) -> None:
        self._reasons_of: Final = reasons_of
        self._reasons = _Pieces()
        self._items = _Pieces()
        self._ids: list[str] = []

    def write(
        self, items: NDArray[np.int32], scores: NDArray[np.float32], sources: NDArray[Any], ids: list[str]
    ) -> list[bytes] | None:
        """The `items` of each recommendation, as `encode_lists` would write them with scores rounded to six decimals.

        Only a score below 0.0001 looks different: it has zeros where `encode_lists` writes an exponent.

        Args:
            items: (R, n) numbers of items, -1 beyond the last of a row.
            scores: (R, n).
            sources: (R, n) source bits.
            ids: of all items, by number; the list may grow from call to call. Another list means other items.

        Returns:
            None where a score is not finite, or too large.
        """
        if ids is not self._ids:
            self._ids, self._items = ids, _Pieces()
        numbers = items.reshape(-1).astype(np.int64)
        there = numbers >= 0
        bits = sources.reshape(-1).astype(np.int64)
        if not there.all():
            numbers, bits = numbers[there], bits[there]
        self._items.know(numbers, self._item)
        self._reasons.know(bits, self._why)
        n_bytes = int(self._items.length[numbers].sum()) + int(self._reasons.length[bits].sum())
        n_bytes += len(numbers) * _ROOM_BYTES + 2 * len(items)
        out, ends = np.empty(n_bytes, np.uint8), np.empty(len(items), np.int64)
        if not _write(
            items, scores, sources, self._items.data, self._items.place, self._items.length, self._reasons.data,
            self._reasons.place, self._reasons.length, out, ends,
        ):  # fmt: skip
            return None
        text, cuts = out.tobytes(), [0, *ends.tolist()]
        return [text[first:end] for first, end in pairwise(cuts)]

    def _item(self, number: int) -> bytes:
        return b'{"item_id":%b,"score":' % _encode(self._ids[number])

    def _why(self, sources: int) -> bytes:
        return b',"reasons":%b}' % _encode(list(self._reasons_of(sources)))


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _write(
    items: Any,
    scores: Any,
    sources: Any,
    item_data: Any,
    item_place: Any,
    item_length: Any,
    why_data: Any,
    why_place: Any,
    why_length: Any,
    out: Any,
    ends: Any,
) -> Any:
    digits = np.empty(20, np.uint8)
    at = 0
    for row in range(items.shape[0]):
        out[at] = 91  # [
        at += 1
        for i in range(items.shape[1]):
            number = items[row, i]
            if number < 0:
                break
            score = np.float64(scores[row, i])
            if not (-_LARGEST < score < _LARGEST):
                return False
            if i > 0:
                out[at] = 44  # ,
                at += 1
            place = item_place[number]
            for j in range(item_length[number]):
                out[at + j] = item_data[place + j]
            at += item_length[number]
            scaled = np.int64(np.rint(score * _SCALE))
            if scaled < 0:
                out[at] = 45  # -
                at += 1
                scaled = -scaled
            whole, part = scaled // _SCALE, scaled % _SCALE
            n = 0
            while whole > 0 or n == 0:
                digits[n] = 48 + whole % 10
                whole //= 10
                n += 1
            for j in range(n - 1, -1, -1):
                out[at] = digits[j]
                at += 1
            out[at] = 46  # .
            at += 1
            n = DECIMALS
            while n > 1 and part % 10 == 0:
                part //= 10
                n -= 1
            for j in range(n - 1, -1, -1):
                out[at + j] = 48 + part % 10
                part //= 10
            at += n
            bits = sources[row, i]
            place = why_place[bits]
            for j in range(why_length[bits]):
                out[at + j] = why_data[place + j]
            at += why_length[bits]
        out[at] = 93  # ]
        at += 1
        ends[row] = at
    return True
