"""A simulated shop whose interests move at several time scales, for demos, tests and benchmarks.

What happens, from the fastest to the slowest:

- **intent** (minutes): within a session most views follow from the one before, along item-to-item similarity.
- **trend** (hours): items are born, rise and fade within hours to weeks, some become famous for an afternoon, and every
  category has its hours of the day and its devices.
- **project** (days): for a few days a user is after one niche, such as a tent, and comes more often.
- **repeat** (days): users come back to what they saw, and buy consumables again when they run out.
- **taste** (weeks): each user likes a handful of niches, of which one or other is replaced now and then.

Each event is caused by exactly one of these, and `ShopLog.truth` says by which. The state of the shop advances in steps
of one hour; all sessions that start in an hour are walked at once, view by view, in arrays. Everything derives from the
seed and the start time: nothing reads a clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from stream.demo.shop_items import DAY_MS, DEVICES, HOUR_MS, MINUTE_MS, Shelves, draw_in_ranges, item_ids, stock_shelves
from stream.demo.shop_users import Public, gather_public

__all__ = ["CAUSES", "REFERRERS", "ShopConfig", "ShopLog", "simulate"]

CAUSES: Final = ("intent", "project", "taste", "repeat", "trend")
"""What can cause an event, one for each time scale."""

REFERRERS: Final = ("direct", "search", "social", "newsletter")

_INTENT, _PROJECT, _TASTE, _REPEAT, _TREND = range(len(CAUSES))
_EVENT_TYPES = ("view", "cart", "purchase", "rating", "like", "dislike", "return")
_VIEW, _CART, _PURCHASE, _RATING, _LIKE, _DISLIKE, _RETURN = range(len(_EVENT_TYPES))

# What the views of a session that do not follow from the one before follow from, by referrer: running sums over
# project, taste, repeat, trend. Links shared by friends lead to what is trending, searches to what is being planned.
_SOURCES = np.cumsum(
    [[0.25, 0.30, 0.25, 0.20], [0.50, 0.28, 0.12, 0.10], [0.05, 0.10, 0.05, 0.80], [0.10, 0.50, 0.10, 0.30]], axis=1
)
_REFERRERS_BY_DEVICE = np.cumsum([[0.38, 0.20, 0.32, 0.10], [0.45, 0.37, 0.08, 0.10], [0.45, 0.25, 0.18, 0.12]], axis=1)
_REFERRERS_IN_PROJECT = np.cumsum([0.35, 0.50, 0.10, 0.05])
_VISITS_BY_HOUR = 1.0 + 0.75 * np.cos((np.arange(24) - 20) * (2 * np.pi / 24))  # evenings; one sixth of it at night
_VISITS_BY_WEEKDAY = np.array([0.95, 0.9, 0.9, 0.95, 1.0, 1.15, 1.15])  # from Monday

_LENGTH_BY_DEVICE = np.array([0.85, 1.25, 1.05])  # people look around longer at a desk
_BUYING_BY_DEVICE = np.array([0.7, 1.5, 1.0])
_BUYING_BY_CAUSE = np.array([1.1, 1.6, 1.0, 1.5, 0.6])
_CART_SHARE = 0.09  # of the views
_BUY_SHARE = 0.45  # of the carts
_OPINION_SHARE = 0.04  # of the views: a like or a dislike
_LIKING_BY_CAUSE = np.array([0.75, 0.75, 0.9, 0.9, 0.4])
_RATED_SHARE, _RETURNED_SHARE = 0.2, 0.05  # of the purchases
_RERUN_SHARE = 0.7  # how often somebody who is running out of something starts with it
_MAX_GAP_MS = 10 * MINUTE_MS  # far enough below the session gap that nobody can mistake one session for two


@dataclass(frozen=True, slots=True)
class ShopConfig:
    """Size and pace of the shop.

    Raises ValueError for sizes that make no shop.
    """

    n_users: int = 3_000
    """With 12,000 events a day a user has about 4 a day: enough history for every scale in a two-week log."""
    n_items: int = 2_000
    """The best 10 of an hour are then half a percent of the catalogue: popularity helps and is far from enough."""
    n_categories: int = 20
    """As many as there are words for; more are numbered."""
    niche_size: int = 10
    """Items in a niche, on average: what an intent or a project is after, and about one recommendation list."""
    days: float = 14.0
    """Two weeks show days-long projects and weekly repurchases several times, and tastes that begin to drift."""
    events_per_day: int = 12_000
    """Some 500 an hour: the fewest with which popularity of the last hour is a real opponent."""
    start_ms: int = 1_704_067_200_000
    """Monday, 2024-01-01T00:00Z. In the past, so that no event is ever in the future of the machine that replays it."""
    session_gap_ms: int = 30 * MINUTE_MS
    """The usual definition of a session: nobody comes back within this time. Pauses inside sessions are shorter."""
    views_per_session: float = 5.0
    """Mean of a geometric distribution: the median session has 3 or 4 views, one in ten has more than 11."""
    intent_share: float = 0.62
    """Chance that a view follows from the one before; the rest is what slower scales have to explain."""
    project_days: float = 2.5
    """About how long a user is after one niche."""
    taste_days: float = 28.0
    """Mean life of one of a user's favourite niches."""
    new_user_share: float = 0.3
    """Users who arrive while the log runs: cold starts throughout, 2 % of the users a day."""

    def __post_init__(self) -> None:
        if min(self.n_users, self.n_items, self.n_categories, self.niche_size, self.events_per_day) < 1:
            raise ValueError("a shop needs at least one user, item, category, item a niche and event a day")
        if self.n_items < self.n_categories:
            raise ValueError(f"{self.n_items} items cannot fill {self.n_categories} categories")
        if not self.days * DAY_MS >= HOUR_MS:
            raise ValueError(f"the shop must run for an hour at least, not for {self.days} days")
        if self.views_per_session < 1.0:
            raise ValueError(f"a session has at least one view, not {self.views_per_session}")
        if self.session_gap_ms < _MAX_GAP_MS:
            raise ValueError(f"the session gap must be at least {_MAX_GAP_MS} ms, the longest pause within a session")
        for name in ("intent_share", "new_user_share"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must be between 0 and 1, not {getattr(self, name)}")
        if min(self.project_days, self.taste_days) <= 0.0:
            raise ValueError("project_days and taste_days must be positive")


@dataclass(frozen=True, slots=True)
class ShopLog:
    """What a simulated shop leaves behind."""

    events: pl.DataFrame
    """Sorted by time: user_id, item_id, event_type, ts_ms, value (price or rating, null for views), session_id,
    device, referrer, event_id."""
    items: pl.DataFrame
    """item_id, category, title, published_ms, price, available."""
    truth: pl.DataFrame
    """Hidden from recommenders; rows as in `events`: event_id, cause (one of CAUSES), niche (of the item)."""


@dataclass(frozen=True, slots=True)
class _Views:
    """The views of one hour's sessions: S sessions, V views in the order (session, position)."""

    user: NDArray[np.int64]  # (S,)
    device: NDArray[np.int64]  # (S,)
    referrer: NDArray[np.int64]  # (S,)
    rerun: NDArray[np.bool_]  # (S,) whether the first view is for something that has run out
    seen: NDArray[np.int64]  # (S, L) items, -1 behind the session's end
    session: NDArray[np.int64]  # (V,)
    item: NDArray[np.int64]  # (V,)
    cause: NDArray[np.int64]  # (V,)
    first: NDArray[np.bool_]  # (V,)
    ts_ms: NDArray[np.int64]  # (V,)
    gap_ms: NDArray[np.int64]  # (V,) how long the user stays on it
    end_ms: NDArray[np.int64]  # (S,) when the last view is over


_Columns = dict[str, NDArray[np.int64] | NDArray[np.float64]]


def simulate(config: ShopConfig, seed: int | np.random.Generator = 0) -> ShopLog:
    """Run the shop for `config.days`; the same config, seed and NumPy version give the same log.

    The number of events is random with a mean near `events_per_day * days`. Events caused after the end (ratings and
    returns follow a purchase by days) are left out.
    """
    rng = np.random.default_rng(seed)
    run = f"{int(rng.integers(2**32)):08x}"  # in the event ids, so that those of two simulated logs differ
    start_ms = config.start_ms
    end_ms = start_ms + round(config.days * DAY_MS)
    shelves = stock_shelves(config.n_items, config.n_categories, config.niche_size, start_ms, end_ms, rng)
    public = gather_public(config.n_users, config.new_user_share, start_ms, end_ms, shelves, rng)
    taste_ms, project_ms = config.taste_days * DAY_MS, config.project_days * DAY_MS
    # Opens in its steady state: a third of the users are in the middle of a project.
    public.advance(start_ms, int(0.7 * project_ms), taste_ms, project_ms, shelves, rng)

    parts: list[_Columns] = []
    n_sessions = 0
    for hour_ms in range(start_ms, end_ms, HOUR_MS):
        step_ms = min(HOUR_MS, end_ms - hour_ms)
        attention = shelves.attention(hour_ms)
        visits = _expected_visits(config, hour_ms) * step_ms / HOUR_MS
        user, came_ms = _arrivals(public, visits, hour_ms, step_ms, config.session_gap_ms, rng)
        views = _walk(config, shelves, public, attention, user, came_ms, rng)
        parts += _happenings(shelves, public, views, n_sessions, rng)
        n_sessions += len(user)
        public.note_seen(views.user, views.seen, views.end_ms)
        public.advance(hour_ms + step_ms, step_ms, taste_ms, project_ms, shelves, rng)
    return _as_log(parts, shelves, n_sessions, end_ms, run)


def _expected_visits(config: ShopConfig, as_of_ms: int) -> float:
    """Mean number of sessions in the hour that starts at `as_of_ms`."""
    events_per_view = 1.0 + _CART_SHARE * (1.0 + _BUY_SHARE * (1.0 + _RATED_SHARE + _RETURNED_SHARE)) + _OPINION_SHARE
    per_hour = config.events_per_day / 24.0 / (config.views_per_session * events_per_view)
    weekday = (as_of_ms // DAY_MS + 3) % 7  # 1970-01-01 was a Thursday
    return float(per_hour * _VISITS_BY_HOUR[as_of_ms // HOUR_MS % 24] * _VISITS_BY_WEEKDAY[weekday])


def _arrivals(
    public: Public, visits: float, hour_ms: int, step_ms: int, gap_ms: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Who starts a session in this hour, (S,) distinct users, and when; nobody within the session gap of the last."""
    n = int(rng.poisson(visits))
    running = np.cumsum(public.visit_weights(hour_ms))
    # Some draws fall away below, so draw more than are wanted.
    drawn = np.searchsorted(running, rng.random(2 * n + 8) * running[-1], side="right")
    _, first = np.unique(np.minimum(drawn, len(running) - 1), return_index=True)
    user = np.minimum(drawn, len(running) - 1)[np.sort(first)]
    came_ms = hour_ms + (rng.random(len(user)) * step_ms).astype(np.int64)
    free = np.flatnonzero(came_ms - public.last_seen_ms[user] > gap_ms)[:n]
    return user[free], came_ms[free]


def _walk(
    config: ShopConfig,
    shelves: Shelves,
    public: Public,
    attention: NDArray[np.float64],
    user: NDArray[np.int64],
    came_ms: NDArray[np.int64],
    rng: np.random.Generator,
) -> _Views:
    """Let S users view items from their arrival on: one step of the loop is the next view of everybody still there."""
    n = len(user)
    device = (rng.random((n, 1)) >= public.device_share[user]).sum(axis=1).clip(max=len(DEVICES) - 1)
    in_project = public.project[user] >= 0
    ways = np.where(in_project[:, None], _REFERRERS_IN_PROJECT, _REFERRERS_BY_DEVICE[device])
    referrer = (rng.random((n, 1)) >= ways).sum(axis=1).clip(max=len(REFERRERS) - 1)
    mean_length = np.maximum(config.views_per_session * _LENGTH_BY_DEVICE[device], 1.0)
    length = np.minimum(rng.geometric(1.0 / mean_length), 40)
    longest = int(length.max(initial=0))
    gap_ms = np.clip(rng.lognormal(np.log(35_000.0), 0.9, size=(n, longest)), 3_000, _MAX_GAP_MS).astype(np.int64)
    ts_ms = came_ms[:, None] + np.cumsum(gap_ms, axis=1) - gap_ms

    running = _running_sum(attention)
    front_page = _running_sum(shelves.front_page(attention))
    item = np.full((n, longest), -1, dtype=np.int64)
    cause = np.full((n, longest), _TREND, dtype=np.int64)
    due = public.due(user, came_ms)
    rerun = (due >= 0) & (rng.random(n) < _RERUN_SHARE)
    for step in range(longest):
        here = np.flatnonzero(length > step)
        why = 1 + (rng.random((len(here), 1)) >= _SOURCES[referrer[here]]).sum(axis=1).clip(max=3)
        if step > 0:
            why[rng.random(len(here)) < config.intent_share] = _INTENT
        drawn = np.full(len(here), -1, dtype=np.int64)

        rows = np.flatnonzero(why == _INTENT)
        at = here[rows]
        drawn[rows] = _follow(shelves, attention, device[at], item[at, :step], rng)

        rows = np.flatnonzero(why == _REPEAT)
        drawn[rows] = _come_back(public, user[here[rows]], rng)
        why[rows[drawn[rows] < 0]] = _TASTE  # nothing to come back to yet

        why[(why == _PROJECT) & ~in_project[here]] = _TASTE
        rows = np.flatnonzero((why == _PROJECT) | (why == _TASTE))
        at = here[rows]
        liked = (rng.random((len(at), 1)) >= public.taste_share[user[at]]).sum(axis=1)
        taste = public.taste[user[at], liked.clip(max=public.taste.shape[1] - 1)]
        niche = np.where(why[rows] == _PROJECT, public.project[user[at]], taste)
        low, high = shelves.niche_start[niche], shelves.niche_start[niche + 1]
        shift = device[at] * shelves.n_items
        found = draw_in_ranges(running, shift + low, shift + high, rng)
        drawn[rows] = np.where(found >= 0, found - shift, -1)

        if step == 0:
            drawn = np.where(rerun, due, drawn)
            why = np.where(rerun, _REPEAT, why)
        else:
            # What was seen a minute ago is not viewed again: look at the front page instead.
            drawn[(item[here, :step] == drawn[:, None]).any(axis=1)] = -1
        rows = np.flatnonzero(drawn < 0)
        shift = device[here[rows]] * shelves.n_items
        drawn[rows] = draw_in_ranges(front_page, shift, shift + shelves.n_items, rng) - shift
        why[rows] = _TREND
        item[here, step] = drawn
        cause[here, step] = why

    session, position = np.nonzero(item >= 0)
    last = length - 1
    everyone = np.arange(n)
    return _Views(
        user=user,
        device=device,
        referrer=referrer,
        rerun=rerun,
        seen=item,
        session=session,
        item=item[session, position],
        cause=cause[session, position],
        first=position == 0,
        ts_ms=ts_ms[session, position],
        gap_ms=gap_ms[session, position],
        end_ms=ts_ms[everyone, last] + gap_ms[everyone, last] if longest > 0 else came_ms,
    )


def _follow(
    shelves: Shelves,
    attention: NDArray[np.float64],
    device: NDArray[np.int64],
    seen: NDArray[np.int64],
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """The next item (B,) of each intent from what its session has seen (B, L): similar to the last; -1 at its end."""
    if seen.size == 0:
        return np.full(len(seen), -1, dtype=np.int64)
    last = seen[:, -1]
    near = shelves.neighbour[last]
    # The root: who is after something specific cares less about fame.
    weight = shelves.neighbour_weight[last] * np.sqrt(attention[device[:, None], near])
    weight[(near[:, :, None] == seen[:, None, :]).any(axis=2)] = 0.0
    running = np.cumsum(weight, axis=1)
    total = running[:, -1:]
    slot = (rng.random((len(last), 1)) * total >= running).sum(axis=1).clip(max=near.shape[1] - 1)
    follow: NDArray[np.int64] = np.where(total[:, 0] > 0, near[np.arange(len(last)), slot], -1)
    return follow


def _come_back(public: Public, user: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """An item (B,) that each user saw in an earlier session, the recent ones more likely; -1 without any."""
    recent = public.recent[user]
    running = np.cumsum(np.where(recent >= 0, 1.0 / (1.0 + np.arange(recent.shape[1])), 0.0), axis=1)
    slot = (rng.random((len(user), 1)) * running[:, -1:] >= running).sum(axis=1).clip(max=recent.shape[1] - 1)
    item: NDArray[np.int64] = recent[np.arange(len(user)), slot]
    return item


def _happenings(
    shelves: Shelves, public: Public, views: _Views, first_session: int, rng: np.random.Generator
) -> list[_Columns]:
    """All events that one hour's views bring about, purchases noted with their users; tables of event columns."""
    v = views
    n = len(v.item)
    device, user = v.device[v.session], v.user[v.session]

    def of_views(kind: int, rows: NDArray[np.int64], ts_ms: NDArray[np.int64], value: NDArray[np.float64]) -> _Columns:
        return {
            "user": user[rows],
            "item": v.item[rows],
            "kind": np.full(len(rows), kind),
            "ts_ms": ts_ms,
            "value": value,
            "session": first_session + v.session[rows],
            "device": device[rows],
            "referrer": v.referrer[v.session[rows]],
            "cause": v.cause[rows],
        }

    def without_value(rows: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.full(len(rows), np.nan)

    every = np.arange(n)
    parts = [of_views(_VIEW, every, v.ts_ms, without_value(every))]

    while_there_ms = v.ts_ms + (v.gap_ms * rng.uniform(0.2, 0.8, size=n)).astype(np.int64)
    rerun = v.rerun[v.session] & v.first
    wants = np.where(rerun, 0.85, _CART_SHARE * _BUYING_BY_DEVICE[device] * _BUYING_BY_CAUSE[v.cause])
    cart = np.flatnonzero(rng.random(n) < wants)
    parts.append(of_views(_CART, cart, while_there_ms[cart], shelves.price[v.item[cart]]))
    buy = cart[rng.random(len(cart)) < np.where(rerun[cart], 0.95, _BUY_SHARE)]
    # The checkout comes after the last view; a second for each item keeps them apart.
    paid_ms = v.end_ms[v.session[buy]] + 5_000 + 1_000 * (np.arange(len(buy)) % 20)
    price = shelves.price[v.item[buy]]
    parts.append(of_views(_PURCHASE, buy, paid_ms, price))
    again = shelves.repurchase_ms[v.item[buy]] > 0
    interval_ms = shelves.repurchase_ms[v.item[buy]] * rng.lognormal(0.0, 0.15, size=len(buy))
    public.note_bought(user[buy[again]], v.item[buy[again]], paid_ms[again], interval_ms[again])

    opinion = np.flatnonzero(rng.random(n) < _OPINION_SHARE)
    liked = rng.random(len(opinion)) < _LIKING_BY_CAUSE[v.cause[opinion]]
    for kind, rows in ((_LIKE, opinion[liked]), (_DISLIKE, opinion[~liked])):
        parts.append(of_views(kind, rows, while_there_ms[rows], without_value(rows)))

    for kind, share, low_days, high_days in ((_RATING, _RATED_SHARE, 1.0, 6.0), (_RETURN, _RETURNED_SHARE, 2.0, 9.0)):
        picked = np.flatnonzero(rng.random(len(buy)) < share)
        rows = buy[picked]
        later_ms = paid_ms[picked] + (rng.uniform(low_days, high_days, size=len(rows)) * DAY_MS).astype(np.int64)
        stars = 3.6 + 0.7 * shelves.quality[v.item[rows]] + public.generosity[user[rows]]
        stars = np.clip(np.round(stars + rng.normal(0.0, 0.6, size=len(rows))), 1.0, 5.0)
        part = of_views(kind, rows, later_ms, stars if kind == _RATING else price[picked])
        # Days later is another session, named when all of them are known; it comes from a mail, if from anywhere.
        part["session"] = np.full(len(rows), -1)
        part["referrer"] = np.full(len(rows), REFERRERS.index("newsletter" if kind == _RATING else "direct"))
        parts.append(part)
    return parts


def _running_sum(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Running sum of all of (3, I), device after device, with a leading 0."""
    return np.concatenate([[0.0], np.cumsum(weights)])


def _as_log(parts: list[_Columns], shelves: Shelves, n_sessions: int, end_ms: int, run: str) -> ShopLog:
    """Join and sort the events, and give every number its name."""
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    alone = np.flatnonzero(columns["session"] < 0)
    columns["session"][alone] = n_sessions + np.arange(len(alone))
    columns["niche"] = shelves.niche[columns["item"].astype(np.int64)]
    columns["number"] = shelves.number[columns["item"].astype(np.int64)]
    frame = pl.DataFrame(columns).filter(pl.col("ts_ms") < end_ms).sort("ts_ms", maintain_order=True)

    def named(column: str, names: tuple[str, ...]) -> pl.Expr:
        return pl.col(column).replace_strict(dict(enumerate(names)), return_dtype=pl.String)

    def numbered(column: str, prefix: str, width: int) -> pl.Expr:
        return pl.lit(prefix) + pl.col(column).cast(pl.String).str.zfill(width)

    frame = frame.with_row_index("row").select(
        numbered("user", "u", 5).alias("user_id"),
        item_ids(frame["number"].to_numpy()),
        named("kind", _EVENT_TYPES).alias("event_type"),
        "ts_ms",
        pl.col("value").fill_nan(None),
        numbered("session", "s", 6).alias("session_id"),
        named("device", DEVICES).alias("device"),
        named("referrer", REFERRERS).alias("referrer"),
        numbered("row", f"{run}-", 7).alias("event_id"),
        named("cause", CAUSES).alias("cause"),
        "niche",
    )
    truth = ["event_id", "cause", "niche"]
    return ShopLog(
        events=frame.drop("cause", "niche"),
        items=shelves.table().sort("item_id"),
        truth=frame.select(truth),
    )
