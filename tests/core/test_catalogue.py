"""Catalogue and key index: numbers never change once given, and look-ups are those of a dict."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stream.core.catalogue import Catalogue, ItemUpdate, KeyIndex
from stream.core.events import item_key
from stream.core.state import NEVER_MS

keys = st.one_of(
    st.integers(1, 2**64 - 1),
    st.integers(1, 2**50 - 1).map(lambda n: n << 14),  # equal low bits, so that all collide
    st.integers(2**64 - 40, 2**64 - 1),  # the last places of the table, from where probing wraps around
)


@given(st.lists(st.lists(keys, max_size=60), max_size=6), st.lists(st.one_of(keys, st.just(0)), max_size=20))
def test_an_index_finds_what_a_dict_finds_however_it_grew(groups: list[list[int]], others: list[int]) -> None:
    index, expected = KeyIndex(), {}
    for group in groups:
        new = [key for key in dict.fromkeys(group) if key not in expected]
        index.extend(np.array(new, np.uint64))
        expected |= {key: len(expected) + place for place, key in enumerate(new)}
        asked = [*expected, *others, 0]
        found = index.lookup(np.array(asked, np.uint64))
        assert found.tolist() == [expected.get(key, -1) for key in asked]
    assert len(index) == len(expected)


def test_the_index_stays_at_most_half_full() -> None:
    """Probing ends at a free slot, so there must always be one."""
    index = KeyIndex()
    for size in (1, 7, 8, 100, 5000):
        index.extend(np.arange(len(index) + 1, len(index) + 1 + size, dtype=np.uint64))
        assert 2 * len(index) <= len(index.table_key)
        assert np.count_nonzero(index.table_key) == len(index)


def test_look_ups_keep_the_shape_of_what_is_asked() -> None:
    index = KeyIndex(np.array([5, 9], np.uint64))
    asked = np.array([[5, 0], [9, 7], [9, 5]], np.uint64)
    assert index.lookup(asked).tolist() == [[0, -1], [1, -1], [1, 0]]
    assert index.lookup(asked[:, 0]).tolist() == [0, 1, 1], "a strided column"
    assert index.lookup(np.zeros((0, 3), np.uint64)).shape == (0, 3)


ids = st.text(st.sampled_from("abc"), min_size=1, max_size=3)
updates = st.builds(
    ItemUpdate,
    item_id=ids,
    category=st.sampled_from((None, "shoes", "hats", "books")),
    title=st.sampled_from((None, "T", "U")),
    available=st.booleans(),
    published_ms=st.sampled_from((None, 0, 1_700_000_000_000)),
)


@given(st.lists(st.one_of(st.lists(ids, max_size=8), st.lists(updates, max_size=8)), max_size=8))
def test_the_catalogue_says_of_each_item_what_was_said_last(steps: list[list[str] | list[ItemUpdate]]) -> None:
    catalogue = Catalogue()
    numbers: dict[str, int] = {}
    said: dict[str, ItemUpdate] = {}
    for step in steps:
        if step and isinstance(step[0], ItemUpdate):
            catalogue.update(step)  # type: ignore[arg-type]
            for update in step:
                numbers.setdefault(update.item_id, len(numbers))  # type: ignore[union-attr]
                said[update.item_id] = update  # type: ignore[union-attr, assignment]
        else:
            got = catalogue.add(step)  # type: ignore[arg-type]
            for item_id in step:
                numbers.setdefault(item_id, len(numbers))  # type: ignore[arg-type]
            assert got.tolist() == [numbers[item_id] for item_id in step]  # type: ignore[index]
    assert catalogue.ids == list(numbers)
    for item_id, number in numbers.items():
        update = said.get(item_id, ItemUpdate(item_id))
        assert catalogue.number(item_id) == number
        assert catalogue.key[number] == item_key(item_id)
        assert catalogue.index.lookup(np.array([item_key(item_id)], np.uint64)).tolist() == [number]
        assert bool(catalogue.available[number]) == update.available
        assert catalogue.titles.get(number) == update.title
        category = int(catalogue.category[number])
        assert (None if category < 0 else catalogue.categories[category]) == update.category
        assert catalogue.published_ms[number] == (NEVER_MS if update.published_ms is None else update.published_ms)
    assert catalogue.number("zzzz") is None


def test_growing_keeps_what_was_said() -> None:
    catalogue = Catalogue(["first"])
    catalogue.update([ItemUpdate("first", "hats", "F", available=False, published_ms=5)])
    catalogue.add([f"item{n}" for n in range(5000)])
    assert catalogue.number("first") == 0
    assert (bool(catalogue.available[0]), int(catalogue.published_ms[0])) == (False, 5)
    assert catalogue.capacity >= len(catalogue) == 5001
    assert catalogue.available[1:].all()
    assert set(catalogue.category[1:].tolist()) == {-1}
