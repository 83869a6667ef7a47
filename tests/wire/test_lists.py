"""Lists written from pieces say what lists written from objects say."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.wire.lists import DECIMALS, ListWriter, encode_lists
from stream.wire.messages import RecommendedItem

IDS = ["i0", "plain", 'quo"te', "back\\slash", "tab\tnew\nline", "ä€😀", "</script>", "x" * 300, "\x7f\x00?"]


def reasons_of(sources: int) -> tuple[str, ...]:
    return tuple(f"bit-{bit}" for bit in range(20) if sources >> bit & 1)


rows = st.lists(
    st.lists(
        st.tuples(
            st.integers(0, len(IDS) - 1),
            st.one_of(
                st.floats(-8e9, 8e9, width=32),
                st.floats(-2, 2, width=32),
                st.sampled_from([0.0, -0.0, 1e-6, -1e-6, 4.9e-7, 0.1, 0.000015, 999999.9, -1e9]),
            ),
            st.sampled_from([0, 1, 5, 1 << 15, 3 << 16]),
        ),
        max_size=4,
    ),
    max_size=5,
)


def columns(lists: list[list[tuple[int, float, int]]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    width = max(map(len, lists), default=0)
    items = np.full((len(lists), width), -1, np.int32)
    scores, sources = np.zeros(items.shape, np.float32), np.zeros(items.shape, np.uint32)
    for row, of in enumerate(lists):
        for i, (item, score, bits) in enumerate(of):
            items[row, i], scores[row, i], sources[row, i] = item, score, bits
    return items, scores, sources


@given(st.lists(rows, min_size=1, max_size=3))
def test_every_list_reads_as_the_objects_would(calls: list[list[list[tuple[int, float, int]]]]) -> None:
    """One writer over several calls, so that pieces are found again."""
    writer = ListWriter(reasons_of)
    for lists in calls:
        items, scores, sources = columns(lists)
        written = writer.write(items, scores, sources, IDS)
        assert written is not None
        rounded = np.round(scores.astype(np.float64), DECIMALS).tolist()
        expected = encode_lists(
            [[IDS[item] for item, _, _ in of] for of in lists],
            [row[: len(of)] for row, of in zip(rounded, lists, strict=True)],
            [[reasons_of(bits) for _, _, bits in of] for of in lists],
        )
        assert list(map(json.loads, written)) == list(map(json.loads, expected))
        for one in written:
            msgspec.json.decode(one, type=list[RecommendedItem])


def test_usual_lists_are_the_same_bytes() -> None:
    items, scores, sources = columns([[(1, 2.25, 5), (2, -0.5, 0)], [], [(3, 12345.678, 1)]])
    expected = encode_lists(
        [["plain", 'quo"te'], [], ["back\\slash"]],
        [[2.25, -0.5], [], np.round(scores[2:, :1].astype(np.float64), DECIMALS).tolist()[0]],
        [[reasons_of(5), ()], [], [reasons_of(1)]],
    )
    assert ListWriter(reasons_of).write(items, scores, sources, IDS) == expected


def test_items_that_become_known_later_are_written_and_another_list_means_other_items() -> None:
    writer, ids = ListWriter(reasons_of), ["a"]
    one = np.zeros((1, 1), np.int32), np.ones((1, 1), np.float32), np.zeros((1, 1), np.uint16)
    assert writer.write(*one, ids) == [b'[{"item_id":"a","score":1.0,"reasons":[]}]']
    ids += [f"later-{n}" for n in range(5000)]
    (text,) = writer.write(one[0] + 5000, *one[1:], ids) or [b""]
    assert json.loads(text)[0]["item_id"] == "later-4999"
    assert writer.write(*one, ["b"]) == [b'[{"item_id":"b","score":1.0,"reasons":[]}]']


@pytest.mark.parametrize("score", [np.nan, np.inf, -np.inf, 1e10, -1e10])
def test_a_score_that_has_no_six_decimals_is_left_to_others(score: float) -> None:
    items, scores, sources = columns([[(0, 1.0, 0)], [(0, score, 0)]])
    assert ListWriter(reasons_of).write(items, scores, sources, IDS) is None


def test_lists_of_other_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        encode_lists([["a"]], [], [])
