"""Words of items as numbers: the same words give the same numbers, whatever catalogue holds them."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stream.core.catalogue import Catalogue, ItemUpdate
from stream.core.content import N_TOKENS, buckets, content_keys
from stream.core.features import FeatureSpec
from stream.core.statistics import ItemStatistics, StatisticsSpec

texts = st.one_of(st.none(), st.text("ab c", max_size=12))


def test_words_count_once_whatever_their_case_and_a_title_is_no_category() -> None:
    keys = content_keys("Trail Running", "Trail shoe, trail!")
    assert np.count_nonzero(keys) == 4
    assert content_keys("trail  RUNNING", "shoe trail").tolist() != keys.tolist(), "order of first mention"
    assert set(content_keys("running trail", "shoe trail").tolist()) == set(keys.tolist())
    assert not set(content_keys("trail", None)[:1].tolist()) & set(content_keys(None, "trail")[:1].tolist())


def test_long_categories_leave_room_for_the_title() -> None:
    keys = content_keys("a b c d e f g h i j", "k l m n o p q r s t")
    assert np.count_nonzero(keys) == N_TOKENS
    assert set(content_keys(None, "k l m n").tolist()) - {0} <= set(keys.tolist())


@given(texts, texts, st.integers(1, 1000))
def test_buckets_run_from_one_and_nothing_is_zero(category: str | None, title: str | None, n: int) -> None:
    keys = content_keys(category, title)
    found = buckets(keys, n)
    assert ((found == 0) == (keys == 0)).all()
    assert found.max(initial=0) <= n


@given(st.lists(st.tuples(st.sampled_from("xyz"), texts, texts), max_size=8))
def test_a_restored_catalogue_knows_the_same_words(said: list[tuple[str, str | None, str | None]]) -> None:
    view = ItemStatistics(StatisticsSpec())
    view.update_items([ItemUpdate(item, category, title) for item, category, title in said])
    again = ItemStatistics.restore(StatisticsSpec(), view.snapshot())
    n_items = len(view.catalogue)
    np.testing.assert_array_equal(again.catalogue.content[:n_items], view.catalogue.content[:n_items])
    last = {item: (category, title) for item, category, title in said}
    for item, words in last.items():
        number = view.catalogue.number(item)
        np.testing.assert_array_equal(view.catalogue.content[number], content_keys(*words))


def test_a_catalogue_forgets_words_that_are_taken_back() -> None:
    catalogue = Catalogue()
    catalogue.update([ItemUpdate("x", "shoes", "trail")])
    catalogue.update([ItemUpdate("x")])
    assert not catalogue.content[0].any()


def test_what_says_nothing_is_not_part_of_a_specifications_digest() -> None:
    """Bundles from before there were words and sequence models before rankers keep their digest."""
    plain = FeatureSpec().to_json()
    assert "n_content" not in plain
    assert FeatureSpec.from_json(FeatureSpec(n_content=64).to_json()) == FeatureSpec(n_content=64)
    assert FeatureSpec(n_content=64).digest() != FeatureSpec().digest()
