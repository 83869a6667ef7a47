"""What an item is about, as a few numbers: the words of its category and title, hashed.

A model that knows words can place an item that nobody has touched yet. Hashes need no vocabulary, so what a word means
to a model depends on nothing but the word; words that share a bucket share a meaning.
"""

from __future__ import annotations

import re
import zlib
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["N_TOKENS", "buckets", "content_keys"]

N_TOKENS: Final = 8
"""Words kept of an item: at most half of them from its category, the rest from its title."""
_WORD = re.compile(r"\w+")


def content_keys(category: str | None, title: str | None) -> NDArray[np.uint32]:
    """(N_TOKENS,) hash of each word, 0 for none; a category's words differ from the same words in a title.

    A category of several words is told by all of them, so that "Action Comedy" is near "Comedy".
    """
    words = [f"category {word}" for word in dict.fromkeys(_WORD.findall((category or "").lower()))][: N_TOKENS // 2]
    words += [f"title {word}" for word in dict.fromkeys(_WORD.findall((title or "").lower()))]
    keys = np.zeros(N_TOKENS, np.uint32)
    for at, word in enumerate(words[:N_TOKENS]):
        keys[at] = zlib.crc32(word.encode()) or 1
    return keys


def buckets(keys: NDArray[np.uint32], n_buckets: int) -> NDArray[np.int64]:
    """Word hashes of any shape -> buckets from 1 to `n_buckets`; 0 stays 0."""
    return np.where(keys == 0, 0, keys % np.uint32(n_buckets) + 1).astype(np.int64)
