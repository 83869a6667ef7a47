"""The items that are known: number, key, id, and what the `items` topic says of each.

Items are numbered in the order in which they become known, so a number means something only beside its catalogue;
records and messages hold 64-bit keys (`stream.core.events.item_key`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from stream.core.content import N_TOKENS, content_keys
from stream.core.events import item_keys
from stream.core.state import NEVER_MS

__all__ = ["Catalogue", "ItemUpdate", "KeyIndex"]

NOT_FOUND: Final = -1


@njit(cache=True, nogil=True, inline="always")  # type: ignore[untyped-decorator]
def find_key(table_key: Any, table_number: Any, key: Any) -> Any:
    """The number behind one key, -1 for none. The table's length is a power of two, key 0 marks a free slot."""
    mask = np.uint64(len(table_key) - 1)
    # Keys are hashes already, so their low bits spread as they are.
    at = key & mask
    while table_key[at] != 0:
        if table_key[at] == key:
            return table_number[at]
        at = (at + np.uint64(1)) & mask
    return np.int32(NOT_FOUND)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _insert(table_key: Any, table_number: Any, keys: Any, numbers: Any) -> None:
    mask = np.uint64(len(table_key) - 1)
    for i in range(len(keys)):
        at = keys[i] & mask
        while table_key[at] != 0 and table_key[at] != keys[i]:
            at = (at + np.uint64(1)) & mask
        table_key[at] = keys[i]
        table_number[at] = numbers[i]


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _lookup(table_key: Any, table_number: Any, keys: Any, numbers: Any) -> None:
    for i in range(len(keys)):
        numbers[i] = NOT_FOUND if keys[i] == 0 else find_key(table_key, table_number, keys[i])


class KeyIndex:
    """Item key -> number, for whole arrays at once: open addressing over two arrays that grow by doubling."""

    __slots__ = ("_keys", "table_key", "table_number")

    def __init__(self, keys: NDArray[np.uint64] | None = None) -> None:
        """An index of (N,) distinct keys that are numbered from 0."""
        self._keys = 0
        self.table_key = np.zeros(16, np.uint64)
        self.table_number = np.full(16, NOT_FOUND, np.int32)
        if keys is not None:
            self.extend(keys)

    def __len__(self) -> int:
        return self._keys

    def extend(self, keys: NDArray[np.uint64]) -> None:
        """Number (N,) further keys, none of them indexed yet, on from where the index ends."""
        needed = self._keys + len(keys)
        if 2 * needed > len(self.table_key):
            old_key, old_number = self.table_key, self.table_number
            size = 1 << int(4 * needed - 1).bit_length()
            self.table_key = np.zeros(size, np.uint64)
            self.table_number = np.full(size, NOT_FOUND, np.int32)
            used = old_key != 0
            _insert(self.table_key, self.table_number, old_key[used], old_number[used])
        _insert(self.table_key, self.table_number, keys, np.arange(self._keys, needed, dtype=np.int32))
        self._keys = needed

    def lookup(self, keys: NDArray[np.uint64]) -> NDArray[np.int32]:
        """The number of each key, in the shape of `keys`; -1 where it is not indexed or 0."""
        flat = np.array(keys, np.uint64).reshape(-1)  # a copy: read-only arrays would be compiled for once more
        numbers = np.empty(len(flat), np.int32)
        _lookup(self.table_key, self.table_number, flat, numbers)
        return numbers.reshape(keys.shape)


@dataclass(frozen=True, slots=True)
class ItemUpdate:
    """What a message of the `items` topic says of one item; None takes the item off sale and forgets what was said."""

    item_id: str
    category: str | None = None
    title: str | None = None
    available: bool = True
    published_ms: int | None = None


class Catalogue:
    """All known items, numbered from 0 in the order in which they became known.

    Attributes:
        ids: (N,) item ids.
        titles: number -> title, for items that have one.
        key: (capacity,) `item_key`; the first N count.
        available: (capacity,) whether the item may be recommended.
        category: (capacity,) number of the category, -1 for none.
        published_ms: (capacity,) when the item appeared, NEVER_MS for unknown.
        content: (capacity, N_TOKENS) hashed words of category and title, 0 for none.
        index: key -> number.
    """

    def __init__(self, item_ids: Sequence[str] = ()) -> None:
        self.ids: list[str] = []
        self.titles: dict[int, str] = {}
        self.categories: list[str] = []
        self.index = KeyIndex()
        self.key = np.zeros(0, np.uint64)
        self.available = np.zeros(0, np.bool_)
        self.category = np.zeros(0, np.int32)
        self.published_ms = np.zeros(0, np.int64)
        self.content = np.zeros((0, N_TOKENS), np.uint32)
        self._number: dict[str, int] = {}
        self._category_number: dict[str, int] = {}
        self.add(item_ids)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def capacity(self) -> int:
        """Items that the arrays have room for."""
        return len(self.key)

    def add(self, item_ids: Sequence[str]) -> NDArray[np.int32]:
        """(N,) the number of each id; ids that are not known yet get the next ones."""
        new = [item_id for item_id in dict.fromkeys(item_ids) if item_id not in self._number]
        if new:
            start = len(self.ids)
            self.ids.extend(new)
            self._number.update(zip(new, range(start, len(self.ids)), strict=True))
            self._grow()
            keys = item_keys(new)
            self.key[start : len(self.ids)] = keys
            self.index.extend(keys)
        get = self._number
        return np.fromiter([get[item_id] for item_id in item_ids], np.int32, len(item_ids))

    def number(self, item_id: str) -> int | None:
        """The number of an item, None if it is not known."""
        return self._number.get(item_id)

    def update(self, updates: Sequence[ItemUpdate]) -> None:
        """Take over what the `items` topic says, later updates over earlier ones."""
        numbers = self.add([update.item_id for update in updates])
        for number, update in zip(numbers.tolist(), updates, strict=True):
            self.available[number] = update.available
            self.published_ms[number] = NEVER_MS if update.published_ms is None else update.published_ms
            self.category[number] = NOT_FOUND if update.category is None else self._category(update.category)
            if update.title is None:
                self.titles.pop(number, None)
            else:
                self.titles[number] = update.title
            self.content[number] = content_keys(update.category, update.title)

    def read_words(self, categories: Sequence[str], titles: dict[int, str]) -> None:
        """Take over the categories' names and the titles behind the numbers that `category` holds already."""
        self.name_categories(categories)
        self.titles = titles
        for number in np.flatnonzero(self.category[: len(self)] >= 0).tolist() + list(titles):
            category = self.category[number]
            self.content[number] = content_keys(None if category < 0 else self.categories[category], titles.get(number))

    def name_categories(self, names: Sequence[str]) -> None:
        """Number categories in this order, after those that are known."""
        for name in names:
            self._category(name)

    def _category(self, name: str) -> int:
        if name not in self._category_number:
            self._category_number[name] = len(self.categories)
            self.categories.append(name)
        return self._category_number[name]

    def _grow(self) -> None:
        if len(self.ids) <= self.capacity:
            return
        n_old, capacity = self.capacity, max(1024, 2 * len(self.ids))

        def grown(column: NDArray[Any], fill: object) -> NDArray[Any]:
            wider = np.full((capacity, *column.shape[1:]), fill, column.dtype)
            wider[:n_old] = column
            return wider

        self.key = grown(self.key, 0)
        self.available = grown(self.available, True)
        self.category = grown(self.category, NOT_FOUND)
        self.published_ms = grown(self.published_ms, NEVER_MS)
        self.content = grown(self.content, 0)
