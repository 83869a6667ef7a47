"""The shelves of the simulated shop: items in niches, their life curves, and which item leads to which.

Items are indexed in the order (category, niche), so that "an item of this niche", "of this category" and "of the whole
shop" are all draws from one range of one running sum.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

__all__ = ["DAY_MS", "DEVICES", "HOUR_MS", "MINUTE_MS", "Shelves", "draw_in_ranges", "stock_shelves"]

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS

DEVICES = ("mobile", "desktop", "tablet")

_N_DIMENSIONS = 12  # of the latent vectors: enough to keep some hundred niches apart
_N_NEIGHBOURS = 24  # two niches' worth, so that an intent can leave its niche
_FRONT_PAGE_POWER = 1.8  # a front page shows the strong more than in proportion

# Three kinds of life: share of the catalogue, strength at birth, and the time to fade to 1/e as (low, high).
# Flash items (deals, news) rule the hour, seasonal ones the week; evergreens make the long tail that never moves.
_LIVES = (
    (0.50, 1.0, 60 * DAY_MS, 240 * DAY_MS),
    (0.30, 2.5, 2 * DAY_MS, 10 * DAY_MS),
    (0.20, 25.0, 3 * HOUR_MS, 18 * HOUR_MS),
)
_RISE = 0.12  # an item needs about this part of its fading time to become known

_CATEGORY_WORDS = (
    ("coffee", ("espresso", "filter roast", "grinder", "moka pot", "milk jug")),
    ("tea", ("green tea", "oolong", "teapot", "matcha", "infuser")),
    ("running", ("trail shoe", "racing flat", "running vest", "headband", "stopwatch")),
    ("cycling", ("saddle", "pedal", "bike light", "inner tube", "jersey")),
    ("garden", ("tomato seeds", "pruner", "raised bed", "compost bin", "watering can")),
    ("kitchen", ("chef's knife", "skillet", "mixing bowl", "peeler", "stock pot")),
    ("baking", ("bread tin", "rye flour", "proofing basket", "whisk", "cake stand")),
    ("camping", ("tent", "sleeping bag", "gas stove", "lantern", "water filter")),
    ("music", ("ukulele", "guitar strings", "metronome", "drum pad", "music stand")),
    ("books", ("novel", "atlas", "cookbook", "poems", "biography")),
    ("board games", ("strategy game", "party game", "card sleeve", "dice set", "puzzle")),
    ("toys", ("wooden train", "kite", "doll", "building bricks", "marble run")),
    ("pets", ("dog lead", "cat tree", "bird feeder", "chew toy", "aquarium pump")),
    ("skin care", ("face cream", "sun milk", "lip balm", "clay mask", "serum")),
    ("home office", ("desk lamp", "keyboard", "monitor arm", "notebook", "desk mat")),
    ("tools", ("cordless drill", "spirit level", "chisel", "sander", "clamp")),
    ("lighting", ("pendant lamp", "string lights", "candle", "dimmer", "floor lamp")),
    ("textiles", ("wool blanket", "cushion", "linen sheet", "towel", "rug")),
    ("photography", ("prime lens", "tripod", "film roll", "camera strap", "light meter")),
    ("cleaning", ("dish soap", "laundry flakes", "scrub brush", "sponge", "vinegar")),
)
_ADJECTIVES = ("classic", "light", "deep", "small", "nordic", "bright", "calm", "bold", "warm", "plain", "fine", "wild")
_CONSUMABLE_SHARE = 0.3  # of the niches: food, soap, seeds; bought again and again


@dataclass(frozen=True, slots=True)
class Shelves:
    """What the shop sells. I items in N niches; every array is indexed by item unless said otherwise."""

    category: NDArray[np.int64]  # (I,) index of the category
    niche: NDArray[np.int64]  # (I,) index of the niche, ascending
    niche_start: NDArray[np.int64]  # (N + 1,) niche n holds the items [niche_start[n], niche_start[n + 1])
    niche_category: NDArray[np.int64]  # (N,)
    strength: NDArray[np.float64]  # (I,) how much attention it draws at its best, 0 when out of stock
    published_ms: NDArray[np.int64]  # (I,)
    fade_ms: NDArray[np.float64]  # (I,)
    price: NDArray[np.float64]  # (I,)
    repurchase_ms: NDArray[np.float64]  # (I,) typical interval between two purchases, 0 for what is bought once
    quality: NDArray[np.float64]  # (I,) about N(0, 1); moves ratings
    neighbour: NDArray[np.int64]  # (I, K) items that follow in one intent
    neighbour_weight: NDArray[np.float64]  # (I, K)
    hour_audience: NDArray[np.float64]  # (24, C) how a category's public moves over the day, mean 1
    device_audience: NDArray[np.float64]  # (3, C)
    spike_item: NDArray[np.int64]  # (T,) sudden fame: which item,
    spike_start_ms: NDArray[np.int64]  # (T,) from when,
    spike_factor: NDArray[np.float64]  # (T,) how many times its strength at the peak,
    spike_fade_ms: NDArray[np.float64]  # (T,) fading to 1/e in this time
    number: NDArray[np.int64]  # (I,) the number in the item's id: shuffled, so that ids tell nothing

    @property
    def n_items(self) -> int:
        """Count of items I."""
        return len(self.category)

    def attention(self, as_of_ms: int) -> NDArray[np.float64]:
        """Attention each item draws at a time, (3, I) for each device; 0 before publication and when out of stock."""
        age_ms = np.maximum(as_of_ms - self.published_ms, 0).astype(np.float64)
        life = -np.expm1(-age_ms / (_RISE * self.fade_ms)) * np.exp(-age_ms / self.fade_ms)
        weight = np.where(self.published_ms <= as_of_ms, self.strength * life, 0.0)
        on = np.flatnonzero(
            (self.spike_start_ms <= as_of_ms) & (as_of_ms < self.spike_start_ms + 8.0 * self.spike_fade_ms)
        )
        if len(on) > 0:
            fame = self.spike_factor[on] * np.exp((self.spike_start_ms[on] - as_of_ms) / self.spike_fade_ms[on])
            boost = np.zeros(self.n_items)
            np.add.at(boost, self.spike_item[on], fame)
            weight = weight * (1.0 + boost)
        hour = int(as_of_ms // HOUR_MS % 24)
        audience: NDArray[np.float64] = weight * (self.hour_audience[hour] * self.device_audience)[:, self.category]
        return audience

    def front_page(self, attention: NDArray[np.float64]) -> NDArray[np.float64]:
        """Weights (3, I) with which an item meets somebody who came without a purpose."""
        weights: NDArray[np.float64] = attention**_FRONT_PAGE_POWER
        return weights

    def table(self) -> pl.DataFrame:
        """One row an item, as posted to the `items` topic: item_id, category, title, published_ms, price, available."""
        names = [_category_name(int(c)) for c in self.category]
        titles = [
            _title(int(c), int(n) - int(np.searchsorted(self.niche_category, c)), int(number))
            for c, n, number in zip(self.category, self.niche, self.number, strict=True)
        ]
        return pl.DataFrame(
            {
                "item_id": item_ids(self.number),
                "category": names,
                "title": titles,
                "published_ms": self.published_ms,
                "price": self.price,
                "available": self.strength > 0,
            }
        )


def stock_shelves(
    n_items: int, n_categories: int, niche_size: int, start_ms: int, end_ms: int, rng: np.random.Generator
) -> Shelves:
    """Draw a catalogue for a log over [start_ms, end_ms): some items are older, the others are born while it runs."""
    n_niches = max(n_categories, n_items // niche_size)
    niche_category = np.sort(np.concatenate([np.arange(n_categories), rng.integers(n_categories, size=n_niches)]))[
        :n_niches
    ]
    niche = np.sort(np.concatenate([np.arange(n_niches), rng.integers(n_niches, size=n_items)])[:n_items])
    niche_start = np.searchsorted(niche, np.arange(n_niches + 1))
    category = niche_category[niche]

    kind = rng.choice(len(_LIVES), size=n_items, p=[life[0] for life in _LIVES])
    born_strength, fade_low_ms, fade_high_ms = (np.array([life[i] for life in _LIVES])[kind] for i in (1, 2, 3))
    fade_ms = np.exp(rng.uniform(np.log(fade_low_ms), np.log(fade_high_ms)))
    # Born early enough that the shop opens in its steady state: some items are fading when the log begins.
    published_ms = rng.uniform(start_ms - np.minimum(3.0 * fade_ms, 180 * DAY_MS), end_ms).astype(np.int64)
    old = kind == 0
    published_ms[old] = rng.uniform(start_ms - 200 * DAY_MS, start_ms - 10 * DAY_MS, size=int(old.sum()))
    strength = born_strength * rng.lognormal(0.0, 0.8, size=n_items)
    # Out of stock for the whole log: nobody sees them, so recommending one is a mistake that a test can find.
    strength[rng.random(n_items) < 0.02] = 0.0

    consumable = rng.random(n_niches) < _CONSUMABLE_SHARE
    interval_ms = rng.uniform(2 * DAY_MS, 9 * DAY_MS, size=n_niches)
    niche_price = np.exp(rng.normal(3.0, 0.9, size=n_niches))
    neighbour, neighbour_weight = _neighbours(niche, niche_category, rng)
    hours = np.arange(24)[:, None]
    peak_hour = rng.uniform(0, 24, size=n_categories)
    days = (end_ms - start_ms) / DAY_MS
    n_spikes = max(1, round(8 * days))  # a few things a day that everybody talks about
    return Shelves(
        category=category,
        niche=niche,
        niche_start=niche_start,
        niche_category=niche_category,
        strength=strength,
        published_ms=published_ms,
        fade_ms=fade_ms,
        price=np.round(niche_price[niche] * rng.lognormal(0.0, 0.25, size=n_items), 2) + 0.5,
        repurchase_ms=np.where(consumable[niche], interval_ms[niche], 0.0),
        quality=rng.normal(size=n_items),
        neighbour=neighbour,
        neighbour_weight=neighbour_weight,
        hour_audience=1.0 + 0.6 * np.cos((hours - peak_hour) * (2 * np.pi / 24)),
        device_audience=rng.lognormal(0.0, 0.5, size=(len(DEVICES), n_categories)),
        spike_item=rng.choice(np.flatnonzero(strength > 0), size=n_spikes),
        spike_start_ms=rng.uniform(start_ms - DAY_MS / 2, end_ms, size=n_spikes).astype(np.int64),
        spike_factor=rng.lognormal(np.log(30.0), 0.7, size=n_spikes),
        spike_fade_ms=np.exp(rng.uniform(np.log(1.5 * HOUR_MS), np.log(10 * HOUR_MS), size=n_spikes)),
        number=rng.permutation(n_items),
    )


def _neighbours(
    niche: NDArray[np.int64], niche_category: NDArray[np.int64], rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """For each item the nearest of its category, (I, K), and how strongly each follows.

    The weight is similarity times a factor drawn for each ordered pair: a camera leads to its film more often than the
    film leads back, and of ten similar items two or three are the usual next step.
    """
    n_niches = len(niche_category)
    centre = rng.normal(size=(n_niches, _N_DIMENSIONS))
    vector = centre[niche] + 0.25 * rng.normal(size=(len(niche), _N_DIMENSIONS))
    vector /= np.linalg.norm(vector, axis=1, keepdims=True)
    neighbour = np.zeros((len(niche), _N_NEIGHBOURS), dtype=np.int64)
    weight = np.zeros((len(niche), _N_NEIGHBOURS))
    category = niche_category[niche]
    for c in range(int(niche_category.max()) + 1):
        members = np.flatnonzero(category == c)
        if len(members) < 2:
            continue
        similarity = vector[members] @ vector[members].T
        np.fill_diagonal(similarity, -np.inf)
        k = min(_N_NEIGHBOURS, len(members) - 1)
        nearest = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
        neighbour[members, :k] = members[nearest]
        weight[members, :k] = np.exp(4.0 * np.take_along_axis(similarity, nearest, axis=1))
    weight *= rng.lognormal(0.0, 1.2, size=weight.shape)
    return neighbour, weight


def draw_in_ranges(
    running: NDArray[np.float64], start: NDArray[np.int64], end: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """One weighted draw from each range [start, end) of the weights whose running sum (with a leading 0) is given.

    Returns -1 where a range has no weight.
    """
    low, high = running[start], running[end]
    at = low + rng.random(len(start)) * (high - low)
    # The clip guards the last ulp: rounding must not carry a draw out of its range.
    drawn = np.clip(np.searchsorted(running, at, side="right") - 1, start, end - 1)
    result: NDArray[np.int64] = np.where(high - low > 1e-12 * running[-1], drawn, -1)
    return result


def item_ids(number: NDArray[np.int64]) -> pl.Series:
    """The ids of items with these numbers, like `i00042`."""
    return pl.Series("item_id", number).cast(pl.String).str.zfill(5).str.replace("^", "i")


def _category_name(category: int) -> str:
    again, index = divmod(category, len(_CATEGORY_WORDS))
    return _CATEGORY_WORDS[index][0] + (f" {again + 1}" if again > 0 else "")


def _title(category: int, niche_in_category: int, number: int) -> str:
    nouns = _CATEGORY_WORDS[category % len(_CATEGORY_WORDS)][1]
    series, noun = divmod(niche_in_category, len(nouns))
    return f"{_ADJECTIVES[(series + 5 * number) % len(_ADJECTIVES)].capitalize()} {nouns[noun]} no. {number}"
